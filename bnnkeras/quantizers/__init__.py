"""Quantizers: a threshold, a sign, a scale and a gradient estimator, and named choices of them.

q(x) = s(x) sign(x - t(x)),   sign(0) = +1,   dq/dx := estimator'(x - t(x)) (times s(x), or not)
"""

from bnnkeras.quantizers.base import Binarizer, Quantizer
from bnnkeras.quantizers.estimators import (
    ClippedIdentity,
    ErrorDecay,
    Estimator,
    SwishDerivative,
    Triangle,
)
from bnnkeras.quantizers.levels import (
    NoOp,
    NoOpQuantizer,
    SteHeaviside,
    SteTern,
    ste_heaviside,
    ste_tern,
)
from bnnkeras.quantizers.multibit import LSQ, DoReFa, DoReFaQuantizer, UniformQuantizer
from bnnkeras.quantizers.parts import Part, Products
from bnnkeras.quantizers.presets import (
    ApproxSign,
    EDESign,
    MagnitudeAwareSign,
    SteSign,
    SwishSign,
    approx_sign,
    ste_sign,
    swish_sign,
)
from bnnkeras.quantizers.published import (
    DAB,
    BiViTKernel,
    ContextualSign,
    LibraKernel,
    LSRKernel,
    RSign,
    XNORInput,
    XNORKernel,
)
from bnnkeras.quantizers.scales import (
    ExponentialMagnitude,
    LayerwiseScale,
    LearnedMagnitude,
    MeanMagnitude,
    PowerOfTwoMagnitude,
    Scale,
)
from bnnkeras.quantizers.serialization import deserialize, get, get_kernel_quantizer, serialize
from bnnkeras.quantizers.thresholds import (
    AdaptiveThreshold,
    ContextualThreshold,
    LearnedThreshold,
    MeanThreshold,
    Standardization,
    Threshold,
)

__all__ = [
    "AdaptiveThreshold",
    "ApproxSign",
    "BiViTKernel",
    "Binarizer",
    "ClippedIdentity",
    "ContextualSign",
    "ContextualThreshold",
    "DAB",
    "DoReFa",
    "DoReFaQuantizer",
    "EDESign",
    "ErrorDecay",
    "Estimator",
    "ExponentialMagnitude",
    "LSQ",
    "LSRKernel",
    "LayerwiseScale",
    "LearnedMagnitude",
    "LearnedThreshold",
    "LibraKernel",
    "MagnitudeAwareSign",
    "MeanMagnitude",
    "MeanThreshold",
    "NoOp",
    "NoOpQuantizer",
    "Part",
    "PowerOfTwoMagnitude",
    "Products",
    "Quantizer",
    "RSign",
    "Scale",
    "Standardization",
    "SteHeaviside",
    "SteSign",
    "SteTern",
    "SwishDerivative",
    "SwishSign",
    "Threshold",
    "Triangle",
    "UniformQuantizer",
    "XNORInput",
    "XNORKernel",
    "approx_sign",
    "deserialize",
    "get",
    "get_kernel_quantizer",
    "serialize",
    "ste_heaviside",
    "ste_sign",
    "ste_tern",
    "swish_sign",
]
