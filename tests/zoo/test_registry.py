"""The list of models, and what holds for every model in it."""

import inspect

import keras
import pytest

from bnnkeras import zoo
from bnnkeras.zoo import registry

# The arguments of `keras.applications`, and their defaults.
CONVENTIONS = {
    "input_shape": None,
    "input_tensor": None,
    "include_top": True,
    "pooling": None,
    "weights": None,
    "classifier_activation": "softmax",
}
# Inputs and outputs, without the batch: ImageNet's and CIFAR-10's by the number of classes.
IMAGES = {1000: ((224, 224, 3), (1000,)), 10: ((32, 32, 3), (10,))}
CLOUDS = {
    "bidgcnn": ((1024, 3), (40,)),
    "bipointcnn": ((1024, 3), (40,)),
    "bipointnet": ((1024, 3), (40,)),
    "bipointnet2": ((1024, 3), (40,)),
    "bipointnetpartsegmentation": ((4096, 6), (4096, 4)),
    "bipointnetsemanticsegmentation": ((4096, 9), (4096, 13)),
}
# Networks of dense prediction have no top to leave out: their logits are maps.
MAPS = {
    "bidensedpt": ((476, 476, 3), (476, 476, 151)),
    "bidenseupernet": ((480, 480, 3), (480, 480, 151)),
}


def test_list_models():
    names = zoo.list_models()
    assert "birealnet18" in names
    assert names == sorted(names) and all(name == name.lower() for name in names)
    names.clear()
    assert zoo.list_models()


def test_get():
    for name in ("birealnet18", "BiRealNet18"):
        model = zoo.get(name, input_shape=(32, 32, 3), classes=10, name="mine")
        assert isinstance(model, keras.Model)
        assert (model.output_shape, model.name) == ((None, 10), "mine")


@pytest.mark.parametrize("name", ["birealnet19", "", None, 18])
def test_get_unknown(name):
    with pytest.raises(
        ValueError, match="`name` must be one of .*'birealnet18'.*Received: "
    ) as info:
        zoo.get(name)
    assert repr(name) in str(info.value)


def test_get_unknown_argument():
    with pytest.raises(TypeError, match="widths"):
        zoo.get("birealnet18", widths=3)


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_follows_the_conventions(name):
    function = registry._MODELS[name]
    parameters = inspect.signature(function).parameters
    classes = parameters["classes"].default
    input_shape, outputs = {**CLOUDS, **MAPS}.get(name) or IMAGES[classes]
    wanted = {**CONVENTIONS, "classes": classes}
    if name in MAPS:
        wanted = {key: wanted[key] for key in ("input_shape", "input_tensor", "weights")}
    for argument, default in wanted.items():
        assert parameters[argument].default == default
    assert parameters["name"].default == name
    assert getattr(zoo, function.__name__) is function and function.__name__ in zoo.__all__
    model = zoo.get(name)
    assert isinstance(model, keras.Model) and model.name == name
    assert (model.input_shape, model.output_shape) == ((None, *input_shape), (None, *outputs))
    assert type(model) is keras.src.models.Functional
