"""The parts and multi-bit quantizers against their equations in NumPy, and their arguments."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import quantizers
from bnnkeras.layers import QuantConv2D


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def random(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# --- Contextual thresholds (bcdnet.md, section 4) --------------------------------------------


def test_contextual_threshold(float64, numerics):
    x, upstream = random((2, 4, 3, 8)), random((2, 4, 3, 8), 1)
    quantizer = quantizers.ContextualSign(ratio=4)
    quantizer.build(x.shape)
    part = quantizer.threshold
    first, second, static = random((8, 2), 2), random((2, 8), 3), 0.1 * random(8, 4)
    for variable, value in (
        (part.reduction, first),
        (part.expansion, second),
        (part.value, static),
    ):
        variable.assign(value)
    result = numerics.gradients(quantizer, [x], upstream)

    average = x.mean(axis=(1, 2))
    context = average @ first
    threshold = (context @ second + static)[:, None, None]
    u = x - threshold
    numerics.assert_close(result.value, np.sign(u))
    direct = upstream * np.maximum(2 - 2 * np.abs(u), 0)
    of_threshold = -direct.sum(axis=(1, 2))  # (batch, channels)
    through_mean = of_threshold @ second.T @ first.T / 12
    numerics.assert_close(result.inputs[0], direct + through_mean[:, None, None])
    for variable, expected in (
        (part.value, of_threshold.sum(axis=0)),
        (part.expansion, context.T @ of_threshold),
        (part.reduction, average.T @ (of_threshold @ second.T)),
    ):
        numerics.assert_close(result.variables[variable.path], expected)
    numerics.assert_close(numpy(part.context(ops.convert_to_tensor(x))), context[:, None, None])


def test_contextual_embedding(float64, numerics):
    """y = W sign(x - t) + W3 W1 mean(x), for each layout of the channels."""
    x, upstream = random((2, 5, 4, 8)), random((2, 5, 4, 6), 1)
    layer = QuantConv2D(
        6,
        1,
        input_quantizer=quantizers.ContextualSign(ratio=2, activation="relu", embedding=6),
        kernel_quantizer="ste_sign",
    )
    layer.build(x.shape)
    part = layer.input_quantizer.threshold
    kernel, bias, first, second = random((1, 1, 8, 6), 2), random(6), random((8, 4)), 0.1
    for variable, value in (
        (layer.kernel, kernel),
        (layer.bias, bias),
        (part.reduction, first),
        (part.expansion, second * random((4, 8), 3)),
        (part.output_expansion, random((4, 6), 4)),
    ):
        variable.assign(value)
    result = numerics.gradients(layer, [x], upstream)
    context = np.maximum(x.mean(axis=(1, 2)) @ first, 0)
    signs = np.sign(x - (context @ (second * random((4, 8), 3)))[:, None, None])
    expected = signs @ np.sign(kernel[0, 0]) + (context @ random((4, 6), 4))[:, None, None] + bias
    numerics.assert_close(result.value, expected)
    numerics.assert_close(
        result.variables[part.output_expansion.path], context.T @ upstream.sum(axis=(1, 2))
    )


def test_contextual_embedding_channels_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow on a CPU has no convolution of channels first")
    x = random((2, 5, 4, 8)).astype("float32")
    outputs = []
    for data_format in ("channels_last", "channels_first"):
        layer = QuantConv2D(
            6,
            1,
            data_format=data_format,
            input_quantizer=quantizers.ContextualSign(embedding=6),
        )
        first = data_format == "channels_first"
        layer.build((2, 8, 5, 4) if first else x.shape)
        for index, variable in enumerate(layer.weights):
            variable.assign(random(variable.shape, index))
        y = numpy(layer(np.moveaxis(x, -1, 1) if first else x))
        outputs.append(np.moveaxis(y, 1, -1) if first else y)
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


def test_embedding_must_have_the_output_channels():
    layer = QuantConv2D(6, 3, input_quantizer=quantizers.ContextualSign(embedding=5))
    with pytest.raises(ValueError, match="output channels, 6. Received: embedding=5"):
        layer.build((2, 5, 4, 8))


def test_contextual_threshold_starts_as_a_learned_one():
    x = random((2, 4, 3, 8)).astype("float32")
    actual, expected = (numpy(quantizers.get(name)(x)) for name in ("contextual_sign", "rsign"))
    np.testing.assert_array_equal(actual, expected)


# --- LSQ (Esser et al., section 2) -----------------------------------------------------------


@pytest.mark.parametrize("mode", ["weights", "activations"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_lsq(mode, signed, per_channel, float64, numerics):
    x, upstream = random((6, 5, 3)), random((6, 5, 3), 1)
    quantizer = quantizers.LSQ(3, mode, signed, per_channel)
    quantizer.build(x.shape)
    step = np.array([0.2, 0.4, 0.3]) if per_channel else np.array(0.3)
    quantizer.step.assign(step)
    result = numerics.gradients(quantizer, [x], upstream)

    low, high = (-4, 3) if signed else (0, 7)
    ratio = x / step
    numerics.assert_close(result.value, np.round(np.clip(ratio, low, high)) * step)
    inside = (ratio > low) & (ratio < high)
    numerics.assert_close(result.inputs[0], upstream * inside)
    of_step = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, low, high)) * upstream
    number = x.size / (3 if per_channel else 1) / (6 if mode == "activations" else 1)
    expected = of_step.sum(axis=(0, 1) if per_channel else None) / np.sqrt(number * high)
    (gradient,) = result.variables.values()
    numerics.assert_close(gradient, expected)
    assert quantizer.precision == 3


# --- Uniform (TensorFlow Lite's int8 schemes) ------------------------------------------------


@pytest.mark.parametrize("per_channel", [True, False])
def test_symmetric_weights(per_channel, float64, numerics):
    x = random((3, 3, 4, 5)) * [1, 2, 3, 4, 5]
    result = numerics.gradients(quantizers.UniformQuantizer(per_channel=per_channel), [x])
    scale = np.abs(x).max(axis=(0, 1, 2) if per_channel else None) / 127
    numerics.assert_close(result.value, np.round(x / scale) * scale)
    assert (result.inputs[0] == 1).all()
    levels = np.round(result.value / scale)
    assert np.abs(levels).max() == 127 and levels.min() >= -127


def test_affine_activations_follow_the_average_range(float64, numerics):
    first, second = random((16, 4)) + 2, 3 * random((16, 4), 1)
    quantizer = quantizers.UniformQuantizer(mode="activations", momentum=0.75)
    # Before training the present range serves, and nothing is kept.
    quantizer(first)
    assert not numpy(quantizer.observed)
    quantizer(first, training=True)
    quantizer(second, training=True)
    lowest = 0.75 * first.min() + 0.25 * second.min()
    highest = 0.75 * first.max() + 0.25 * second.max()
    np.testing.assert_allclose(numpy(quantizer.lowest), lowest, rtol=1e-12)
    np.testing.assert_allclose(numpy(quantizer.highest), highest, rtol=1e-12)

    lowest = min(lowest, 0)
    scale = (highest - lowest) / 255
    zero = np.round(-128 - lowest / scale)
    integers = np.round(second / scale) + zero
    result = numerics.gradients(quantizer, [second], training=False)
    numerics.assert_close(result.value, (np.clip(integers, -128, 127) - zero) * scale)
    np.testing.assert_array_equal(result.inputs[0], (integers >= -128) & (integers <= 127))
    assert numpy(quantizer(np.zeros((1, 4)))).any() == 0  # 0 is exact.


# --- State and protocol ----------------------------------------------------------------------


def test_components(float64):
    """What q is made of, for whoever rebuilds it: signs of the first, times the second."""
    x = random((3, 3, 4, 5))
    for quantizer in (
        quantizers.SteSign(),
        quantizers.MagnitudeAwareSign(),
        quantizers.XNORKernel(),
        quantizers.LibraKernel(),
        quantizers.LSRKernel(),
        quantizers.BiViTKernel(),
        quantizers.DAB(),
        quantizers.ContextualSign(),
    ):
        value = numpy(quantizer(x))
        centred, scale = quantizer.components(ops.convert_to_tensor(x))
        factor = 1.0 if scale is None else numpy(scale)
        np.testing.assert_allclose(np.where(numpy(centred) >= 0, 1, -1) * factor, value)


def test_static_parts_do_not_depend_on_the_input():
    parts = {
        name: part
        for name, part in vars(quantizers).items()
        if isinstance(part, type) and issubclass(part, quantizers.Part)
    }
    static = {name for name, part in parts.items() if part.static}
    assert static == {"LearnedThreshold", "LearnedMagnitude", "LayerwiseScale"}
    assert quantizers.LSRKernel().uses_products and not quantizers.XNORKernel().uses_products


@pytest.mark.parametrize("policy", ["mixed_float16", "float32"])
def test_scale_variables_are_read_in_float32(policy):
    """alpha of 1e-9 has no float16."""
    layer = QuantConv2D(2, 1, kernel_quantizer="lsr_kernel", use_bias=False, dtype=policy)
    layer.build((None, 4, 4, 3))
    layer.kernel_quantizer.scale.assign(1e-9)
    value = layer.kernel_quantizer.components(ops.cast(layer.kernel, "float32"))[1]
    np.testing.assert_allclose(float(numpy(value)), 1e-9, rtol=1e-6)


# --- Arguments -------------------------------------------------------------------------------

WRONG = [
    (quantizers.SwishSign, {"beta": 0}),
    (quantizers.SteHeaviside, {"clip_value": -1}),
    (quantizers.SteTern, {"threshold_value": -0.1}),
    (quantizers.SteTern, {"threshold_value": float("nan")}),
    (quantizers.SteTern, {"clip_value": 0}),
    (quantizers.NoOp, {"precision": 0}),
    (quantizers.NoOp, {"precision": 1.5}),
    (quantizers.DoReFa, {"k_bit": 0}),
    (quantizers.DoReFa, {"k_bit": 2.0}),
    (quantizers.DoReFa, {"mode": "weight"}),
    (quantizers.LSQ, {"bits": 1}),
    (quantizers.LSQ, {"mode": "kernel"}),
    (quantizers.UniformQuantizer, {"bits": 17}),
    (quantizers.UniformQuantizer, {"momentum": 1.5}),
    (quantizers.EDESign, {"k": 0}),
    (quantizers.EDESign, {"t": -1}),
    (quantizers.LibraKernel, {"t": 0}),
    (quantizers.LibraKernel, {"axes": "rows"}),
    (quantizers.XNORKernel, {"axes": ()}),
    (quantizers.XNORInput, {"axes": (0.5,)}),
    (quantizers.MagnitudeAwareSign, {"axes": 0}),
    (quantizers.DAB, {"axes": "channels"}),
    (quantizers.ContextualSign, {"ratio": 0}),
    (quantizers.ContextualSign, {"ratio": 1.5}),
    (quantizers.ContextualSign, {"embedding": 0}),
    (quantizers.ContextualSign, {"embedding": True}),
]


@pytest.mark.parametrize("cls, options", WRONG)
def test_arguments_are_checked(cls, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        cls(**options)


@pytest.mark.parametrize("name", ["dab", "contextual_sign"])
def test_spatial_means_need_spatial_axes(name):
    with pytest.raises(ValueError, match=r"has none. Received: input_shape=\(None, 4\)"):
        quantizers.get(name).build((None, 4))


def test_a_deviation_needs_two_values():
    with pytest.raises(ValueError, match="at least two values. Received: 1 over"):
        quantizers.LibraKernel().build((1, 1, 1, 8))
    with pytest.raises(ValueError, match="known sizes"):
        quantizers.LibraKernel().build((None, 8))


def test_parts_with_variables_are_not_shared():
    for part in (quantizers.ErrorDecay(), quantizers.Triangle()):
        first, second = (quantizers.Binarizer(estimator=part, name=name) for name in "ab")
        first.build((4,))
        if isinstance(part, quantizers.Triangle):
            second.build((4,))
        else:
            with pytest.raises(ValueError, match="belongs to one quantizer.*one of 'a' for 'b'"):
                second.build((4,))


def test_user_quantizers_need_no_configuration_code():
    @keras.saving.register_keras_serializable("test_quantizer_parts")
    class Halves(quantizers.Quantizer):
        def __init__(self, factor=0.5, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, inputs):
            return self.factor * ops.sign(inputs)

    copy = quantizers.get(quantizers.serialize(Halves(0.25, name="quarter")))
    assert (copy.factor, copy.name, copy.precision) == (0.25, "quarter", 32)
    np.testing.assert_array_equal(numpy(copy([2.0, -1.0])), [0.25, -0.25])
