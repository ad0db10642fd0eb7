"""Each quantized layer against the Keras layer it derives from, and against Larq's signatures."""

import ast
import inspect

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers

STEPS, MAP, VOLUME = (2, 9, 4), (2, 7, 6, 4), (2, 6, 5, 5, 4)
KERNEL = ["kernel_quantizer"]
DEPTHWISE = ["depthwise_quantizer"]
SEPARABLE = ["depthwise_quantizer", "pointwise_quantizer", "intermediate_quantizer"]
PAD = ["pad_values"]
# Layer: its required arguments, an input shape, and the arguments it adds to the Keras layer's.
TABLE = {
    "Dense": ((5,), (2, 3, 4), KERNEL),
    "Conv1D": ((4, 3), STEPS, KERNEL + PAD),
    "Conv2D": ((4, 3), MAP, KERNEL + PAD),
    "Conv3D": ((4, 3), VOLUME, KERNEL + PAD),
    "DepthwiseConv1D": ((3,), STEPS, DEPTHWISE + PAD),
    "DepthwiseConv2D": ((3,), MAP, DEPTHWISE + PAD),
    "SeparableConv1D": ((4, 3), STEPS, SEPARABLE + PAD),
    "SeparableConv2D": ((4, 3), MAP, SEPARABLE + PAD),
    "Conv1DTranspose": ((4, 3), STEPS, KERNEL),
    "Conv2DTranspose": ((4, 3), MAP, KERNEL),
    "Conv3DTranspose": ((4, 3), VOLUME, KERNEL),
}
every_layer = pytest.mark.parametrize("name", TABLE)

# Options other than the defaults; each layer gets those that its Keras layer takes.
OPTIONS = {
    "strides": {"strides": 2},
    "padding": {"padding": "same"},
    "padding_strides": {"padding": "SAME", "strides": 2, "output_padding": 1},
    "dilation": {"dilation_rate": 2, "padding": "same"},
    "groups": {"groups": 2, "depth_multiplier": 2},
    "no_bias": {"use_bias": False, "activation": "relu"},
    "channels_first": {"data_format": "channels_first", "bias_initializer": "ones"},
    "mixed_precision": {"dtype": "mixed_bfloat16", "activation": "tanh"},
    "variables": {
        "kernel_initializer": "ones",
        "depthwise_initializer": "ones",
        "pointwise_initializer": "he_normal",
        "bias_initializer": "ones",
        "kernel_regularizer": "l2",
        "depthwise_regularizer": "l2",
        "pointwise_regularizer": "l1",
        "bias_regularizer": "l1",
        "activity_regularizer": "l2",
        "kernel_constraint": "non_neg",
        "depthwise_constraint": "non_neg",
        "pointwise_constraint": "unit_norm",
        "bias_constraint": "non_neg",
        "name": "named",
        "trainable": False,
    },
}


def pair(name, /, **options):
    """Our layer without quantizers, and the Keras layer."""
    arguments = TABLE[name][0]
    ours = getattr(layers, f"Quant{name}")(*arguments, **options)
    return ours, getattr(keras.layers, name)(*arguments, **options)


def keras_parameters(name) -> dict:
    parameters = inspect.signature(getattr(keras.layers, name).__init__).parameters
    return {key: value for key, value in parameters.items() if key not in ("self", "kwargs")}


def config_without(layer, *names) -> dict:
    return {key: value for key, value in layer.get_config().items() if key not in names}


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(value, "float32"))


def assert_same_layer(name, layer, expected, shape=None) -> None:
    """Same weights, outputs, regularization, shapes and computed gradient-free state."""
    shape = shape or TABLE[name][1]
    x = np.random.default_rng(0).uniform(-1.5, 1.5, shape).astype("float32")
    assert isinstance(layer, type(expected))
    assert layer.compute_output_shape(shape) == expected.compute_output_shape(shape)
    layer.build(shape)
    expected.build(shape)
    described = [(v.name, v.shape, v.dtype, v.trainable) for v in expected.weights]
    assert [(v.name, v.shape, v.dtype, v.trainable) for v in layer.weights] == described
    layer.set_weights([numpy(variable) for variable in expected.weights])
    output, reference = layer(x), expected(x)
    assert output.dtype == reference.dtype
    np.testing.assert_array_equal(numpy(output), numpy(reference))
    losses = [float(loss) for loss in expected.losses]
    assert [float(loss) for loss in layer.losses] == losses


@every_layer
def test_is_the_keras_layer(name):
    layer, expected = pair(name)
    added = ["input_quantizer", *TABLE[name][2]]
    config = layer.get_config()
    assert {key: config[key] for key in added} == {
        key: 0.0 if key == "pad_values" else None for key in added
    }
    # Each layer is the first of its class, so that the names differ.
    assert config_without(layer, "name", *added) == config_without(expected, "name")
    assert_same_layer(name, layer, expected)


@every_layer
def test_accepts_every_keras_argument(name):
    """By its name, with Keras's default."""
    accepted = inspect.signature(getattr(layers, f"Quant{name}").__init__).parameters
    assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    for key, parameter in keras_parameters(name).items():
        if parameter.default is inspect.Parameter.empty:
            continue
        explicit, expected = pair(name, **{key: parameter.default})
        default, _ = pair(name)
        assert config_without(explicit, "name") == config_without(default, "name"), key


@every_layer
def test_refuses_what_keras_refuses(name):
    for options in ({"pad_value": 1.0}, {"kernel_quantiser": "ste_sign"}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            pair(name, **options)


@every_layer
@pytest.mark.parametrize("case", OPTIONS)
def test_options_mean_what_they_mean_in_keras(name, case):
    known = {*keras_parameters(name), "name", "trainable", "dtype", "activity_regularizer"}
    options = {key: value for key, value in OPTIONS[case].items() if key in known}
    layer, expected = pair(name, **options)
    added = ["input_quantizer", *TABLE[name][2]]
    ignored = [] if "name" in options else ["name"]
    assert config_without(layer, *ignored, *added) == config_without(expected, *ignored)
    shape = TABLE[name][1]
    if "data_format" in options:
        shape = (shape[0], shape[-1], *shape[1:-1])
    assert_same_layer(name, layer, expected, shape)


# Recorded from larq 0.14, without the LocallyConnected layers that Keras 3 has no base for.
LARQ = """
QuantDense(units, activation=None, use_bias=True, input_quantizer=None, kernel_quantizer=None, kernel_initializer='glorot_uniform', bias_initializer='zeros', kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None, kernel_constraint=None, bias_constraint=None)
QuantConv1D(filters, kernel_size, strides=1, padding='valid', pad_values=0.0, data_format='channels_last', dilation_rate=1, groups=1, activation=None, use_bias=True, input_quantizer=None, kernel_quantizer=None, kernel_initializer='glorot_uniform', bias_initializer='zeros', kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None, kernel_constraint=None, bias_constraint=None)
QuantConv2D(filters, kernel_size, strides=(1, 1), padding='valid', pad_values=0.0, data_format=None, dilation_rate=(1, 1), groups=1, activation=None, use_bias=True, input_quantizer=None, kernel_quantizer=None, kernel_initializer='glorot_uniform', bias_initializer='zeros', kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None, kernel_constraint=None, bias_constraint=None)
QuantConv3D(filters, kernel_size, strides=(1, 1, 1), padding='valid', pad_values=0.0, data_format=None, dilation_rate=(1, 1, 1), groups=1, activation=None, use_bias=True, input_quantizer=None, kernel_quantizer=None, kernel_initializer='glorot_uniform', bias_initializer='zeros', kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None, kernel_constraint=None, bias_constraint=None)
QuantDepthwiseConv2D(kernel_size, strides=(1, 1), padding='valid', pad_values=0.0, depth_multiplier=1, data_format=None, dilation_rate=(1, 1), activation=None, use_bias=True, input_quantizer=None, depthwise_quantizer=None, depthwise_initializer='glorot_uniform', bias_initializer='zeros', depthwise_regularizer=None, bias_regularizer=None, activity_regularizer=None, depthwise_constraint=None, bias_constraint=None)
QuantSeparableConv1D(filters, kernel_size, strides=1, padding='valid', pad_values=0.0, data_format=None, dilation_rate=1, depth_multiplier=1, activation=None, use_bias=True, input_quantizer=None, depthwise_quantizer=None, pointwise_quantizer=None, depthwise_initializer='glorot_uniform', pointwise_initializer='glorot_uniform', bias_initializer='zeros', depthwise_regularizer=None, pointwise_regularizer=None, bias_regularizer=None, activity_regularizer=None, depthwise_constraint=None, pointwise_constraint=None, bias_constraint=None)
QuantSeparableConv2D(filters, kernel_size, strides=(1, 1), padding='valid', pad_values=0.0, data_format=None, dilation_rate=(1, 1), depth_multiplier=1, activation=None, use_bias=True, input_quantizer=None, depthwise_quantizer=None, pointwise_quantizer=None, depthwise_initializer='glorot_uniform', pointwise_initializer='glorot_uniform', bias_initializer='zeros', depthwise_regularizer=None, pointwise_regularizer=None, bias_regularizer=None, activity_regularizer=None, depthwise_constraint=None, pointwise_constraint=None, bias_constraint=None)
QuantConv2DTranspose(filters, kernel_size, strides=(1, 1), padding='valid', output_padding=None, data_format=None, dilation_rate=(1, 1), activation=None, use_bias=True, input_quantizer=None, kernel_quantizer=None, kernel_initializer='glorot_uniform', bias_initializer='zeros', kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None, kernel_constraint=None, bias_constraint=None)
QuantConv3DTranspose(filters, kernel_size, strides=(1, 1, 1), padding='valid', output_padding=None, data_format=None, dilation_rate=(1, 1, 1), activation=None, use_bias=True, input_quantizer=None, kernel_quantizer=None, kernel_initializer='glorot_uniform', bias_initializer='zeros', kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None, kernel_constraint=None, bias_constraint=None)
"""  # noqa: E501


@pytest.mark.parametrize("line", LARQ.strip().splitlines(), ids=lambda line: line.split("(")[0])
def test_larqs_arguments(line):
    """Same names and defaults; the same positions up to the last quantizer."""
    name = line.split("(")[0]
    arguments = ast.parse(f"def {line}: pass").body[0].args
    names = [argument.arg for argument in arguments.args]
    defaults = [ast.literal_eval(default) for default in arguments.defaults]
    defaults = dict(zip(names[-len(defaults) :], defaults, strict=True))

    parameters = inspect.signature(getattr(layers, name).__init__).parameters.values()
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    positional = [parameter.name for parameter in parameters if parameter.kind is kind][1:]
    assert positional == names[: len(positional)]
    assert positional[-1] == [key for key in names if key.endswith("_quantizer")][-1]

    required = TABLE[name.removeprefix("Quant")][0]
    explicit = getattr(layers, name)(*required, **defaults)
    default = getattr(layers, name)(*required)
    assert config_without(explicit, "name") == config_without(default, "name")
