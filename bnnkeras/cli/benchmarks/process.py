"""The client of a contender's process."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnnkeras.cli.benchmarks.contenders import Contender, ContenderError

_CHILD = Path(__file__).with_name("child.py")
_STDERR_CHARACTERS = 2000
_END_SECONDS = 5


class ContenderProcess(contextlib.AbstractContextManager):
    """A contender that waits, idle, in a process of its own, and runs training steps when told.

    Args:
        contender: Who runs.
        batch_size: Samples per step.
        input_shape: Shape of a sample, without the batch.

    Raises:
        ContenderError: If it cannot start; the message says why.
    """

    def __init__(self, contender: Contender, batch_size: int, input_shape: Sequence[int]):
        self.contender = contender
        specification = {
            "kind": contender.kind,
            "model": contender.model,
            "dtype": contender.dtype,
            "batch_size": batch_size,
            "input_shape": list(input_shape),
        }
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                # -P: the child's folder must not be where its imports are looked up.
                [contender.python, "-P", str(_CHILD), json.dumps(specification)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=contender.environment(),
            )
        except OSError as error:
            self._stderr.close()
            raise ContenderError(f"{contender.name} cannot start: {error}") from error
        # Popen's attributes are optional, these are not.
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            self.facts = self._receive()
        except BaseException:
            self.close()
            raise

    def run(self, steps: int) -> dict[str, list[float]]:
        """Runs `steps` training steps; returns their `step_seconds` and `processor_seconds`."""
        with contextlib.suppress(BrokenPipeError):  # `_receive` tells what happened.
            self._requests.write(json.dumps({"steps": steps}).encode() + b"\n")
            self._requests.flush()
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._stderr.close()

    def __exit__(self, *exception) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            status = self._process.wait()
            self._stderr.seek(0)
            tail = self._stderr.read().decode(errors="replace")[-_STDERR_CHARACTERS:]
            raise ContenderError(f"{self.contender.name} ended with status {status}.\n{tail}")
        message = json.loads(line)
        if "error" in message:
            raise ContenderError(f"{self.contender.name}: {message['error']}")
        return message
