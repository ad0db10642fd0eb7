"""LCR-BNN (Shang et al., ECCV 2022) on IR-Net's networks (Qin et al., CVPR 2020)."""

from bnnkeras.zoo.lcrbnn import official
from bnnkeras.zoo.lcrbnn.cifar import LCRCifarResNet18, LCRResNet20, LCRVGGSmall, ResNet20
from bnnkeras.zoo.lcrbnn.imagenet import LCRResNet18, LCRResNet34, ResNet18, ResNet34
from bnnkeras.zoo.preprocessing import decode_predictions, preprocess_input

__all__ = [
    "LCRCifarResNet18",
    "LCRResNet18",
    "LCRResNet20",
    "LCRResNet34",
    "LCRVGGSmall",
    "ResNet18",
    "ResNet20",
    "ResNet34",
    "decode_predictions",
    "official",
    "preprocess_input",
]
