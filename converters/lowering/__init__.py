"""Lowering rules: how each layer class is rebuilt out of the deploy form's few layers."""

from bnnkeras.converters.lowering import standard  # noqa: F401  (registers its rules)
from bnnkeras.converters.lowering.builder import Builder
from bnnkeras.converters.lowering.quantized import is_binary
from bnnkeras.converters.lowering.registry import lower, lowering_rule, supported_layers

__all__ = ["Builder", "is_binary", "lower", "lowering_rule", "supported_layers"]
