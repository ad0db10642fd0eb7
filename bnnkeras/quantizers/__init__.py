"""Quantizers: a threshold, a sign, a scale and a gradient estimator, and named choices of them.

    q(x) = s(x) sign(x - t(x)),   sign(0) = +1,   dq/dx := estimator'(x - t(x)) (times s(x), or not)
"""

from bnnkeras.quantizers.base import Binarizer, Quantizer
from bnnkeras.quantizers.estimators import ClippedIdentity, Estimator, Triangle
from bnnkeras.quantizers.presets import (
    ApproxSign,
    MagnitudeAwareSign,
    SteSign,
    approx_sign,
    ste_sign,
)
from bnnkeras.quantizers.scales import MeanMagnitude, Scale
from bnnkeras.quantizers.serialization import deserialize, get, serialize
from bnnkeras.quantizers.thresholds import LearnedThreshold, Threshold

__all__ = [
    "ApproxSign",
    "Binarizer",
    "ClippedIdentity",
    "Estimator",
    "LearnedThreshold",
    "MagnitudeAwareSign",
    "MeanMagnitude",
    "Quantizer",
    "Scale",
    "SteSign",
    "Threshold",
    "Triangle",
    "approx_sign",
    "deserialize",
    "get",
    "serialize",
    "ste_sign",
]
