"""BiPointNet's aggregation over points: pooling whose sign carries the most information."""

import math
from numbers import Real
from statistics import NormalDist

import keras
from keras import ops

from bnnkeras.quantizers import reductions
from bnnkeras.registration import register

# Simulated medians in the released code, by the number of points; the closed form differs by up to
# 0.004.
RELEASED_OFFSETS = {20: -1.8268, 64: -2.2983, 1024: -3.2041, 2048: -3.4025, 4096: -3.5836}


def entropy_maximizing_offset(points: int) -> float:
    """Minus the median of the maximum of `points` standard normal values: Phi^-1(1 - 2^(-1/n)).

    With it the sign of max + offset is +1 half of the time.

    Args:
        points: Positive integer n.

    Raises:
        ValueError: If `points` is not a positive integer.

    Example:
        >>> from bnnkeras.layers import entropy_maximizing_offset
        >>> round(entropy_maximizing_offset(1024), 6)
        -3.204421
        >>> entropy_maximizing_offset(1)
        0.0

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 3.2.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise ValueError(f"`points` must be a positive integer. Received: points={points!r}")
    # 1 - 2^(-1/n) without the cancellation.
    return NormalDist().inv_cdf(-math.expm1(-math.log(2) / points))


@register
class EntropyMaximizingAggregation(keras.layers.Layer):
    """Pools over the points of a cloud, shifted so that the sign is +1 half of the time.

    y = max_i x_i + d(n), d(n) = Phi^-1(1 - 2^(-1/n)) for n points; y = mean_i x_i with
    `mode="mean"`, which is symmetric about 0 already. This holds for inputs of zero mean and unit
    variance, as a batch normalization gives them at its start.

    dy/dx_i of a maximum that k points share is 1 / k for each of them, or 1 for the first one, the
    same on every backend: counts of bits tie often.

    Args:
        mode: `"max"` (default) or `"mean"`.
        axis: Integer, the axis of the points. Defaults to 1.
        keepdims: Boolean, whether the pooled axis stays, with size 1. Defaults to `False`.
        offset: `"released"` (default) for the constants of the released code where it has one (20,
            64, 1024, 2048 or 4096 points) and the closed form elsewhere, `"closed_form"`, or a
            number. A mean is shifted by a number only.
        points: Positive integer, the number of points that the offset is made for. Defaults to the
            size of the axis, which must be fixed then.
        ties: `"split"` (default) or `"first"` (PyTorch's rule): who gets the gradient of a shared
            maximum.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, points, channels)`, or any shape with the points at `axis`.

    Raises:
        ValueError: If an argument is out of its range, or the number of points is unknown.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import EntropyMaximizingAggregation
        >>> layer = EntropyMaximizingAggregation()
        >>> y = layer(np.array([[[0.5, -3.0], [2.5, -2.0]]], "float32"))
        >>> keras.ops.convert_to_numpy(y).astype(float).round(3).tolist()
        [[1.955, -2.545]]

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 3.2.
    """

    def __init__(
        self,
        mode="max",
        axis=1,
        keepdims=False,
        offset="released",
        points=None,
        ties="split",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mode not in ("max", "mean"):
            raise ValueError(f'`mode` must be "max" or "mean". Received: mode={mode!r}')
        if isinstance(axis, bool) or not isinstance(axis, int) or axis == 0:
            raise ValueError(
                f"`axis` must be an integer other than 0, the batch. Received: axis={axis!r}"
            )
        number = isinstance(offset, Real) and math.isfinite(offset)
        if not number and offset not in ("released", "closed_form"):
            raise ValueError(
                '`offset` must be "released", "closed_form" or a finite number. '
                f"Received: offset={offset!r}"
            )
        if points is not None:
            entropy_maximizing_offset(points)
        if ties not in ("split", "first"):
            raise ValueError(f'`ties` must be "split" or "first". Received: ties={ties!r}')
        self.mode = mode
        self.axis = axis
        self.keepdims = bool(keepdims)
        self.offset = offset
        self.points = points
        self.ties = ties

    def build(self, input_shape):
        self.shift(input_shape)

    def shift(self, input_shape) -> float:
        """The offset for inputs of this shape."""
        size = input_shape[self._axis(input_shape)]
        if isinstance(self.offset, Real):
            return float(self.offset)
        if self.mode == "mean":
            return 0.0
        points = self.points or size
        if points is None:
            raise ValueError(
                "The offset depends on the number of points: give the layer `points`, or inputs "
                f"of a fixed size. Received: input_shape={tuple(input_shape)}, axis={self.axis}"
            )
        closed_form = entropy_maximizing_offset(points)
        if self.offset == "closed_form":
            return closed_form
        return RELEASED_OFFSETS.get(points, closed_form)

    def call(self, inputs):
        axis = self._axis(inputs.shape)
        if self.mode == "max":
            pooled = _maximum(inputs, axis, self.ties)
        else:
            pooled = ops.cast(reductions.mean(inputs, (axis,)), inputs.dtype)
        shifted = pooled + self.shift(inputs.shape)
        return shifted if self.keepdims else ops.squeeze(shifted, axis)

    def _axis(self, shape) -> int:
        axis = self.axis + len(shape) if self.axis < 0 else self.axis
        if not 0 < axis < len(shape):
            raise ValueError(
                f"`axis` must be one of the {len(shape)} axes of the input, other than the batch. "
                f"Received: axis={self.axis}, input_shape={tuple(shape)}"
            )
        return axis

    def compute_output_shape(self, input_shape):
        axis = self._axis(input_shape)
        kept = (1,) if self.keepdims else ()
        return (*input_shape[:axis], *kept, *input_shape[axis + 1 :])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "mode": self.mode,
            "axis": self.axis,
            "keepdims": self.keepdims,
            "offset": self.offset,
            "points": self.points,
            "ties": self.ties,
        }


EMA = EntropyMaximizingAggregation


def _maximum(x, axis: int, ties: str):
    """The maximum over `axis`, which is kept, with a gradient that every backend agrees on."""

    @ops.custom_gradient
    def forward(x):
        maximum = ops.max(x, axis=axis, keepdims=True)

        def backward(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            shared = ops.equal(x, maximum)
            if ties == "first":
                counts = ops.cumsum(ops.cast(shared, "int32"), axis=axis)
                return ops.where(shared & (counts == 1), upstream, ops.zeros_like(x))
            number = ops.sum(ops.cast(shared, "int32"), axis=axis, keepdims=True)
            return ops.where(shared, upstream / ops.cast(number, x.dtype), ops.zeros_like(x))

        return maximum, backward

    return forward(x)
