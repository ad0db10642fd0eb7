"""The quantizers against the official Bi-Real Net, against Larq 0.14, and as Keras layers."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import quantizers

PRESETS = {
    "approx_sign": quantizers.ApproxSign,
    "magnitude_aware_sign": quantizers.MagnitudeAwareSign,
    "ste_sign": quantizers.SteSign,
}


def grid() -> np.ndarray:
    """The points of birealnet/quantizers.npz (spec, section 10)."""
    edges = [0, 1, -1, 1e-300, -1e-300]
    edges += [np.nextafter(a, b) for a, b in ((1, 0), (1, 2), (-1, 0), (-1, -2))]
    edges += [1e-6, -1e-6, 1 + 1e-6, 1 - 1e-6, -1 + 1e-6, -1 - 1e-6, 3, -3]
    return np.concatenate([np.arange(-80, 81) / 40, edges])


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def tensor(value, dtype="float32"):
    return ops.convert_to_tensor(value, dtype=dtype)


# --- The official network --------------------------------------------------------------------


def test_approx_sign_is_the_official_one(float64, goldens, fill, numerics):
    golden = goldens("birealnet", "quantizers")
    x, quantizer = grid(), quantizers.ApproxSign(sign_of_zero=0)
    upstream = fill.fill_input("upstream:approx_sign", x.shape)
    result = numerics.gradients(quantizer, [x], upstream)
    assert result.value.dtype == np.float64
    np.testing.assert_array_equal(result.value, golden["approx_sign/forward"])
    numerics.assert_close(result.inputs[0], golden["approx_sign/grad"])
    derivative = numerics.gradients(quantizer, [x]).inputs[0]
    numerics.assert_close(derivative, golden["approx_sign/derivative"])
    numerics.assert_close(
        numpy(quantizers.Triangle().derivative(tensor(x, "float64"))),
        golden["approx_sign/derivative"],
    )


def magnitude_case(fill, case):
    """Kernel and upstream gradient of a magsign case, OIHW."""
    shape = (4, 3, 3, 3)
    if case == "small":
        kernel = fill.fill_input("magsign:small", shape, -0.1, 0.1)
    else:
        kernel = fill.fill_input("magsign:wide", shape, -2, 2)
        kernel.reshape(4, -1)[:, :3] = [0, 1, -1]
    return kernel, fill.fill_input(f"upstream:magsign:{case}", shape)


def to_hwio(array):
    return array.transpose(2, 3, 1, 0)


@pytest.mark.parametrize("case", ["small", "wide"])
def test_magnitude_aware_sign_is_the_official_one(case, float64, goldens, fill, numerics):
    golden = goldens("birealnet", "quantizers")
    kernel, upstream = map(to_hwio, magnitude_case(fill, case))
    quantizer = quantizers.MagnitudeAwareSign(scale_gradient=False, sign_of_zero=0)
    result = numerics.gradients(quantizer, [kernel], upstream)
    numerics.assert_close(result.value, to_hwio(golden[f"magsign_{case}/forward"]))
    numerics.assert_close(result.inputs[0], to_hwio(golden[f"magsign_{case}/grad"]))
    scale = numpy(quantizers.MeanMagnitude()(tensor(kernel, "float64")))
    numerics.assert_close(scale.ravel(), golden[f"magsign_{case}/scale"])


def test_mean_magnitude_is_exact_without_the_fixture(backend, fill):
    """Unlike `keras.ops.mean`, which computes in float32 on JAX and PyTorch."""
    x = fill.fill_input("mean", (3, 3, 4, 8))
    if backend == "jax":
        import jax

        if not jax.config.jax_enable_x64:
            pytest.fail("float64 tests on JAX need the environment variable JAX_ENABLE_X64=1")
    scale = numpy(quantizers.MeanMagnitude()(tensor(x, "float64")))
    expected = np.abs(x).mean(axis=(0, 1, 2), keepdims=True)
    np.testing.assert_allclose(scale, expected, rtol=1e-14)


@pytest.mark.parametrize("case", ["small", "wide"])
def test_scale_gradient_is_the_one_of_the_paper(case, float64, goldens, fill, numerics):
    golden = goldens("birealnet", "quantizers")
    kernel, upstream = map(to_hwio, magnitude_case(fill, case))
    quantizer = quantizers.MagnitudeAwareSign(sign_of_zero=0)
    result = numerics.gradients(quantizer, [kernel], upstream)
    numerics.assert_close(result.value, to_hwio(golden[f"magsign_{case}/forward"]))
    paper = to_hwio(golden[f"magsign_{case}/grad_paper"])
    # The paper's mask is |W| < 1, Larq's and ours |W| <= 1: at exactly 1 ours is s * upstream.
    tie = np.abs(kernel) == 1
    assert tie.sum() == (8 if case == "wide" else 0) and not paper[tie].any()
    scale = np.abs(kernel).mean(axis=(0, 1, 2))
    numerics.assert_close(result.inputs[0], np.where(tie, scale * upstream, paper))


def test_sign_of_zero_is_one_by_default(float64, goldens, fill):
    golden = goldens("birealnet", "quantizers")
    forward = golden["approx_sign/forward"]
    assert (forward == 0).any()
    expected = np.where(forward == 0, 1, forward)
    np.testing.assert_array_equal(numpy(quantizers.ApproxSign()(grid())), expected)
    np.testing.assert_array_equal(numpy(quantizers.SteSign()(grid())), expected)
    np.testing.assert_array_equal(numpy(quantizers.SteSign(sign_of_zero=0)(grid())), forward)

    kernel = to_hwio(magnitude_case(fill, "wide")[0])
    zero_forward = to_hwio(golden["magsign_wide/forward"])
    scale = np.broadcast_to(golden["magsign_wide/scale"], kernel.shape)
    assert (zero_forward == 0).sum() == 4
    np.testing.assert_allclose(
        numpy(quantizers.MagnitudeAwareSign()(kernel)),
        np.where(kernel == 0, scale, zero_forward),
        rtol=1e-12,
    )


# --- Larq 0.14 -------------------------------------------------------------------------------

LARQ = {
    "ste_sign": quantizers.SteSign(),
    "ste_sign_clip_none": quantizers.SteSign(clip_value=None),
    "ste_sign_clip_1.25": quantizers.SteSign(clip_value=1.25),
    "approx_sign": quantizers.ApproxSign(),
    "magnitude_aware_sign": quantizers.MagnitudeAwareSign(),
    "magnitude_aware_sign_clip_none": quantizers.MagnitudeAwareSign(clip_value=None),
}


@pytest.mark.parametrize("case", LARQ)
def test_larq_values_and_gradients(case, goldens, numerics):
    golden, quantizer = goldens("larq", "quantizers"), LARQ[case]
    shapes = ["", "edge_", "kernel_", "dense_"]
    shapes += ["column_"] if f"{case}/column_x" in golden.files else []
    # The mean of float32 magnitudes depends on the order of summation, by one or two units in the
    # last place; everything else is exact.
    tolerance = 3e-7 if "magnitude" in case else 0
    for shape in shapes:
        x = golden[f"{case}/{shape}x"]
        result = numerics.gradients(quantizer, [x])
        # TensorFlow and XLA treat denormals as 0, PyTorch does not: neither value is wrong.
        normal = (x == 0) | (np.abs(x) >= np.finfo(np.float32).tiny)
        if "magnitude" in case:
            # An infinite weight has an infinite scale, and 0 * inf is NaN; Larq masks that too.
            normal &= np.isfinite(x)
        for actual, name in ((result.value, "y"), (result.inputs[0], "grad")):
            expected = golden[f"{case}/{shape}{name}"]
            assert actual.dtype == expected.dtype == np.float32
            np.testing.assert_allclose(
                actual[normal], expected[normal], rtol=tolerance, err_msg=f"{shape}{name}"
            )
    upstream = golden[f"{case}/upstream"]
    result = numerics.gradients(quantizer, [golden[f"{case}/x"]], upstream)
    np.testing.assert_allclose(
        result.inputs[0], golden[f"{case}/grad_upstream"], rtol=tolerance, atol=tolerance
    )


def test_functions_are_the_quantizers(numerics):
    x = np.linspace(-2, 2, 41, dtype="float32")
    for function, quantizer in (
        (quantizers.ste_sign, quantizers.SteSign()),
        (lambda x: quantizers.ste_sign(x, clip_value=0.5), quantizers.SteSign(0.5)),
        (quantizers.approx_sign, quantizers.ApproxSign()),
    ):
        actual, expected = (numerics.gradients(f, [x]) for f in (function, quantizer))
        np.testing.assert_array_equal(actual.value, expected.value)
        np.testing.assert_array_equal(actual.inputs[0], expected.inputs[0])


# --- Special values and dtypes ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["ste_sign", "approx_sign"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_special_values(name, dtype, numerics):
    x = tensor([np.inf, -np.inf, np.nan, -0.0, 0.0], dtype)
    signs = numpy(ops.cast(quantizers.get(name)(x), "float32"))
    np.testing.assert_array_equal(signs, [1, -1, -1, 1, 1])


@pytest.mark.parametrize("name", ["ste_sign", "approx_sign"])
def test_gradient_is_finite_at_any_magnitude(name, numerics):
    # The official polynomial is inf * 0 = NaN here (spec, section 2.1).
    x = np.array([np.inf, -np.inf, 3e38, -3e38], "float32")
    np.testing.assert_array_equal(numerics.gradients(quantizers.get(name), [x]).inputs[0], 0)
    half = np.array([300, -300, 65504], "float16")
    np.testing.assert_array_equal(numerics.gradients(quantizers.get(name), [half]).inputs[0], 0)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", PRESETS)
def test_output_has_the_dtype_of_the_input(name, dtype, policy):
    quantizer = PRESETS[name](dtype=policy)
    output = quantizer(tensor([[0.5, -0.25], [0.25, 0.5]], dtype))
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert quantizer(keras.Input((2,), dtype=dtype)).dtype == dtype
    assert quantizer(keras.Input((2,), dtype=dtype)).shape == (None, 2)


@pytest.mark.parametrize("name", PRESETS)
def test_values_are_exactly_signs_in_half_precision(name):
    x = np.array([[0.5, -1e-4], [-0.25, 3.0], [6e4, -0.5]])
    for dtype in ("float16", "bfloat16"):
        output = numpy(ops.cast(PRESETS[name]()(tensor(x, dtype)), "float32"))
        scale = np.abs(output[0]) if name == "magnitude_aware_sign" else 1
        np.testing.assert_array_equal(output, np.sign(x) * scale)


# --- Composition -----------------------------------------------------------------------------


def test_parts_compose(float64, numerics):
    """Every combination of parts against the product and the chain rule, in NumPy."""
    generator = np.random.default_rng(0)
    x, upstream = generator.uniform(-2, 2, (2, 6, 3))
    shift = np.array([0.3, -0.2, 0.1])
    for threshold in (False, True):
        for scale in (False, True):
            for scale_gradient in (False, True):
                quantizer = quantizers.Binarizer(
                    threshold=quantizers.LearnedThreshold() if threshold else None,
                    scale=quantizers.MeanMagnitude() if scale else None,
                    estimator=quantizers.Triangle(),
                    scale_gradient=scale_gradient,
                )
                quantizer.build(x.shape)
                if threshold:
                    quantizer.threshold.value.assign(shift)
                result = numerics.gradients(quantizer, [x], upstream)
                centred = x - shift * threshold
                gain = np.abs(x).mean(axis=0) if scale else 1.0
                numerics.assert_close(result.value, gain * np.sign(centred))
                gradient = upstream * np.maximum(2 - 2 * np.abs(centred), 0)
                gradient = gradient * (gain if scale_gradient else 1.0)
                numerics.assert_close(result.inputs[0], gradient)
                assert len(result.variables) == threshold
                for found in result.variables.values():
                    numerics.assert_close(found, -gradient.sum(axis=0))


def test_clip_value_bounds_the_gradient(numerics):
    x = np.array([-1.3, -1.25, -1.0, 0.0, 1.25, 1.26], "float32")
    gradient = numerics.gradients(quantizers.SteSign(clip_value=1.25), [x]).inputs[0]
    np.testing.assert_array_equal(gradient, [0, 1, 1, 1, 1, 0])
    gradient = numerics.gradients(quantizers.SteSign(clip_value=None), [x]).inputs[0]
    np.testing.assert_array_equal(gradient, 1)


def test_learned_threshold_trains():
    """Fit finds a threshold that separates the signs of x - 0.4."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (256, 2)).astype("float32")
    y = np.sign(x - np.float32(0.4))
    quantizer = quantizers.Binarizer(
        threshold=quantizers.LearnedThreshold(), estimator=quantizers.Triangle()
    )
    model = keras.Sequential([keras.Input((2,)), quantizer])
    model.compile(optimizer=keras.optimizers.SGD(0.02), loss="mse")
    assert [variable.shape for variable in model.trainable_variables] == [(2,)]
    model.fit(x, y, batch_size=32, epochs=30, verbose=0)
    np.testing.assert_allclose(numpy(quantizer.threshold.value), 0.4, atol=0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_one_bit_and_own_no_variables(name):
    quantizer = PRESETS[name]()
    quantizer.build((3, 3, 4, 8))
    assert quantizer.precision == 1 and quantizer.weights == []
    assert quantizer.compute_output_shape((None, 7)) == (None, 7)


# --- Names and configurations ----------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_get_by_name(name):
    for identifier in (name, PRESETS[name].__name__):
        quantizer = quantizers.get(identifier)
        assert type(quantizer) is PRESETS[name]
        assert quantizers.get(quantizer) is quantizer
        # Layers must not share one: a quantizer may own variables.
        assert quantizers.get(identifier) is not quantizer


def test_get_passes_none_and_callables():
    assert quantizers.get(None) is None and quantizers.serialize(None) is None
    assert quantizers.get(ops.sign) is ops.sign


QUANTIZERS = [
    quantizers.SteSign(clip_value=1.25, sign_of_zero=0, name="first"),
    quantizers.SteSign(clip_value=None),
    quantizers.ApproxSign(sign_of_zero=0),
    quantizers.MagnitudeAwareSign(clip_value=0.5, scale_gradient=False, sign_of_zero=0),
    quantizers.Binarizer(),
    quantizers.Binarizer(
        threshold=quantizers.LearnedThreshold(keras.initializers.Constant(0.5)),
        scale=quantizers.MeanMagnitude(),
        estimator=quantizers.Triangle(),
    ),
    quantizers.Binarizer(
        scale=quantizers.MeanMagnitude(),
        estimator=quantizers.ClippedIdentity(0.7),
        scale_gradient=False,
        sign_of_zero=0,
    ),
]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda quantizer: quantizer.name)
def test_configuration_round_trip(quantizer, numerics):
    config = json.loads(json.dumps(quantizers.serialize(quantizer)))
    copy = quantizers.deserialize(config)
    assert type(copy) is type(quantizer)
    assert copy.get_config() == quantizer.get_config()
    assert quantizers.get(config).get_config() == quantizer.get_config()
    assert type(quantizer).from_config(quantizer.get_config()).get_config() == copy.get_config()
    x = np.random.default_rng(0).uniform(-2, 2, (5, 3)).astype("float32")
    x[0] = 0
    for built in (quantizer, copy):
        built.build(x.shape)
    actual, expected = (numerics.gradients(built, [x]) for built in (copy, quantizer))
    np.testing.assert_array_equal(actual.value, expected.value)
    np.testing.assert_array_equal(actual.inputs[0], expected.inputs[0])


@pytest.mark.parametrize("function", [quantizers.ste_sign, quantizers.approx_sign])
def test_functions_round_trip(function):
    config = json.loads(json.dumps(quantizers.serialize(function)))
    assert quantizers.deserialize(config) is function


@pytest.mark.parametrize("identifier", ["ste_sgn", "", "Dense"])
def test_unknown_name_lists_the_known_ones(identifier):
    for function in (quantizers.get, quantizers.deserialize):
        with pytest.raises(
            ValueError, match="approx_sign, .*magnitude_aware_sign, .*ste_sign"
        ) as info:
            function(identifier)
        assert f"Received: {identifier!r}" in str(info.value)


@pytest.mark.parametrize("identifier", [3, 1.5, ["ste_sign"], quantizers.SteSign])
def test_get_rejects_what_is_no_quantizer(identifier):
    with pytest.raises(ValueError, match="must be None, a name, .*Received: "):
        quantizers.get(identifier)


@pytest.mark.parametrize("cls", [quantizers.Binarizer, *PRESETS.values()])
@pytest.mark.parametrize("value", [-1, 2, None])
def test_sign_of_zero_is_checked(cls, value):
    with pytest.raises(ValueError, match=f"`sign_of_zero` must be 0 or 1. Received: .*{value}"):
        cls(sign_of_zero=value)


@pytest.mark.parametrize("cls", [quantizers.SteSign, quantizers.MagnitudeAwareSign])
@pytest.mark.parametrize("value", [0, -0.5, float("nan")])
def test_clip_value_is_checked(cls, value):
    with pytest.raises(ValueError, match=f"`clip_value` must be .* Received: clip_value={value}"):
        cls(clip_value=value)


def test_parts_are_checked():
    for argument in ("threshold", "scale", "estimator"):
        with pytest.raises(TypeError, match=f"`{argument}` must be .* Received: 3"):
            quantizers.Binarizer(**{argument: 3})
    with pytest.raises(TypeError, match="`scale` must be a Scale"):
        quantizers.Binarizer(scale=quantizers.Triangle())


class LearnedScale(quantizers.Scale):
    """A scale that has a variable."""

    def build(self, binarizer, input_shape):
        self.value = binarizer.add_weight(name="scale", shape=(), initializer="ones")

    def __call__(self, x):
        return ops.cast(self.value, x.dtype)


def test_learned_scale_needs_its_gradient(numerics):
    quantizer = quantizers.Binarizer(scale=LearnedScale(), scale_gradient=False)
    with pytest.raises(ValueError, match="scale without trainable variables.*LearnedScale"):
        quantizer.build((4,))
    quantizer = quantizers.Binarizer(scale=LearnedScale())
    quantizer.build((4,))
    result = numerics.gradients(quantizer, [np.array([3.0, -1, 0.5, 2], "float32")])
    assert list(result.variables.values())[0] == 2  # The sum of the signs.
