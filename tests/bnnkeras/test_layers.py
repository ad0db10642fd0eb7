"""Quantized layers against the official network, NumPy and the Keras layers they derive from."""

import itertools
import json

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import quantizers
from bnnkeras.layers import MaxPooling2D, QuantConv2D, QuantDense


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def random(shape, seed=0, dtype="float32") -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.5, 1.5, shape).astype(dtype)


def dtype_name(value) -> str:
    return keras.backend.standardize_dtype(value.dtype)


# --- References in NumPy ---------------------------------------------------------------------


def numpy_windows(x, extents, strides, dilation=(1, 1)):
    """(batch, height', width', channels, kernel height, kernel width) of a padded NHWC array."""
    windows = np.lib.stride_tricks.sliding_window_view(x, extents, axis=(1, 2))
    return windows[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]


def numpy_conv(x, kernel, strides, pads, dilation=(1, 1), pad_value=0.0):
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=pad_value)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    windows = numpy_windows(padded, extents, strides, dilation)
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


def torch_pads(kernel_size, dilation=(1, 1)):
    """What `padding=(k - 1) // 2 * dilation`-style symmetric padding adds to each axis."""
    return [(((k - 1) * d) // 2,) * 2 for k, d in zip(kernel_size, dilation, strict=True)]


def tensorflow_pads(sizes, kernel_size, strides, dilation=(1, 1)):
    """`"same"`: the last window that starts inside the input decides; the odd one comes last."""
    pads = []
    for size, k, stride, d in zip(sizes, kernel_size, strides, dilation, strict=True):
        last_start = (int(np.ceil(size / stride)) - 1) * stride
        total = max(last_start + (k - 1) * d + 1 - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads


# --- The official convolution ----------------------------------------------------------------

# Case: in, out, kernel, stride, input (NCHW), name of the parameter.
OFFICIAL = {
    "conv3_s1": (6, 8, 3, 1, (2, 6, 7, 9), "weights"),
    "conv3_s2_even": (6, 8, 3, 2, (2, 6, 8, 6), "weights"),
    "conv3_s2_odd": (5, 4, 3, 2, (2, 5, 7, 9), "weights"),
    "conv3_s1_wide": (6, 8, 3, 1, (2, 6, 6, 7), "weights"),
    "conv1_s1": (8, 6, 1, 1, (2, 8, 5, 7), "weight"),
    "conv3_s2_4d": (6, 8, 3, 2, (2, 6, 8, 10), "weight"),
}


@pytest.mark.parametrize("variant", ["plain", "sign"])
@pytest.mark.parametrize("case", OFFICIAL)
def test_official_convolution(case, variant, float64, goldens, fill, numerics):
    golden = goldens("birealnet", "layers")
    channels, filters, size, stride, shape, name = OFFICIAL[case]
    kernel_shape = (filters, channels, size, size)
    flat = (int(np.prod(kernel_shape)), 1) if name == "weights" else kernel_shape
    if case == "conv3_s1_wide":
        kernel = fill.fill_input(f"{case}:weights", flat, -2, 2)
    else:
        kernel = fill.fill_param(name, flat, salt=f"{case}:")
    layer = QuantConv2D(
        filters,
        size,
        strides=stride,
        padding="symmetric",
        use_bias=False,
        input_quantizer=quantizers.ApproxSign(sign_of_zero=0) if variant == "sign" else None,
        kernel_quantizer=quantizers.MagnitudeAwareSign(scale_gradient=False, sign_of_zero=0),
    )
    x = fill.fill_input(case, shape, -2, 2).transpose(0, 2, 3, 1)
    layer.build(x.shape)
    layer.kernel.assign(kernel.reshape(kernel_shape).transpose(2, 3, 1, 0))

    prefix = f"{case}/{variant}"
    upstream = fill.fill_input(f"upstream:{case}", golden[f"{prefix}/out"].shape)
    result = numerics.gradients(layer, [x], upstream.transpose(0, 2, 3, 1))
    numerics.assert_close(result.value.transpose(0, 3, 1, 2), golden[f"{prefix}/out"])
    numerics.assert_close(result.inputs[0].transpose(0, 3, 1, 2), golden[f"{prefix}/grad_x"])
    gradient = result.variables[layer.kernel.path].transpose(3, 2, 0, 1)
    numerics.assert_close(gradient, golden[f"{prefix}/grad_w"])


# --- Without quantizers they are the Keras layers --------------------------------------------

CONVOLUTIONS = [
    {},
    {"strides": 2, "padding": "same", "use_bias": False},
    {"padding": "SAME", "dilation_rate": 2, "activation": "relu"},
    {"strides": (1, 2), "groups": 2, "bias_initializer": "ones"},
    {
        "kernel_regularizer": "l2",
        "bias_regularizer": "l1",
        "activity_regularizer": "l2",
        "kernel_constraint": "non_neg",
        "bias_constraint": "non_neg",
        "kernel_initializer": "he_normal",
        "name": "named",
        "trainable": False,
    },
]
DENSES = [
    {},
    {"use_bias": False, "activation": "tanh"},
    {"kernel_regularizer": "l2", "kernel_constraint": "unit_norm", "bias_initializer": "ones"},
]
PAIRS = [(QuantConv2D, keras.layers.Conv2D, (4, 3), options) for options in CONVOLUTIONS]
PAIRS += [(QuantDense, keras.layers.Dense, (4,), options) for options in DENSES]


@pytest.mark.parametrize("ours, theirs, arguments, options", PAIRS)
def test_without_quantizers_equals_the_keras_layer(ours, theirs, arguments, options):
    layer, expected = ours(*arguments, **options), theirs(*arguments, **options)
    assert isinstance(layer, theirs)
    x = random((2, 8, 7, 6))
    assert layer.compute_output_shape(x.shape) == expected.compute_output_shape(x.shape)
    layer.build(x.shape)
    expected.build(x.shape)
    shapes = [(variable.name, variable.shape) for variable in expected.weights]
    assert [(variable.name, variable.shape) for variable in layer.weights] == shapes
    layer.set_weights([numpy(variable) for variable in expected.weights])
    np.testing.assert_array_equal(numpy(layer(x)), numpy(expected(x)))

    config, keras_config = layer.get_config(), expected.get_config()
    added = {"input_quantizer": None, "kernel_quantizer": None}
    added |= {"pad_values": 0.0} if ours is QuantConv2D else {}
    assert {name: config.pop(name) for name in added} == added
    # Each layer is the first of its class, so names differ unless given.
    if "name" not in options:
        config.pop("name"), keras_config.pop("name")
    assert config == keras_config


def test_positional_arguments_have_larqs_order():
    layer = QuantConv2D(8, 3, 2, "same", 1.0, "channels_first", 1, 2, "relu", False, "ste_sign")
    assert (layer.filters, layer.kernel_size, layer.strides) == (8, (3, 3), (2, 2))
    assert (layer.padding, layer.pad_values, layer.data_format) == ("same", 1.0, "channels_first")
    assert (layer.groups, layer.activation, layer.use_bias) == (2, keras.activations.relu, False)
    assert isinstance(layer.input_quantizer, quantizers.SteSign) and layer.kernel_quantizer is None
    dense = QuantDense(4, "relu", False, None, "approx_sign")
    assert (dense.units, dense.activation, dense.use_bias) == (4, keras.activations.relu, False)
    assert isinstance(dense.kernel_quantizer, quantizers.ApproxSign)


# --- Padding ---------------------------------------------------------------------------------

SYMMETRIC = [
    # kernel, strides, dilation, height and width
    (3, 1, 1, (6, 7)),
    (3, 2, 1, (6, 7)),
    (3, 3, 1, (7, 8)),
    (7, 2, 1, (8, 9)),
    (5, 1, 1, (4, 3)),
    (2, 1, 1, (6, 7)),
    (4, 2, 1, (9, 8)),
    (4, 1, 1, (5, 6)),
    (3, 1, 2, (6, 7)),
    (2, 1, 3, (8, 7)),
    (1, 2, 1, (5, 6)),
    ((3, 2), (2, 1), 1, (7, 6)),
    ((1, 5), 1, (1, 2), (4, 9)),
    (3, 2, 1, (1, 2)),
]


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


@pytest.mark.parametrize("pad_value", [0.0, -0.5])
@pytest.mark.parametrize("kernel_size, strides, dilation, size", SYMMETRIC)
def test_symmetric_padding(kernel_size, strides, dilation, size, pad_value, float64, numerics):
    layer = QuantConv2D(
        4,
        kernel_size,
        strides=strides,
        dilation_rate=dilation,
        padding="symmetric",
        pad_values=pad_value,
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
    )
    x = random((2, *size, 3), dtype="float64")
    output = numpy(layer(x))
    layer.bias.assign([1, 2, 3, 4])
    pads = torch_pads(pair(kernel_size), pair(dilation))
    signs = np.where(numpy(layer.kernel) >= 0, 1.0, -1.0)
    # Padding comes after the sign.
    arguments = (pair(strides), pads, pair(dilation), pad_value)
    expected = numpy_conv(np.sign(x), signs, *arguments)
    np.testing.assert_array_equal(output, expected)  # Small integers and halves: exact.
    np.testing.assert_array_equal(numpy(layer(x)), expected + [1, 2, 3, 4])
    assert layer.compute_output_shape(x.shape) == expected.shape
    assert keras.Sequential([keras.Input(x.shape[1:]), layer]).output_shape[1:] == output.shape[1:]
    unknown = layer.compute_output_shape((None, None, size[1], 3))
    assert unknown == (None, None, *expected.shape[2:])


@pytest.mark.parametrize(
    "kernel_size, strides, dilation, size",
    [case for case in SYMMETRIC if case[1] == 1 or case[2] == 1],
)
def test_same_padding_with_values(kernel_size, strides, dilation, size):
    layer = QuantConv2D(
        4,
        kernel_size,
        strides=strides,
        dilation_rate=dilation,
        padding="same",
        pad_values=1.0,
        use_bias=False,
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
    )
    x = random((2, *size, 3))
    output = numpy(layer(x))
    pads = tensorflow_pads(size, pair(kernel_size), pair(strides), pair(dilation))
    signs = np.where(numpy(layer.kernel) >= 0, 1.0, -1.0)
    expected = numpy_conv(np.sign(x), signs, pair(strides), pads, pair(dilation), 1.0)
    np.testing.assert_array_equal(output, expected)
    assert layer.compute_output_shape(x.shape) == expected.shape
    # The same convolution without values pads at the same places.
    plain = QuantConv2D(
        4, kernel_size, strides=strides, dilation_rate=dilation, padding="same", use_bias=False
    )
    plain.build(x.shape)
    plain.kernel.assign(signs)
    expected = numpy_conv(np.sign(x), signs, pair(strides), pads, pair(dilation))
    np.testing.assert_array_equal(numpy(plain(np.sign(x))), expected)


def test_larq_pad_values(goldens):
    """`same` with pad_values=1 at stride 1 leaves no zero in a binary convolution's input."""
    layer = QuantConv2D(
        1, 3, padding="same", pad_values=1, input_quantizer="ste_sign", kernel_initializer="ones"
    )
    output = numpy(layer(-np.ones((1, 3, 3, 1), "float32")))[0, :, :, 0]
    np.testing.assert_array_equal(output, [[1, -3, 1], [-3, -9, -3], [1, -3, 1]])


@pytest.mark.parametrize("padding", ["valid", "same", "symmetric"])
@pytest.mark.parametrize("strides, dilation", [(1, 1), (2, 1), (1, 2)])
def test_shapes_with_unknown_sizes(padding, strides, dilation):
    """One layer on an open input runs at every size."""
    layer = QuantConv2D(
        2, 3, strides=strides, dilation_rate=dilation, padding=padding, input_quantizer="ste_sign"
    )
    model = keras.Sequential([keras.Input((None, None, 3)), layer])
    assert model.output_shape == (None, None, None, 2)
    for size in ((8, 9), (5, 12)):
        output = numpy(model(random((1, *size, 3))))
        assert output.shape == layer.compute_output_shape((1, *size, 3))


def test_padding_at_stride_1_needs_no_size():
    layer = QuantConv2D(2, 3, padding="same", pad_values=1.0, input_quantizer="ste_sign")
    model = keras.Sequential([keras.Input((None, None, 3)), layer])
    assert model(random((1, 5, 6, 3))).shape == (1, 5, 6, 2)


def test_channels_first_shapes():
    for kernel_size, strides, dilation, (height, width) in SYMMETRIC:
        arguments = {"strides": strides, "dilation_rate": dilation, "padding": "symmetric"}
        last = QuantConv2D(4, kernel_size, **arguments)
        first = QuantConv2D(4, kernel_size, data_format="channels_first", **arguments)
        batch, rows, columns, filters = last.compute_output_shape((2, height, width, 6))
        shape = first.compute_output_shape((2, 6, height, width))
        assert shape == (batch, filters, rows, columns)
        assert first.compute_output_shape((None, 6, None, width)) == (None, 4, None, columns)
    pool = MaxPooling2D(3, 2, "symmetric", data_format="channels_first")
    assert pool.compute_output_shape((2, 6, 7, 8)) == (2, 6, 4, 4)


@pytest.mark.parametrize("padding, pad_values", [("symmetric", 1.0), ("same", 1.0), ("same", 0)])
def test_channels_first_values(padding, pad_values):
    arguments = {"strides": 2, "padding": padding, "pad_values": pad_values}
    arguments |= {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
    first = QuantConv2D(4, 3, data_format="channels_first", **arguments)
    last = QuantConv2D(4, 3, data_format="channels_last", **arguments)
    x = random((2, 6, 7, 3))
    expected = numpy(last(x))
    first.build((2, 3, 6, 7))
    first.kernel.assign(last.kernel)
    actual = numpy(first(x.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(actual.transpose(0, 2, 3, 1), expected)


@pytest.mark.parametrize("padding", ["valid", "same", "symmetric"])
@pytest.mark.parametrize(
    "pool_size, strides", [(3, 2), (2, None), (3, 1), ((3, 2), (1, 2)), (5, 3)]
)
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 5)])
def test_max_pooling(size, pool_size, strides, padding):
    layer = MaxPooling2D(pool_size, strides, padding)
    # All values are negative: a window that read a padded 0 would show it.
    x = random((2, *size, 3)) - 2
    steps, sizes = pair(strides or pool_size), pair(pool_size)
    pads = {
        "valid": [(0, 0), (0, 0)],
        "same": tensorflow_pads(size, sizes, steps),
        "symmetric": torch_pads(sizes),
    }[padding]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-np.inf)
    expected = numpy_windows(padded, sizes, steps).max(axis=(-2, -1))
    np.testing.assert_array_equal(numpy(layer(x)), expected)
    assert layer.compute_output_shape(x.shape) == expected.shape
    open_shape = layer.compute_output_shape((None, None, None, 3))
    assert open_shape == (None, None, None, 3)


def test_max_pooling_gradient_and_half_precision(numerics):
    layer = MaxPooling2D(3, 2, "symmetric")
    x = random((1, 6, 6, 2))
    result = numerics.gradients(layer, [x])
    # Each of the 3 x 3 x 2 maxima passes its gradient to one input.
    assert np.isfinite(result.inputs[0]).all() and result.inputs[0].sum() == 18
    assert ((result.inputs[0] > 0) <= np.isin(x, result.value)).all()
    for policy in ("mixed_float16", "mixed_bfloat16"):
        output = MaxPooling2D(3, 2, "symmetric", dtype=policy)(x)
        assert dtype_name(output) == policy.removeprefix("mixed_")
        values = numpy(ops.cast(output, "float32"))
        # bfloat16 has 8 bits.
        np.testing.assert_allclose(values, result.value, rtol=1e-2)


# --- Quantizers inside layers ----------------------------------------------------------------


@pytest.mark.parametrize("input_quantizer", [None, "approx_sign"])
@pytest.mark.parametrize("kernel_quantizer", [None, "magnitude_aware_sign"])
def test_dense_values(input_quantizer, kernel_quantizer):
    layer = QuantDense(
        3,
        activation="relu",
        bias_initializer="ones",
        input_quantizer=input_quantizer,
        kernel_quantizer=kernel_quantizer,
    )
    x = random((2, 5, 4))
    output = numpy(layer(x))
    kernel = numpy(layer.kernel)
    if kernel_quantizer:
        kernel = np.sign(kernel) * np.abs(kernel).mean(axis=0)
    expected = (np.sign(x) if input_quantizer else x) @ kernel + 1
    np.testing.assert_allclose(output, np.maximum(expected, 0), rtol=1e-5, atol=1e-6)
    assert (output > 0).any() and layer.compute_output_shape(x.shape) == (2, 5, 3)


def test_kernel_stays_latent():
    """Training updates real values; only the computation sees signs."""
    layer = QuantConv2D(2, 3, kernel_quantizer="ste_sign")
    layer.build((None, 5, 5, 1))
    assert np.unique(np.abs(numpy(layer.kernel))).size == 18
    quantized = numpy(layer.quantized_kernel())
    np.testing.assert_array_equal(quantized, np.sign(numpy(layer.kernel)))


def test_any_callable_is_a_quantizer():
    layer = QuantDense(2, input_quantizer=ops.sign, kernel_quantizer=quantizers.ste_sign)
    x = random((3, 4))
    output = numpy(layer(x))
    np.testing.assert_array_equal(output, np.sign(x) @ np.sign(numpy(layer.kernel)))


def test_quantizer_variables_belong_to_the_layer():
    layer = QuantConv2D(2, 3, input_quantizer=learned_sign(), kernel_quantizer=learned_sign())
    layer.build((None, 6, 6, 4))
    shapes = sorted(tuple(variable.shape) for variable in layer.trainable_variables)
    assert shapes == [(2,), (2,), (3, 3, 4, 2), (4,)]


def learned_sign(value=0.25):
    return quantizers.Binarizer(
        threshold=quantizers.LearnedThreshold(keras.initializers.Constant(value)),
        estimator=quantizers.Triangle(),
    )


# --- The Keras layer contract ----------------------------------------------------------------

LAYERS = [
    QuantConv2D(4, 3, padding="symmetric", strides=2, input_quantizer="approx_sign"),
    QuantConv2D(
        4,
        (3, 5),
        padding="same",
        pad_values=1.0,
        input_quantizer=learned_sign(),
        kernel_quantizer=quantizers.MagnitudeAwareSign(scale_gradient=False, sign_of_zero=0),
        kernel_regularizer="l2",
    ),
    QuantConv2D(6, 2, groups=3, kernel_quantizer=quantizers.SteSign(clip_value=None)),
    QuantDense(4, input_quantizer=learned_sign(), kernel_quantizer="magnitude_aware_sign"),
    QuantDense(4, use_bias=False, kernel_quantizer=quantizers.ste_sign),
    MaxPooling2D(3, 2, "symmetric"),
    MaxPooling2D(2),
]


def identify(layer):
    return layer.name


@pytest.mark.parametrize("layer", LAYERS, ids=identify)
def test_config_round_trip(layer):
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    x = random((2, 7, 6, 3))
    expected = numpy(layer(x))
    copy.build(x.shape)
    copy.set_weights([numpy(variable) for variable in layer.weights])
    np.testing.assert_array_equal(numpy(copy(x)), expected)
    assert layer.compute_output_shape(x.shape) == expected.shape


@pytest.mark.parametrize("layer", LAYERS, ids=identify)
def test_stateless_call(layer):
    x = random((2, 7, 6, 3))
    expected = numpy(layer(x))
    trainable = [ops.copy(variable) for variable in layer.trainable_variables]
    fixed = [ops.copy(variable) for variable in layer.non_trainable_variables]
    output, state = layer.stateless_call(trainable, fixed, ops.convert_to_tensor(x))
    np.testing.assert_array_equal(numpy(output), expected)
    assert state == []
    if trainable:
        zeros = [ops.zeros_like(value) - 2 for value in trainable]
        output, _ = layer.stateless_call(zeros, fixed, ops.convert_to_tensor(x))
        assert not np.array_equal(numpy(output), expected)


def build_model():
    inputs = keras.Input((9, 8, 3))
    x = QuantConv2D(6, 5, padding="symmetric", strides=2)(inputs)
    x = MaxPooling2D(3, 2, padding="symmetric")(x)
    x = keras.layers.BatchNormalization()(x)
    x = QuantConv2D(
        8,
        3,
        padding="same",
        pad_values=1.0,
        input_quantizer=learned_sign(0.1),
        kernel_quantizer="magnitude_aware_sign",
        # Sums of signs tie at 0, where rounding would decide about the next sign.
        bias_initializer=keras.initializers.RandomUniform(0.01, 0.02),
    )(x)
    x = keras.layers.Flatten()(x)
    x = QuantDense(5, input_quantizer=quantizers.approx_sign, kernel_quantizer="ste_sign")(x)
    return keras.Model(inputs, x)


def test_save_and_load(tmp_path):
    model = build_model()
    for seed, variable in enumerate(model.weights):
        variable.assign(
            np.abs(random(variable.shape, seed))
            if "variance" in variable.name
            else random(variable.shape, seed)
        )
    x = random((4, 9, 8, 3))
    expected = numpy(model(x))
    assert np.unique(expected).size > 5
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), expected)
    for layer, original in zip(loaded.layers, model.layers, strict=True):
        assert type(layer) is type(original)
        if type(layer).__module__.startswith("bnnkeras"):
            # As JSON: Keras turns the tuples of build configurations into lists.
            assert json.dumps(layer.get_config()) == json.dumps(original.get_config())
    for variable, original in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy(variable), numpy(original))

    model.save_weights(tmp_path / "model.weights.h5")
    other = build_model()
    assert not np.array_equal(numpy(other(x)), expected)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(other(x)), expected)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_fit(mode, backend):
    """One step of fit moves every trainable variable against its gradient."""
    model = build_model()
    eager = mode == "eager"
    # PyTorch's compiler needs a C++ toolchain and a minute; its default is not to compile.
    jit = not eager and backend != "torch"
    optimizer = keras.optimizers.SGD(0.1)
    model.compile(optimizer=optimizer, loss="mse", run_eagerly=eager, jit_compile=jit)
    before = [numpy(variable).copy() for variable in model.trainable_variables]
    x, y = random((8, 9, 8, 3)), random((8, 5), seed=1)
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[1] != history[0]
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert np.isfinite(numpy(variable)).all()
        assert not np.array_equal(numpy(variable), value), variable.path


def test_eager_and_compiled_steps_agree(backend):
    if backend == "torch":
        pytest.skip("nothing is compiled on PyTorch by default")
    x, y = random((8, 9, 8, 3)), random((8, 5), seed=1)
    results = []
    for options in ({"run_eagerly": True, "jit_compile": False}, {"jit_compile": True}):
        keras.utils.set_random_seed(0)
        model = build_model()
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse", **options)
        model.train_on_batch(x, y)
        results.append([numpy(variable) for variable in model.trainable_variables])
    for eager, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


# --- Mixed precision -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["convolution", "dense"])
def test_tiny_weights_keep_their_sign(kind, dtype):
    # In float16 -1e-8 is -0.0, whose sign would be +1.
    if kind == "dense":
        layer = QuantDense(1, kernel_quantizer="ste_sign", dtype=f"mixed_{dtype}")
        x = np.ones((1, 3), "float32")
    else:
        layer = QuantConv2D(1, 1, kernel_quantizer="ste_sign", dtype=f"mixed_{dtype}")
        x = np.ones((1, 1, 1, 3), "float32")
    layer.build(x.shape)
    layer.kernel.assign(np.reshape([-1e-8, -1e-8, 1e-8], layer.kernel.shape))
    output = layer(x)
    assert dtype_name(output) == dtype and dtype_name(layer.kernel) == "float32"
    assert numpy(ops.cast(ops.sum(output), "float32")) == -1
    # Inside a model the policy's autocast scope is that of the model.
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    assert numpy(ops.cast(ops.sum(model(x)), "float32")) == -1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_layers(dtype, numerics):
    """Output dtype, values near float32's, and gradients for the float32 variables."""
    x = random((2, 6, 6, 8))
    for kind, arguments in ((QuantConv2D, (4, 3)), (QuantDense, (4,))):
        options = {"input_quantizer": learned_sign(), "kernel_quantizer": "magnitude_aware_sign"}
        full = kind(*arguments, **options)
        options["input_quantizer"] = learned_sign()
        half = kind(*arguments, **options, dtype=f"mixed_{dtype}")
        full.build(x.shape)
        half.build(x.shape)
        half.set_weights([numpy(variable) for variable in full.weights])
        # Kept away from the threshold: the rounding of x may not change a sign.
        points = np.where(np.abs(x - 0.25) < 0.02, 1.0, x).astype("float32")
        expected, output = numpy(full(points)), half(points)
        assert dtype_name(output) == dtype
        assert {dtype_name(variable) for variable in half.weights} == {"float32"}
        tolerance = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]
        numerics.assert_close(numpy(ops.cast(output, "float32")), expected, tolerance)
        result = numerics.gradients(half, [points])
        for variable in half.trainable_variables:
            gradient = result.variables[variable.path]
            assert gradient.dtype == np.float32 and gradient.any(), variable.path


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_model_fits(policy):
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build_model()
    finally:
        keras.config.set_dtype_policy(default)
    model.compile(optimizer="adam", loss="mse", jit_compile=False)
    history = model.fit(random((8, 9, 8, 3)), random((8, 5)), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.compute_dtype == policy.removeprefix("mixed_")


# --- Errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls, arguments", [(QuantConv2D, (4, 3)), (MaxPooling2D, (3,))])
@pytest.mark.parametrize("padding", ["symetric", "causal", None, 1])
def test_unknown_padding(cls, arguments, padding):
    with pytest.raises(ValueError, match="`padding` .*symmetric.*Received: ") as info:
        cls(*arguments, padding=padding)
    assert repr(padding) in str(info.value)


def test_pad_values_need_padding():
    with pytest.raises(ValueError, match="pad_values=1.0, padding='valid'"):
        QuantConv2D(4, 3, pad_values=1.0)
    QuantConv2D(4, 3, pad_values=0.0)


@pytest.mark.parametrize("argument", ["input_quantizer", "kernel_quantizer"])
@pytest.mark.parametrize("cls, arguments", [(QuantConv2D, (4, 3)), (QuantDense, (4,))])
def test_unknown_quantizers(cls, arguments, argument):
    with pytest.raises(ValueError, match="Known names: .*Received: 'ste_sgn'"):
        cls(*arguments, **{argument: "ste_sgn"})
    with pytest.raises(ValueError, match="Received: 3"):
        cls(*arguments, **{argument: 3})


def test_every_quantizer_is_registered():
    names = itertools.chain(quantizers.serialization.NAMED.values(), [quantizers.Binarizer])
    for cls in names:
        assert keras.saving.get_registered_name(cls) == f"bnnkeras>{cls.__name__}"
