"""BiPointNet (Qin et al., ICLR 2021)."""

from bnnkeras.zoo.bipointnet import official
from bnnkeras.zoo.bipointnet.dgcnn import BiDGCNN
from bnnkeras.zoo.bipointnet.model import (
    BiPointNet,
    BiPointNetPartSegmentation,
    BiPointNetSemanticSegmentation,
)
from bnnkeras.zoo.bipointnet.pointcnn import BiPointCNN
from bnnkeras.zoo.bipointnet.pointnet2 import BiPointNet2
from bnnkeras.zoo.bipointnet.stages import Stages, stages

__all__ = [
    "BiDGCNN",
    "BiPointCNN",
    "BiPointNet",
    "BiPointNet2",
    "BiPointNetPartSegmentation",
    "BiPointNetSemanticSegmentation",
    "Stages",
    "official",
    "stages",
]
