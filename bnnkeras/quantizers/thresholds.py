"""Thresholds: the value that a `Binarizer` compares its input with."""

import keras
from keras import ops

from bnnkeras.quantizers.parts import Part
from bnnkeras.quantizers.reductions import checked_axes, count, mean, resolve_axes, wide
from bnnkeras.registration import register


class Threshold(Part):
    """Base class: calling it on `x` computes t(x), which broadcasts against `x`."""

    def __call__(self, x):
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(x)`.")

    def centre(self, x):
        """What the sign is taken of: x - t(x), with the dtype of x."""
        return x - ops.cast(self(x), x.dtype)

    def embed(self, x):
        """What a layer adds to the products of its quantized inputs x; `None` for nothing."""
        return None

    def macs(self, channels: int) -> int:
        """Multiply-accumulates of the part's own matrices, for one sample of so many channels."""
        return 0


@register
class LearnedThreshold(Threshold):
    """One trained threshold per channel (last axis). It is static.

    Args:
        initializer: A Keras initializer or its name. Defaults to `"zeros"`.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(quantizers.LearnedThreshold("ones"))
        >>> keras.ops.convert_to_numpy(quantizer([[0.5, 1.5]])).tolist()
        [[-1.0, 1.0]]

    Reference:
        Liu et al., ReActNet (ECCV 2020), section 4.2 (RSign).
    """

    static = True

    def __init__(self, initializer="zeros"):
        self.initializer = keras.initializers.get(initializer)

    def build(self, binarizer, input_shape) -> None:
        self.value = binarizer.add_weight(
            name="threshold", shape=(input_shape[-1],), initializer=self.initializer
        )

    def __call__(self, x):
        return ops.cast(self.value, x.dtype)


@register
class MeanThreshold(Threshold):
    """t = mean of x, through which the gradient flows: x - t is centred.

    Args:
        axes: What the mean is over: `"kernel"` (all axes but the last: one mean per output
            channel), `"all"`, `"spatial"` (all but the first and last) or a tuple of integers.
            Defaults to `"kernel"`.

    Raises:
        ValueError: If `axes` is no such thing.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(quantizers.MeanThreshold())
        >>> keras.ops.convert_to_numpy(quantizer([[1.0], [2.0], [6.0]])).tolist()
        [[-1.0], [-1.0], [1.0]]

    Reference:
        Rastegari et al., XNOR-Net (ECCV 2016), released code; Qin et al., BiPointNet (ICLR 2021),
        released code (`"all"`).
    """

    def __init__(self, axes="kernel"):
        self.axes = checked_axes(axes)

    def __call__(self, x):
        return mean(x, self.axes)


@register
class Standardization(Threshold):
    """t = mean of x, and x - t is divided by the standard deviation; both pass the gradient.

    h = (x - mean) / sqrt(sum (x - mean)^2 / (n - 1)). The sign of h is that of x - t; estimator and
    scale see h. Where all n values are equal, h is 0 (the released code gives NaN).

    Args:
        axes: As for `MeanThreshold`. Defaults to `"kernel"`.

    Raises:
        ValueError: If `axes` is no such thing; when built, if there is one value to a mean.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(quantizers.Standardization())
        >>> keras.ops.convert_to_numpy(quantizer([[1.0], [2.0], [6.0]])).tolist()
        [[-1.0], [-1.0], [1.0]]

    Reference:
        Qin et al., IR-Net (CVPR 2020), section 3.2.
    """

    def __init__(self, axes="kernel"):
        self.axes = checked_axes(axes)

    def build(self, binarizer, input_shape) -> None:
        number = count(input_shape, self.axes)
        if number < 2:
            raise ValueError(
                "A standard deviation needs at least two values. "
                f"Received: {number} over axes={self.axes!r} of shape {tuple(input_shape)}"
            )

    def __call__(self, x):
        return mean(x, self.axes)

    def centre(self, x):
        values = wide(x)
        centred = values - mean(values, self.axes)
        number = count(x.shape, self.axes)
        variance = mean(ops.square(centred), self.axes) * (number / (number - 1))
        # Without the 1 the gradient of the root would be infinite, and NaN times 0.
        deviation = ops.sqrt(ops.where(variance > 0, variance, ops.ones_like(variance)))
        return ops.cast(centred / deviation, x.dtype)


@register
class AdaptiveThreshold(Threshold):
    """t = k mean(x) + b per channel and sample, k and b trained; the mean takes no gradient.

    Args:
        axes: What the mean is over. Defaults to `"spatial"`: all axes but the first and the last.
        initializer: Of k. Defaults to a normal distribution of deviation 1e-3. (b starts at 0.)

    Raises:
        ValueError: If `axes` is no such thing; when built, if the input has no such axes.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(quantizers.AdaptiveThreshold(initializer="ones"))
        >>> keras.ops.convert_to_numpy(quantizer([[[1.0], [2.0], [6.0]]])).tolist()
        [[[-1.0], [-1.0], [1.0]]]

    Reference:
        Yin et al., BiDense (2024), released code (DAB).
    """

    def __init__(self, axes="spatial", initializer=None):
        self.axes = checked_axes(axes)
        self.initializer = keras.initializers.get(initializer or small_normal())

    def build(self, binarizer, input_shape) -> None:
        needs_reduction(self, input_shape)
        shape = (input_shape[-1],)
        self.k = binarizer.add_weight(name="k", shape=shape, initializer=self.initializer)
        self.b = binarizer.add_weight(name="b", shape=shape, initializer="zeros")

    def __call__(self, x):
        average = ops.stop_gradient(mean(x, self.axes))
        k, b = (ops.cast(variable, average.dtype) for variable in (self.k, self.b))
        return k * average + b


@register
class ContextualThreshold(Threshold):
    """t = W2 W1 g + b, g = mean of x over the spatial axes: a threshold from the global context.

    W1 reduces the C channels to C / ratio, W2 maps them back; b is a trained threshold per channel.
    With an embedding, the same context reaches the outputs too: a layer with this input quantizer
    adds W3 W1 g to its products, before its bias. All pass the gradient, g included. W2 and W3
    start at 0, so that t starts as a `LearnedThreshold`.

    The code of it was never released; figure 4 of the paper leaves open what `ratio` is (4 agrees
    with the costs that the paper reports) and draws neither an activation nor biases of the
    matrices. b keeps the threshold of BCDNet-A, whose weights fit.

    Args:
        ratio: Positive integer, the reduction of the channels. Defaults to 4.
        activation: Of W1 g: a Keras activation or its name, or `None`. Defaults to `None`.
        initializer: Of b. Defaults to `"zeros"`.
        embedding: The number of output channels of the layer, for an embedding in its outputs;
            `None` (default) for none.

    Raises:
        ValueError: If `ratio` or `embedding` is not a positive integer; when built, without spatial
            axes.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(quantizers.ContextualThreshold())
        >>> keras.ops.convert_to_numpy(quantizer([[[1.0], [-2.0], [6.0]]])).tolist()
        [[[1.0], [-1.0], [1.0]]]

    Reference:
        Xing et al., BCDNet (ECCV 2022), figure 4.
    """

    def __init__(
        self,
        ratio: int = 4,
        activation=None,
        initializer="zeros",
        embedding: int | None = None,
    ):
        if type(ratio) is not int or ratio < 1:
            raise ValueError(f"`ratio` must be a positive integer. Received: ratio={ratio!r}")
        if embedding is not None and (type(embedding) is not int or embedding < 1):
            raise ValueError(
                f"`embedding` must be a positive integer or None. Received: embedding={embedding!r}"
            )
        self.ratio = ratio
        self.embedding = embedding
        self.activation = keras.activations.get(activation)
        self.initializer = keras.initializers.get(initializer)

    def build(self, binarizer, input_shape) -> None:
        needs_reduction(self, input_shape, "spatial")
        channels = input_shape[-1]
        reduced = self._reduced(channels)
        # The uniform distribution of PyTorch's linear layers: limits +-1 / sqrt(channels).
        uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        self.reduction = binarizer.add_weight(
            name="context", shape=(channels, reduced), initializer=uniform
        )
        self.expansion = binarizer.add_weight(
            name="context_threshold", shape=(reduced, channels), initializer="zeros"
        )
        self.value = binarizer.add_weight(
            name="threshold", shape=(channels,), initializer=self.initializer
        )
        if self.embedding is not None:
            self.output_expansion = binarizer.add_weight(
                name="context_embedding", shape=(reduced, self.embedding), initializer="zeros"
            )

    def context(self, x):
        """W1 g: one vector of C / ratio values per sample, `(batch, 1, ..., 1, C / ratio)`."""
        average = mean(x, "spatial")
        return self.activation(ops.matmul(average, ops.cast(self.reduction, average.dtype)))

    def __call__(self, x):
        context = self.context(x)
        dynamic = ops.matmul(context, ops.cast(self.expansion, context.dtype))
        return dynamic + ops.cast(self.value, context.dtype)

    def macs(self, channels):
        return self._reduced(channels) * (2 * channels + (self.embedding or 0))

    def _reduced(self, channels):
        return max(1, channels // self.ratio)

    def embed(self, x):
        if self.embedding is None:
            return None
        context = self.context(x)
        return ops.matmul(context, ops.cast(self.output_expansion, context.dtype))

    def get_config(self) -> dict:
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


def small_normal():
    return keras.initializers.RandomNormal(stddev=1e-3)


def needs_reduction(part, input_shape, axes=None) -> None:
    """Raises a ValueError where there is nothing to average over."""
    axes = axes or part.axes
    if not resolve_axes(axes, len(input_shape)):
        raise ValueError(
            f"{type(part).__name__} averages over {axes!r} axes, of which this input has none. "
            f"Received: input_shape={tuple(input_shape)}"
        )
