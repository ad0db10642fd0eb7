"""Published binary networks, built with the conventions of `keras.applications`."""

from bnnkeras.zoo.birealnet import BiRealNet18
from bnnkeras.zoo.registry import get, list_models

__all__ = ["BiRealNet18", "get", "list_models"]
