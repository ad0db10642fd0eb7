"""The deploy worker's process: reads one request per line, answers one line each."""

import json
import os
import queue
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from bnnkeras.converters.worker import packages, registry, transport


def main(folder: str, modules: str) -> None:
    """Serves requests until stdin closes.

    Args:
        folder: String. The folder for array files, removed at the end.
        modules: String. JSON object from command to module name.
    """
    # Libraries print to stdout from Python and from C++: give them stderr, keep the pipe.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # A thread of its own notices the end of the client in the middle of a command too.
    threading.Thread(target=_read, args=(requests, Path(folder)), daemon=True).start()
    answers.write(transport.encode({"versions": packages.versions()}))
    table = json.loads(modules)
    while True:
        _answer(json.loads(requests.get()), Path(folder), table, answers)


def _read(requests: "queue.SimpleQueue[bytes]", folder: Path) -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _answer(
    request: dict[str, Any], folder: Path, modules: dict[str, str], answers: BinaryIO
) -> None:
    try:
        arrays = {}
        if request["names"]:
            arrays = transport.load_arrays(folder / "request.npz", request["names"])
        handler = registry.find(request["command"], modules)
        result, arrays = handler(arrays, **request["parameters"])
        names = transport.save_arrays(folder / "answer.npz", arrays) if arrays else []
        line = transport.encode({"result": result, "names": names})
    except Exception as error:
        line = transport.encode(
            {
                "error": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
        )
    sys.stdout.flush()
    sys.stderr.flush()
    answers.write(line)
