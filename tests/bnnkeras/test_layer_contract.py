"""Keras's contract for layers, one row or more per registered layer: what every one must do."""

import json
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import context, layers, quantizers


class Row(NamedTuple):
    make: Callable[..., keras.layers.Layer]
    shape: tuple  # Of the inputs, with a batch of 4.
    open_axes: tuple = ()  # The axes whose size may stay unknown, besides the batch.


def learned_sign():
    return quantizers.Binarizer(
        threshold=quantizers.LearnedThreshold(keras.initializers.Constant(0.01)),
        estimator=quantizers.Triangle(),
    )


CLIP = {"kernel_constraint": "weight_clip"}
SIGNS = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", **CLIP}
SCALED = {"input_quantizer": "approx_sign", "kernel_quantizer": "magnitude_aware_sign", **CLIP}
DEPTHWISE = {
    "input_quantizer": "ste_sign",
    "depthwise_quantizer": "ste_sign",
    "depthwise_constraint": "weight_clip",
}
SEPARABLE = {
    **DEPTHWISE,
    "pointwise_quantizer": "ste_sign",
    "pointwise_constraint": "weight_clip",
}
STEPS, MAP, VOLUME, CLOUD = (4, 9, 4), (4, 7, 6, 4), (4, 5, 4, 4, 2), (4, 8, 6)


def row(name, arguments, options, shape, open_axes=None):
    """A row for the layer class `name`; by default all axes between batch and channels are open."""

    def make(**more):
        # Quantizers own variables, so that each layer needs its own.
        own = {key: value() if callable(value) else value for key, value in options.items()}
        return getattr(layers, name)(*arguments, **own, **more)

    if open_axes is None:
        open_axes = tuple(range(1, len(shape) - 1))
    return Row(make, shape, open_axes)


ROWS = {
    "dense": row("QuantDense", (5,), {**SCALED, "activation": "tanh"}, (4, 6)),
    "dense_3d": row("QuantDense", (5,), {"input_quantizer": learned_sign}, (4, 3, 6)),
    "conv1d_causal": row("QuantConv1D", (5, 3), {**SIGNS, "padding": "causal"}, STEPS),
    "conv1d_symmetric": row(
        "QuantConv1D", (4, 4, 2, "symmetric", 1.0), {**SCALED, "groups": 2}, STEPS
    ),
    "conv2d": row("QuantConv2D", (5, 3, 2, "same", 1.0), SIGNS, MAP),
    "conv2d_grouped": row("QuantConv2D", (6, (2, 3), 2, "symmetric"), {**SCALED, "groups": 2}, MAP),
    "conv3d": row(
        "QuantConv3D",
        (3, 3, 1, "same", -1.0),
        {**SIGNS, "input_quantizer": learned_sign},
        VOLUME,
    ),
    "conv3d_strided": row("QuantConv3D", (3, 2, 2, "symmetric"), SIGNS, VOLUME),
    "depthwise1d": row("QuantDepthwiseConv1D", (3, 2, "same", 1.0, 2), DEPTHWISE, STEPS),
    "depthwise2d": row("QuantDepthwiseConv2D", (3, 2, "symmetric", 0, 2), DEPTHWISE, MAP),
    "separable1d": row("QuantSeparableConv1D", (5, 3, 1, "symmetric", 1.0), SEPARABLE, STEPS),
    "separable2d": row(
        "QuantSeparableConv2D",
        (5, 3, 2, "same", 1.0),
        {**SEPARABLE, "intermediate_quantizer": learned_sign, "depth_multiplier": 2},
        MAP,
    ),
    "conv1d_transpose": row("QuantConv1DTranspose", (3, 3, 2, "same"), SIGNS, STEPS),
    "conv2d_transpose": row("QuantConv2DTranspose", (3, (3, 2), 2), SCALED, MAP),
    "conv2d_transpose_padded": row("QuantConv2DTranspose", (3, 3, 2, "same", 1), SIGNS, MAP),
    "conv3d_transpose": row("QuantConv3DTranspose", (2, 2, 2), SIGNS, VOLUME),
    "max_pooling2d": row("MaxPooling2D", (3, 2, "symmetric"), {}, MAP),
    "ema_max": row("EntropyMaximizingAggregation", (), {}, CLOUD, ()),
    "ema_max_open": row(
        "EntropyMaximizingAggregation", ("max", -2, True, "closed_form", 64, "first"), {}, CLOUD
    ),
    "ema_mean": row("EntropyMaximizingAggregation", ("mean", 2), {}, (4, 3, 5, 6)),
    "bypass_grow": row("ChannelAdaptiveBypass", (11,), {}, MAP),
    "bypass_shrink": row("ChannelAdaptiveBypass", (4,), {}, (4, 3, 10)),
    "adaptive_average_pooling": row("AdaptiveAveragePooling", (3, 5), {}, MAP, ()),
    "aligned_resizing": row("AlignedResizing", (10, 4), {}, MAP, ()),
    "layer_scale": row("LayerScale", (0.5,), {}, MAP),
    "learnable_bias": row("LearnableBias", (), {"initializer": "ones"}, CLOUD),
    "rprelu": row("RPReLU", ("normal",), {}, MAP),
    "spatial_shift": row("SpatialShift", (3,), {}, MAP),
    "spatial_shift_half": row("SpatialShift", ("half",), {}, MAP),
}
every_row = pytest.mark.parametrize("name", ROWS)


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def dtype_name(value) -> str:
    return keras.backend.standardize_dtype(value.dtype)


def inputs_of(row: Row, dtype="float32") -> np.ndarray:
    """Values that float16 and bfloat16 hold exactly, none near a threshold."""
    values = np.random.default_rng(0).integers(4, 96, row.shape)
    signs = np.random.default_rng(1).choice([-1, 1], row.shape)
    return (values * signs / 64).astype(dtype)


def built(row: Row, **options):
    layer = row.make(**options)
    layer.build(row.shape)
    return layer


def model_of(row: Row, **options) -> keras.Model:
    """The layer between an input of fixed size and one output per sample."""
    inputs = keras.Input(row.shape[1:])
    outputs = keras.layers.Flatten()(row.make(**options)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1)(outputs))


def test_every_layer_has_a_row():
    public = [getattr(layers, name) for name in layers.__all__]
    classes = {entry for entry in public if isinstance(entry, type)}
    assert {type(row.make()) for row in ROWS.values()} == classes
    for cls in classes:
        assert keras.saving.get_registered_name(cls) == f"bnnkeras>{cls.__name__}"


@every_row
def test_config_round_trip(name):
    layer = ROWS[name].make()
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(layer)
    assert json.dumps(again.get_config()) == json.dumps(config)
    # The copy computes the same thing.
    x = inputs_of(ROWS[name])
    expected = numpy(layer(x))
    again.build(x.shape)
    again.set_weights([numpy(variable) for variable in layer.variables])
    np.testing.assert_array_equal(numpy(again(x)), expected)


@every_row
def test_shapes(name):
    """Symbolic and real outputs agree, with fixed and with open sizes; building is complete."""
    row = ROWS[name]
    layer = row.make()
    symbolic = layer(keras.KerasTensor(row.shape))
    variables = [variable.path for variable in layer.variables]
    output = layer(inputs_of(row))
    assert [variable.path for variable in layer.variables] == variables
    assert symbolic.shape == tuple(output.shape) == tuple(layer.compute_output_shape(row.shape))
    assert dtype_name(symbolic) == dtype_name(output) == "float32"

    open_shape = tuple(
        None if axis == 0 or axis in row.open_axes else size for axis, size in enumerate(row.shape)
    )
    layer = row.make()
    inputs = keras.Input(batch_shape=open_shape)
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == tuple(layer.compute_output_shape(open_shape))
    for extra in (0, 1):
        x = inputs_of(row)[:3]
        for axis in row.open_axes:
            x = np.concatenate([x, np.take(x, range(extra), axis)], axis)
        y = model.predict_on_batch(x)
        assert y.shape == tuple(layer.compute_output_shape(x.shape))
        known = zip(model.output_shape, y.shape, strict=True)
        assert all(size in (None, real) for size, real in known)
        np.testing.assert_allclose(y, numpy(layer(x)), rtol=1e-5, atol=1e-5)


@every_row
@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_fit_step(name, mode, backend):
    """A step of fit moves every trainable variable of the layer."""
    row = ROWS[name]
    model = model_of(row)
    layer = model.layers[1]
    # PyTorch's compiler needs a C++ toolchain and a minute; its default is not to compile.
    jit = mode == "compiled" and backend != "torch"
    model.compile("sgd", "mse", run_eagerly=mode == "eager", jit_compile=jit)
    before = [numpy(variable).copy() for variable in layer.trainable_variables]
    history = model.fit(inputs_of(row), np.full((4, 1), 3.0), batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for variable, value in zip(layer.trainable_variables, before, strict=True):
        assert np.isfinite(numpy(variable)).all()
        assert not np.array_equal(numpy(variable), value), variable.path


@every_row
def test_save_and_load(name, tmp_path):
    row = ROWS[name]
    model = model_of(row)
    for seed, variable in enumerate(model.variables):
        values = np.random.default_rng(seed).uniform(-1.5, 1.5, variable.shape)
        variable.assign(values)
    x = inputs_of(row)
    expected = numpy(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), expected)
    assert type(loaded.layers[1]) is type(model.layers[1])
    for variable, original in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(variable), numpy(original))


@every_row
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision(name, dtype, numerics):
    """Half-precision outputs near float32's, out of float32 variables."""
    row = ROWS[name]
    x = inputs_of(row)
    full, half = built(row), built(row, dtype=f"mixed_{dtype}")
    half.set_weights([numpy(variable) for variable in full.variables])
    output = half(x)
    assert dtype_name(output) == dtype
    assert {dtype_name(variable) for variable in half.variables} <= {"float32"}
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]
    numerics.assert_close(numpy(ops.cast(output, "float32")), numpy(full(x)), tolerance)
    result = numerics.gradients(half, [x])
    for variable in half.trainable_variables:
        gradient = result.variables[variable.path]
        assert gradient.dtype == np.float32 and np.isfinite(gradient).all() and gradient.any()


@every_row
def test_float64(name, float64, numerics):
    row = ROWS[name]
    layer = built(row)
    x = inputs_of(row, "float64")
    output = layer(x)
    assert dtype_name(output) == "float64"
    assert {dtype_name(variable) for variable in layer.variables} <= {"float64"}
    single = built(row, dtype="float32")
    single.set_weights([numpy(variable) for variable in layer.variables])
    numerics.assert_close(numpy(single(x)), numpy(output), 1e-5)


@every_row
def test_stateless_call(name):
    row = ROWS[name]
    layer = built(row)
    x = inputs_of(row)
    expected = numpy(layer(x))
    trainable = [ops.copy(variable) for variable in layer.trainable_variables]
    fixed = [ops.copy(variable) for variable in layer.non_trainable_variables]
    output, state = layer.stateless_call(trainable, fixed, ops.convert_to_tensor(x))
    np.testing.assert_array_equal(numpy(output), expected)
    assert len(state) == len(fixed)
    if trainable:
        other = [value * 0 - 2 for value in trainable]
        output, _ = layer.stateless_call(other, fixed, ops.convert_to_tensor(x))
        assert not np.array_equal(numpy(output), expected)


QUANTIZED = [name for name, row in ROWS.items() if hasattr(row.make(), "kernel_quantizers")]


@pytest.mark.parametrize("name", QUANTIZED)
def test_latent_kernels(name):
    """Kernels carry their precision; `quantized_scope` gives out what the layer computes with."""
    layer = built(ROWS[name])
    for kernel, argument in layer.kernel_quantizers.items():
        variable, quantizer = getattr(layer, kernel), getattr(layer, argument)
        latent = numpy(variable)
        with context.quantized_scope(True):
            np.testing.assert_array_equal(variable.numpy(), numpy(layer.quantized_kernel(kernel)))
            assert np.array_equal(variable.numpy(), latent) == (quantizer is None)
        np.testing.assert_array_equal(variable.numpy(), latent)
        assert getattr(variable, "precision", 32) == getattr(quantizer, "precision", 32)


@pytest.mark.parametrize("name", QUANTIZED)
def test_warning_of_starved_weights(name, caplog):
    """One for each binary kernel without a constraint."""
    layer = ROWS[name].make()
    assert not caplog.messages
    arguments = layer.kernel_quantizers.values()
    binary = [argument for argument in arguments if getattr(layer, argument) is not None]
    bare = {argument.replace("quantizer", "constraint"): None for argument in binary}
    type(layer)(**{**own_arguments(layer), **bare})
    missing = [message.split("`")[1] for message in caplog.messages]
    assert missing == list(bare)


def own_arguments(layer) -> dict:
    """The configuration as the constructor takes it, without revived objects."""
    return {key: value for key, value in layer.get_config().items() if key != "name"}


@every_row
def test_export(name, backend, tmp_path, numerics):
    """An exported program with open sizes gives the same numbers."""
    if backend != "tensorflow":
        pytest.skip("SavedModel is TensorFlow's format")
    import tensorflow as tf

    row = ROWS[name]
    open_shape = tuple(
        None if axis == 0 or axis in row.open_axes else size for axis, size in enumerate(row.shape)
    )
    inputs = keras.Input(batch_shape=open_shape)
    model = keras.Model(inputs, row.make()(inputs))
    model.export(tmp_path / "exported", verbose=False)
    program = tf.saved_model.load(tmp_path / "exported")  # Owns the variables.
    for x in (inputs_of(row), inputs_of(row)[:1]):
        numerics.assert_close(numpy(program.serve(x)), numpy(model(x)), 1e-6)
