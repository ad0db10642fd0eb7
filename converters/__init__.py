"""From trained Keras models to `.tflite` files that Larq Compute Engine (LCE) runs."""

from bnnkeras.converters.checkpoints import LoadReport, load_larq, load_official, official_state
from bnnkeras.converters.conversion import Conversion, convert, convert_float
from bnnkeras.converters.deployment import deploy
from bnnkeras.converters.errors import ConversionError, UnsupportedLayerError
from bnnkeras.converters.interpreter import Interpreter
from bnnkeras.converters.latency import benchmark, measure_latency
from bnnkeras.converters.reporting import Report, inspect
from bnnkeras.converters.verification import KernelResult, Verification, verify

__all__ = [
    "Conversion",
    "ConversionError",
    "Interpreter",
    "KernelResult",
    "LoadReport",
    "Report",
    "UnsupportedLayerError",
    "Verification",
    "benchmark",
    "convert",
    "convert_float",
    "deploy",
    "inspect",
    "load_larq",
    "load_official",
    "measure_latency",
    "official_state",
    "verify",
]
