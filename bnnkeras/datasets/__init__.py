"""Embedded data, data sets by name, and the batches that feed `model.fit` from them."""

from bnnkeras.datasets import dense_files, dense_images, images
from bnnkeras.datasets.batches import Batches, random_shift
from bnnkeras.datasets.digits import digits
from bnnkeras.datasets.scenes import SceneBatches, Scenes, scenes
from bnnkeras.datasets.tfds import TFDSBatches

__all__ = [
    "Batches",
    "SceneBatches",
    "Scenes",
    "TFDSBatches",
    "dense_files",
    "dense_images",
    "digits",
    "images",
    "random_shift",
    "scenes",
]
