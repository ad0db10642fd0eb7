"""The deploy worker's private environment, and which Python the worker runs on."""

import os
import subprocess
import sys
from pathlib import Path

from bnnkeras.converters.worker import requirements
from bnnkeras.environments import PrivateEnvironment, PrivateEnvironmentError

_STDERR_CHARACTERS = 2000


def choose_python() -> str:
    """The Python for the deploy worker.

    The one that `BNNKERAS_DEPLOY_PYTHON` names; else this one, if it has TensorFlow, Larq Compute
    Engine and NumPy 1; else that of the private environment. Takes milliseconds.

    Raises:
        ImportError: If there is none, with the reason and what to do.
    """
    named = os.environ.get(requirements.VARIABLE)
    if named:
        return named
    reason = requirements.unfit_because()
    if reason is None:
        return sys.executable
    python = DEPLOY.python()
    if python is None:
        raise ImportError(requirements.explain(reason))
    return str(python)


def try_out(python: Path) -> str:
    """Converts, verifies and runs a small network with a Python as the worker's.

    Returns:
        The versions there, on one line.

    Raises:
        PrivateEnvironmentError: If that fails, with the end of the output.
    """
    result = subprocess.run(
        [sys.executable, "-P", "-m", "bnnkeras.converters.worker.smoke"],
        env={**os.environ, requirements.VARIABLE: str(python), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if result.returncode:
        raise PrivateEnvironmentError(
            f"a small network could not be converted, verified and run with {python}.\n"
            f"{result.stderr[-_STDERR_CHARACTERS:].strip()}"
        )
    return result.stdout.strip().splitlines()[-1]


def _check(python: Path) -> None:
    try_out(python)


DEPLOY = PrivateEnvironment("deploy", Path(__file__).with_name("environment.txt"), _check)
