"""The binarizers of published systems: learned, data-adaptive and recovered parts."""

from bnnkeras.quantizers.base import Binarizer
from bnnkeras.quantizers.estimators import ClippedIdentity, ErrorDecay, Triangle
from bnnkeras.quantizers.reductions import checked_axes
from bnnkeras.quantizers.scales import (
    ExponentialMagnitude,
    LayerwiseScale,
    LearnedMagnitude,
    MeanMagnitude,
    PowerOfTwoMagnitude,
)
from bnnkeras.quantizers.thresholds import (
    AdaptiveThreshold,
    ContextualThreshold,
    LearnedThreshold,
    MeanThreshold,
    Standardization,
)
from bnnkeras.registration import register


@register
class RSign(Binarizer):
    """q(x) = sign(x - t), t trained per channel; dq/dx := 2 - 2 |x - t| if |x - t| <= 1 else 0.

    Args:
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A floating-point tensor, `(batch, ..., channels)`.

    Raises:
        ValueError: If `sign_of_zero` is neither 0 nor 1.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import RSign
        >>> keras.ops.convert_to_numpy(RSign()([[-0.3, 2.0]])).tolist()
        [[-1.0, 1.0]]

    Reference:
        Liu et al., ReActNet (ECCV 2020), section 4.2.
    """

    def __init__(self, sign_of_zero: int = 1, **kwargs):
        super().__init__(LearnedThreshold(), None, Triangle(), sign_of_zero=sign_of_zero, **kwargs)


@register
class ContextualSign(Binarizer):
    """q(x) = sign(x - t(x)), t(x) = W2 W1 mean(x) + b; dq/dx := 2 - 2 |x - t| if |x - t| <= 1.

    The mean is over the spatial axes; it passes the gradient too. W2 and b start at 0.

    Args:
        ratio: Positive integer, by which W1 reduces the channels. Defaults to 4.
        activation: Of W1 mean(x): a Keras activation or its name, or `None` (default).
        embedding: The number of output channels of the layer, which then adds W3 W1 mean(x) to its
            products, W3 starting at 0; `None` (default) for no embedding.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: `(batch, height, width, channels)`, or with any other number of spatial axes.

    Raises:
        ValueError: If an argument is out of its range, or there is no spatial axis.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.quantizers import ContextualSign
        >>> tuple(ContextualSign()(np.ones((1, 4, 4, 8), "float32")).shape)
        (1, 4, 4, 8)

    Reference:
        Xing et al., BCDNet (ECCV 2022), figure 4.
    """

    def __init__(
        self,
        ratio: int = 4,
        activation=None,
        embedding: int | None = None,
        sign_of_zero: int = 1,
        **kwargs,
    ):
        super().__init__(
            ContextualThreshold(ratio, activation, embedding=embedding),
            None,
            Triangle(),
            sign_of_zero=sign_of_zero,
            **kwargs,
        )
        self.ratio = ratio
        self.activation = self.threshold.get_config()["activation"]
        self.embedding = embedding


@register
class DAB(Binarizer):
    """The distribution-adaptive binarizer: q(x) = exp(a (mean |u| - offset)) sign(u).

    u = x - k mean(x) - b. The means are over the spatial axes, per sample and channel, and take no
    gradient; a, k and b are trained per channel. dq/dx := s (2 - 2 |u|) if |u| <= 1 else 0.

    Args:
        per_layer: Whether the scale is the mean over the channels: one per sample, which commutes
            with the convolution that follows, so that LCE can run it. Defaults to `False` (the
            published form: one per sample and channel).
        offset: Float. Defaults to 1; the released code's 1-D form has 0.
        axes: What the means are over. Defaults to `"spatial"`: all axes but the first and last.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: `(batch, height, width, channels)` or `(batch, tokens, channels)`.

    Raises:
        ValueError: If an argument is out of its range, or there is no axis to average over.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.quantizers import DAB
        >>> tuple(DAB()(np.ones((1, 4, 4, 8), "float32")).shape)
        (1, 4, 4, 8)

    Reference:
        Yin et al., BiDense (2024), released code.
    """

    def __init__(
        self,
        per_layer: bool = False,
        offset: float = 1.0,
        axes="spatial",
        sign_of_zero: int = 1,
        **kwargs,
    ):
        super().__init__(
            AdaptiveThreshold(axes),
            ExponentialMagnitude(axes, per_layer, offset),
            Triangle(),
            sign_of_zero=sign_of_zero,
            **kwargs,
        )
        self.per_layer = per_layer
        self.offset = offset
        self.axes = self.scale.axes


@register
class LibraKernel(Binarizer):
    """q(W) = 2^round(log2 mean |h|) sign(h), h = (W - mean) / deviation per output channel.

    dq/dh := q's scale times k t (1 - tanh(t h)^2), and from h to W the full gradient; the scale
    takes none. A constant filter gives h = 0 and the scale 1.

    Args:
        k: Positive float, of the error decay estimator. Defaults to 10.
        t: Positive float, of the error decay estimator. Defaults to 0.1.
        axes: What mean and deviation are over. Defaults to `"kernel"`: all axes but the last.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A kernel with its output channels last, of at least two values per channel.

    Raises:
        ValueError: If an argument is out of its range, or a filter has one value only.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import LibraKernel
        >>> keras.ops.convert_to_numpy(LibraKernel()([[1.0], [2.0], [6.0]])).tolist()
        [[-1.0], [-1.0], [1.0]]

    Reference:
        Qin et al., IR-Net (CVPR 2020), section 3.2.
    """

    def __init__(
        self, k: float = 10.0, t: float = 0.1, axes="kernel", sign_of_zero: int = 1, **kwargs
    ):
        super().__init__(
            Standardization(axes),
            PowerOfTwoMagnitude(axes),
            ErrorDecay(k, t),
            sign_of_zero=sign_of_zero,
            **kwargs,
        )
        self.k = k
        self.t = t
        self.axes = self.scale.axes


@register
class LSRKernel(Binarizer):
    """Layer-wise scale recovery: q(W) = alpha sign(V), V = W - mean of all W, alpha trained.

    dq/dV := alpha if |V| <= 1 else 0, and the mean passes the gradient. alpha is one scalar per
    layer that the first training call sets, inside `fit` on every backend: to
    std(x * V) / std(q(x) * sign(V)) for the layer's product * and first batch x. Before that, and
    where there is no such ratio, it is std(V) / std(sign(V)). `quantizer.scale.assign(alpha)` takes
    it from a checkpoint instead.

    Args:
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A kernel.

    Raises:
        ValueError: If `sign_of_zero` is neither 0 nor 1.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import LSRKernel
        >>> keras.ops.convert_to_numpy(LSRKernel()([[2.0], [-4.0]])).tolist()
        [[3.0], [-3.0]]

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 3.3.
    """

    def __init__(self, sign_of_zero: int = 1, **kwargs):
        super().__init__(
            MeanThreshold("all"), LayerwiseScale(), sign_of_zero=sign_of_zero, **kwargs
        )


@register
class XNORKernel(Binarizer):
    """q(W) = mean |V| sign(V), V = W - mean of W, both means per output channel.

    dq/dV := mean |V| if |V| <= 1 else 0; the mean of W passes the gradient, mean |V| does not.

    Args:
        axes: What the scale's mean is over. Defaults to `"kernel"`: all axes but the last.
        centre_axes: What the mean of W is over. Defaults to `"kernel"`.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A kernel with its output channels last.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import XNORKernel
        >>> keras.ops.convert_to_numpy(XNORKernel()([[2.0], [-4.0]])).tolist()
        [[3.0], [-3.0]]

    Reference:
        Rastegari et al., XNOR-Net (ECCV 2016), section 3.1, with the centring of its released code.
    """

    def __init__(self, axes="kernel", centre_axes="kernel", sign_of_zero: int = 1, **kwargs):
        super().__init__(
            MeanThreshold(centre_axes),
            MeanMagnitude(axes, of_centred=True),
            sign_of_zero=sign_of_zero,
            **kwargs,
        )
        self.axes = self.scale.axes
        self.centre_axes = self.threshold.axes


@register
class XNORInput(Binarizer):
    """q(x) = mean |x| sign(x), one scale per position; dq/dx := mean |x| if |x| <= 1 else 0.

    The mean takes no gradient.

    Args:
        axes: What the mean is over: `(-1,)`, the channels (default), or as for `MeanMagnitude`.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A floating-point tensor, `(batch, ..., channels)`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import XNORInput
        >>> keras.ops.convert_to_numpy(XNORInput()([[2.0, -4.0]])).tolist()
        [[3.0, -3.0]]

    Reference:
        Rastegari et al., XNOR-Net (ECCV 2016), section 3.2, as released with BiPointNet.
    """

    def __init__(self, axes=(-1,), sign_of_zero: int = 1, **kwargs):
        super().__init__(scale=MeanMagnitude(axes), sign_of_zero=sign_of_zero, **kwargs)
        self.axes = checked_axes(axes)


@register
class BiViTKernel(Binarizer):
    """q(W) = s sign(V), V = W - mean of W per output channel; s per output channel.

    dq/dV := s if |V| < 1 else 0; the mean passes the gradient.

    Args:
        learned_scale: Whether s is trained, starting at mean |W| at the first training call
            (default), or is mean |W| without a gradient.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: A kernel with its output channels last.

    Raises:
        ValueError: If `sign_of_zero` is neither 0 nor 1.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import BiViTKernel
        >>> keras.ops.convert_to_numpy(BiViTKernel()([[2.0], [-4.0]])).tolist()
        [[3.0], [-3.0]]

    Reference:
        He et al., BiViT (ICCV 2023), released code, as used by BiDense.
    """

    def __init__(self, learned_scale: bool = True, sign_of_zero: int = 1, **kwargs):
        super().__init__(
            MeanThreshold("kernel"),
            LearnedMagnitude() if learned_scale else MeanMagnitude(),
            ClippedIdentity(1.0, inclusive=False),
            sign_of_zero=sign_of_zero,
            **kwargs,
        )
        self.learned_scale = learned_scale
