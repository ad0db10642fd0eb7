"""A request that ended the deploy worker, kept as a folder that can be run again.

The folder holds `request.json` (command, parameters, versions, error), `arrays.npz`, `stderr.txt`
and, under `files/`, copies of the files that the parameters named. The module `replay` runs it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnnkeras.converters.worker import packages, transport

# In the temporary folder, where the system cleans up.
_PREFIX = "bnnkeras-reproducer-"
KEPT = 3
_FILE_KEY = "__file__"


def save(
    command: str,
    arrays: Mapping[str, Any],
    parameters: Mapping[str, Any],
    *,
    python: str,
    error: str,
    stderr: str,
) -> Path:
    """Writes a reproducer, removes all but the newest `KEPT`, and returns its folder.

    Args:
        command: String. Name of the command.
        arrays: Mapping from names to arrays.
        parameters: JSON values and paths; files that paths name are copied.
        python: String. The worker's Python.
        error: String. What happened.
        stderr: String. All that the worker wrote there.

    Raises:
        OSError: If it cannot be written.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / "stderr.txt").write_text(stderr)
    names = transport.save_arrays(folder / "arrays.npz", arrays) if arrays else []
    request = {
        "command": command,
        "parameters": _with_copies(dict(parameters), folder),
        "names": names,
        "error": error,
        "python": python,
        "versions": packages.versions(),
    }
    (folder / "request.json").write_bytes(transport.encode(request))
    _remove_older(folder.parent)
    return folder


def read(
    folder: str | os.PathLike,
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Reads a reproducer: its command, arrays and parameters.

    Raises:
        ValueError: If the folder does not hold one.
    """
    folder = Path(folder)
    try:
        request = json.loads((folder / "request.json").read_text())
        command, parameters, names = (request[key] for key in ("command", "parameters", "names"))
        arrays = {}
        if names:
            arrays = transport.load_arrays(folder / "arrays.npz", names, remove=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`folder` must be a reproducer of the deploy worker ({error}). "
            f"Received: {str(folder)!r}"
        ) from error
    return command, arrays, _with_paths(parameters, folder)


def _with_copies(value: Any, folder: Path) -> Any:
    """The value with each path of a file replaced by the name of a copy in `folder`."""
    if isinstance(value, dict):
        return {key: _with_copies(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_copies(item, folder) for item in value]
    if isinstance(value, os.PathLike) and Path(value).is_file():
        files = folder / "files"
        files.mkdir(exist_ok=True)
        name = f"{len(list(files.iterdir()))}-{Path(value).name}"
        shutil.copyfile(value, files / name)
        return {_FILE_KEY: name}
    return value


def _with_paths(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        if set(value) == {_FILE_KEY}:
            # Its name only: a folder from elsewhere must not name files outside of it.
            return folder / "files" / Path(value[_FILE_KEY]).name
        return {key: _with_paths(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_paths(item, folder) for item in value]
    return value


def _remove_older(temporary: Path) -> None:
    mine = [path for path in temporary.glob(f"{_PREFIX}*") if path.stat().st_uid == os.getuid()]
    mine.sort(key=lambda path: path.stat().st_mtime_ns)
    for path in mine[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
