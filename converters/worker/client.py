"""The client of the deploy worker."""

import atexit
import builtins
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bnnkeras.converters.worker import memory, packages, reproducer, requirements, transport
from bnnkeras.converters.worker.environment import choose_python
from bnnkeras.converters.worker.registry import COMMAND_MODULES

# Built-in exceptions that a message alone makes again; others become a WorkerError.
_SAME_TYPE = frozenset(
    {
        "ArithmeticError",
        "AssertionError",
        "FileExistsError",
        "FileNotFoundError",
        "ImportError",
        "IndexError",
        "IsADirectoryError",
        "MemoryError",
        "ModuleNotFoundError",
        "NotADirectoryError",
        "NotImplementedError",
        "OSError",
        "PermissionError",
        "TypeError",
        "ValueError",
    }
)
_STDERR_CHARACTERS = 4000
_START_SECONDS = 300.0
# How often the worker's memory is looked at while a command runs.
_MEMORY_SECONDS = 0.1
# Commands that mean nothing without an earlier one: no reproducer.
_FOLLOWING_COMMANDS = frozenset({"predict"})


class WorkerError(RuntimeError):
    """A command of the deploy worker failed.

    Args:
        message: String.
        type_name: String. Name of the exception's type in the worker.
    """

    def __init__(self, message: str, type_name: str = "WorkerError") -> None:
        super().__init__(message)
        self.type_name = type_name


class WorkerEnded(WorkerError):
    """The deploy worker's process ended, or was ended, in the middle of a command.

    Attributes:
        stderr: String. All that the process wrote there.
        reproducer: The folder with the request (`bnnkeras.converters.worker.replay` runs it again),
            or `None` where none was saved.
    """

    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message, type(self).__name__)
        self.stderr = stderr
        self.reproducer: Path | None = None

    def add(self, text: str) -> None:
        """Appends a line to the message."""
        self.args = (f"{self.args[0]}\n{text}",)


class WorkerCrash(WorkerEnded):
    """The deploy worker's process ended by itself."""


class WorkerTimeout(WorkerEnded):
    """A command took too long and the deploy worker's process was ended."""


class WorkerMemoryError(WorkerEnded):
    """A command took too much memory and the deploy worker's process was ended."""


class DeployWorker:
    """Runs commands in a persistent child process.

    Exports, conversions and Larq Compute Engine run there: under TensorFlow whatever Keras
    backend this process uses, and where a crash of theirs becomes a `WorkerCrash`. The process
    starts with the first request, again after a crash, a timeout or an interrupt, and ends with
    this one. Safe to use from several threads: requests wait for each other.

    Its Python is the one that the environment variable `BNNKERAS_DEPLOY_PYTHON` names; else this
    one, where it can run Larq Compute Engine; else the one that `bnnkeras deploy-env` made. There
    it imports this process's own bnnkeras and Keras, so that it reads what they wrote.

    Args:
        commands: Optional mapping from further commands to the modules that register them.
        memory_limit_bytes: Integer or `None`. Resident memory at which a command is ended; `None`
            means the environment variable `BNNKERAS_DEPLOY_MEMORY_GB`, or 75 % of this machine's.
        save_reproducers: Boolean. Whether a request that ends the process is saved to a temporary
            folder, which the error names; the newest three are kept.

    Example:

    >>> worker = get_worker()
    >>> result, arrays = worker.request("environment")
    >>> result["python"].startswith("3.")
    True
    """

    def __init__(
        self,
        commands: Mapping[str, str] | None = None,
        *,
        memory_limit_bytes: int | None = None,
        save_reproducers: bool = True,
    ) -> None:
        self._modules = {**COMMAND_MODULES, **(commands or {})}
        self._memory_limit_bytes = memory_limit_bytes
        self._save_reproducers = save_reproducers
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._owner = os.getpid()

    @property
    def process_id(self) -> int | None:
        """The child's process id, `None` while none runs."""
        return self._process.pid if self._process else None

    def request(
        self,
        command: str,
        arrays: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float | None = 600.0,
        **parameters: Any,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Runs one command and waits for its answer.

        Args:
            command: String. Name of the command.
            arrays: Optional mapping from names to arrays.
            timeout_seconds: Float or `None`. Longest time for the command, not counting the
                start of the process. `None` waits for ever.
            **parameters: JSON values; paths and NumPy scalars are converted.

        Returns:
            A pair of dicts: the command's JSON values and its arrays.

        Raises:
            WorkerError: If the command raised. A common built-in exception (`ValueError`,
                `FileNotFoundError`, `ImportError`, ...) is raised as that type, with the
                worker's traceback as its cause.
            WorkerCrash: If the process ended.
            WorkerTimeout: If the command took longer than `timeout_seconds`.
            WorkerMemoryError: If the command took more memory than the limit.
            ImportError: If no Python here can run the worker.
        """
        self._forget_after_fork()
        with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._stop()
                    self._start()
                return self._exchange(command, arrays or {}, parameters, timeout_seconds)
            except _Answered as answered:
                error = answered.error
            except WorkerEnded as ended:
                self._save(ended, command, arrays or {}, parameters)
                raise
            except BaseException:
                # Half a conversation cannot be continued: an interrupt too ends the process.
                self._stop()
                raise
        raise error from error.__cause__

    def close(self) -> None:
        """Ends the process; the next request starts a new one."""
        self._forget_after_fork()
        with self._lock:
            self._stop()

    def _forget_after_fork(self) -> None:
        # A forked copy must not talk to, or end, the worker of the process it came from; nor
        # wait for a lock that one of that process's threads held.
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = None
            self._lock = threading.Lock()

    def _start(self) -> None:
        if os.name != "posix":
            raise ImportError(requirements.explain("its worker runs on Linux and macOS"))
        python = self._python = choose_python()
        self._folder = Path(tempfile.mkdtemp(prefix="bnnkeras-worker-"))
        packages.link(self._folder / "packages")
        # -P keeps the current folder, which may hold a `bnnkeras` folder, out of the path.
        arguments = [python, "-P", "-m", "bnnkeras.converters.worker"]
        # Appending: the worker's next line then starts at 0 after each `truncate`.
        self._stderr = open(self._folder / "stderr.txt", "a+b", buffering=0)
        try:
            self._process = subprocess.Popen(
                [*arguments, str(self._folder), json.dumps(self._modules)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=_with_packages(_environment(), self._folder / "packages", python),
                start_new_session=True,
            )
        except OSError as error:
            self._remove_files()
            raise WorkerError(
                "The deploy worker's Python does not start. BNNKERAS_DEPLOY_PYTHON must name a "
                f"Python 3.11 or newer. Received: {python} ({error})"
            ) from error
        self._answers = queue.SimpleQueue()
        threading.Thread(
            target=_read, args=(self._process.stdout, self._answers), daemon=True
        ).start()
        try:
            ready = json.loads(self._receive("start", _START_SECONDS))
        except WorkerEnded as ended:
            package = requirements.missing_package(ended.stderr)
            # Not a `WorkerEnded`: there is no request to save.
            if package is None:
                raise WorkerError(str(ended)) from ended
            reason = f"{python} has no module {package}"
            raise ImportError(requirements.explain(reason)) from ended
        if ready["versions"] != packages.versions():
            raise WorkerError(
                f"The deploy worker must import this process's packages. {python} imports others: "
                f"it ignores PYTHONPATH. Received: {ready['versions']}, not {packages.versions()}"
            )

    def _exchange(
        self,
        command: str,
        arrays: Mapping[str, Any],
        parameters: Mapping[str, Any],
        timeout_seconds: float | None,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        assert self._process is not None and self._process.stdin is not None
        try:
            names = transport.save_arrays(self._folder / "request.npz", arrays) if arrays else []
            line = transport.encode({"command": command, "names": names, "parameters": parameters})
        except TypeError as error:
            raise _Answered(error) from None
        self._stderr.truncate(0)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()
        answer = json.loads(self._receive(command, timeout_seconds))
        if "error" in answer:
            raise _Answered(self._error(command, answer))
        if not answer["names"]:
            return answer["result"], {}
        path = self._folder / "answer.npz"
        return answer["result"], transport.load_arrays(path, answer["names"])

    def _receive(self, command: str, timeout_seconds: float | None) -> bytes:
        assert self._process is not None
        try:
            line = self._wait(command, timeout_seconds)
        except queue.Empty:
            raise self._end(
                WorkerTimeout,
                f'did not finish "{command}" in {timeout_seconds:g} s and was ended',
            ) from None
        if line:
            return line
        code = self._process.wait()
        how = f"exited with status {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        raise self._end(WorkerCrash, f'{how} during "{command}"')

    def _wait(self, command: str, timeout_seconds: float | None) -> bytes:
        """The next line; `queue.Empty` when the time is over."""
        assert self._process is not None
        limit = self._memory_limit_bytes or memory.limit_bytes()
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            left = _MEMORY_SECONDS if end is None else end - time.monotonic()
            try:
                return self._answers.get(timeout=min(max(left, 0.0), _MEMORY_SECONDS))
            except queue.Empty:
                if left <= 0:
                    raise
            used = memory.resident_bytes(self._process.pid)
            if used > limit:
                raise self._end(
                    WorkerMemoryError,
                    f'used {used / 1e9:.2f} GB of memory during "{command}", over the limit of '
                    f"{limit / 1e9:.2f} GB ({memory.VARIABLE} sets another), and was ended",
                )

    def _end(self, kind: type[WorkerEnded], how: str) -> WorkerEnded:
        """Ends the process and returns the error that says how it came to that."""
        tail, stderr = self._stderr_tail(), self._stderr_text()
        self._stop()
        return kind(f"The deploy worker {how}; the next request starts it again.{tail}", stderr)

    def _save(
        self,
        ended: WorkerEnded,
        command: str,
        arrays: Mapping[str, Any],
        parameters: Mapping[str, Any],
    ) -> None:
        if not self._save_reproducers or command in _FOLLOWING_COMMANDS:
            return
        try:
            folder = reproducer.save(
                command,
                arrays,
                parameters,
                python=self._python,
                error=str(ended).splitlines()[0],
                stderr=ended.stderr,
            )
        except OSError as error:
            ended.add(f"The request could not be saved: {error}")
            return
        ended.reproducer = folder
        replay = f"{sys.executable} -m bnnkeras.converters.worker.replay {folder}"
        ended.add(f"The request was saved to {folder}. This runs it again:\n{replay}")

    def _error(self, command: str, answer: Mapping[str, str]) -> Exception:
        name, message = answer["error"], answer["message"]
        details = WorkerError(f"In the deploy worker:\n{answer['traceback']}", name)
        if name in _SAME_TYPE:
            error: Exception = getattr(builtins, name)(message)
        else:
            tail = self._stderr_tail()
            error = WorkerError(f'"{command}" failed with {name}: {message.strip()}{tail}', name)
        error.__cause__ = details
        return error

    def _stderr_tail(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        self._stderr.seek(max(size - _STDERR_CHARACTERS, 0))
        tail = self._stderr.read(_STDERR_CHARACTERS).decode(errors="replace").strip()
        return f"\nLast lines of its stderr:\n{tail}" if tail else ""

    def _stderr_text(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        # The worker leads a session of its own, so its group holds whatever it started.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        self._remove_files()

    def _remove_files(self) -> None:
        self._stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Answered(Exception):
    """The command failed and the conversation goes on."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


_shared: DeployWorker | None = None
_shared_lock = threading.Lock()


def get_worker() -> DeployWorker:
    """Returns the worker that this process shares; it starts with its first request."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = DeployWorker()
            atexit.register(_shared.close)
        return _shared


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    environment.update(
        KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1"
    )
    # A user of legacy Keras would otherwise hand LCE a `tf.keras` that is not Keras 3.
    environment.pop("TF_USE_LEGACY_KERAS", None)
    return environment


def _with_packages(environment: dict[str, str], folder: Path, python: str) -> dict[str, str]:
    """The variables with which a Python imports the packages of a folder before its own."""
    theirs = environment.pop("PYTHONPATH", "")
    if python == sys.executable:
        path = [str(folder), *filter(None, [theirs])]
    else:
        # What is on this Python's path is not made for that one.
        path = [str(folder)]
        for name in ("PYTHONHOME", "__PYVENV_LAUNCHER__"):
            environment.pop(name, None)
    return {**environment, "PYTHONPATH": os.pathsep.join(path)}


def _read(pipe: BinaryIO, answers: "queue.SimpleQueue[bytes]") -> None:
    with pipe:
        for line in pipe:
            answers.put(line)
    answers.put(b"")
