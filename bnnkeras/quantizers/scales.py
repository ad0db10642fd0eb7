"""Scales: the magnitude that a `Binarizer` gives back to its signs."""

import keras
from keras import ops

from bnnkeras.quantizers.parts import Part
from bnnkeras.registration import register


class Scale(Part):
    """Base class: calling it on `x` computes s(x), which broadcasts against `x`."""

    def __call__(self, x):
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(x)`.")


@register
class MeanMagnitude(Scale):
    """s = mean |x| over all axes but the last, without a gradient: one scale per output channel.

    Call arguments:
        x: A kernel with its output channels last: `(height, width, in, out)` or `(in, out)`. A
            tensor of rank 1 has nothing to average over: s = |x|, as in Larq.

    Reference:
        Rastegari et al., XNOR-Net (ECCV 2016), section 3.1; Liu et al., Bi-Real Net (ECCV 2018),
        section 3.3.
    """

    def __call__(self, x):
        magnitude = ops.stop_gradient(ops.abs(x))
        axes = tuple(range(len(x.shape) - 1))
        if not axes:
            return magnitude
        if keras.backend.standardize_dtype(x.dtype) == "float64":
            # Keras computes `mean` in float32 here, except on TensorFlow.
            total, count = (
                ops.sum(term, axis=axes, keepdims=True)
                for term in (magnitude, ops.ones_like(magnitude))
            )
            return total / count
        return ops.mean(magnitude, axis=axes, keepdims=True)
