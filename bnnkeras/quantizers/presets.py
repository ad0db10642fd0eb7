"""The named quantizers: fixed choices of threshold, scale and estimator.

Their string ids (`"ste_sign"`, ...) are what layers accept as `input_quantizer="ste_sign"`.
"""

from bnnkeras.quantizers.base import Binarizer, Quantizer, surrogate_sign
from bnnkeras.quantizers.estimators import ClippedIdentity, Triangle
from bnnkeras.quantizers.scales import MeanMagnitude
from bnnkeras.registration import register


@register
class SteSign(Binarizer):
    """q(x) = 1 if x >= 0 else -1, with dq/dx := 1 if |x| <= clip_value else 0.

    Args:
        clip_value: Positive float, or `None` to let every gradient pass. Defaults to 1.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.quantizers import SteSign
        >>> keras.ops.convert_to_numpy(SteSign()(np.array([-0.3, 0.0, 2.0]))).tolist()
        [-1.0, 1.0, 1.0]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.3.
    """

    def __init__(self, clip_value: float | None = 1.0, sign_of_zero: int = 1, **kwargs):
        super().__init__(estimator=ClippedIdentity(clip_value), sign_of_zero=sign_of_zero, **kwargs)
        self.clip_value = clip_value

    def get_config(self) -> dict:
        return {
            **Quantizer.get_config(self),
            "clip_value": self.clip_value,
            "sign_of_zero": self.sign_of_zero,
        }


@register
class ApproxSign(Binarizer):
    """q(x) = 1 if x >= 0 else -1, with dq/dx := 2 - 2 |x| if |x| <= 1 else 0.

    Args:
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.quantizers import ApproxSign
        >>> x = np.array([-0.3, 0.0])
        >>> keras.ops.convert_to_numpy(ApproxSign(sign_of_zero=0)(x)).tolist()
        [-1.0, 0.0]

    Reference:
        Liu et al., Bi-Real Net (ECCV 2018), section 3.3.
    """

    def __init__(self, sign_of_zero: int = 1, **kwargs):
        super().__init__(estimator=Triangle(), sign_of_zero=sign_of_zero, **kwargs)

    def get_config(self) -> dict:
        return {**Quantizer.get_config(self), "sign_of_zero": self.sign_of_zero}


@register
class MagnitudeAwareSign(Binarizer):
    """q(x) = s sign(x), s = mean |x| per output channel; dq/dx := s (or 1) if |x| <= clip_value.

    s takes no gradient. `scale_gradient=True` multiplies the derivative by s (the paper, Larq);
    `scale_gradient=False` does not (the released Bi-Real Net).

    Args:
        clip_value: Positive float, or `None` to let every gradient pass. Defaults to 1.
        scale_gradient: Whether the derivative is multiplied by s. Defaults to `True`.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A kernel with its output channels last.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.quantizers import MagnitudeAwareSign
        >>> kernel = np.array([[1.0], [-3.0]])
        >>> keras.ops.convert_to_numpy(MagnitudeAwareSign()(kernel)).tolist()
        [[2.0], [-2.0]]

    Reference:
        Liu et al., Bi-Real Net (ECCV 2018), section 3.3.
    """

    def __init__(
        self,
        clip_value: float | None = 1.0,
        scale_gradient: bool = True,
        sign_of_zero: int = 1,
        **kwargs,
    ):
        super().__init__(
            scale=MeanMagnitude(),
            estimator=ClippedIdentity(clip_value),
            scale_gradient=scale_gradient,
            sign_of_zero=sign_of_zero,
            **kwargs,
        )
        self.clip_value = clip_value

    def get_config(self) -> dict:
        return {
            **Quantizer.get_config(self),
            "clip_value": self.clip_value,
            "scale_gradient": self.scale_gradient,
            "sign_of_zero": self.sign_of_zero,
        }


@register
def ste_sign(x, clip_value: float | None = 1.0):
    """`SteSign` as a function of a tensor."""
    return surrogate_sign(x, ClippedIdentity(clip_value))


@register
def approx_sign(x):
    """`ApproxSign` as a function of a tensor."""
    return surrogate_sign(x, Triangle())
