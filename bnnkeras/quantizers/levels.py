"""Quantizers to {0, 1} and {-1, 0, 1}, and the one that does nothing."""

from keras import ops

from bnnkeras.quantizers.base import Quantizer
from bnnkeras.quantizers.estimators import ClippedIdentity
from bnnkeras.quantizers.reductions import mean
from bnnkeras.quantizers.signs import surrogate
from bnnkeras.registration import register


@register
class SteHeaviside(Quantizer):
    """q(x) = 1 if x > 0 else 0, with dq/dx := 1 if |x| <= clip_value else 0. NaN becomes 0.

    Args:
        clip_value: Positive float, or `None` to let every gradient pass. Defaults to 1.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Raises:
        ValueError: If `clip_value` is not positive.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import SteHeaviside
        >>> keras.ops.convert_to_numpy(SteHeaviside()([-0.3, 0.0, 2.0])).tolist()
        [0.0, 0.0, 1.0]

    Reference:
        Larq 0.14, `larq.quantizers.SteHeaviside`.
    """

    precision = 1

    def __init__(self, clip_value: float | None = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.estimator = ClippedIdentity(clip_value)
        self.clip_value = clip_value

    def call(self, inputs):
        return surrogate(inputs, _heaviside, self.estimator.derivative)


@register
class SteTern(Quantizer):
    """q(x) = 1 if x >= d, -1 if x <= -d, else 0; dq/dx := 1 if |x| <= clip_value else 0.

    d is `threshold_value`, or 0.7 mean |x| over the whole tensor for ternary weight networks. With
    d = 0, q(0) = 0. NaN becomes 0; infinite weights make the mean infinite, and all others 0.

    Args:
        threshold_value: Float >= 0. Defaults to 0.05.
        ternary_weight_networks: Whether d follows the mean magnitude. Defaults to `False`.
        clip_value: Positive float, or `None` to let every gradient pass. Defaults to 1.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import SteTern
        >>> keras.ops.convert_to_numpy(SteTern(0.5)([-0.5, 0.0, 0.4, 2.0])).tolist()
        [-1.0, 0.0, 0.0, 1.0]

    Reference:
        Li et al., Ternary Weight Networks (2016), section 2.2.
    """

    precision = 2

    def __init__(
        self,
        threshold_value: float = 0.05,
        ternary_weight_networks: bool = False,
        clip_value: float | None = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not threshold_value >= 0:
            raise ValueError(
                "`threshold_value` must not be negative. "
                f"Received: threshold_value={threshold_value}"
            )
        self.estimator = ClippedIdentity(clip_value)
        self.threshold_value = threshold_value
        self.ternary_weight_networks = ternary_weight_networks
        self.clip_value = clip_value

    def call(self, inputs):
        def ternarize(x):
            threshold = self.threshold_value
            if self.ternary_weight_networks:
                threshold = ops.cast(0.7 * mean(ops.abs(x), "all"), x.dtype)
            return ops.cast(x >= threshold, x.dtype) - ops.cast(x <= -threshold, x.dtype)

        return surrogate(inputs, ternarize, self.estimator.derivative)


@register
class NoOp(Quantizer):
    """q(x) = x, dq/dx = 1: marks a weight that an optimizer such as Bop keeps at few bits.

    Args:
        precision: Positive integer, the bits per value that the weight has.

    Call arguments:
        inputs: A tensor of any shape.

    Raises:
        ValueError: If `precision` is not a positive integer.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import NoOp
        >>> keras.ops.convert_to_numpy(NoOp(precision=1)([-0.25])).tolist()
        [-0.25]

    Reference:
        Helwegen et al., Latent Weights Do Not Exist (NeurIPS 2019).
    """

    def __init__(self, precision: int, **kwargs):
        super().__init__(**kwargs)
        if type(precision) is not int or precision < 1:
            raise ValueError(
                f"`precision` must be a positive integer. Received: precision={precision!r}"
            )
        self.precision = precision

    def call(self, inputs):
        return inputs


NoOpQuantizer = NoOp


def _heaviside(x):
    return ops.cast(x > 0, x.dtype)


@register
def ste_heaviside(x, clip_value: float | None = 1.0):
    """`SteHeaviside` as a function of a tensor."""
    return surrogate(x, _heaviside, ClippedIdentity(clip_value).derivative)


@register
def ste_tern(
    x,
    threshold_value: float = 0.05,
    ternary_weight_networks: bool = False,
    clip_value: float | None = 1.0,
):
    """`SteTern` as a function of a tensor."""
    return SteTern(threshold_value, ternary_weight_networks, clip_value).call(x)
