"""Plain models turned into quantized twins."""

import logging

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import constraints, layers, models, quantizers
from bnnkeras.models.quantization import TWINS

REAL = {"input_quantizer": None, "kernel_quantizer": None}
# Arguments for each class, none of them its default, and an input.
CASES = {
    "Dense": ({"units": 3, "use_bias": False}, (5,)),
    "Conv1D": ({"filters": 4, "kernel_size": 3, "padding": "causal", "groups": 2}, (7, 4)),
    "Conv2D": ({"filters": 4, "kernel_size": (3, 2), "strides": 2, "padding": "same"}, (7, 6, 3)),
    "Conv3D": ({"filters": 2, "kernel_size": 2, "dilation_rate": 2}, (5, 5, 5, 3)),
    "DepthwiseConv1D": ({"kernel_size": 3, "depth_multiplier": 2}, (7, 3)),
    "DepthwiseConv2D": ({"kernel_size": 3, "strides": 2, "padding": "same"}, (7, 7, 3)),
    "SeparableConv1D": ({"filters": 4, "kernel_size": 3, "depth_multiplier": 2}, (7, 3)),
    "SeparableConv2D": ({"filters": 4, "kernel_size": 3, "padding": "same"}, (7, 7, 3)),
    "Conv1DTranspose": ({"filters": 4, "kernel_size": 3, "strides": 2}, (5, 3)),
    "Conv2DTranspose": (
        {"filters": 4, "kernel_size": 3, "strides": 2, "output_padding": 1},
        (5, 5, 3),
    ),
    "Conv3DTranspose": ({"filters": 2, "kernel_size": 2, "padding": "same"}, (3, 3, 3, 2)),
}


def filled(model):
    for index, variable in enumerate(model.weights):
        values = np.random.default_rng(index).uniform(-1, 1, variable.shape)
        variable.assign(abs(values) if "variance" in variable.name else values)
    return model


def arrays(model) -> list[np.ndarray]:
    """Without the variables of quantizers."""
    names = ("threshold", "scale_start", "scale_offset", "scale_started")
    return [ops.convert_to_numpy(v) for v in model.weights if v.name not in names]


def assert_same_weights(twin, plain) -> None:
    for new, original in zip(arrays(twin), arrays(plain), strict=True):
        np.testing.assert_array_equal(new, original)


def inputs_of(model) -> np.ndarray:
    shape = [4 if size is None else size for size in model.input_shape]
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def kinds(model) -> dict[str, str]:
    """Name -> class of the layers with a kernel."""
    return {
        layer.name: type(layer).__name__
        for layer in model._flatten_layers()
        if isinstance(layer, tuple(TWINS))
    }


@pytest.mark.parametrize("name", CASES)
def test_each_class(name):
    """Real it computes the same; quantized it is the twin made by hand."""
    arguments, shape = CASES[name]
    layer = getattr(keras.layers, name)(**arguments, activation="tanh", name="inner")
    plain = filled(keras.Sequential([keras.Input(shape), layer], name="whole"))
    x = inputs_of(plain)

    real = models.quantize(plain, {"inner": REAL})
    assert (real.name, kinds(real)) == ("whole", {"inner": f"Quant{name}"})
    np.testing.assert_array_equal(real.predict(x, verbose=0), plain.predict(x, verbose=0))

    twin = models.quantize(plain, {"inner": {}})
    binary = dict.fromkeys(real.layers[0].kernel_quantizers.values(), "ste_sign")
    by_hand = getattr(layers, f"Quant{name}")(
        **arguments, activation="tanh", input_quantizer="ste_sign", **binary
    )
    by_hand.build((None, *shape))
    for variable, value in zip(by_hand.weights, plain.get_weights(), strict=True):
        variable.assign(value)
    expected = ops.convert_to_numpy(by_hand(x))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(twin.predict(x, verbose=0), expected, rtol=0, atol=1e-6)
    assert_same_weights(twin, plain)
    for variable in twin.layers[0].trainable_variables:
        clips = isinstance(variable.constraint, constraints.WeightClip)
        assert clips == ("kernel" in variable.name)


def test_every_twin_is_covered():
    assert set(CASES) == {cls.__name__ for cls in TWINS}


def network(activation=None) -> keras.Model:
    """Two first layers, a nested model, a shared layer, an operation, two last layers."""
    inputs = keras.Input((8, 8, 4))
    first = keras.layers.Conv2D(4, 3, padding="same", name="first", activation=activation)(inputs)
    other = keras.layers.Conv2D(4, 1, name="projection", activation=activation)(inputs)
    block = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, padding="same", name="inside"),
            keras.layers.BatchNormalization(),
        ],
        name="block",
    )
    x = block(keras.layers.MaxPooling2D(1)(keras.layers.add([first, other])))
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    x = shared(ops.multiply(shared(x), 2.0))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(
        inputs,
        {
            "left": keras.layers.Dense(2, name="left")(x),
            "right": keras.layers.Dense(3, name="right")(keras.layers.Dropout(0.5)(x)),
        },
    )


def test_first_and_last_layers_stay_real():
    plain = filled(network())
    before = [array.copy() for array in plain.get_weights()]
    twin = models.quantize(plain)
    assert kinds(twin) == {
        "first": "Conv2D",
        "projection": "Conv2D",
        "inside": "QuantConv2D",
        "shared": "QuantConv2D",
        "left": "Dense",
        "right": "Dense",
    }
    assert_same_weights(twin, plain)
    # No variable is shared, and the plain model works on (JAX gives arrays away in `fit`).
    twin.compile("sgd", {"left": "mse", "right": "mse"})
    x = inputs_of(plain)
    twin.fit(x, {"left": np.ones((4, 2)), "right": np.ones((4, 3))}, verbose=0)
    plain.predict(x, verbose=0)
    for value, original in zip(plain.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, original)
    assert not np.array_equal(twin.get_layer("shared").get_weights()[0], before[4])


def test_a_twin_saves_and_loads(tmp_path):
    twin = models.quantize(filled(network()), input_quantizer="rsign")
    twin.save(tmp_path / "twin.keras")
    x = inputs_of(twin)
    expected = twin.predict(x, verbose=0)
    loaded = keras.saving.load_model(tmp_path / "twin.keras").predict(x, verbose=0)
    np.testing.assert_array_equal(loaded["left"], expected["left"])


def test_policy_by_name_and_class():
    twin = models.quantize(
        network(),
        {
            keras.layers.Conv2D: {"kernel_quantizer": "magnitude_aware_sign", "pad_values": 1.0},
            "inside": None,
            "right": {"input_quantizer": quantizers.SteSign(1.25), "activation": "relu"},
        },
    )
    assert [name for name, kind in kinds(twin).items() if "Quant" in kind] == ["shared", "right"]
    shared, right = twin.get_layer("shared"), twin.get_layer("right")
    assert type(shared.kernel_quantizer) is quantizers.MagnitudeAwareSign
    assert type(shared.input_quantizer) is quantizers.SteSign
    assert shared.pad_values == 1.0
    assert right.input_quantizer.clip_value == 1.25
    assert right.activation is keras.activations.relu


def test_policy_as_a_function_decides_for_every_layer():
    twin = models.quantize(network(), lambda layer: {} if "r" in layer.name else None)
    quantized = [name for name, kind in kinds(twin).items() if "Quant" in kind]
    assert quantized == ["first", "projection", "shared", "right"]


def test_each_layer_has_quantizers_of_its_own():
    twin = models.quantize(network(), input_quantizer=quantizers.RSign(name="mine"))
    found = [layer.input_quantizer for layer in twin._flatten_layers() if "Quant" in str(layer)]
    found = [quantizer for quantizer in found if type(quantizer) is quantizers.RSign]
    assert len({id(quantizer) for quantizer in found}) == len(found) == 2
    assert len([v for v in twin.trainable_variables if v.name == "threshold"]) == 2


def test_kernels_of_separable_layers():
    plain = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.SeparableConv2D(3, 3, name="s")])
    options = {
        "depthwise_quantizer": None,
        "kernel_quantizer": "ste_tern",
        "kernel_constraint": constraints.WeightClip(0.5),
        "intermediate_quantizer": "approx_sign",
    }
    layer = models.quantize(plain, {"s": options}).get_layer("s")
    assert layer.depthwise_quantizer is None and layer.depthwise_constraint is None
    assert type(layer.pointwise_quantizer) is quantizers.SteTern
    assert layer.pointwise_constraint.clip_value == 0.5
    assert type(layer.intermediate_quantizer) is quantizers.ApproxSign


def test_a_compiled_model_stays_compiled_and_frozen_layers_frozen():
    plain = network()
    plain.get_layer("shared").trainable = False
    plain.compile(keras.optimizers.Adam(0.25), "mse")
    twin = models.quantize(plain)
    assert float(twin.optimizer.learning_rate) == 0.25
    assert [layer.name for layer in twin.layers if not layer.trainable] == ["shared"]


def test_warns_of_signs_of_what_is_never_negative(caplog):
    caplog.set_level(logging.WARNING, logger="bnnkeras.models")
    plain = network("relu")
    models.quantize(plain)
    assert [record.args for record in caplog.records] == [("inside",)]
    caplog.clear()
    models.quantize(plain, input_quantizer="rsign")
    models.quantize(plain, {"first": {"activation": None}, "inside": {}})
    models.quantize(network("tanh"))
    assert caplog.records == []


def subclassed():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    return Subclassed()


@pytest.mark.parametrize(
    "model, policy, error, message",
    [
        ("a name", None, TypeError, "`model` must be a keras.Model. Received: 'a name'"),
        (subclassed, None, ValueError, "functional or Sequential"),
        (lambda: keras.Sequential([keras.layers.Dense(1)]), None, ValueError, "must be built"),
        (network, {"block": {}}, ValueError, "Received: 'block'"),
        (network, {keras.layers.ReLU: {}}, ValueError, "Received: <class 'keras"),
        (network, "ste_sign", TypeError, "Received: policy='ste_sign'"),
        (network, {"first": "ste_sign"}, TypeError, "Received: 'ste_sign' for 'first'"),
        (network, {"first": {"stride": 2}}, ValueError, "'first' cannot become a QuantConv2D"),
        (
            network,
            {"first": {"kernel_quantizer": "no_sign"}},
            ValueError,
            "Unknown quantizer.*Received: 'no_sign'",
        ),
        (network, {}, ValueError, "No layer was quantized.*'shared'.*Received: policy={}"),
        (
            lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]),
            None,
            ValueError,
            "No layer was quantized",
        ),
    ],
)
def test_errors(model, policy, error, message):
    with pytest.raises(error, match=message):
        models.quantize(model() if callable(model) else model, policy)


def test_layers_that_keras_quantized_are_refused():
    plain = network()
    plain.get_layer("left").quantize("int8")
    assert kinds(models.quantize(plain))["shared"] == "QuantConv2D"
    with pytest.raises(ValueError, match="Received: 'left'"):
        models.quantize(plain, {"left": {}})
