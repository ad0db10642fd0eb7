"""What every quantizer keeps, one row per string id: a new entry of `NAMED` gets all of it."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import quantizers
from bnnkeras.layers import QuantConv2D, QuantDense
from bnnkeras.quantizers.serialization import NAMED

# Options that are not the defaults, so that configurations hold something.
OPTIONS = {
    "approx_sign": {"sign_of_zero": 0},
    "bivit_kernel": {"learned_scale": False, "sign_of_zero": 0},
    "contextual_sign": {"ratio": 2, "activation": "relu", "embedding": 7, "sign_of_zero": 0},
    "dab": {"per_layer": True, "offset": 0.5, "axes": (1,), "sign_of_zero": 0},
    "dorefa_quantizer": {"k_bit": 3, "mode": "weights"},
    "ede_sign": {"k": 1.0, "t": 2.0, "sign_of_zero": 0},
    "int8": {"bits": 5, "mode": "activations", "symmetric": True, "per_channel": True},
    "libra_kernel": {"k": 1.0, "t": 2.0, "axes": (0,), "sign_of_zero": 0},
    "lsq": {"bits": 3, "mode": "weights", "signed": False, "per_channel": True},
    "lsr_kernel": {"sign_of_zero": 0},
    "magnitude_aware_sign": {"clip_value": None, "scale_gradient": False, "axes": "all"},
    "rsign": {"sign_of_zero": 0},
    "ste_heaviside": {"clip_value": 0.5},
    "ste_sign": {"clip_value": 1.25, "sign_of_zero": 0},
    "ste_tern": {"threshold_value": 0.2, "ternary_weight_networks": True, "clip_value": None},
    "swish_sign": {"beta": 3.0, "sign_of_zero": 0},
    "xnor_input": {"axes": "all", "sign_of_zero": 0},
    "xnor_kernel": {"axes": (0,), "centre_axes": "all", "sign_of_zero": 0},
}
# Where an input quantizer or a kernel quantizer makes no sense.
KERNEL_ONLY = {"bivit_kernel", "libra_kernel", "lsr_kernel", "xnor_kernel"}
INPUT_ONLY = {"contextual_sign", "dab", "rsign", "xnor_input"}
PLACES = [
    (name, place)
    for name in NAMED
    for place in ("input", "kernel")
    if name not in (KERNEL_ONLY if place == "input" else INPUT_ONLY)
]
# Kernels have an odd number of rows: a sum of signs is never 0, where rounding decides the sign.
SHAPE = (8, 5, 5, 3)


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def random(shape, seed=0, scale=1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def dtype_name(value) -> str:
    return keras.backend.standardize_dtype(value.dtype)


def training_argument(quantizer, training) -> dict:
    """`training`, where the quantizer's `call` has it: Keras's stateless call does not drop it."""
    return (
        {"training": training} if "training" in inspect.signature(quantizer.call).parameters else {}
    )


def variants(name):
    return [NAMED[name](), NAMED[name](**OPTIONS[name])]


def test_every_quantizer_has_a_row():
    assert set(OPTIONS) == set(NAMED)
    classes = {
        value
        for value in vars(quantizers).values()
        if isinstance(value, type) and issubclass(value, quantizers.Quantizer)
    }
    bases = {quantizers.Quantizer, quantizers.Binarizer}
    # NoOp has no default precision, and so no string id.
    assert classes - bases - {quantizers.NoOp} == set(NAMED.values())
    for cls in classes - {quantizers.Quantizer}:
        assert keras.saving.get_registered_name(cls) == f"bnnkeras>{cls.__name__}"
        assert cls.__name__ in quantizers.__all__


@pytest.mark.parametrize("name", NAMED)
def test_string_ids(name):
    for identifier in (name, NAMED[name].__name__):
        assert type(quantizers.get(identifier)) is NAMED[name]


@pytest.mark.parametrize("name", NAMED)
def test_config_round_trip(name, numerics):
    x = random((6, 4, 4, 5))
    for quantizer in variants(name):
        config = json.loads(json.dumps(quantizers.serialize(quantizer)))
        copy = quantizers.get(config)
        assert type(copy) is type(quantizer)
        assert copy.get_config() == quantizer.get_config()
        for built in (quantizer, copy):
            built.build(x.shape)
        for variable, original in zip(copy.variables, quantizer.variables, strict=True):
            assert (variable.shape, variable.name) == (original.shape, original.name)
            variable.assign(original)
        actual, expected = (numerics.gradients(built, [x]) for built in (copy, quantizer))
        np.testing.assert_array_equal(actual.value, expected.value)
        np.testing.assert_array_equal(actual.inputs[0], expected.inputs[0])
    changed = NAMED[name](**OPTIONS[name]).get_config()
    for option, value in OPTIONS[name].items():
        assert changed[option] == value


@pytest.mark.parametrize("name", NAMED)
def test_values_gradients_and_shapes(name, numerics):
    x = random((6, 4, 4, 5), scale=0.7)
    for quantizer in variants(name):
        for training in (False, True):
            result = numerics.gradients(
                quantizer, [x], random(x.shape, 1), **training_argument(quantizer, training)
            )
            assert result.value.shape == result.inputs[0].shape == x.shape
            assert np.isfinite(result.value).all() and np.isfinite(result.inputs[0]).all()
            assert result.inputs[0].any()
            for variable in quantizer.trainable_variables:
                gradient = result.variables[variable.path]
                assert gradient.shape == variable.shape and np.isfinite(gradient).all()
                # W1 of the contextual threshold, and of its embedding, is multiplied by W2, which
                # starts at 0.
                starts = ("context", "context_embedding")
                assert gradient.any() or variable.name in starts, variable.path
        if quantizer.precision == 1 and getattr(quantizer, "scale", None) is None:
            assert set(np.unique(result.value)) <= {-1.0, 0.0, 1.0}
        assert np.unique(result.value / np.abs(result.value).max()).size > 1
        symbolic = quantizer(keras.Input(x.shape[1:], dtype="float32"))
        assert symbolic.shape == (None, *x.shape[1:])
        assert quantizer.compute_output_shape((None, 7)) == (None, 7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMED)
def test_dtype_and_large_values(name, dtype, numerics):
    """The output has the input's dtype; values of 1e4 overflow nowhere."""
    x = random((6, 4, 4, 5), scale=1e4)
    x = np.clip(x, -2e4, 2e4)
    for quantizer in variants(name):
        for training in (False, True):
            output = quantizer(ops.cast(x, dtype), training=training)
            assert dtype_name(output) == dtype
            assert np.isfinite(numpy(ops.cast(output, "float32"))).all()
        assert dtype_name(quantizer(keras.Input((4, 4, 5), dtype=dtype))) == dtype
        if dtype == "float16":
            half = numerics.gradients(quantizer, [x.astype(dtype)])
            assert half.inputs[0].dtype == np.float16 and np.isfinite(half.inputs[0]).all()


@pytest.mark.parametrize("name", NAMED)
def test_zeros(name, numerics):
    x = np.zeros((6, 4, 4, 5), "float32")
    for quantizer in variants(name):
        for training in (False, True):
            result = numerics.gradients(quantizer, [x], **training_argument(quantizer, training))
            assert np.isfinite(result.value).all() and np.isfinite(result.inputs[0]).all()
        if OPTIONS[name].get("sign_of_zero") == 0 and quantizer.get_config()["sign_of_zero"] == 0:
            assert not result.value.any()


@pytest.mark.parametrize("name", NAMED)
def test_infinite_and_not_a_number(name):
    """What the docstrings say of +-inf and NaN, where nothing is averaged over them."""
    x = np.array([[np.inf, -np.inf, np.nan, 0.5]], "float32")
    if name in INPUT_ONLY - {"rsign"}:
        pytest.skip("a mean over the input is infinite with it")
    quantizer = NAMED[name]()
    if name == "ste_heaviside":
        expected = [1, 0, 0, 1]
    elif name == "ste_tern":
        expected = [1, -1, 0, 1]
    elif isinstance(quantizer, quantizers.Binarizer):
        if quantizer.scale is not None:
            pytest.skip("a mean over the kernel is infinite with it")
        expected = [1, -1, -1, 1]
    else:
        assert np.isnan(numpy(quantizer(x))[0, 2])
        return
    np.testing.assert_array_equal(numpy(quantizer(x)), [expected])


@pytest.mark.parametrize("name", NAMED)
def test_float64(name, float64, numerics):
    """All of it is computed in float64, variables included."""
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 5))
    for quantizer in variants(name):
        result = numerics.gradients(quantizer, [x], **training_argument(quantizer, True))
        assert result.value.dtype == result.inputs[0].dtype == np.float64
        floats = [v for v in quantizer.variables if dtype_name(v) != "bool"]
        assert all(dtype_name(variable) == "float64" for variable in floats)
        # A value rounded to float32 on the way would agree to 1e-8 only.
        inference = numerics.gradients(quantizer, [x], **training_argument(quantizer, False))
        numerics.assert_close(inference.value, result.value, 1e-12)


@pytest.mark.parametrize("name", NAMED)
def test_stateless_call(name):
    x = ops.convert_to_tensor(random((6, 4, 4, 5)))
    for quantizer in variants(name):
        quantizer.build(x.shape)
        trainable = [ops.copy(v) for v in quantizer.trainable_variables]
        fixed = [numpy(v).copy() for v in quantizer.non_trainable_variables]
        tensors = [ops.convert_to_tensor(value) for value in fixed]
        first, state = quantizer.stateless_call(
            trainable, tensors, x, **training_argument(quantizer, True)
        )
        # Nothing but what is returned has changed, and the returned state gives the same again.
        for variable, value in zip(quantizer.non_trainable_variables, fixed, strict=True):
            np.testing.assert_array_equal(numpy(variable), value)
        again, _ = quantizer.stateless_call(
            trainable, state, x, **training_argument(quantizer, False)
        )
        np.testing.assert_allclose(numpy(again), numpy(first), rtol=1e-5)


# --- Inside of layers ------------------------------------------------------------------------


def build_model(name, place, dtype=None):
    """A convolution and a dense layer with the quantizer in one place, a sign in the other."""

    def quantized(batch_axes):
        options = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
        # There is nothing to average over in the input of a dense layer.
        if batch_axes == 1 and name in ("contextual_sign", "dab"):
            return options
        return {**options, f"{place}_quantizer": name}

    layers = [
        keras.Input(SHAPE[1:]),
        QuantConv2D(5, 3, padding="symmetric", dtype=dtype, **quantized(3)),
        keras.layers.BatchNormalization(dtype=dtype),
        keras.layers.Flatten(dtype=dtype),
        QuantDense(2, dtype=dtype, **quantized(1)),
    ]
    return keras.Sequential(layers)


@pytest.mark.parametrize("name, place", PLACES)
def test_fit_save_and_load(name, place, tmp_path, backend):
    results = []
    for mode in ("eager", "compiled"):
        keras.utils.set_random_seed(1)
        model = build_model(name, place)
        # PyTorch's compiler needs a C++ toolchain and a minute; its default is not to compile.
        jit = mode == "compiled" and backend != "torch"
        model.compile(
            keras.optimizers.SGD(0.05), "mse", run_eagerly=mode == "eager", jit_compile=jit
        )
        before = [numpy(v).copy() for v in model.trainable_variables]
        history = model.fit(random(SHAPE), random((8, 2), 1), batch_size=8, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        for variable, value in zip(model.trainable_variables, before, strict=True):
            # A bias in front of a batch normalization has no effect.
            unused = variable.name in ("bias", "context")
            assert unused or not np.array_equal(numpy(variable), value), variable.path
        results.append([numpy(v) for v in model.trainable_variables])
    for eager, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-3, atol=1e-4)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for variable, original in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(variable), numpy(original))
    x = random(SHAPE, 2)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    model.save_weights(tmp_path / "model.weights.h5")
    other = build_model(name, place)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(other(x)), numpy(model(x)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name, place", PLACES)
def test_mixed_precision(name, place, policy):
    model = build_model(name, place, dtype=policy)
    model.compile("sgd", "mse", jit_compile=False)
    history = model.fit(random(SHAPE), random((8, 2), 1), batch_size=8, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for layer in model.layers:
        for variable in layer.variables:
            assert dtype_name(variable) in ("float32", "bool"), variable.path
    assert dtype_name(model(random(SHAPE))) == policy.removeprefix("mixed_")
