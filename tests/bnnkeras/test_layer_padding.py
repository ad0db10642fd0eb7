"""Padding of every layer that pads, and bad arguments of every layer."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers, quantizers


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def random(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.5, 1.5, shape).astype("float32")


# Layer, its arguments before the options, the number of spatial axes.
PADDED = {
    "Conv1D": ((4,), 1),
    "Conv2D": ((4,), 2),
    "Conv3D": ((4,), 3),
    "DepthwiseConv1D": ((), 1),
    "DepthwiseConv2D": ((), 2),
    "SeparableConv1D": ((4,), 1),
    "SeparableConv2D": ((4,), 2),
}
SIZES = {1: (9,), 2: (7, 8), 3: (6, 5, 7)}
# Kernel size, stride, dilation.
WINDOWS = [(3, 1, 1), (3, 2, 1), (4, 1, 1), (4, 2, 1), (2, 3, 1), (3, 1, 2), (2, 1, 3), (1, 2, 1)]


def pads_of(padding, sizes, kernel, stride, dilation):
    """What PyTorch and TensorFlow put on both sides of each axis, from their definitions."""
    pads = []
    for size in sizes:
        if padding == "symmetric":
            pads.append((((kernel - 1) * dilation) // 2,) * 2)
        elif padding == "causal":
            pads.append(((kernel - 1) * dilation, 0))
        else:
            last_start = (int(np.ceil(size / stride)) - 1) * stride
            total = max(last_start + (kernel - 1) * dilation + 1 - size, 0)
            pads.append((total // 2, total - total // 2))
    return pads


def cases():
    for name, window in itertools.product(PADDED, WINDOWS):
        for padding, value in (("same", 1.0), ("symmetric", 0.0), ("symmetric", -0.5)):
            yield name, window, padding, value
        if name == "Conv1D":
            yield name, window, "causal", 0.0


@pytest.mark.parametrize("name, window, padding, value", cases())
def test_pads_the_quantized_input(name, window, padding, value):
    """The layer is the Keras layer without padding, on what NumPy padded after the sign."""
    (leading, rank), (kernel, stride, dilation) = PADDED[name], window
    options = {"strides": stride, "dilation_rate": dilation}
    layer = getattr(layers, f"Quant{name}")(
        *leading, kernel, padding=padding, pad_values=value, input_quantizer="ste_sign", **options
    )
    plain = getattr(keras.layers, name)(*leading, kernel, **options)
    x = random((2, *SIZES[rank], 3))
    pads = pads_of(padding, SIZES[rank], kernel, stride, dilation)
    padded = np.pad(np.sign(x), [(0, 0), *pads, (0, 0)], constant_values=value)
    plain.build(padded.shape)
    layer.build(x.shape)
    # Dyadic weights: every sum is exact.
    weights = [np.round(4 * random(w.shape, seed)) / 4 for seed, w in enumerate(plain.weights)]
    layer.set_weights(weights)
    plain.set_weights(weights)
    expected = numpy(plain(padded))
    output = numpy(layer(x))
    np.testing.assert_array_equal(output, expected)
    assert layer.compute_output_shape(x.shape) == expected.shape
    if name in ("Conv1D", "Conv2D", "SeparableConv2D") and padding != "causal":
        first = getattr(layers, f"Quant{name}").from_config(
            {**layer.get_config(), "data_format": "channels_first"}
        )
        moved = np.moveaxis(x, -1, 1)
        assert first.compute_output_shape(moved.shape) == np.moveaxis(output, -1, 1).shape


def per_channel_sign():
    return quantizers.Binarizer(quantizers.LearnedThreshold())


@pytest.mark.parametrize("padding, value", [("same", 1.0), ("same", 0.0), ("symmetric", 1.0)])
@pytest.mark.parametrize("name", PADDED)
def test_channels_first(name, padding, value):
    """The same numbers, moved; also of quantizers with one threshold per channel."""
    leading, rank = PADDED[name]

    def make(data_format, shape):
        options = {"input_quantizer": per_channel_sign()}
        if "Separable" in name:
            options["intermediate_quantizer"] = per_channel_sign()
        layer = getattr(layers, f"Quant{name}")(
            *leading,
            3,
            strides=2,
            padding=padding,
            pad_values=value,
            data_format=data_format,
            **options,
        )
        layer.build(shape)
        # Dyadic, so that sums are exact.
        weights = [np.round(4 * random(w.shape, seed)) / 4 for seed, w in enumerate(layer.weights)]
        layer.set_weights(weights)
        return layer

    x = random((2, *SIZES[rank], 3))
    moved = np.moveaxis(x, -1, 1)
    first, last = make("channels_first", moved.shape), make("channels_last", x.shape)
    np.testing.assert_array_equal(np.moveaxis(numpy(first(moved)), 1, -1), numpy(last(x)))


@pytest.mark.parametrize("name", ["Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"])
def test_channels_first_transposed(name):
    rank = int(name[4])
    options = {"strides": 2, "padding": "same", "bias_initializer": "normal"}
    x = random((2, *SIZES[rank], 3))
    moved = np.moveaxis(x, -1, 1)
    first, last = (
        getattr(layers, f"Quant{name}")(
            4, 3, data_format=data_format, input_quantizer=per_channel_sign(), **options
        )
        for data_format in ("channels_first", "channels_last")
    )
    first.build(moved.shape)
    last.build(x.shape)
    first.set_weights([numpy(variable) for variable in last.weights])
    actual = np.moveaxis(numpy(first(moved)), 1, -1)
    np.testing.assert_allclose(actual, numpy(last(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strides", [2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_same_with_values_on_open_sizes(strides, kernel, backend):
    """In a graph that leaves the sizes open, the padding is computed from the real ones."""
    layer = layers.QuantConv2D(
        2, kernel, strides=strides, padding="same", pad_values=1.0, input_quantizer="ste_sign"
    )
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layer(inputs))
    call = model
    if backend == "tensorflow":
        import tensorflow as tf

        program = tf.function(model).get_concrete_function(tf.TensorSpec((None, None, None, 3)))

        def call(x):
            return program(tf.constant(x))

    for size in itertools.product((4, 5, 6, 7), (6, 7, 8)):
        x = random((1, *size, 3))
        np.testing.assert_allclose(numpy(call(x)), numpy(layer(x)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["DepthwiseConv2D", "SeparableConv2D"])
def test_unequal_strides(name):
    """TensorFlow documents equal strides only; it computes these as well."""
    leading, _ = PADDED[name]
    arguments = {"input_quantizer": "ste_sign", "padding": "symmetric"}
    dense = getattr(layers, f"Quant{name}")(*leading, 3, **arguments)
    strided = getattr(layers, f"Quant{name}")(*leading, 3, strides=(1, 2), **arguments)
    x = random((2, 6, 7, 3))
    expected = numpy(dense(x))[:, :, ::2]
    strided.build(x.shape)
    strided.set_weights([numpy(variable) for variable in dense.weights])
    np.testing.assert_allclose(numpy(strided(x)), expected, rtol=1e-6, atol=1e-6)


def test_transposed_padding_crops_the_output():
    """ "same" keeps `strides` times the input out of what "valid" gives."""
    for strides, kernel in ((1, 3), (2, 3), (2, 4), (3, 5)):
        options = {"strides": strides, "kernel_initializer": "ones", "input_quantizer": "ste_sign"}
        valid = layers.QuantConv1DTranspose(1, kernel, padding="valid", **options)
        same = layers.QuantConv1DTranspose(1, kernel, padding="same", **options)
        x = random((1, 6, 2))
        full, cropped = numpy(valid(x))[0, :, 0], numpy(same(x))[0, :, 0]
        assert len(cropped) == 6 * strides
        starts = [
            start
            for start in range(len(full) - len(cropped) + 1)
            if np.array_equal(full[start : start + len(cropped)], cropped)
        ]
        assert (kernel - strides) // 2 in starts


# --- Gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PADDED, "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"])
def test_gradients_are_the_keras_layers(name, float64, numerics):
    """Through q(x) and q(W) by the estimators, around the gradients of the Keras layer."""
    leading, rank = PADDED.get(name) or ((4,), int(name[4]))
    plain = getattr(keras.layers, name)(*leading, 3)
    weights_of = getattr(layers, f"Quant{name}").kernel_quantizers
    clip = {argument: "ste_sign" for argument in weights_of.values()}
    layer = getattr(layers, f"Quant{name}")(*leading, 3, input_quantizer="approx_sign", **clip)
    x = np.random.default_rng(0).uniform(-1.5, 1.5, (2, *SIZES[rank], 3))
    plain.build(x.shape)
    layer.build(x.shape)
    weights = [np.random.default_rng(1).uniform(-2, 2, w.shape) for w in plain.weights]
    layer.set_weights(weights)
    plain.set_weights([np.sign(w) if w.ndim > 1 else w for w in weights])
    upstream = np.random.default_rng(2).uniform(-1, 1, layer.compute_output_shape(x.shape))
    result = numerics.gradients(layer, [x], upstream)
    reference = numerics.gradients(plain, [np.sign(x)], upstream)
    numerics.assert_close(result.value, reference.value)
    numerics.assert_close(result.inputs[0], reference.inputs[0] * np.maximum(2 - 2 * np.abs(x), 0))
    for variable, other, value in zip(layer.weights, plain.weights, weights, strict=True):
        mask = (np.abs(value) <= 1) if value.ndim > 1 else 1
        expected = reference.variables[other.path] * mask
        numerics.assert_close(result.variables[variable.path], expected, label=variable.path)


def test_intermediate_quantizer():
    """The pointwise convolution sees signs, and a learned threshold of its own is trained."""
    quantizer = quantizers.Binarizer(quantizers.LearnedThreshold(keras.initializers.Constant(0.5)))
    layer = layers.QuantSeparableConv2D(
        2,
        3,
        depth_multiplier=2,
        padding="same",
        use_bias=False,
        input_quantizer="ste_sign",
        intermediate_quantizer=quantizer,
    )
    x = random((2, 5, 6, 3))
    y = numpy(layer(x))
    assert [tuple(variable.shape) for variable in quantizer.trainable_variables] == [(6,)]
    assert any(variable is quantizer.threshold.value for variable in layer.trainable_variables)
    middle = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False)
    middle.build(x.shape)
    middle.set_weights([numpy(layer.depthwise_kernel)])
    signs = np.where(numpy(middle(np.sign(x))) >= 0.5, 1.0, -1.0)
    pointwise = numpy(layer.pointwise_kernel)[0, 0]
    np.testing.assert_allclose(y, signs @ pointwise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"])
def test_tiny_weights_keep_their_sign(name, dtype):
    """Kernels are quantized from float32: in float16 -1e-8 would be -0.0, whose sign is +1."""
    cls = getattr(layers, f"Quant{name}")
    clip = {}
    for argument in cls.kernel_quantizers.values():
        clip |= {argument: "ste_sign", argument.replace("quantizer", "constraint"): "weight_clip"}
    arguments = (1,) if name == "DepthwiseConv2D" else (1, 1)
    layer = cls(*arguments, use_bias=False, dtype=f"mixed_{dtype}", **clip)
    x = np.ones((1, 1, 1, 1), "float32")
    layer.build(x.shape)
    layer.set_weights([np.full(w.shape, -1e-8) for w in layer.weights])
    expected = (-1.0) ** len(layer.weights)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    for output in (layer(x), model(x)):
        assert keras.backend.standardize_dtype(output.dtype) == dtype
        assert float(numpy(ops.cast(output, "float32"))[0, 0, 0, 0]) == expected


# --- Bad arguments ---------------------------------------------------------------------------

TRANSPOSED = ["Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"]
ARGUMENTS = {**{name: (*leading, 3) for name, (leading, _) in PADDED.items()}}
ARGUMENTS |= {name: (4, 3) for name in TRANSPOSED}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_padding(name):
    cls = getattr(layers, f"Quant{name}")
    bad = ["symetric", None, 1]
    bad += [] if name == "Conv1D" else ["causal"]
    bad += ["symmetric"] if name in TRANSPOSED else []
    for padding in bad:
        with pytest.raises(ValueError, match="`padding` must be one of .*Received: ") as info:
            cls(*ARGUMENTS[name], padding=padding)
        assert repr(padding) in str(info.value)
    assert cls(*ARGUMENTS[name], padding="SAME").padding == "same"


@pytest.mark.parametrize("name", PADDED)
def test_bad_pad_values(name):
    cls = getattr(layers, f"Quant{name}")
    for padding in ("valid", "causal") if name == "Conv1D" else ("valid",):
        with pytest.raises(ValueError, match=f"pad_values=1.0, padding='{padding}'"):
            cls(*ARGUMENTS[name], padding=padding, pad_values=1.0)
        cls(*ARGUMENTS[name], padding=padding, pad_values=0)
    for value in ("1", None, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`pad_values` must be a finite number. Received: "):
            cls(*ARGUMENTS[name], padding="same", pad_values=value)
    # NumPy's numbers become numbers that JSON can hold.
    config = cls(*ARGUMENTS[name], padding="same", pad_values=np.float32(1)).get_config()
    assert type(config["pad_values"]) is float


@pytest.mark.parametrize("name", ARGUMENTS)
def test_transposed_layers_have_no_pad_values(name):
    if name in TRANSPOSED:
        with pytest.raises(ValueError, match="pad_values"):
            getattr(layers, f"Quant{name}")(4, 3, pad_values=1.0)
    else:
        assert getattr(layers, f"Quant{name}")(*ARGUMENTS[name]).pad_values == 0


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_quantizers(name):
    cls = getattr(layers, f"Quant{name}")
    arguments = ["input_quantizer", *cls.kernel_quantizers.values()]
    arguments += ["intermediate_quantizer"] if "Separable" in name else []
    for argument in arguments:
        with pytest.raises(ValueError, match="Known names: .*Received: 'ste_sgn'"):
            cls(*ARGUMENTS[name], **{argument: "ste_sgn"})
        with pytest.raises(ValueError, match="Received: 3"):
            cls(*ARGUMENTS[name], **{argument: 3})


@pytest.mark.parametrize("name", PADDED)
def test_inputs_smaller_than_the_window(name):
    (leading, rank) = PADDED[name]
    layer = getattr(layers, f"Quant{name}")(*leading, 6, padding="symmetric")
    with pytest.raises(ValueError, match="output size would be zero or negative. Received: "):
        layer.compute_output_shape((2, *[1] * rank, 3))


BAD = [
    ("EntropyMaximizingAggregation", {"mode": "sum"}, "`mode`.*'sum'"),
    ("EntropyMaximizingAggregation", {"axis": 0}, "`axis`.*axis=0"),
    ("EntropyMaximizingAggregation", {"axis": 1.0}, "`axis`.*axis=1.0"),
    ("EntropyMaximizingAggregation", {"offset": "paper"}, "`offset`.*'paper'"),
    ("EntropyMaximizingAggregation", {"offset": float("nan")}, "`offset`.*nan"),
    ("EntropyMaximizingAggregation", {"points": 0}, "`points`.*points=0"),
    ("EntropyMaximizingAggregation", {"points": 64.0}, "`points`.*points=64.0"),
    ("EntropyMaximizingAggregation", {"ties": "last"}, "`ties`.*'last'"),
    ("ChannelAdaptiveBypass", {"filters": 0}, "`filters`.*filters=0"),
    ("ChannelAdaptiveBypass", {"filters": True}, "`filters`.*filters=True"),
    ("ChannelAdaptiveBypass", {"filters": 8, "groups": 2}, "`groups`.*groups=2"),
    ("SpatialShift", {"distance": 1.5}, "`distance`.*distance=1.5"),
    ("SpatialShift", {"distance": "third"}, "`distance`.*'third'"),
]


@pytest.mark.parametrize("name, options, message", BAD)
def test_bad_arguments_of_blocks(name, options, message):
    with pytest.raises(ValueError, match=f"{message}$"):
        getattr(layers, name)(**options)


def test_bad_inputs_of_blocks():
    with pytest.raises(ValueError, match="multiple of 4 channels. Received: input_shape="):
        layers.SpatialShift()(random((1, 4, 4, 6)))
    with pytest.raises(ValueError, match="multiple of 4 channels. Received: input_shape="):
        layers.SpatialShift()(random((1, 4, 8)))
    with pytest.raises(ValueError, match="give the layer `points`"):
        layers.EntropyMaximizingAggregation()(keras.Input((None, 5)))
    with pytest.raises(ValueError, match="axes of the input, .*Received: axis=3"):
        layers.EntropyMaximizingAggregation(axis=3)(random((2, 4, 5)))
