"""Lowering rules: how each layer class is rebuilt out of the deploy form's few layers."""

from bnnkeras.converters.lowering import (  # noqa: F401  (register their rules)
    activations,
    blocks,
    convolutions,
    normalization,
    operations,
    points,
    pooling,
    quantized,
    resizing,
    standard,
    sums,
)
from bnnkeras.converters.lowering.builder import Builder, Call
from bnnkeras.converters.lowering.intent import is_binary
from bnnkeras.converters.lowering.registry import lower, lowering_rule, supported_layers

__all__ = ["Builder", "Call", "is_binary", "lower", "lowering_rule", "supported_layers"]
