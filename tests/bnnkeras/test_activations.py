"""Activations and step functions against Larq's values and gradients; names in layers."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import activations, layers, math

CASES = {
    "activation_hard_tanh": activations.hard_tanh,
    "activation_leaky_tanh": activations.leaky_tanh,
    "activation_leaky_tanh_alpha_0.5": lambda x: activations.leaky_tanh(x, alpha=0.5),
    "math_sign": math.sign,
    "math_heaviside": math.heaviside,
}


def numpy(x):
    return ops.convert_to_numpy(x)


def with_inputs(function):
    return lambda x: ops.stack([function(x), x])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("points", ["", "edge_", "kernel_", "dense_"])
def test_values_and_gradients_are_larqs(case, points, goldens, numerics):
    """Also at x = +-1, where the gradient of `clip` depends on the backend."""
    golden = goldens("larq", "quantizers")
    x = golden[f"{case}/{points}x"]
    # TensorFlow flushes denormals to 0, other backends do not.
    regular = (x == 0) | (np.abs(x) >= np.finfo("float32").tiny)
    assert regular.sum() > 5
    upstream = golden[f"{case}/upstream"] if points == "" else np.ones_like(x)
    gradient = golden[f"{case}/{'grad_upstream' if points == '' else points + 'grad'}"]
    function = CASES[case]
    if case.startswith("math"):
        # On PyTorch these have no gradient at all, and asking for one needs another path to x.
        function, upstream = with_inputs(function), np.stack([upstream, np.zeros_like(upstream)])
    result = numerics.gradients(function, [x], upstream=upstream)
    if case.startswith("math"):
        result = result._replace(value=result.value[0])
    for actual, expected in (
        (result.value, golden[f"{case}/{points}y"]),
        (result.inputs[0], gradient),
    ):
        np.testing.assert_allclose(actual[regular], expected[regular], rtol=2**-22, atol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtype_is_kept(case, dtype):
    x = ops.cast(np.array([-1.5, 0.0, 0.25, 3.0]), dtype)
    output = CASES[case](x)
    expected = numpy(CASES[case](np.array([-1.5, 0.0, 0.25, 3.0], "float32")))
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    np.testing.assert_allclose(numpy(ops.cast(output, "float32")), expected, rtol=2**-8)


def test_nan():
    nan = np.array([np.nan], "float32")
    assert np.isnan(numpy(activations.hard_tanh(nan))) and np.isnan(
        numpy(activations.leaky_tanh(nan))
    )
    assert numpy(math.sign(nan)) == [-1.0] and numpy(math.heaviside(nan)) == [0.0]


def test_get():
    assert activations.get("leaky_tanh") is activations.leaky_tanh
    assert activations.get("hard_tanh") is activations.hard_tanh
    assert type(activations.get("ste_sign")).__name__ == "SteSign"
    assert activations.get("relu") is keras.activations.relu
    assert activations.get(None) is keras.activations.linear
    with pytest.raises(ValueError, match="leaky_tan"):
        activations.get("leaky_tan")


@pytest.mark.parametrize(
    "cls, arguments", [(layers.QuantDense, (4,)), (layers.QuantConv2D, (4, 1))]
)
@pytest.mark.parametrize("name", ["ste_sign", "leaky_tanh", "hard_tanh", "relu"])
def test_layers_accept_the_name(cls, arguments, name, tmp_path):
    layer = cls(*arguments, activation=name)
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 5)).astype("float32")
    plain = cls(*arguments)
    expected = activations.get(name)(plain(x))
    layer(x)
    layer.set_weights(plain.get_weights())
    np.testing.assert_array_equal(numpy(layer(x)), numpy(expected))
    model = keras.Sequential([keras.Input((3, 3, 5)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(expected))
    assert type(loaded.layers[0].activation) is type(layer.activation)


def test_keras_layers_accept_the_functions(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Activation(activations.leaky_tanh),
            keras.layers.Dense(2, activation=activations.hard_tanh),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32") * 3
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    assert loaded.layers[0].activation is activations.leaky_tanh


def test_an_activation_with_variables_is_built_with_its_layer():
    from bnnkeras import quantizers

    activation = quantizers.Binarizer(threshold=quantizers.LearnedThreshold())
    layer = layers.QuantDense(3, activation=activation)
    layer.build((None, 2))
    shapes = sorted(tuple(variable.shape) for variable in layer.trainable_variables)
    assert shapes == [(2, 3), (3,), (3,)]
