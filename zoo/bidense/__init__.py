"""BiDense: binary networks for segmentation and depth."""

from bnnkeras.zoo.bidense import lowering as _lowering  # noqa: F401  (registers its rules)
from bnnkeras.zoo.bidense.dpt import BiDenseDPT
from bnnkeras.zoo.bidense.official import NAMES
from bnnkeras.zoo.bidense.uppernet import BiDenseUperNet

__all__ = ["NAMES", "BiDenseDPT", "BiDenseUperNet"]
