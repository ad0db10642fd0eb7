"""A persistent child process for everything that needs TensorFlow or Larq Compute Engine."""

from bnnkeras.converters.worker.client import (
    DeployWorker,
    WorkerCrash,
    WorkerEnded,
    WorkerError,
    WorkerMemoryError,
    WorkerTimeout,
    get_worker,
)
from bnnkeras.converters.worker.registry import COMMAND_MODULES, command

__all__ = [
    "COMMAND_MODULES",
    "DeployWorker",
    "WorkerCrash",
    "WorkerEnded",
    "WorkerError",
    "WorkerMemoryError",
    "WorkerTimeout",
    "command",
    "get_worker",
]
