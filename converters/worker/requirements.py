"""What the deploy worker needs beyond Keras and NumPy, and one clear error where it is missing."""

import importlib
import importlib.util
import platform
import re
import sys
from types import ModuleType

import numpy as np

_NUMPY = "LCE's interpreter fails under NumPy 2 and newer (found {})"
VARIABLE = "BNNKERAS_DEPLOY_PYTHON"
COMMAND = "bnnkeras deploy-env"
INSTALL = 'pip install "bnnkeras[deploy]"'
PACKAGES = ("tensorflow", "larq_compute_engine", "flatbuffers")


def machine_has_wheels() -> bool:
    """Whether Larq Compute Engine publishes wheels for this kind of machine."""
    return (sys.platform, platform.machine()) in {("linux", "x86_64"), ("darwin", "arm64")}


def numpy_fits() -> bool:
    """Whether LCE's interpreter works with the NumPy of this process."""
    return int(np.__version__.split(".")[0]) < 2


def unfit_because() -> str | None:
    """Why this Python cannot run the worker, `None` if it can. Imports nothing."""
    for name in PACKAGES:
        if not _is_installed(name):
            return f"{name} is not installed here"
    if not numpy_fits():
        return _NUMPY.format(np.__version__)
    return None


def explain(reason: str) -> str:
    """Returns the message for an environment that cannot deploy.

    Args:
        reason: String. The fact, as a clause: `"tensorflow is not installed"`.
    """
    advice = (
        f"Run `{COMMAND}` once: it makes a private environment with them, beside yours. Or make "
        f"them fit here: `{INSTALL}` on CPython 3.11 or 3.12 with NumPy 1. Or set {VARIABLE} to "
        "the Python of an environment that has them"
    )
    if not machine_has_wheels():
        advice = (
            "Larq Compute Engine has wheels for x86-64 Linux and arm64 macOS only: save the model "
            "and convert it on such a machine"
        )
    return (
        "Deployment needs TensorFlow, Larq Compute Engine and NumPy 1, but "
        f"{reason}. {advice}. Received: {sys.executable}, Python {platform.python_version()}, "
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
        raise ImportError(explain(f"{missing} cannot be imported ({error})")) from error


def import_lce_interpreter() -> type:
    """Returns LCE's interpreter class.

    Raises:
        ImportError: If LCE is missing, or NumPy is one that its interpreter cannot work with.
    """
    if not numpy_fits():
        raise ImportError(explain(_NUMPY.format(np.__version__)))
    return import_or_explain("larq_compute_engine.tflite.python.interpreter").Interpreter


def missing_package(stderr: str) -> str | None:
    """Returns the package of the extra that a dead child could not import, if that is why.

    Keras imports its backend with itself, so without TensorFlow the child ends before any code
    of this package can answer.
    """
    match = re.search(rf"No module named '({'|'.join(PACKAGES)}|keras|bnnkeras)\b", stderr)
    return match.group(1) if match else None


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        # ValueError: a module in `sys.modules` without a specification.
        return False
