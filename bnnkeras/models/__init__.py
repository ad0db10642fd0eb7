"""Profiles of models: weights, memory, multiply-accumulates and what LCE will run on bits."""

from bnnkeras.models.lce import LceSupport, lce_support
from bnnkeras.models.macs import OperationProfile, compute_macs
from bnnkeras.models.packed_files import load_packed, save_packed
from bnnkeras.models.packing import quantized_weights
from bnnkeras.models.plain_weights import load_plain_weights
from bnnkeras.models.profile import LayerProfile, ModelProfile
from bnnkeras.models.quantization import quantize
from bnnkeras.models.summary import summary
from bnnkeras.models.weights import WeightProfile

__all__ = [
    "LayerProfile",
    "LceSupport",
    "ModelProfile",
    "OperationProfile",
    "WeightProfile",
    "compute_macs",
    "lce_support",
    "load_packed",
    "load_plain_weights",
    "quantize",
    "quantized_weights",
    "save_packed",
    "summary",
]
