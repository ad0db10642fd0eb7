"""The peer's `.tflite` file: Larq Zoo's network as LCE itself converts it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from bnnkeras.cli.benchmarks.contenders import ContenderError, larq_contender, peer_of
from bnnkeras.cli.benchmarks.peers import LARQ_ZOO
from bnnkeras.converters import Report
from bnnkeras.converters.worker import get_worker

_CHILD = Path(__file__).with_name("peer_model.py")
_STDERR_CHARACTERS = 2000


def make_peer_file(
    of: Report, folder: Path, progress: Callable[[str], None] = lambda message: None
) -> Path:
    """Builds Larq Zoo's counterpart of a network, of the same size, with fresh weights.

    Args:
        of: The report about the network's file.
        folder: An empty folder to write to.
        progress: Called with what happens next.

    Returns:
        The path of the new `.tflite` file.

    Raises:
        ValueError: If Larq Zoo has no such network.
        ContenderError, PrivateEnvironmentError: If it cannot be built, or its environment made.
    """
    name = peer_of([of.model])
    python = LARQ_ZOO.make(progress=progress)
    contender = larq_contender(name, python)
    saved = folder / "saved_model"
    specification = {
        "model": name,
        "input_shape": of.inputs[0].shape,
        "classes": of.outputs[0].shape[-1],
        "folder": str(saved),
    }
    progress(f"Building Larq Zoo's {name}")
    result = subprocess.run(
        [contender.python, "-P", str(_CHILD), json.dumps(specification)],
        env=contender.environment(),
        capture_output=True,
        text=True,
        errors="replace",
    )
    if result.returncode:
        raise ContenderError(
            f"{contender.name} ended with status {result.returncode}.\n"
            f"{result.stderr[-_STDERR_CHARACTERS:]}"
        )
    progress(f"Converting Larq Zoo's {name} with LCE")
    _, arrays = get_worker().request("convert_saved_model", path=saved)
    path = folder / f"larq_zoo_{name}.tflite"
    path.write_bytes(arrays["flatbuffer"].tobytes())
    return path
