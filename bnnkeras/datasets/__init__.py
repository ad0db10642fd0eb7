"""Embedded data, data sets by name, and the batches that feed `model.fit` from them."""

from bnnkeras.datasets import images
from bnnkeras.datasets.batches import Batches, random_shift
from bnnkeras.datasets.digits import digits
from bnnkeras.datasets.tfds import TFDSBatches

__all__ = ["Batches", "TFDSBatches", "digits", "images", "random_shift"]
