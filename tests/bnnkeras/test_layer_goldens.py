"""The layers against golden vectors of Larq, BiPointNet, BiDense and BCDNet."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers, quantizers


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


# --- Larq 0.14 -------------------------------------------------------------------------------

SIGNS = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
DEPTHWISE = {"input_quantizer": "ste_sign", "depthwise_quantizer": "ste_sign"}
SEPARABLE = {**DEPTHWISE, "pointwise_quantizer": "ste_sign"}
LARQ = {
    "conv1d": ("QuantConv1D", (2, 3, 2), SIGNS),
    "conv2d": ("QuantConv2D", (2, 3, 2), SIGNS),
    "conv2d_dilated": ("QuantConv2D", (2, 3), {**SIGNS, "dilation_rate": 2}),
    "conv3d": ("QuantConv3D", (2, 3, 2), SIGNS),
    "depthwise2d": ("QuantDepthwiseConv2D", (3, 2), DEPTHWISE),
    "separable1d": ("QuantSeparableConv1D", (2, 3), SEPARABLE),
    "separable2d": ("QuantSeparableConv2D", (2, 3, 2), SEPARABLE),
    "conv2d_transpose": ("QuantConv2DTranspose", (2, 3, 2), SIGNS),
    "conv3d_transpose": ("QuantConv3DTranspose", (2, 3, 2), SIGNS),
}


CASES = [(case, pad) for case in LARQ for pad in (0, 1) if not (pad and "transpose" in case)]


@pytest.mark.parametrize("case, pad_values", CASES)
def test_larqs_convolutions(case, pad_values, goldens):
    name, arguments, options = LARQ[case]
    golden, prefix = goldens("larq", "optimizers"), f"{case}_pad_{pad_values}"
    if pad_values:
        options = {**options, "pad_values": pad_values}
    layer = getattr(layers, name)(*arguments, padding="same", use_bias=False, **options)
    x = golden[f"{prefix}/x"]
    layer.build(x.shape)
    kernels = [f"{prefix}/w{index}" for index in range(len(layer.get_weights()))]
    layer.set_weights([golden[kernel] for kernel in kernels])
    # Sums of signs: exact, whatever the backend.
    np.testing.assert_array_equal(numpy(layer(x)), golden[f"{prefix}/y"])
    assert f"{prefix}/w{len(kernels)}" not in golden


# --- BiPointNet: aggregation and grouped 1-D convolutions --------------------------------------

POINTS = [1, 2, 3, 8, 16, 20, 32, 64, 100, 128, 256, 257, 512, 1000, 1024, 2048, 4096, 10000]


def test_offsets_have_the_closed_form(goldens):
    expected = goldens("bipointnet", "quantizers")["ema_delta"]
    actual = [layers.entropy_maximizing_offset(points) for points in POINTS]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-15)
    for points, released in layers.aggregation.RELEASED_OFFSETS.items():
        closed_form = layers.entropy_maximizing_offset(points)
        assert 0 < abs(released - closed_form) < 4e-3
        layer = layers.EntropyMaximizingAggregation()
        assert layer.shift((None, points, 5)) == released
        layer = layers.EntropyMaximizingAggregation(offset="closed_form")
        assert layer.shift((None, points, 5)) == closed_form


@pytest.mark.parametrize(
    "case, options",
    {
        "max": {"mode": "max", "offset": 0},
        "mean": {"mode": "mean"},
        "ema-max": {"offset": "closed_form"},
    }.items(),
)
def test_official_aggregation(case, options, float64, goldens, fill, numerics):
    golden = goldens("bipointnet", "blocks")
    x = fill.fill_input("aggregation", (2, 5, 64)).transpose(0, 2, 1)  # (B, C, N) -> (B, N, C)
    upstream = fill.fill_input("upstream:aggregation", (2, 5))
    layer = layers.EntropyMaximizingAggregation(**options)
    result = numerics.gradients(layer, [x], upstream)
    numerics.assert_close(result.value, golden[f"aggregate/{case}/out"])
    gradient = result.inputs[0].transpose(0, 2, 1)
    numerics.assert_close(gradient, golden[f"aggregate/{case}/grad"])


@pytest.mark.parametrize("ties", ["split", "first"])
@pytest.mark.parametrize("axis", [1, 2, -2])
def test_shared_maxima(ties, axis, numerics):
    """The gradient of a maximum that several points have is the same on every backend."""
    x = np.random.default_rng(0).integers(-2, 2, (3, 6, 6, 4)).astype("float32")
    layer = layers.EntropyMaximizingAggregation(axis=axis, ties=ties)
    upstream = np.random.default_rng(1).uniform(-1, 1, (3, 6, 4)).astype("float32")
    result = numerics.gradients(layer, [x], upstream)
    shared = x == x.max(axis=axis, keepdims=True)
    counts = shared.sum(axis=axis, keepdims=True)
    assert (counts > 1).mean() > 0.5
    if ties == "first":
        shares = shared & (shared.cumsum(axis=axis) == 1)
    else:
        shares = shared / counts
    expected = np.expand_dims(upstream, axis) * shares
    np.testing.assert_allclose(result.inputs[0], expected, rtol=1e-6)


BICONV = {"depthwise": (12, 8, 6, 8), "dense": (10, 3, 1, 9)}  # filters, kernel, groups, length


@pytest.mark.parametrize("case", BICONV)
def test_official_grouped_convolution(case, float64, goldens, fill, numerics):
    filters, size, groups, length = BICONV[case]
    golden, prefix = goldens("bipointnet", "layers"), f"BiConv1d/{case}"
    layer = layers.QuantConv1D(
        filters,
        size,
        groups=groups,
        input_quantizer=quantizers.SteSign(sign_of_zero=0),
        kernel_quantizer=quantizers.Binarizer(quantizers.MeanThreshold("all"), sign_of_zero=0),
    )
    x = fill.fill_input(f"biconv1d:{case}", (4, 6, length), -1.5, 1.5).transpose(0, 2, 1)
    layer.build(x.shape)
    # (O, I / g, K) -> (K, I / g, O)
    kernel = fill.fill_param("conv.weight", (filters, 6 // groups, size)).transpose(2, 1, 0)
    layer.set_weights([kernel, fill.fill_param("conv.bias", (filters,))])
    upstream = fill.fill_input(f"upstream:biconv1d:{case}", golden[f"{prefix}/out"].shape)
    result = numerics.gradients(layer, [x], upstream.transpose(0, 2, 1))
    numerics.assert_close(result.value.transpose(0, 2, 1), golden[f"{prefix}/out"])
    numerics.assert_close(result.inputs[0].transpose(0, 2, 1), golden[f"{prefix}/grad_input"])
    gradient = result.variables[layer.kernel.path].transpose(2, 1, 0)
    numerics.assert_close(gradient, golden[f"{prefix}/grad/conv.weight"])
    gradient = result.variables[layer.bias.path]
    numerics.assert_close(gradient, golden[f"{prefix}/grad/conv.bias"])


# --- BiDense: the bypass, and its convolutions -------------------------------------------------


def test_every_bypass(float64, goldens, fill, numerics):
    golden = goldens("bidense", "bypass")
    cases = sorted({key.split("/")[0] for key in golden})
    assert len(cases) == 54
    for case in cases:
        kind, inputs, outputs = case.split("_")
        dimensions = kind.removeprefix("bypass")
        layer = layers.ChannelAdaptiveBypass(int(outputs))
        shape = golden[f"{case}/grad"].shape
        x = fill.fill_input(f"x:{case}", shape)
        upstream = fill.fill_input(f"upstream:{case}", golden[f"{case}/out"].shape)
        if dimensions == "2d":
            x, upstream = channels_last(x), channels_last(upstream)
        result = numerics.gradients(layer, [x], upstream)
        value, gradient = result.value, result.inputs[0]
        if dimensions == "2d":
            value, gradient = (np.moveaxis(array, -1, 1) for array in (value, gradient))
        numerics.assert_close(value, golden[f"{case}/out"], label=case)
        numerics.assert_close(gradient, golden[f"{case}/grad"], label=case)


@pytest.mark.parametrize("filters", [1, 6, 11, 16])
def test_bypass_to_one_channel_more(filters, numerics):
    """One merged channel, where the official code fails, is the mean of all."""
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 5)).astype("float32")
    output = numpy(layers.ChannelAdaptiveBypass(filters)(x))
    tiled = np.concatenate([x] * (filters // 5) + [x.mean(axis=-1, keepdims=True)], axis=-1)
    np.testing.assert_allclose(output, tiled, rtol=1e-6, atol=1e-7)


def test_bypass_groups_can_be_chosen():
    x = np.arange(8, dtype="float32").reshape(1, 1, 1, 8)
    strided = numpy(layers.ChannelAdaptiveBypass(3)(x))[0, 0, 0]
    contiguous = numpy(layers.ChannelAdaptiveBypass(3, "contiguous")(x))[0, 0, 0]
    assert strided.tolist() == [1, 2, 5.5] and contiguous.tolist() == [0.5, 2.5, 5.5]
    tokens = numpy(layers.ChannelAdaptiveBypass(3)(x[0]))[0, 0]
    assert tokens.tolist() == contiguous.tolist()


BIDENSE = {
    # Layer class, its arguments, has a bypass, shape of the official kernel, input (NCHW).
    "conv3": ("QuantConv2D", (8, 3), {"padding": "symmetric"}, True, (8, 8, 3, 3), (2, 8, 7, 6)),
    "conv3_grow": (
        "QuantConv2D",
        (16, 3),
        {"padding": "symmetric"},
        True,
        (16, 6, 3, 3),
        (2, 6, 5, 6),
    ),
    "conv1_shrink": ("QuantConv2D", (6, 1), {}, True, (6, 16, 1, 1), (2, 16, 4, 5)),
    "conv_dw7": (
        "QuantConv2D",
        (8, 7),
        {"padding": "symmetric", "groups": 8},
        True,
        (8, 1, 7, 7),
        (2, 8, 6, 9),
    ),
    "conv2_s2": ("QuantConv2D", (16, 2, 2), {}, False, (16, 8, 2, 2), (2, 8, 6, 8)),
    "convT2": ("QuantConv2DTranspose", (8, 2, 2), {}, False, (8, 8, 2, 2), (2, 8, 3, 4)),
    "convT4": ("QuantConv2DTranspose", (4, 4, 4), {}, False, (6, 4, 4, 4), (2, 6, 3, 2)),
}


@pytest.mark.parametrize("case", BIDENSE)
def test_official_dense_convolution(case, float64, goldens, fill, numerics):
    """Binarizer, convolution, batch normalization, bypass; a transposed kernel's scale is one per
    input channel, as the official code has it."""
    name, arguments, options, bypass, kernel_shape, shape = BIDENSE[case]
    golden, prefix = goldens("bidense", "layers"), f"{case}/eval"
    dab = quantizers.DAB(sign_of_zero=0)
    convolution = getattr(layers, name)(
        *arguments,
        **options,
        use_bias=False,
        input_quantizer=dab,
        kernel_quantizer=quantizers.MagnitudeAwareSign(scale_gradient=False, sign_of_zero=0),
    )
    norm = keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9)
    inputs = keras.Input((*shape[2:], shape[1]))
    outputs = norm(convolution(inputs))
    if bypass:
        outputs = outputs + layers.ChannelAdaptiveBypass(arguments[0])(inputs)
    model = keras.Model(inputs, outputs)

    conv = "conv_transpose" if "Transpose" in name else "conv"
    channels, filters = shape[1], arguments[0]
    official = {
        "binarizer.alpha": (dab.scale.alpha, (1, channels, 1, 1)),
        "binarizer.k": (dab.threshold.k, (1, channels, 1, 1)),
        "binarizer.b": (dab.threshold.b, (1, channels, 1, 1)),
        f"{conv}.weight": (convolution.kernel, kernel_shape),
        "norm.weight": (norm.gamma, (filters,)),
        "norm.bias": (norm.beta, (filters,)),
        "norm.running_mean": (norm.moving_mean, (filters,)),
        "norm.running_var": (norm.moving_variance, (filters,)),
    }
    for key, (variable, official_shape) in official.items():
        value = fill.fill_param(f"{case}.{key}", official_shape)
        # (O, I, H, W), or (I, O, H, W) if transposed, -> (H, W, I, O), or (H, W, O, I).
        layout = value.transpose(2, 3, 1, 0) if variable is convolution.kernel else value
        variable.assign(layout.reshape(variable.shape))
    x = channels_last(fill.fill_input(f"x:{case}", shape, -2, 2))
    upstream = fill.fill_input(f"upstream:{case}", golden[f"{prefix}/out"].shape)
    result = numerics.gradients(model, [x], channels_last(upstream), training=False)
    numerics.assert_close(np.moveaxis(result.value, -1, 1), golden[f"{prefix}/out"])
    numerics.assert_close(np.moveaxis(result.inputs[0], -1, 1), golden[f"{prefix}/grad_x"])
    for key, (variable, official_shape) in official.items():
        if variable.trainable:
            gradient = result.variables[variable.path]
            if variable is convolution.kernel:
                gradient = gradient.transpose(3, 2, 0, 1)
            expected = golden[f"{prefix}/grad/{key}"]
            numerics.assert_close(gradient.reshape(official_shape), expected, label=key)


# --- BCDNet: shifts in space, learned shifts of value ------------------------------------------

SHIFTS = {"shift_5x6": (2, 8, 5, 6), "shift_7x7": (1, 8, 7, 7), "shift_2x3": (1, 4, 2, 3)}


@pytest.mark.parametrize("kind, distance", [("Shift", 1), ("GlobalShift", 3)])
@pytest.mark.parametrize("case", SHIFTS)
def test_official_spatial_shift(case, kind, distance, float64, goldens, fill, numerics):
    golden, prefix = goldens("bcdnet", "quantizers"), f"{case}/{kind}"
    x = channels_last(fill.fill_input(case, SHIFTS[case]))
    upstream = channels_last(fill.fill_input(f"upstream:{case}", SHIFTS[case]))
    result = numerics.gradients(layers.SpatialShift(distance), [x], upstream)
    np.testing.assert_array_equal(np.moveaxis(result.value, -1, 1), golden[f"{prefix}/y"])
    np.testing.assert_array_equal(np.moveaxis(result.inputs[0], -1, 1), golden[f"{prefix}/dx"])


def test_half_the_map_is_the_long_range_of_7_by_7():
    x = np.random.default_rng(0).uniform(-1, 1, (1, 7, 7, 8)).astype("float32")
    half, long = layers.SpatialShift("half"), layers.SpatialShift(3)
    np.testing.assert_array_equal(numpy(half(x)), numpy(long(x)))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 4, 6, 4)).astype("float32")
    y = numpy(half(x))
    np.testing.assert_array_equal(y[..., 0], np.roll(x[..., 0], 2, axis=1))
    np.testing.assert_array_equal(y[..., 3], np.roll(x[..., 3], -3, axis=2))


def test_official_rprelu(float64, goldens, fill, numerics):
    golden = goldens("bcdnet", "quantizers")
    x = channels_last(fill.fill_input("rprelu", (2, 6, 3, 4), -2, 2))
    layer = layers.RPReLU()
    layer.build(x.shape)
    official = {
        "move1.bias": (layer.bias_before, (1, 6, 1, 1)),
        "prelu.weight": (layer.slope, (6,)),
        "move2.bias": (layer.bias_after, (1, 6, 1, 1)),
    }
    for key, (variable, shape) in official.items():
        variable.assign(fill.fill_param(key, shape, salt="rprelu:").reshape(-1))
    upstream = channels_last(fill.fill_input("upstream:rprelu", (2, 6, 3, 4)))
    result = numerics.gradients(layer, [x], upstream)
    numerics.assert_close(np.moveaxis(result.value, -1, 1), golden["rprelu/y"])
    numerics.assert_close(np.moveaxis(result.inputs[0], -1, 1), golden["rprelu/dx"])
    for key, (variable, shape) in official.items():
        gradient = result.variables[variable.path].reshape(shape)
        numerics.assert_close(gradient, golden[f"rprelu/d.{key}"], label=key)


def test_rprelu_at_its_kink(numerics):
    """At x + b1 = 0 the gradient is the slope, as PyTorch's, on every backend."""
    layer = layers.RPReLU(slope_initializer=0.5)
    x = np.array([[0.0], [-0.0], [1.0], [-1.0]], "float32")
    result = numerics.gradients(layer, [x])
    assert result.inputs[0][:, 0].tolist() == [0.5, 0.5, 1.0, 0.5]
    assert result.variables[layer.slope.path].tolist() == [-1.0]


def test_learnable_bias(float64, numerics):
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 5))
    layer = layers.LearnableBias()
    result = numerics.gradients(layer, [x], x)
    np.testing.assert_array_equal(result.value, x)  # It starts at 0.
    np.testing.assert_array_equal(result.inputs[0], x)
    numerics.assert_close(result.variables[layer.bias.path], x.sum(axis=(0, 1, 2)))


@pytest.mark.parametrize("kernel", ["lsr_kernel", "xnor_kernel", "magnitude_aware_sign"])
def test_signs_are_summed_before_they_are_scaled(kernel, numerics):
    """Dot products that cancel are 0, not a rest of scaled ones; equal ones stay equal."""
    inputs = quantizers.XNORInput() if kernel == "xnor_kernel" else "ste_sign"
    layer = layers.QuantDense(32, use_bias=False, input_quantizer=inputs, kernel_quantizer=kernel)
    x = np.random.default_rng(0).normal(size=(50, 64)).astype("float32")
    layer.build(x.shape)
    centred, scale = layer.kernel_quantizer.components(ops.cast(layer.kernel, "float32"))
    sums = np.where(x >= 0, 1, -1) @ np.where(numpy(centred) >= 0, 1, -1)
    assert (sums == 0).sum() > 100
    result = numerics.gradients(layer, [x])
    scaled = sums * np.broadcast_to(numpy(scale), (1, 32))
    if kernel == "xnor_kernel":
        scaled = scaled * np.abs(x).mean(axis=1, keepdims=True)
    np.testing.assert_array_equal(result.value == 0, sums == 0)
    np.testing.assert_allclose(result.value, scaled, rtol=1e-5)
