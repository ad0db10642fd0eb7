"""Gradient estimators: what stands in for the derivative of `sign`, which is zero everywhere.

Masks are written with `where`, because the gradients of `clip` and `maximum` at a tie differ
between backends.
"""

from keras import ops

from bnnkeras.quantizers.parts import Part
from bnnkeras.registration import register


class Estimator(Part):
    """Base class: `derivative(x)` replaces d sign(x) / dx in the backward pass."""

    def derivative(self, x):
        """The pseudo-derivative at `x`; same shape and dtype as `x`."""
        raise NotImplementedError(f"{type(self).__name__} must define `derivative(x)`.")


@register
class ClippedIdentity(Estimator):
    """The straight-through estimator: 1 where |x| <= clip_value, else 0.

    Args:
        clip_value: Positive float, or `None` for a derivative of 1 everywhere. Defaults to 1.

    Raises:
        ValueError: If `clip_value` is not positive.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import ClippedIdentity
        >>> x = keras.ops.convert_to_tensor([-2.0, -1.0, 0.5])
        >>> keras.ops.convert_to_numpy(ClippedIdentity(1.0).derivative(x)).tolist()
        [0.0, 1.0, 1.0]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.3.
    """

    def __init__(self, clip_value: float | None = 1.0):
        if clip_value is not None and not clip_value > 0:
            raise ValueError(
                f"`clip_value` must be a positive number or None. Received: clip_value={clip_value}"
            )
        self.clip_value = clip_value

    def derivative(self, x):
        if self.clip_value is None:
            return ops.ones_like(x)
        return ops.where(ops.abs(x) <= self.clip_value, ops.ones_like(x), ops.zeros_like(x))

    def get_config(self) -> dict:
        return {"clip_value": self.clip_value}


@register
class Triangle(Estimator):
    """The derivative of a piecewise quadratic sign: 2 - 2 |x| where |x| <= 1, else 0.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import Triangle
        >>> x = keras.ops.convert_to_tensor([-2.0, -0.5, 0.0])
        >>> keras.ops.convert_to_numpy(Triangle().derivative(x)).tolist()
        [0.0, 1.0, 2.0]

    Reference:
        Liu et al., Bi-Real Net (ECCV 2018), section 3.3.
    """

    def derivative(self, x):
        # relu is exact here: its argument is 0 at |x| = 1, the same value from both sides.
        return ops.relu(2 - 2 * ops.abs(x))
