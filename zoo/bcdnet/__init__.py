"""BCDNet (Xing et al., ECCV 2022)."""

from bnnkeras.zoo.bcdnet import official
from bnnkeras.zoo.bcdnet.heads import merge_heads
from bnnkeras.zoo.bcdnet.model import BCDNetA, BCDNetB
from bnnkeras.zoo.bcdnet.rates import CosineBySteps
from bnnkeras.zoo.bcdnet.teacher import resnet50_teacher
from bnnkeras.zoo.preprocessing import decode_predictions, preprocess_input

__all__ = [
    "BCDNetA",
    "BCDNetB",
    "CosineBySteps",
    "decode_predictions",
    "merge_heads",
    "official",
    "preprocess_input",
    "resnet50_teacher",
]
