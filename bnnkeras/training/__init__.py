"""What training a binary network needs around `model.fit`."""

from bnnkeras.training.distillation import Distiller, SoftCrossEntropy
from bnnkeras.training.lipschitz import LipschitzRetention
from bnnkeras.training.resume import fit_resumable
from bnnkeras.training.retention import (
    lipschitz_retention_loss,
    retention_matrix,
    retention_value,
)

__all__ = [
    "Distiller",
    "LipschitzRetention",
    "SoftCrossEntropy",
    "fit_resumable",
    "lipschitz_retention_loss",
    "retention_matrix",
    "retention_value",
]
