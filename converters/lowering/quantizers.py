"""What the quantizers of a layer become: offsets, +-1 kernels, factors of the sums."""

import dataclasses

import keras
import numpy as np

from bnnkeras.converters.layers import Centre, InputScale
from bnnkeras.quantizers import Binarizer, NoOp


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
        value = keras.ops.convert_to_numpy(value).astype("float64").reshape(-1)
        return builder.offset(x, -np.broadcast_to(value, (x.shape[-1],)), layer.name)
    return builder.with_quantizer(Centre, quantizer, x, f"{layer.name}_threshold")


def input_factor(builder, layer, x, quantizer) -> Factor:
    """What the input's scale multiplies the sums by.

    Raises:
        CannotBeBinary: If the quantizer is no sign, or its scale differs within one sum: per
            channel, or per position under a kernel larger than 1x1.
    """
    if not is_sign(quantizer):
        raise CannotBeBinary(
            f"its input's quantizer {type(quantizer).__name__} has other values than -1 and +1"
        )
    exact_zeros = builder.exact_zeros and quantizer.sign_of_zero == 0
    scale = quantizer.scale
    if scale is None:
        return Factor(1.0, None, exact_zeros)
    if scale.static:
        value = keras.ops.convert_to_numpy(scale(keras.ops.zeros((1,) * len(x.shape))))
        if value.size == 1:
            return Factor(float(value.reshape(())), None, exact_zeros)
    elif not _differs_within_a_sum(layer, scale):
        return Factor(1.0, any_input_factor(builder, layer, x, quantizer), exact_zeros)
    raise CannotBeBinary(
        f"its input's scale {type(scale).__name__} differs within one sum of products; LCE needs "
        "one scale per layer"
    )


def any_input_factor(builder, layer, x, quantizer):
    """s(x) as a symbolic tensor, or `None` for 1."""
    if quantizer.scale is None:
        return None
    return builder.with_quantizer(InputScale, quantizer, x, f"{layer.name}_input_scale")


def _differs_within_a_sum(layer, scale) -> bool:
    if getattr(scale, "per_layer", False):
        return False
    pointwise = all(size == 1 for size in getattr(layer, "kernel_size", ()))
    return not (pointwise and getattr(scale, "axes", None) == (-1,))
