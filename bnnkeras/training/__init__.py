"""What training a binary network needs around `model.fit`."""

from bnnkeras.training.resume import fit_resumable

__all__ = ["fit_resumable"]
