"""Multiply-accumulates (MACs) of one call, one rule per layer class."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras.src.ops.numpy import Matmul

from bnnkeras.models.widths import input_precision, quantizer_precision

Shape = tuple[int | None, ...]

# Where Keras and this package keep layers and operations that multiply no two tensors of which
# they sum the products. Classes with a rule, and _PRODUCTS, are exceptions.
_WITHOUT_MACS = (
    "bnnkeras.layers.",
    "bnnkeras.quantizers.",
    *(
        f"keras.src.layers.{family}."
        for family in (
            "activations",
            "core.embedding",
            "core.identity",
            "core.input_layer",
            "core.masking",
            "merging",
            "normalization",
            "pooling",
            "preprocessing",
            "regularization",
            "reshaping",
        )
    ),
    *(f"keras.src.ops.{module}" for module in ("core", "einops", "image", "math", "nn", "numpy")),
)
_PRODUCTS = (
    "AffineTransform AssociativeScan CDist Cond Conv ConvTranspose Corrcoef Correlate Cross "
    "DepthwiseConv Dot DotProductAttention Einsum FFT FFT2 ForiLoop GaussianBlur IFFT2 IRFFT ISTFT "
    "Inner Kron Map Outer RFFT SSIM STFT Scan SeparableConv Switch Tensordot Vdot VectorizedMap "
    "WhileLoop"
).split()


@dataclass(frozen=True)
class OperationProfile:
    """Operations of one kind.

    Attributes:
        n: How many, for one sample; `None` if it depends on sizes that are not known.
        precision: Bits of the wider operand.
        op_type: Always `"mac"`.
    """

    n: int | None
    precision: int
    op_type: str = "mac"


@functools.singledispatch
def compute_macs(
    layer, input_shapes: Sequence[Shape], output_shapes: Sequence[Shape]
) -> list[OperationProfile] | None:
    """The MACs of one call of `layer` on one sample.

    A MAC's precision is that of its wider operand: max(input quantizer or 32, kernel quantizer).
    Padding counts as input: a convolution has (kernel elements) x (output positions) MACs. A
    transposed one, its adjoint, has (kernel elements) x (input positions).

    This is a `functools.singledispatch` function. A layer class of your own gets its rule by
    `@compute_macs.register(MyLayer)`, and is then not looked into.

    Args:
        layer: A layer, or a `keras.ops` operation of a functional model.
        input_shapes: Shapes of the inputs, their batch axis 1, unknown sizes `None`.
        output_shapes: Likewise.

    Returns:
        One entry per kernel, an empty list for a layer that has no MACs, or `None` if nothing is
        known of this class.

    Example:
        >>> import keras
        >>> from bnnkeras.models import OperationProfile, compute_macs
        >>> compute_macs(keras.layers.Conv2D(8, 3), [(1, 6, 6, 4)], [(1, 4, 4, 8)])
        [OperationProfile(n=4608, precision=32, op_type='mac')]
        >>> class Gram(keras.layers.Layer):
        ...     def call(self, x):
        ...         return keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1)))
        >>> @compute_macs.register(Gram)
        ... def _(layer, input_shapes, output_shapes):
        ...     (_, rows, columns), = input_shapes
        ...     return [OperationProfile(rows * rows * columns, precision=32)]
        >>> compute_macs(Gram(), [(1, 5, 3)], [(1, 5, 5)])[0].n
        75
    """
    classes = type(layer).__mro__
    is_free = any(f"{cls.__module__}.".startswith(_WITHOUT_MACS) for cls in classes)
    return [] if is_free and type(layer).__name__ not in _PRODUCTS else None


# doctest does not see that this wrapper is from here.
__test__ = {"compute_macs": compute_macs}


def quantizer_macs(layer, input_shapes: Sequence[Shape]) -> list[OperationProfile]:
    """The MACs of the matrices in a layer's input quantizer, as of a contextual threshold."""
    threshold = getattr(getattr(layer, "input_quantizer", None), "threshold", None)
    if threshold is None:
        return []
    channels = input_shapes[0][1 if getattr(layer, "data_format", "") == "channels_first" else -1]
    macs = None if channels is None else threshold.macs(channels)
    return [] if macs == 0 else [OperationProfile(macs, 32)]


def has_rule(layer) -> bool:
    """Whether a rule is registered for the layer's class or one of its bases."""
    return compute_macs.dispatch(type(layer)) is not compute_macs.dispatch(object)


def _product(*factors: int | None) -> int | None:
    known = [factor for factor in factors if factor is not None]
    return math.prod(known) if len(known) == len(factors) else None


def _channels(layer, shape: Shape) -> int | None:
    return shape[1 if layer.data_format == "channels_first" else -1]


def _kernel_macs(layer, *factors: int | None, kernel_quantizer, input_bits=None):
    precision = max(
        input_bits or input_precision(layer) or 32, quantizer_precision(kernel_quantizer) or 32
    )
    return OperationProfile(_product(*factors), precision)


# Keras does not export these bases, and naming the public classes covers their subclasses too.
@compute_macs.register(keras.layers.Conv1D)
@compute_macs.register(keras.layers.Conv2D)
@compute_macs.register(keras.layers.Conv3D)
def _convolution(layer, input_shapes, output_shapes):
    (outputs,) = output_shapes
    channels = _channels(layer, input_shapes[0])
    per_output = None if channels is None else channels // layer.groups
    quantizer = getattr(layer, "kernel_quantizer", None)
    return [
        _kernel_macs(layer, *layer.kernel_size, per_output, *outputs, kernel_quantizer=quantizer)
    ]


@compute_macs.register(keras.layers.Conv1DTranspose)
@compute_macs.register(keras.layers.Conv2DTranspose)
@compute_macs.register(keras.layers.Conv3DTranspose)
def _transposed_convolution(layer, input_shapes, output_shapes):
    inputs = input_shapes[0]
    quantizer = getattr(layer, "kernel_quantizer", None)
    return [
        _kernel_macs(layer, *layer.kernel_size, layer.filters, *inputs, kernel_quantizer=quantizer)
    ]


@compute_macs.register(keras.layers.DepthwiseConv1D)
@compute_macs.register(keras.layers.DepthwiseConv2D)
def _depthwise_convolution(layer, input_shapes, output_shapes):
    (outputs,) = output_shapes
    quantizer = getattr(layer, "depthwise_quantizer", None)
    return [_kernel_macs(layer, *layer.kernel_size, *outputs, kernel_quantizer=quantizer)]


@compute_macs.register(keras.layers.SeparableConv1D)
@compute_macs.register(keras.layers.SeparableConv2D)
def _separable_convolution(layer, input_shapes, output_shapes):
    (outputs,) = output_shapes
    intermediate = _product(_channels(layer, input_shapes[0]), layer.depth_multiplier)
    elements = _product(*outputs)
    positions = None if elements is None else elements // layer.filters
    return [
        _kernel_macs(
            layer,
            *layer.kernel_size,
            intermediate,
            positions,
            kernel_quantizer=getattr(layer, "depthwise_quantizer", None),
        ),
        # Sums of the depthwise products are no bits, whatever the input was.
        _kernel_macs(
            layer,
            intermediate,
            *outputs,
            kernel_quantizer=getattr(layer, "pointwise_quantizer", None),
            input_bits=quantizer_precision(getattr(layer, "intermediate_quantizer", None)) or 32,
        ),
    ]


@compute_macs.register(keras.layers.Dense)
def _dense(layer, input_shapes, output_shapes):
    (outputs,) = output_shapes
    quantizer = getattr(layer, "kernel_quantizer", None)
    return [_kernel_macs(layer, input_shapes[0][-1], *outputs, kernel_quantizer=quantizer)]


@compute_macs.register(Matmul)
def _matrix_product(operation, input_shapes, output_shapes):
    (outputs,) = output_shapes
    return [OperationProfile(_product(input_shapes[0][-1], *outputs), 32)]
