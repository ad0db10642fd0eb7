"""Whether Larq Compute Engine (LCE) will run a layer on bits."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from bnnkeras.models.widths import quantizer_precision
from bnnkeras.quantizers import Binarizer, NoOp

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


@dataclass(frozen=True)
class LceSupport:
    """How LCE will run a layer.

    Attributes:
        one_bit: Whether it will run on bits.
        reason: Why not, or by which detour; may be empty.
    """

    one_bit: bool
    reason: str = ""

    def __str__(self):
        word = "yes" if self.one_bit else "no"
        return f"{word}: {self.reason}" if self.reason else word


def lce_support(layer: keras.Operation) -> LceSupport | None:
    """What LCE will make of a layer once it is deployed; `None` for a layer without a kernel.

    LCE has one binary operation with weights, a 2-D convolution of +-1 with +-1. Deployment turns
    dense, 1-D, grouped and transposed layers into it; nothing exists for depthwise and 3-D
    kernels. This is about the layer itself: `bnnkeras.converters` also needs fixed input sizes.

    Example:
        >>> from bnnkeras.layers import QuantDense
        >>> from bnnkeras.models import lce_support
        >>> str(lce_support(QuantDense(8, input_quantizer="ste_sign")))
        'no: 32-bit kernel'
    """
    if isinstance(layer, _SEPARABLE):
        return _separable(layer)
    if not isinstance(layer, (layers.Dense, *_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE)):
        return None
    kernel = "depthwise" if isinstance(layer, _DEPTHWISE) else "kernel"
    obstacle = (
        _not_a_sign(layer, "input")
        or _not_a_sign(layer, kernel)
        or _unsupported_shape(layer)
        or _unsupported_scale(layer)
        or _unsupported_padding(layer)
    )
    return LceSupport(False, obstacle) if obstacle else LceSupport(True, _detour(layer))


def _separable(layer) -> LceSupport:
    obstacle = (
        _not_a_sign(layer, "intermediate")
        or _not_a_sign(layer, "pointwise")
        or _unsupported_padding(layer)
    )
    return LceSupport(False, obstacle) if obstacle else LceSupport(True, "pointwise part only")


def _not_a_sign(layer, place: str) -> str:
    quantizer = getattr(layer, f"{place}_quantizer", None)
    bits = quantizer_precision(quantizer) or 32
    what = "kernel" if place == "depthwise" else place
    if bits != 1:
        return f"{bits}-bit {what}"
    # NoOp and SteHeaviside have 1 bit as well; the values of a NoOp are the optimizer's.
    if isinstance(quantizer, NoOp) and place != "input" and place != "intermediate":
        kernel = _kernel(layer)
        signs = kernel is not None and bool(np.all(np.abs(kernel) == 1))
    else:
        signs = isinstance(quantizer, Binarizer)
    return "" if signs else f"{what} not -1 or +1"


def _unsupported_shape(layer) -> str:
    if isinstance(layer, _DEPTHWISE):
        return "depthwise"
    if isinstance(layer, (layers.Conv3D, layers.Conv3DTranspose)):
        return "3-D"
    if isinstance(layer, _TRANSPOSED) and any(
        (size - 1) * dilation + 1 < stride
        for size, dilation, stride in zip(
            layer.kernel_size, layer.dilation_rate, layer.strides, strict=True
        )
    ):
        # Between the copies of the kernel there are outputs that are 0, which is no sign.
        return "kernel smaller than its stride"
    return ""


def _unsupported_scale(layer) -> str:
    """A scale must be able to wait until the products of signs are summed."""
    scale = layer.input_quantizer.scale
    if scale is not None and not getattr(scale, "per_layer", False):
        is_pointwise = all(size == 1 for size in getattr(layer, "kernel_size", ()))
        if not (is_pointwise and getattr(scale, "axes", None) == (-1,)):
            return "scaled input"
    return _unsupported_kernel_scale(layer)


def _unsupported_kernel_scale(layer) -> str:
    """A kernel's scale must be one per output channel; it is known once the layer is built."""
    scale = getattr(layer.kernel_quantizer, "scale", None)
    if scale is None:
        return ""
    transposed = isinstance(layer, _TRANSPOSED)
    if layer.built:
        kernel = ops.cast(layer.kernel, layer.variable_dtype)
        shape = layer.kernel_quantizer.components(kernel)[1].shape
        shape = (1,) * (len(kernel.shape) - len(shape)) + tuple(shape)
        fits = all(
            size == 1 or axis == len(shape) - (2 if transposed else 1)
            for axis, size in enumerate(shape)
        )
    else:
        # The last axis of a transposed kernel is its input's channels; see the layer's argument.
        fits = not transposed
    return "" if fits else "kernel scaled by input channel"


def _kernel(layer):
    """The kernel as an array; `None` before the layer is built."""
    name = "pointwise_kernel" if isinstance(layer, _SEPARABLE) else "kernel"
    return keras.ops.convert_to_numpy(getattr(layer, name)) if layer.built else None


def _unsupported_padding(layer) -> str:
    if getattr(layer, "data_format", None) == "channels_first":
        return "channels_first"
    pad_values = getattr(layer, "pad_values", 0)
    return "" if pad_values in (-1, 0, 1) else f"pad_values={pad_values:g}"


def _detour(layer) -> str:
    if isinstance(layer, layers.Dense):
        return "as a 1x1 convolution"
    if isinstance(layer, _TRANSPOSED):
        return "as convolutions, interleaved"
    if layer.groups > 1:
        return f"split into {layer.groups} groups"
    return "as a 2-D convolution" if isinstance(layer, layers.Conv1D) else ""
