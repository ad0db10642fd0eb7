"""Opens HDF5 files in a child process of bounded time and memory: the library hangs on some."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("hdf5_child.py")
_TIMEOUT_SECONDS = 120


class UnreadableFile(ValueError):
    """The child process finds the file unreadable, or did not survive it."""


def ask(path: Path, request: int | str) -> tuple[dict[str, Any], bytes]:
    """What `hdf5_child.py` answers about a file: a JSON object and the bytes behind it.

    Args:
        path: The file.
        request: `"check"`, or the most bytes of arrays wanted.

    Raises:
        UnreadableFile: With the reason.
    """
    # -P: this folder must not be searched for modules, it has names that others have too.
    command = [sys.executable, "-P", str(_CHILD), str(path.resolve()), str(request)]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UnreadableFile(f"reading took more than {_TIMEOUT_SECONDS} s") from None
    header, _, body = child.stdout.partition(b"\n")
    try:
        answer = json.loads(header)
    except ValueError:
        reason = child.stderr.decode(errors="replace").strip().splitlines()
        raise UnreadableFile(
            f"the reader ended with {child.returncode} {reason[-1] if reason else ''}"
        ) from None
    if "error" in answer:
        raise UnreadableFile(answer["error"])
    return answer, body
