"""Bi-Real Net (Liu et al., ECCV 2018 and IJCV 2020)."""

from bnnkeras.zoo.birealnet import official
from bnnkeras.zoo.birealnet.model import BiRealNet18, BiRealNet34, BiRealNet50, BiRealNet152
from bnnkeras.zoo.birealnet.scales import absorb_scale, bn_retraining
from bnnkeras.zoo.preprocessing import decode_predictions, preprocess_input

__all__ = [
    "BiRealNet152",
    "BiRealNet18",
    "BiRealNet34",
    "BiRealNet50",
    "absorb_scale",
    "bn_retraining",
    "decode_predictions",
    "official",
    "preprocess_input",
]
