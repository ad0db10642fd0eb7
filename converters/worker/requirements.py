"""What the deploy worker needs beyond Keras and NumPy, as one clear error."""

import importlib
import platform
import re
import sys
from types import ModuleType

import numpy as np

INSTALL = 'pip install "bnnkeras[deploy]"'
PACKAGES = ("tensorflow", "larq_compute_engine", "flatbuffers")


def has_wheels() -> bool:
    """Whether Larq Compute Engine publishes wheels for this Python and machine."""
    return (3, 10) <= sys.version_info[:2] <= (3, 12) and (
        (sys.platform, platform.machine()) in {("linux", "x86_64"), ("darwin", "arm64")}
    )


def explain(reason: str, *, wheels: bool = True) -> str:
    """Returns the message for an environment that cannot deploy.

    Args:
        reason: String. The fact, as a clause: `"tensorflow is not installed"`.
        wheels: Boolean. Whether the environment in question is one with LCE wheels.
    """
    advice = f"Install it with `{INSTALL}`"
    if not wheels:
        advice = (
            "Larq Compute Engine has wheels for CPython 3.10 to 3.12 on x86-64 Linux and arm64 "
            f"macOS only. Use such a Python and `{INSTALL}`"
        )
    return (
        f"Deployment needs TensorFlow and Larq Compute Engine, but {reason}. {advice}, or set "
        "BNNKERAS_DEPLOY_PYTHON to the Python of an environment that has them. "
        f"Received: {sys.executable}, Python {platform.python_version()}, "
        f"{sys.platform} {platform.machine()}"
    )


def import_or_explain(name: str) -> ModuleType:
    """Imports a module of the `deploy` extra.

    Args:
        name: String. Full module name.

    Raises:
        ImportError: If a package of the extra is missing or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).split(".")[0]
        if missing not in PACKAGES:
            missing = name.split(".")[0]
        raise ImportError(
            explain(f"{missing} cannot be imported ({error})", wheels=has_wheels())
        ) from error


def import_lce_interpreter() -> type:
    """Returns LCE's interpreter class.

    Raises:
        ImportError: If LCE is missing, or NumPy is one that its interpreter cannot work with.
    """
    if int(np.__version__.split(".")[0]) >= 2:
        raise ImportError(
            explain(f"LCE's interpreter fails under NumPy 2 and newer (found {np.__version__})")
        )
    return import_or_explain("larq_compute_engine.tflite.python.interpreter").Interpreter


def missing_package(stderr: str) -> str | None:
    """Returns the package of the extra that a dead child could not import, if that is why.

    Keras imports its backend with itself, so without TensorFlow the child ends before any code
    of this package can answer.
    """
    match = re.search(rf"No module named '({'|'.join(PACKAGES)}|keras|bnnkeras)\b", stderr)
    return match.group(1) if match else None
