"""Rules of activations: what LCE computes as it is, and what has to be written differently."""

import keras
import numpy as np
from keras import layers

from bnnkeras import activations
from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering.registry import lowering_rule, operation_rule

# Functions f with f(x) >= 0 just where x >= 0, in floating point too: a sign does not see them.
_SIGN_KEEPING = {
    keras.activations.hard_tanh,
    activations.caffe_leaky_clip,
    activations.hard_tanh,
    activations.hardtanh,
    activations.leaky_clip,
    activations.leaky_tanh,
}


def is_sign_keeping(operation) -> bool:
    """Whether a sign is the same with and without this operation of a deploy form before it."""
    if isinstance(operation, layers.Activation):
        return operation.activation in _SIGN_KEEPING
    # Of its approximation, values below -5 are -0.0 in float32, whose sign would be +1; of the
    # exact function those below -13.
    return type(operation).__name__ == "Gelu"


@lowering_rule(layers.Activation)
def lower_activation(builder, layer, inputs):
    return activated(builder, layer, inputs)


def activated(builder, layer, x):
    """`layer.activation(x)`.

    Raises:
        UnsupportedLayerError: If it is a layer or a function that nothing is known of.
    """
    activation = layer.activation
    check_activation(layer)
    if activation in (None, keras.activations.linear):
        return x
    if is_rewritten(activation):
        return _REWRITTEN[activation](builder, layer, x)
    return builder.activation(x, activation, layer.name)


def is_rewritten(activation) -> bool:
    """Whether an activation has another form in LCE than in Keras."""
    return activation in _REWRITTEN


def check_activation(layer):
    """Raises an UnsupportedLayerError for an activation that is no known function."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return
    name = getattr(activation, "__name__", type(activation).__name__)
    if isinstance(activation, keras.layers.Layer):
        reason = f"its activation is a layer ({name}): call that layer on the outputs instead"
    elif activation is keras.activations.glu:
        reason = "glu halves the channels, which Keras's shapes do not know: call keras.ops.glu"
    elif not activation.__module__.startswith(("keras.", "bnnkeras.")):
        reason = f"its activation {name} is not one of Keras's or bnnkeras's functions"
    else:
        return
    raise UnsupportedLayerError(layer, reason)


@operation_rule("Gelu")
def lower_gelu(builder, operation, x):
    if operation.approximate:
        return builder.copy_operation(operation)(x)
    return _approximate_gelu(builder, operation, x)


@operation_rule("Softsign")
def lower_softsign(builder, operation, x):
    return _softsign(builder, operation, x)


@operation_rule("HardSigmoid")
def lower_hard_sigmoid(builder, operation, x):
    return _hard_sigmoid(builder, operation, x)


def _hard_sigmoid(builder, layer, x):
    # relu6(x + 3) / 6, its constants as affine maps: LCE merges them into a binary convolution.
    ones = np.ones(x.shape[-1])
    x = builder.affine(x, ones, 3 * ones, layer.name)
    x = builder.activation(x, keras.activations.relu6, layer.name)
    return builder.affine(x, ones / 6, 0 * ones, layer.name)


def _approximate_gelu(builder, layer, x):
    # LCE has no error function.
    builder.note(layer, "exact gelu became the approximation with tanh (differs by up to 5e-4)")
    return keras.ops.gelu(x, approximate=True)


def _softsign(builder, layer, x):
    # max(x, -x) and not abs(x), which is slow in TensorFlow Lite.
    magnitude = keras.ops.maximum(x, keras.ops.negative(x))
    return keras.ops.divide(x, keras.ops.add(magnitude, 1.0))


def _clip(builder, layer, x):
    # The same values; LCE knows this one as an activation that a convolution ends in.
    return builder.activation(x, keras.activations.hard_tanh, layer.name)


_REWRITTEN = {
    activations.hard_tanh: _clip,
    activations.hardtanh: _clip,
    keras.activations.gelu: _approximate_gelu,
    keras.activations.hard_sigmoid: _hard_sigmoid,
    keras.activations.softsign: _softsign,
}
