"""Functions of a tensor whose gradient is replaced."""

from collections.abc import Callable

import keras
from keras import ops

from bnnkeras.quantizers.estimators import Estimator


def sign(x, sign_of_zero: int = 1):
    """-1 or +1 with the dtype of `x`; `sign_of_zero` at 0 and -0.

    With `sign_of_zero=1` NaN gives -1 (+1 inside LCE); with 0 it depends on the backend.
    """
    if sign_of_zero == 0:
        return ops.sign(x)
    one = ops.ones((), dtype=x.dtype)
    return ops.where(x >= 0, one, -one)


def surrogate(x, forward: Callable, derivative: Callable, gain=None, divisor=None):
    """`gain * forward(x)` forward, `upstream * derivative(x) / divisor` backward.

    Args:
        x: A tensor.
        forward: Maps a tensor to its quantized values.
        derivative: Maps a tensor to the pseudo-derivative of `forward`.
        gain: A tensor that broadcasts against `x` and that the gradient ignores; `None` means 1.
        divisor: Likewise, of the gradient alone: a gain that follows later, whose gradient arrives
            multiplied by it.
    """

    @ops.custom_gradient
    def quantize(x):
        values = forward(x)

        def backward(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            upstream = upstream * derivative(x)
            if divisor is None:
                return upstream
            # Where it is 0, so is what arrives.
            return upstream / ops.where(divisor == 0, ops.ones_like(divisor), divisor)

        return values if gain is None else values * gain, backward

    # The cast turns a variable into a tensor, which TensorFlow's custom gradients need.
    return quantize(ops.cast(x, keras.backend.standardize_dtype(x.dtype)))


def surrogate_sign(x, estimator: Estimator, sign_of_zero: int = 1, gain=None, divisor=None):
    """`surrogate` of the sign with the derivative of `estimator`."""
    return surrogate(x, lambda x: sign(x, sign_of_zero), estimator.at_present(), gain, divisor)
