"""Published binary networks, built with the conventions of `keras.applications`."""

from bnnkeras.zoo import birealnet, lcrbnn
from bnnkeras.zoo.birealnet import BiRealNet18, BiRealNet34, BiRealNet50, BiRealNet152
from bnnkeras.zoo.lcrbnn import (
    LCRCifarResNet18,
    LCRResNet18,
    LCRResNet20,
    LCRResNet34,
    LCRVGGSmall,
    ResNet18,
    ResNet20,
    ResNet34,
)
from bnnkeras.zoo.registry import get, list_models

__all__ = [
    "BiRealNet152",
    "BiRealNet18",
    "BiRealNet34",
    "BiRealNet50",
    "LCRCifarResNet18",
    "LCRResNet18",
    "LCRResNet20",
    "LCRResNet34",
    "LCRVGGSmall",
    "ResNet18",
    "ResNet20",
    "ResNet34",
    "birealnet",
    "get",
    "lcrbnn",
    "list_models",
]
