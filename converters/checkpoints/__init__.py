"""Weights from elsewhere: official PyTorch checkpoints and Larq's weight files."""

from bnnkeras.converters.checkpoints.larq import load_larq
from bnnkeras.converters.checkpoints.layouts import (
    STANDARD,
    Depthwise,
    Flat,
    FlattenedFeatures,
    Layout,
    Negated,
    Pointwise,
    Share,
    SingleAxis,
    Transposed,
)
from bnnkeras.converters.checkpoints.names import (
    NameMap,
    Rule,
    batch_normalization,
    list_name_maps,
    register_name_map,
    weight_and_bias,
)
from bnnkeras.converters.checkpoints.official import load_official, official_state
from bnnkeras.converters.checkpoints.report import LoadReport

__all__ = [
    "STANDARD",
    "Depthwise",
    "Flat",
    "FlattenedFeatures",
    "Layout",
    "LoadReport",
    "NameMap",
    "Negated",
    "Pointwise",
    "Rule",
    "Share",
    "SingleAxis",
    "Transposed",
    "batch_normalization",
    "list_name_maps",
    "load_larq",
    "load_official",
    "official_state",
    "register_name_map",
    "weight_and_bias",
]
