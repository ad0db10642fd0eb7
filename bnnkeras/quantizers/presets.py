"""The named signs: fixed choices of threshold, scale and estimator that need no data.

Their string ids (`"ste_sign"`, ...) are what layers accept as `input_quantizer="ste_sign"`.
"""

from bnnkeras.quantizers.base import Binarizer
from bnnkeras.quantizers.estimators import (
    ClippedIdentity,
    ErrorDecay,
    SwishDerivative,
    Triangle,
)
from bnnkeras.quantizers.scales import MeanMagnitude
from bnnkeras.quantizers.signs import surrogate_sign
from bnnkeras.registration import register


@register
class SteSign(Binarizer):
    """q(x) = 1 if x >= 0 else -1, with dq/dx := 1 if |x| <= clip_value else 0.

    Args:
        clip_value: Positive float, or `None` to let every gradient pass. Defaults to 1.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import SteSign
        >>> keras.ops.convert_to_numpy(SteSign()([-0.3, 0.0, 2.0])).tolist()
        [-1.0, 1.0, 1.0]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.3.
    """

    def __init__(self, clip_value: float | None = 1.0, sign_of_zero: int = 1, **kwargs):
        super().__init__(estimator=ClippedIdentity(clip_value), sign_of_zero=sign_of_zero, **kwargs)
        self.clip_value = clip_value


@register
class ApproxSign(Binarizer):
    """q(x) = 1 if x >= 0 else -1, with dq/dx := 2 - 2 |x| if |x| <= 1 else 0.

    Args:
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Raises:
        ValueError: If `sign_of_zero` is neither 0 nor 1.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import ApproxSign
        >>> keras.ops.convert_to_numpy(ApproxSign(sign_of_zero=0)([-0.3, 0.0])).tolist()
        [-1.0, 0.0]

    Reference:
        Liu et al., Bi-Real Net (ECCV 2018), section 3.3.
    """

    def __init__(self, sign_of_zero: int = 1, **kwargs):
        super().__init__(estimator=Triangle(), sign_of_zero=sign_of_zero, **kwargs)


@register
class SwishSign(Binarizer):
    """q(x) = 1 if x >= 0 else -1, with the derivative of SignSwish.

    dq/dx := beta (2 - z tanh(z / 2)) / (1 + cosh z), z = beta |x|; 0 at infinity.

    Args:
        beta: Positive float, the steepness. Defaults to 5.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import SwishSign
        >>> keras.ops.convert_to_numpy(SwishSign(beta=10)([-0.3, 0.0])).tolist()
        [-1.0, 1.0]

    Reference:
        Darabi et al., BNN+ (2018), section 3.2.
    """

    def __init__(self, beta: float = 5.0, sign_of_zero: int = 1, **kwargs):
        super().__init__(estimator=SwishDerivative(beta), sign_of_zero=sign_of_zero, **kwargs)
        self.beta = beta


@register
class MagnitudeAwareSign(Binarizer):
    """q(x) = s sign(x), s = mean |x| per output channel; dq/dx := s (or 1) if |x| <= clip_value.

    s takes no gradient. `scale_gradient=True` multiplies the derivative by s (the paper, Larq);
    `scale_gradient=False` does not (the released Bi-Real Net).

    Args:
        clip_value: Positive float, or `None` to let every gradient pass. Defaults to 1.
        scale_gradient: Whether the derivative is multiplied by s. Defaults to `True`.
        sign_of_zero: 1 (default) or 0.
        axes: What the mean is over, as for `MeanMagnitude`: `"kernel"` (default), `"all"` or a
            tuple, such as `(0, 1)` for a depthwise kernel and `(0, 1, 3)` for a transposed one.

    Call arguments:
        inputs: A kernel with its output channels last.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import MagnitudeAwareSign
        >>> keras.ops.convert_to_numpy(MagnitudeAwareSign()([[1.0], [-3.0]])).tolist()
        [[2.0], [-2.0]]

    Reference:
        Liu et al., Bi-Real Net (ECCV 2018), section 3.3.
    """

    def __init__(
        self,
        clip_value: float | None = 1.0,
        scale_gradient: bool = True,
        sign_of_zero: int = 1,
        axes="kernel",
        **kwargs,
    ):
        super().__init__(
            scale=MeanMagnitude(axes),
            estimator=ClippedIdentity(clip_value),
            scale_gradient=scale_gradient,
            sign_of_zero=sign_of_zero,
            **kwargs,
        )
        self.clip_value = clip_value
        self.axes = self.scale.axes


@register
class EDESign(Binarizer):
    """q(x) = 1 if x >= 0 else -1, with dq/dx := k t (1 - tanh(t x)^2), the error decay estimator.

    k and t are state that `bnnkeras.callbacks.EDESchedule` sets at each epoch.

    Args:
        k: Positive float. Defaults to 10, the released code's value without a schedule.
        t: Positive float. Defaults to 0.1.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import EDESign
        >>> keras.ops.convert_to_numpy(EDESign(k=1, t=2)([-0.3, 0.0])).tolist()
        [-1.0, 1.0]

    Reference:
        Qin et al., IR-Net (CVPR 2020), section 3.3.
    """

    def __init__(self, k: float = 10.0, t: float = 0.1, sign_of_zero: int = 1, **kwargs):
        super().__init__(estimator=ErrorDecay(k, t), sign_of_zero=sign_of_zero, **kwargs)
        self.k = k
        self.t = t


@register
def ste_sign(x, clip_value: float | None = 1.0):
    """`SteSign` as a function of a tensor."""
    return surrogate_sign(x, ClippedIdentity(clip_value))


@register
def approx_sign(x):
    """`ApproxSign` as a function of a tensor."""
    return surrogate_sign(x, Triangle())


@register
def swish_sign(x, beta: float = 5.0):
    """`SwishSign` as a function of a tensor."""
    return surrogate_sign(x, SwishDerivative(beta))
