"""Gradient estimators: what stands in for the derivative of `sign`, which is zero everywhere.

Masks are written with `where`, because the gradients of `clip` and `maximum` at a tie differ
between backends.
"""

from collections.abc import Callable

from keras import ops

from bnnkeras.quantizers.parts import Part
from bnnkeras.quantizers.reductions import tensor, wide
from bnnkeras.registration import register


class Estimator(Part):
    """Base class: `derivative(x)` replaces d sign(x) / dx in the backward pass."""

    def derivative(self, x):
        """The pseudo-derivative at `x`; same shape and dtype as `x`."""
        raise NotImplementedError(f"{type(self).__name__} must define `derivative(x)`.")

    def at_present(self) -> Callable:
        """`derivative`, with the values that this estimator's variables have now.

        A backward pass may run when they have others, or where they cannot be read.
        """
        return self.derivative


@register
class ClippedIdentity(Estimator):
    """The straight-through estimator: 1 where |x| <= clip_value, else 0.

    Args:
        clip_value: Positive float, or `None` for a derivative of 1 everywhere. Defaults to 1.
        inclusive: Whether |x| = clip_value receives a gradient. Defaults to `True`.

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

    def __init__(self, clip_value: float | None = 1.0, inclusive: bool = True):
        if clip_value is not None and not clip_value > 0:
            raise ValueError(
                f"`clip_value` must be a positive number or None. Received: clip_value={clip_value}"
            )
        self.clip_value = clip_value
        self.inclusive = inclusive

    def derivative(self, x):
        if self.clip_value is None:
            return ops.ones_like(x)
        magnitude = ops.abs(x)
        inside = magnitude <= self.clip_value if self.inclusive else magnitude < self.clip_value
        return ops.where(inside, ops.ones_like(x), ops.zeros_like(x))


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


@register
class SwishDerivative(Estimator):
    """The derivative of SignSwish: beta (2 - z tanh(z / 2)) / (1 + cosh z), z = beta |x|.

    It is negative for |x| > 2.4 / beta, and 0 at any large |x|, in half precision too.

    Args:
        beta: Positive float, the steepness. Defaults to 5.

    Raises:
        ValueError: If `beta` is not positive.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import SwishDerivative
        >>> x = keras.ops.convert_to_tensor([0.0, 1e4])
        >>> keras.ops.convert_to_numpy(SwishDerivative(5.0).derivative(x)).tolist()
        [5.0, -0.0]

    Reference:
        Darabi et al., BNN+ (2018), section 3.2.
    """

    def __init__(self, beta: float = 5.0):
        if not beta > 0:
            raise ValueError(f"`beta` must be a positive number. Received: beta={beta}")
        self.beta = beta

    def derivative(self, x):
        # cosh overflows where exp(-z) only vanishes; the bound keeps 0 * inf out.
        magnitude = ops.minimum(ops.abs(wide(x)), 800 / self.beta)
        z = self.beta * magnitude
        decay = ops.exp(-z)
        tangent = (1 - decay) / (1 + decay)  # tanh(z / 2)
        value = self.beta * (2 - z * tangent) * 2 * decay / ops.square(1 + decay)
        return ops.cast(value, x.dtype)


@register
class ErrorDecay(Estimator):
    """The error decay estimator (EDE): k t (1 - tanh(t x)^2), the derivative of k tanh(t x).

    t grows over the epochs, from a derivative that is nearly 1 everywhere to a narrow peak, and
    k = max(1 / t, 1). `bnnkeras.callbacks.EDESchedule` sets both in `fit`. They are state, not
    weights: `get_weights`, parameter counts and older checkpoints do not know them.

    Args:
        k: Positive float, the height of tanh at the start. Defaults to 10, as released.
        t: Positive float, its steepness at the start. Defaults to 0.1.

    Raises:
        ValueError: If `k` or `t` is not positive.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import ErrorDecay
        >>> x = keras.ops.convert_to_tensor([0.0, 100.0])
        >>> keras.ops.convert_to_numpy(ErrorDecay(k=1, t=4).derivative(x)).tolist()
        [4.0, 0.0]

    Reference:
        Qin et al., IR-Net (CVPR 2020), section 3.3.
    """

    def __init__(self, k: float = 10.0, t: float = 0.1):
        for name, value in (("k", k), ("t", t)):
            if not value > 0:
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={value}")
        self.k = k
        self.t = t
        self._variables: tuple = ()

    def build(self, binarizer, input_shape) -> None:
        self._variables = binarizer.add_state("k", self.k), binarizer.add_state("t", self.t)

    def assign(self, k: float, t: float) -> None:
        """Sets both from now on. Needs a built quantizer."""
        for variable, value in zip(self._variables, (k, t), strict=True):
            variable.assign(value)

    def derivative(self, x):
        return self.at_present()(x)

    def at_present(self) -> Callable:
        variables = self._variables
        k, t = map(tensor, variables) if variables else (self.k, self.t)

        def derivative(x):
            height, steepness = (ops.convert_to_tensor(value, x.dtype) for value in (k * t, t))
            return height * (1 - ops.square(ops.tanh(steepness * x)))

        return derivative
