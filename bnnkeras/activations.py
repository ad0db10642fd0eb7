"""Activation functions of binary networks.

Layers of this package accept them and every quantizer by name: `QuantDense(64,
activation="leaky_tanh")`. Layers of Keras look names up in a table of their own: give them the
function, `keras.layers.Activation(bnnkeras.activations.leaky_tanh)`. A quantizer is a layer by
itself and needs no `Activation` around it.

The pieces are chosen with `where`: at |x| = 1 the gradient of `clip` is 1 on TensorFlow and 0.5 on
JAX. The gradients here are Larq's on every backend.
"""

import contextlib

import keras
from keras import ops

from bnnkeras import quantizers
from bnnkeras.registration import register


@register
def hard_tanh(x):
    """f(x) = min(max(x, -1), 1), with df/dx = 1 if |x| <= 1 else 0.

    Args:
        x: A floating-point tensor.

    Example:
        >>> import keras
        >>> from bnnkeras.activations import hard_tanh
        >>> keras.ops.convert_to_numpy(hard_tanh([-3.0, 0.5, 1.5])).tolist()
        [-1.0, 0.5, 1.0]
    """
    x = ops.convert_to_tensor(x)
    one = ops.ones((), dtype=x.dtype)
    return ops.where(x > 1, one, ops.where(x < -1, -one, x))


@register
def leaky_tanh(x, alpha: float = 0.2):
    """f(x) = x where |x| <= 1, else sign(x) + alpha (x - sign(x)).

    df/dx = 1 where |x| < 1, alpha where |x| > 1, and 1 + alpha at |x| = 1, where Larq's two pieces
    both count.

    Args:
        x: A floating-point tensor.
        alpha: Float, the slope outside of [-1, 1]. Defaults to 0.2.

    Example:
        >>> import keras
        >>> from bnnkeras.activations import leaky_tanh
        >>> keras.ops.convert_to_numpy(leaky_tanh([-3.0, 0.5, 2.0], alpha=0.5)).tolist()
        [-2.0, 0.5, 1.5]
    """
    x = ops.convert_to_tensor(x)
    zero = ops.zeros((), dtype=x.dtype)
    outside = ops.where(x >= 1, x - 1, ops.where(x <= -1, x + 1, zero))
    return hard_tanh(x) + alpha * outside


def _clip(x, slope: float, edge_is_inside: bool):
    """clip(x, -1, 1), with `slope` outside; the derivative at |x| = 1 is 1 or the slope."""
    x = ops.convert_to_tensor(x)

    def forward(x):
        inside = ops.clip(x, -1, 1)
        return inside + slope * (x - inside) if slope else inside

    def derivative(x):
        magnitude = ops.abs(x)
        inside = magnitude <= 1 if edge_is_inside else magnitude < 1
        return ops.where(inside, ops.ones_like(x), slope * ops.ones_like(x))

    return quantizers.signs.surrogate(x, forward, derivative)


@register
def hardtanh(x):
    """f(x) = min(max(x, -1), 1), with df/dx = 1 if |x| < 1 else 0: PyTorch's Hardtanh.

    (`hard_tanh` is Larq's, whose derivative at |x| = 1 is 1.)

    Args:
        x: A floating-point tensor.

    Example:
        >>> import keras
        >>> from bnnkeras.activations import hardtanh
        >>> keras.ops.convert_to_numpy(hardtanh([-3.0, 0.5, 1.5])).tolist()
        [-1.0, 0.5, 1.0]
    """
    return _clip(x, 0.0, edge_is_inside=False)


@register
def leaky_clip(x):
    """f(x) = x where |x| <= 1, else sign(x) + 0.1 (x - sign(x)); df/dx = 1 at |x| = 1.

    Args:
        x: A floating-point tensor.

    Example:
        >>> import keras
        >>> from bnnkeras.activations import leaky_clip
        >>> keras.ops.convert_to_numpy(leaky_clip([-11.0, 0.5, 11.0])).round(6).tolist()
        [-2.0, 0.5, 2.0]

    Reference:
        Liu et al., Bi-Real Net (IJCV 2020), released PyTorch code.
    """
    return _clip(x, 0.1, edge_is_inside=True)


@register
def caffe_leaky_clip(x):
    """`leaky_clip` with df/dx = 0.1 at |x| = 1, as the Caffe layer of Bi-Real Net has it.

    Args:
        x: A floating-point tensor.

    Example:
        >>> import keras
        >>> from bnnkeras.activations import caffe_leaky_clip
        >>> keras.ops.convert_to_numpy(caffe_leaky_clip([-1.0, 0.5])).tolist()
        [-1.0, 0.5]
    """
    return _clip(x, 0.1, edge_is_inside=False)


_NAMED = {
    function.__name__: function
    for function in (caffe_leaky_clip, hard_tanh, hardtanh, leaky_clip, leaky_tanh)
}


def get(identifier):
    """`keras.activations.get` that also knows this module's names and those of the quantizers.

    Args:
        identifier: `None` for the identity, a name (`"leaky_tanh"`, `"ste_sign"`, `"relu"`), a
            configuration or any callable.

    Raises:
        ValueError: If there is no such activation.

    Example:
        >>> from bnnkeras import activations
        >>> activations.get("leaky_tanh").__name__
        'leaky_tanh'
        >>> activations.get("ste_sign").precision
        1
    """
    if isinstance(identifier, str):
        if identifier in _NAMED:
            return _NAMED[identifier]
        with contextlib.suppress(ValueError):
            return quantizers.get(identifier)
    return keras.activations.get(identifier)
