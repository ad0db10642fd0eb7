"""Binary neural networks for Keras 3: 1-bit weights and activations, trained with `model.fit`.

The library needs `keras` and `numpy` only. `bnnkeras.zoo` (published networks) and
`bnnkeras.converters` (deployment to Larq Compute Engine) are imported by name when wanted.
"""

from importlib import metadata

from bnnkeras import (
    activations,
    callbacks,
    constraints,
    context,
    datasets,
    layers,
    math,
    metrics,
    models,
    optimizers,
    quantizers,
    utils,
)

__version__ = metadata.version("bnnkeras")

__all__ = [
    "__version__",
    "activations",
    "callbacks",
    "constraints",
    "context",
    "datasets",
    "layers",
    "math",
    "metrics",
    "models",
    "optimizers",
    "quantizers",
    "utils",
]
