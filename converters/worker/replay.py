"""`python -m bnnkeras.converters.worker.replay FOLDER`: runs a request again."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bnnkeras.converters.worker import reproducer
from bnnkeras.converters.worker.client import DeployWorker, WorkerError


def replay(
    folder: str | Path, worker: DeployWorker | None = None, timeout_seconds: float = 600.0
) -> dict[str, Any]:
    """Runs the request of a reproducer and returns its result.

    Args:
        folder: The folder that the error named.
        worker: The worker to run it in; `None` starts one.
        timeout_seconds: Float. Longest time for the request.

    Raises:
        ValueError: If the folder does not hold a reproducer.
        WorkerError: If it ends the worker again.
    """
    command, arrays, parameters = reproducer.read(folder)
    if worker is not None:
        return _run(worker, command, arrays, parameters, timeout_seconds)
    worker = DeployWorker(save_reproducers=False)
    try:
        return _run(worker, command, arrays, parameters, timeout_seconds)
    finally:
        worker.close()


def _run(worker, command, arrays, parameters, timeout_seconds):
    result, _ = worker.request(command, arrays, timeout_seconds=timeout_seconds, **parameters)
    return result


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, prints the result or the error."""
    parser = argparse.ArgumentParser(prog="python -m bnnkeras.converters.worker.replay")
    parser.add_argument("folder", help="the folder that the error named")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for the request")
    options = parser.parse_args(arguments)
    try:
        result = replay(options.folder, timeout_seconds=options.timeout)
    except (WorkerError, ImportError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
