"""Scales: the magnitude that a `Binarizer` gives back to its signs."""

import math

import keras
from keras import ops

from bnnkeras.quantizers.parts import Part
from bnnkeras.quantizers.reductions import checked_axes, mean
from bnnkeras.quantizers.signs import sign
from bnnkeras.quantizers.starts import StartedValue, deviation, moments
from bnnkeras.quantizers.thresholds import needs_reduction, small_normal
from bnnkeras.registration import register


class Scale(Part):
    """Base class: calling it on `x` computes s(x), which broadcasts against `x`.

    s may be wider than x (float32 for float16); the binarizer casts it.

    Attributes:
        of_centred: Whether the binarizer passes x - t(x) instead of x.
        uses_products: Whether `observe` wants the `Products` of the layer.
    """

    of_centred = False
    uses_products = False

    def __call__(self, x):
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(x)`.")


@register
class MeanMagnitude(Scale):
    """s = mean |x|, without a gradient.

    Args:
        axes: What the mean is over: `"kernel"` (all axes but the last: one scale per output
            channel), `"all"` (one scale), `"spatial"` (all but the first and last) or a tuple of
            integers, such as `(-1,)` for one scale per position. Defaults to `"kernel"`.
        of_centred: Whether it is the mean of |x - t(x)|. Defaults to `False`.

    Call arguments:
        x: For `"kernel"`, a kernel with its output channels last: `(height, width, in, out)` or
            `(in, out)`. A tensor of rank 1 has nothing to average over: s = |x|, as in Larq.

    Raises:
        ValueError: If `axes` is no such thing.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(scale=quantizers.MeanMagnitude())
        >>> keras.ops.convert_to_numpy(quantizer([[1.0], [-3.0]])).tolist()
        [[2.0], [-2.0]]

    Reference:
        Rastegari et al., XNOR-Net (ECCV 2016), section 3.1; Liu et al., Bi-Real Net (ECCV 2018),
        section 3.3.
    """

    def __init__(self, axes="kernel", of_centred: bool = False):
        self.axes = checked_axes(axes)
        self.of_centred = of_centred

    def __call__(self, x):
        return mean(ops.stop_gradient(ops.abs(x)), self.axes)


@register
class PowerOfTwoMagnitude(Scale):
    """s = 2^round(log2 mean |x - t(x)|), a shift of bits, without a gradient.

    Where the mean is 0, s is 1.

    Args:
        axes: As for `MeanMagnitude`. Defaults to `"kernel"`.

    Raises:
        ValueError: If `axes` is no such thing.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(scale=quantizers.PowerOfTwoMagnitude())
        >>> keras.ops.convert_to_numpy(quantizer([[1.25], [-3.0]])).tolist()
        [[2.0], [-2.0]]

    Reference:
        Qin et al., IR-Net (CVPR 2020), section 3.2.
    """

    of_centred = True

    def __init__(self, axes="kernel"):
        self.axes = checked_axes(axes)

    def __call__(self, x):
        magnitude = mean(ops.stop_gradient(ops.abs(x)), self.axes)
        magnitude = ops.where(magnitude > 0, magnitude, ops.ones_like(magnitude))
        exponent = ops.round(ops.log(magnitude) / math.log(2))
        return ops.power(ops.full_like(exponent, 2), exponent)


@register
class ExponentialMagnitude(Scale):
    """s = exp(a (mean |x - t(x)| - offset)), a trained per channel; the mean takes no gradient.

    The exponent is bounded, so that s is finite in the dtype of x.

    Args:
        axes: What the mean is over. Defaults to `"spatial"`: all axes but the first and the last.
        per_layer: Whether s is the mean over the channels, one scale per sample: a scale that can
            follow a binary convolution instead of preceding it. Defaults to `False`.
        offset: Float. Defaults to 1. (0 in the released code's 1-D form.)
        initializer: Of a. Defaults to a normal distribution of deviation 1e-3.

    Raises:
        ValueError: If `axes` is no such thing; when built, if the input has no such axes.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> scale = quantizers.ExponentialMagnitude(initializer="zeros")
        >>> quantizer = quantizers.Binarizer(scale=scale)
        >>> keras.ops.convert_to_numpy(quantizer([[[1.0], [-2.0]]])).tolist()
        [[[1.0], [-1.0]]]

    Reference:
        Yin et al., BiDense (2024), released code (DAB).
    """

    of_centred = True

    def __init__(self, axes="spatial", per_layer=False, offset: float = 1.0, initializer=None):
        self.axes = checked_axes(axes)
        self.per_layer = per_layer
        self.offset = offset
        self.initializer = keras.initializers.get(initializer or small_normal())

    def build(self, binarizer, input_shape) -> None:
        needs_reduction(self, input_shape)
        self.alpha = binarizer.add_weight(
            name="alpha", shape=(input_shape[-1],), initializer=self.initializer
        )

    def __call__(self, x):
        magnitude = ops.stop_gradient(mean(ops.abs(x), self.axes))
        exponent = ops.cast(self.alpha, magnitude.dtype) * (magnitude - self.offset)
        # exp(11) and exp(88) are the largest powers below the ends of float16 and float32.
        half = keras.backend.standardize_dtype(x.dtype) == "float16"
        scale = ops.exp(ops.minimum(exponent, 11.0 if half else 88.0))
        return mean(scale, (-1,)) if self.per_layer else scale


@register
class LearnedMagnitude(Scale):
    """One trained scale per output channel (last axis), which starts at mean |x|.

    The mean is that of the first training call; an earlier call takes its own.

    Call arguments:
        x: A kernel with its output channels last.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(scale=quantizers.LearnedMagnitude())
        >>> keras.ops.convert_to_numpy(quantizer([[1.0], [-3.0]])).tolist()
        [[2.0], [-2.0]]

    Reference:
        He et al., BiViT (ICCV 2023), released code, as used by BiDense.
    """

    static = True

    def build(self, binarizer, input_shape) -> None:
        self.value = StartedValue(binarizer, "scale", (input_shape[-1],))

    def observe(self, x, products) -> None:
        def statistics():
            magnitude = _mean_magnitude(x)
            return ops.concatenate([magnitude, ops.ones((1,), magnitude.dtype)])

        # Replicas have the same kernel: the last sum is their number.
        size = x.shape[-1] + 1
        self.value.observe(size, statistics, lambda sums: sums[:-1] / ops.maximum(sums[-1], 1))

    def __call__(self, x):
        return ops.reshape(self.value.value(_mean_magnitude(x)), (1,) * (len(x.shape) - 1) + (-1,))

    def assign(self, value) -> None:
        """Sets the scales, for example from a checkpoint. All 0 means: start from the kernel."""
        self.value.assign(value)


def _mean_magnitude(x):
    return ops.reshape(mean(ops.abs(x), "kernel"), (-1,))


@register
class LayerwiseScale(Scale):
    """One trained scale per layer that starts where the products have the real products' spread.

    s starts at std(x * V) / std(q(x) * sign(V)), V = W - t(W), with * the product of the layer,
    over the first training batch: the standard deviation that binarizing takes from the outputs is
    given back. Where there is no such ratio (constant products, no layer, or no training call yet)
    it is std(V) / std(sign(V)).

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(scale=quantizers.LayerwiseScale())
        >>> keras.ops.convert_to_numpy(quantizer([[2.0], [-4.0]])).tolist()
        [[3.0], [-3.0]]

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 3.3.
    """

    of_centred = True
    uses_products = True
    static = True

    def build(self, binarizer, input_shape) -> None:
        self.sign_of_zero = binarizer.sign_of_zero
        self.value = StartedValue(binarizer, "scale")

    def observe(self, x, products) -> None:
        def statistics():
            kernel = ops.stop_gradient(x)
            signs = sign(kernel, self.sign_of_zero)
            pairs = [(kernel, signs)]
            if products is not None:
                pairs.append((products.real(kernel), products.quantized(signs)))
            return ops.concatenate([moments(tensor) for pair in pairs for tensor in pair])

        def start(sums):
            fallback = _spread(sums[:8])
            if products is None:
                return fallback
            ratio = _ratio(sums[8:])
            return ops.where(ratio > 0, ratio, fallback)

        self.value.observe(8 if products is None else 16, statistics, start)

    def __call__(self, x):
        x = ops.stop_gradient(x)
        signs = sign(x, self.sign_of_zero)
        return self.value.value(_spread(ops.concatenate([moments(x), moments(signs)])))

    def assign(self, value) -> None:
        """Sets the scale, for example from a checkpoint. 0 means: start from data."""
        self.value.assign(value)


def _ratio(sums):
    """The quotient of two standard deviations, 0 where it has no value."""
    above, below = deviation(sums[:4]), deviation(sums[4:])
    return ops.where(below > 0, above / ops.where(below > 0, below, 1), 0)


def _spread(sums):
    ratio = _ratio(sums)
    return ops.where(ratio > 0, ratio, ops.ones_like(ratio))
