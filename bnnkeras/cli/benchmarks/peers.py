"""The private environment in which a peer runs."""

import os
import subprocess
from pathlib import Path

from bnnkeras.environments import PrivateEnvironment, PrivateEnvironmentError

_CHECK = "import larq_zoo; larq_zoo.literature"
_STDERR_CHARACTERS = 2000


def _check(python: Path) -> None:
    """Imports Larq Zoo.

    Raises:
        PrivateEnvironmentError: If that fails, with the end of its stderr.
    """
    # TensorFlow imports Keras 3 too, and this process's backend may be missing there.
    variables = {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "1"}
    environment = {**os.environ, **variables, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [str(python), "-c", _CHECK], env=environment, capture_output=True, text=True
    )
    if result.returncode:
        raise PrivateEnvironmentError(
            f"`{_CHECK}` ended with status {result.returncode}.\n"
            f"{result.stderr[-_STDERR_CHARACTERS:]}"
        )


LARQ_ZOO = PrivateEnvironment("larq-zoo", Path(__file__).with_name("larq_zoo.txt"), _check)
