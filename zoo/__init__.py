"""Published binary networks, built with the conventions of `keras.applications`."""

from bnnkeras.zoo import birealnet
from bnnkeras.zoo.birealnet import BiRealNet18, BiRealNet34, BiRealNet50, BiRealNet152
from bnnkeras.zoo.registry import get, list_models

__all__ = [
    "BiRealNet152",
    "BiRealNet18",
    "BiRealNet34",
    "BiRealNet50",
    "birealnet",
    "get",
    "list_models",
]
