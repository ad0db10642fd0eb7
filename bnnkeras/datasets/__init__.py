"""Embedded data, and the batches that feed `model.fit` from it."""

from bnnkeras.datasets.batches import Batches, random_shift
from bnnkeras.datasets.digits import digits

__all__ = ["Batches", "digits", "random_shift"]
