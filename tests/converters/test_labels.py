"""Names in the file, sizes given to `convert`, and what is stored beside the network."""

import keras
import numpy as np
import pytest
from keras import layers

from bnnkeras import converters
from bnnkeras.converters import flatbuffer
from bnnkeras.layers import QuantConv2D, QuantDense

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}


def _small(size=(6, 6)):
    return keras.Sequential(
        [
            keras.Input((*size, 3), name="image"),
            layers.Conv2D(8, 3, padding="same", name="stem"),
            layers.BatchNormalization(name="stem_bn"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Activation("tanh", name="a_layer_with_a_name_that_the_converter_cuts_short"),
            QuantConv2D(8, 3, padding="symmetric", strides=2, name="binary", **BINARY),
            layers.BatchNormalization(name="binary_bn"),
            layers.Dropout(0.5, name="dropout"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(4, activation="softmax", name="classifier"),
        ],
        name="small",
    )


def test_tensors_are_named_after_the_layers(randomized) -> None:
    made = converters.convert(randomized(_small((12, 12))), verify=False)
    file = flatbuffer.read(made.flatbuffer)
    names = [tensor.name for tensor in file.tensors]
    for name in (
        "image",
        # The BatchNorms are folded, so that the product is theirs.
        "stem_bn",
        "pool",
        "a_layer_with_a_name_that_the_converter_cuts_short",
        "binary_bn",
        "mean",
        "classifier",
        "stem/kernel",
        "binary/kernel",
        "binary/multiplier",
        "binary/bias",
        "classifier/kernel",
    ):
        assert names.count(name) == 1, (name, names)
    (operator,) = (item for item in file.operators if item.binary)
    assert file.tensors[operator.inputs[1]].name == "binary/kernel"
    # The result of the BatchNorm is this one flipped back: stride 2 on an even size.
    assert file.tensors[operator.outputs[0]].name == "binary_bn_scale"
    layer_of = dict(
        zip(
            [item.kind for item in file.operators],
            converters.Interpreter(made.flatbuffer).metadata["operator_layers"],
            strict=True,
        )
    )
    assert layer_of["CONV_2D"] == "stem"
    assert layer_of["MAX_POOL_2D"] == "pool"
    assert layer_of["LceQuantize"] == layer_of["LceBconv2d"] == "binary"
    assert layer_of["FULLY_CONNECTED"] == layer_of["SOFTMAX"] == "classifier"


def test_every_operator_has_its_layer_and_positions_follow_keras(randomized) -> None:
    """A layer that is called twice, several inputs and outputs, in an order of their own."""
    zebra, apple = (keras.Input((6, 6, 4), name=name) for name in ("zebra", "apple"))
    shared = QuantConv2D(4, 3, padding="same", name="shared", **BINARY)
    one, other = shared(zebra), shared(apple)
    flat = layers.Flatten(name="flat")(layers.Add(name="sum")([one, other]))
    dense = QuantDense(3, name="dense", **BINARY)(flat)
    model = randomized(keras.Model([zebra, apple], [dense, one]))
    made = converters.convert(model, verify=False)
    file = flatbuffer.read(made.flatbuffer)
    found = converters.Interpreter(made.flatbuffer).metadata["operator_layers"]
    assert set(found) == {"shared", "sum", "flat", "dense"} or set(found) == {
        "shared",
        "sum",
        "dense",
    }
    assert [file.tensors[index].name for index in file.inputs] == ["zebra", "apple"]
    assert [file.tensors[index].shape for index in file.outputs] == [(1, 3), (1, 6, 6, 4)]
    names = [tensor.name for tensor in file.tensors]
    assert {"shared", "shared_1", "dense"} <= set(names)


@pytest.mark.parametrize(
    "input_size", [(8, 10), (8, 10, 3), [8, 10], {"image": (8, 10)}, {"image": (8, 10, 3)}]
)
def test_open_sizes_are_given_to_convert(randomized, input_size) -> None:
    model = _small((None, None))
    model.set_weights(randomized(_small()).get_weights())
    with pytest.raises(ValueError, match="`input_size`.*image.*None"):
        converters.convert(model)
    made = converters.convert(model, input_size=input_size, verify=False)
    interpreter = converters.Interpreter(made.flatbuffer)
    assert interpreter.input_shapes == {"image": (1, 8, 10, 3)}
    images = np.random.default_rng(0).normal(size=(5, 8, 10, 3)).astype("float32")
    np.testing.assert_allclose(
        interpreter.predict(images), keras.ops.convert_to_numpy(model(images)), atol=1e-5
    )


def test_another_size_than_the_models_own_and_the_model_stays(randomized) -> None:
    model = randomized(_small((6, 6)))
    before = [len(layer._inbound_nodes) for layer in model.layers]
    made = converters.convert(model, input_size=(12, 12))
    assert made.verification.passed
    assert converters.Interpreter(made.flatbuffer).input_shapes == {"image": (1, 12, 12, 3)}
    assert [len(layer._inbound_nodes) for layer in model.layers] == before


@pytest.mark.parametrize(
    "input_size", [8, (8,), (8, 8, 4), (8, 8, 3, 1), (0, 8), (8.0, 8.0), {"picture": (8, 8)}, "8x8"]
)
def test_a_wrong_input_size_is_named(input_size) -> None:
    with pytest.raises(ValueError, match="`input_size` must .* Received: "):
        converters.convert(_small((None, None)), input_size=input_size)


def test_an_input_size_that_the_weights_do_not_fit_is_named() -> None:
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))
    with pytest.raises(ValueError, match="`input_size` does not fit the model"):
        converters.convert(model, input_size=(8, 8))


def test_what_an_application_needs_is_in_the_file(randomized) -> None:
    names = ["cat", "dog", "crème brûlée", '"quoted"']
    preprocessing = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "order": "RGB"}
    made = converters.convert(
        randomized(_small()), class_names=names, preprocessing=preprocessing, verify=False
    )
    stored = converters.Interpreter(made.flatbuffer).metadata
    assert stored["class_names"] == names and stored["preprocessing"] == preprocessing
    assert stored["model"] == "small" and stored["keras_version"] == keras.__version__
    assert stored["binary_layers"] == ["binary"]
    assert stored["paddings"] == {"binary": {"padding": "symmetric", "pad_values": 0.0}}


def test_wrong_things_to_store_are_named() -> None:
    with pytest.raises(ValueError, match="`class_names` must be 4 strings.* Received: 2 values"):
        converters.convert(_small(), class_names=["a", "b"])
    with pytest.raises(ValueError, match="`class_names` must be 4 strings"):
        converters.convert(_small(), class_names=[1, 2, 3, 4])
    with pytest.raises(TypeError, match="`preprocessing` must be .* Received: "):
        converters.convert(_small(), preprocessing={"call": print})
