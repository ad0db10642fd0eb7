"""What training a binary network needs around `model.fit`."""

from bnnkeras.training import rates
from bnnkeras.training.dense import PixelCrossentropy, ScaleInvariantLogLoss
from bnnkeras.training.distillation import Distiller, SoftCrossEntropy
from bnnkeras.training.lipschitz import LipschitzRetention
from bnnkeras.training.losses import SmoothedCrossentropy
from bnnkeras.training.onecycle import OneCycleAdamW
from bnnkeras.training.resume import fit_resumable
from bnnkeras.training.retention import (
    lipschitz_retention_loss,
    retention_matrix,
    retention_value,
)
from bnnkeras.training.sgd import CoupledSGD

__all__ = [
    "CoupledSGD",
    "Distiller",
    "LipschitzRetention",
    "OneCycleAdamW",
    "PixelCrossentropy",
    "ScaleInvariantLogLoss",
    "SmoothedCrossentropy",
    "SoftCrossEntropy",
    "fit_resumable",
    "lipschitz_retention_loss",
    "rates",
    "retention_matrix",
    "retention_value",
]
