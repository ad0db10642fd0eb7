"""What the quantizers of a layer become: offsets, +-1 kernels, factors of the sums."""

import dataclasses

import keras
import numpy as np

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.layers import Centre, InputScale
from bnnkeras.quantizers import (
    AdaptiveThreshold,
    Binarizer,
    ContextualThreshold,
    ExponentialMagnitude,
    MeanMagnitude,
    NoOp,
    Threshold,
)
from bnnkeras.quantizers.reductions import resolve_axes


class CannotBeBinary(Exception):
    """A layer that the user built as binary has a form that LCE cannot run in 1 bit."""


@dataclasses.dataclass(frozen=True)
class Factor:
    """What the scale of the inputs leaves for the sums of products.

    Attributes:
        constant: A float.
        value: A symbolic tensor that broadcasts against the sums, or `None`.
        exact_zeros: Whether inputs that are exactly 0 must count as 0.
    """

    constant: float
    value: keras.KerasTensor | None
    exact_zeros: bool


def is_sign(quantizer) -> bool:
    """Whether a quantizer's values are -1 and +1 times a scale."""
    return isinstance(quantizer, Binarizer)


def kernel_parts(builder, layer, kernel: str, argument: str):
    """A kernel as exact +-1, and its scale, an array that broadcasts against it.

    Args:
        builder: The `Builder`, for its notes.
        layer: The quantized layer.
        kernel: Name of the kernel's attribute.
        argument: Name of its quantizer's attribute.

    Raises:
        CannotBeBinary: If its values are not -1 and +1 times a scale.
    """
    quantizer = getattr(layer, argument)
    weights = keras.ops.cast(getattr(layer, kernel), layer.variable_dtype)
    if isinstance(quantizer, NoOp):
        # An optimizer such as Bop keeps the kernel binary itself.
        weights = keras.ops.convert_to_numpy(weights)
        if not np.all(np.abs(weights) == 1):
            raise CannotBeBinary(
                "its kernel's quantizer is a NoOp and its values are not -1 and +1"
            )
        return weights, np.ones((1,) * weights.ndim)
    if not is_sign(quantizer):
        raise CannotBeBinary(
            f"its kernel's quantizer {type(quantizer).__name__} has other values than -1 and +1"
        )
    centred, scale = quantizer.components(weights)
    centred = keras.ops.convert_to_numpy(centred)
    zeros = int(np.count_nonzero(centred == 0)) if quantizer.sign_of_zero == 0 else 0
    if zeros:
        builder.note(layer, f"{zeros} kernel entries are exactly 0 and became +1")
    if scale is None:
        scale = np.ones((1,) * centred.ndim)
    else:
        scale = keras.ops.convert_to_numpy(scale).astype("float64")
        scale = scale.reshape((1,) * (centred.ndim - scale.ndim) + scale.shape)
    return np.where(centred >= 0, 1.0, -1.0), scale


def per_filter(scale, axis: int, filters: int):
    """A kernel's scale as one value per output channel, which is multiplied after the sum.

    Raises:
        CannotBeBinary: If the scale differs within the kernel of one output.
    """
    if scale.size == 1:
        return np.broadcast_to(scale.reshape(-1), (filters,))
    if scale.size != scale.shape[axis]:
        raise CannotBeBinary(
            f"its kernel's scale of shape {scale.shape} is not one per output channel"
        )
    return scale.reshape(-1)


def baked_kernel(layer, kernel: str, argument: str):
    """A quantized kernel as numbers, in its own dtype: a half float would have lost bits."""
    weights = keras.ops.cast(getattr(layer, kernel), layer.variable_dtype)
    quantizer = getattr(layer, argument)
    return keras.ops.convert_to_numpy(weights if quantizer is None else quantizer(weights))


def centred_input(builder, layer, x, quantizer):
    """x - t(x), whose sign the layer takes."""
    if quantizer.sign_of_zero == 0 and not builder.exact_zeros:
        builder.note(layer, "inputs that are exactly 0 become +1")
    threshold = quantizer.threshold
    if threshold is None:
        return x
    if threshold.static:
        value = threshold(keras.ops.zeros((1,) * (len(x.shape) - 1) + (x.shape[-1],)))
        value = _numbers(value).reshape(-1)
        return builder.offset(x, -np.broadcast_to(value, (x.shape[-1],)), layer.name)
    name = f"{layer.name}_threshold"
    if type(threshold) is AdaptiveThreshold:
        axes = _axes(threshold, x)
        average = builder.mean(x, axes, name)
        # -t = -k mean - b, in place of a subtraction behind it.
        minus = builder.affine(average, -_numbers(threshold.k), -_numbers(threshold.b), name)
        centred = builder.add(x, minus, name)
        builder.know_mean(centred, axes, builder.add(average, minus, f"{name}_centred"))
        return centred
    if type(threshold) is ContextualThreshold:
        context, of_context = _context(builder, threshold, x, name)
        expansion = _numbers(threshold.expansion)
        minus = builder.matrix(context, -expansion, name)
        x, constant = builder.carried(x)
        constant = (0.0 if constant is None else constant) - of_context @ expansion
        constant = constant - _numbers(threshold.value)
        return builder.add(x, builder.offset(minus, constant, name), name)
    return _computed_by(Centre, threshold, builder, layer, quantizer, x, name)


def _context(builder, threshold, x, name):
    """e and c with W1 mean(x) = e + c, e (batch, 1, ..., 1, C / ratio) and c a constant.

    Laid once for a threshold and its embedding. c is left to what follows: TensorFlow Lite merges
    matrices that an addition stands between.
    """

    def lay():
        tensor, constant = builder.carried(x)
        average = builder.mean(tensor, range(1, len(x.shape) - 1), name)
        if constant is not None and not is_linear:
            average = builder.offset(average, constant, name)
        reduction = _numbers(threshold.reduction)
        nothing = np.zeros(reduction.shape[-1])
        context = builder.matrix(average, reduction, f"{name}_context")
        if is_linear:
            return context, nothing if constant is None else constant @ reduction
        return builder.activation(context, threshold.activation, name), nothing

    is_linear = threshold.activation is keras.activations.linear
    return builder.once((id(threshold), id(x)), lay)


def embedding(builder, layer, x, quantizer):
    """What the quantizer of the inputs x adds to the outputs: a tensor and a constant; or `None`.

    Raises:
        UnsupportedLayerError: If nothing is known of the threshold that adds it.
    """
    threshold = getattr(quantizer, "threshold", None)
    if threshold is None or type(threshold).embed is Threshold.embed:
        return None
    if type(threshold) is not ContextualThreshold:
        raise UnsupportedLayerError(
            layer, f"nothing is known of what its threshold {type(threshold).__name__} embeds"
        )
    if threshold.embedding is None:
        return None
    context, constant = _context(builder, threshold, x, f"{layer.name}_threshold")
    expansion = _numbers(threshold.output_expansion)
    value = builder.matrix(context, expansion, f"{layer.name}_embedding")
    return value, constant @ expansion


def check_sums(layer, quantizer):
    """Whether the values of a quantizer are signs times one factor for each sum of products.

    Raises:
        CannotBeBinary: If the quantizer is no sign, or its scale differs within one sum: per
            channel, or per position under a kernel larger than 1x1.
    """
    if not is_sign(quantizer):
        raise CannotBeBinary(
            f"its input's quantizer {type(quantizer).__name__} has other values than -1 and +1"
        )
    scale = quantizer.scale
    if scale is None or getattr(scale, "per_layer", False):
        return
    if scale.static:
        if _static_scale(scale).size == 1:
            return
    elif all(size == 1 for size in getattr(layer, "kernel_size", ())) and getattr(
        scale, "axes", None
    ) == (-1,):
        return
    raise CannotBeBinary(
        f"its input's scale {type(scale).__name__} differs within one sum of products; LCE needs "
        "one scale per layer"
    )


def input_factor(builder, layer, x, centred, quantizer) -> Factor:
    """What the input's scale multiplies the sums by, of a quantizer that passes `check_sums`."""
    exact_zeros = builder.exact_zeros and quantizer.sign_of_zero == 0
    scale = quantizer.scale
    if scale is None:
        return Factor(1.0, None, exact_zeros)
    if scale.static:
        return Factor(float(_static_scale(scale).reshape(())), None, exact_zeros)
    value = any_input_factor(builder, layer, x, centred, quantizer)
    return Factor(1.0, value, exact_zeros)


def any_input_factor(builder, layer, x, centred, quantizer):
    """s(x) as a symbolic tensor, or `None` for 1."""
    scale = quantizer.scale
    if scale is None:
        return None
    name = f"{layer.name}_input_scale"
    if type(scale) is ExponentialMagnitude:
        magnitude = _mean_magnitude(builder, centred, _axes(scale, centred), name)
        alpha = _numbers(scale.alpha)
        # (A bias of 0 is the same constant everywhere; -offset alpha would be one more each.)
        if scale.offset:
            magnitude = keras.ops.subtract(magnitude, scale.offset)
        exponent = builder.affine(magnitude, alpha, np.zeros_like(alpha), name)
        value = keras.ops.exp(keras.ops.minimum(exponent, 88.0))
        return builder.mean(value, (len(value.shape) - 1,), name) if scale.per_layer else value
    if type(scale) is MeanMagnitude:
        values = centred if scale.of_centred else x
        return _mean_magnitude(builder, values, _axes(scale, values), name)
    return _computed_by(InputScale, scale, builder, layer, quantizer, x, name)


def _computed_by(kind, part, builder, layer, quantizer, x, name):
    """A part of a quantizer that is computed from the data, as a layer of the deploy form.

    Raises:
        UnsupportedLayerError: If the deploy worker could not load its class.
    """
    if not type(part).__module__.startswith("bnnkeras."):
        raise UnsupportedLayerError(
            layer,
            f"{type(part).__name__}, which its input quantizer computes from the data, is not one "
            "of bnnkeras's thresholds and scales: they alone can be loaded by the deploy worker",
        )
    return builder.with_quantizer(kind, quantizer, x, name)


def _mean_magnitude(builder, x, axes, name):
    """mean |x| = 2 mean(max(x, 0)) - mean(x).

    TensorFlow Lite's own absolute value takes 25 ms for 1.6 million floats, the maximum 1 ms.
    """
    positive = builder.mean(keras.ops.relu(x), axes, name)
    return keras.ops.subtract(keras.ops.multiply(positive, 2.0), builder.mean(x, axes, name))


def _axes(part, x) -> tuple[int, ...]:
    return resolve_axes(part.axes, len(x.shape))


def _static_scale(scale):
    return keras.ops.convert_to_numpy(scale(keras.ops.zeros((1, 1, 1, 1))))


def _numbers(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")
