"""Step functions of quantized networks. Their gradient is 0 everywhere, as in Larq."""

from keras import ops


def sign(x):
    """f(x) = 1 if x >= 0 else -1: a sign that is never 0.

    Args:
        x: A floating-point tensor, variable or array.

    Returns:
        A tensor with the shape and dtype of `x`. NaN gives -1.

    Example:
        >>> import keras
        >>> import bnnkeras
        >>> keras.ops.convert_to_numpy(bnnkeras.math.sign([-0.3, 0.0, 2.0])).tolist()
        [-1.0, 1.0, 1.0]
    """
    x = ops.convert_to_tensor(x)
    one = ops.ones((), dtype=x.dtype)
    return ops.where(x >= 0, one, -one)


def heaviside(x):
    """f(x) = 1 if x > 0 else 0: the step function.

    Args:
        x: A floating-point tensor, variable or array.

    Returns:
        A tensor with the shape and dtype of `x`. NaN gives 0.

    Example:
        >>> import keras
        >>> import bnnkeras
        >>> keras.ops.convert_to_numpy(bnnkeras.math.heaviside([-0.3, 0.0, 2.0])).tolist()
        [0.0, 0.0, 1.0]
    """
    x = ops.convert_to_tensor(x)
    return ops.cast(x > 0, x.dtype)
