"""Bi-Real Net (Liu et al., ECCV 2018)."""

from bnnkeras.zoo.birealnet import official
from bnnkeras.zoo.birealnet.model import BiRealNet18

__all__ = ["BiRealNet18", "official"]
