"""BiPointNet (Qin et al., ICLR 2021)."""

from bnnkeras.zoo.bipointnet import official
from bnnkeras.zoo.bipointnet.dgcnn import BiDGCNN
from bnnkeras.zoo.bipointnet.model import (
    BiPointNet,
    BiPointNetPartSegmentation,
    BiPointNetSemanticSegmentation,
)

__all__ = [
    "BiDGCNN",
    "BiPointNet",
    "BiPointNetPartSegmentation",
    "BiPointNetSemanticSegmentation",
    "official",
]
