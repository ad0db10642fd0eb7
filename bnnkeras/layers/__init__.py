"""Quantized Keras layers, and the layers that published binary networks need beside them."""

from bnnkeras.layers.aggregation import (
    EMA,
    EntropyMaximizingAggregation,
    entropy_maximizing_offset,
)
from bnnkeras.layers.bypass import CFB, ChannelAdaptiveBypass
from bnnkeras.layers.convolutions import QuantConv1D, QuantConv2D, QuantConv3D
from bnnkeras.layers.dense import QuantDense
from bnnkeras.layers.depthwise import QuantDepthwiseConv1D, QuantDepthwiseConv2D
from bnnkeras.layers.layer_scale import LayerScale
from bnnkeras.layers.pooling import MaxPooling2D
from bnnkeras.layers.resizing import AdaptiveAveragePooling, AlignedResizing
from bnnkeras.layers.separable import QuantSeparableConv1D, QuantSeparableConv2D
from bnnkeras.layers.shifts import LearnableBias, RPReLU, SpatialShift
from bnnkeras.layers.transposed import (
    QuantConv1DTranspose,
    QuantConv2DTranspose,
    QuantConv3DTranspose,
)

__all__ = [
    "CFB",
    "EMA",
    "AdaptiveAveragePooling",
    "AlignedResizing",
    "ChannelAdaptiveBypass",
    "EntropyMaximizingAggregation",
    "LayerScale",
    "LearnableBias",
    "MaxPooling2D",
    "QuantConv1D",
    "QuantConv1DTranspose",
    "QuantConv2D",
    "QuantConv2DTranspose",
    "QuantConv3D",
    "QuantConv3DTranspose",
    "QuantDense",
    "QuantDepthwiseConv1D",
    "QuantDepthwiseConv2D",
    "QuantSeparableConv1D",
    "QuantSeparableConv2D",
    "RPReLU",
    "SpatialShift",
    "entropy_maximizing_offset",
]
