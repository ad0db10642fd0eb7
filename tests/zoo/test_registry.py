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
    # The classes of ImageNet, or of CIFAR-10 for 32x32 images.
    classes = parameters["classes"].default
    assert classes in (10, 1000)
    for argument, default in {**CONVENTIONS, "classes": classes}.items():
        assert parameters[argument].default == default
    assert parameters["name"].default == name
    assert getattr(zoo, function.__name__) is function and function.__name__ in zoo.__all__
    model = zoo.get(name)
    assert isinstance(model, keras.Model) and model.name == name
    assert model.output_shape == (None, classes)
    assert model.input_shape == ((None, 224, 224, 3) if classes == 1000 else (None, 32, 32, 3))
    assert type(model) is keras.src.models.Functional
