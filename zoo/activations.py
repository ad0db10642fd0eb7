"""Activations of the zoo's networks whose gradient at the edge of the linear part is theirs alone.

The values are those of `clip` and of a leaky clip; where Keras's functions leave the derivative at
|x| = 1 to the backend, these fix it.
"""

from keras import ops

from bnnkeras.quantizers.signs import surrogate
from bnnkeras.registration import register


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

    return surrogate(x, forward, derivative)


@register
def hardtanh(x):
    """f(x) = min(max(x, -1), 1), with df/dx = 1 if |x| < 1 else 0: PyTorch's Hardtanh.

    (`bnnkeras.activations.hard_tanh` is Larq's, whose derivative at |x| = 1 is 1.)

    Args:
        x: A floating-point tensor.

    Example:
        >>> import keras
        >>> from bnnkeras.zoo.activations import hardtanh
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
        >>> from bnnkeras.zoo.activations import leaky_clip
        >>> keras.ops.convert_to_numpy(leaky_clip([-3.0, 0.5, 11.0])).round(6).tolist()
        [-1.2000000476837158, 0.5, 2.0]

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
        >>> from bnnkeras.zoo.activations import caffe_leaky_clip
        >>> keras.ops.convert_to_numpy(caffe_leaky_clip([-1.0, 0.5])).tolist()
        [-1.0, 0.5]
    """
    return _clip(x, 0.1, edge_is_inside=False)
