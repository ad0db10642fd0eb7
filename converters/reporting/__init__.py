"""Reports about `.tflite` files: as tables, as JSON, and as a page with pictures."""

from bnnkeras.converters.reporting.inspection import inspect, plain_values
from bnnkeras.converters.reporting.report import Latency, OperatorRow, Report, TensorInfo

__all__ = ["Latency", "OperatorRow", "Report", "TensorInfo", "inspect", "plain_values"]
