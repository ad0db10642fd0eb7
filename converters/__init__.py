"""From trained Keras models to `.tflite` files that Larq Compute Engine (LCE) runs."""

from bnnkeras.converters.deployment import deploy
from bnnkeras.converters.errors import ConversionError, UnsupportedLayerError

__all__ = ["ConversionError", "UnsupportedLayerError", "deploy"]
