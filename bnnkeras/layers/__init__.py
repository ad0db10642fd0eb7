"""Quantized Keras layers, and the layers that published binary networks need beside them."""

from bnnkeras.layers.convolutions import QuantConv2D
from bnnkeras.layers.dense import QuantDense
from bnnkeras.layers.pooling import MaxPooling2D

__all__ = ["MaxPooling2D", "QuantConv2D", "QuantDense"]
