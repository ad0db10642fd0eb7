"""Optimizers of binary networks: Bop, and one that gives each variable the optimizer it needs."""

from bnnkeras.optimizers.bop import Bop
from bnnkeras.optimizers.case import CaseOptimizer

__all__ = ["Bop", "CaseOptimizer"]
