"""The private environment in which a peer runs: made once, kept in a cache folder."""

import collections
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

# Larq Zoo's own requirements would bring an old protobuf and fail: it is installed without them.
PINS = (
    "numpy==1.26.4",
    "tensorflow==2.21.0",
    "tf-keras==2.21.0",
    "larq==0.14.0",
    "tensorflow-datasets==4.9.10",
)
PINS_ALONE = ("larq-zoo==2.4.0", "zookeeper==1.4.0", "typeguard==4.6.0", "click==8.1.7")
_CHECK = "import larq_zoo; larq_zoo.literature"
# What the pins have wheels for.
_SUPPORTED = ((3, 11), (3, 12))
_TAIL_LINES = 15


class PeerError(RuntimeError):
    """The peer environment cannot be made."""


def cache_folder() -> Path:
    """Where environments are kept: `BNNKERAS_CACHE`, or `~/.cache/bnnkeras`."""
    return Path(os.environ.get("BNNKERAS_CACHE") or Path.home() / ".cache" / "bnnkeras")


def environment_folder() -> Path:
    """The folder of the environment for the present pins and this version of Python."""
    digest = hashlib.sha256("\n".join(PINS + PINS_ALONE).encode()).hexdigest()[:8]
    version = ".".join(map(str, sys.version_info[:2]))
    return cache_folder() / "peers" / f"larq-zoo-python{version}-{digest}"


def peer_python(progress: Callable[[str], None] = lambda message: None) -> Path:
    """The interpreter of the peer environment, which is made if there is none yet.

    The environment appears under its name only when it is complete and has been tried.

    Args:
        progress: Called with what happens next, and with pip's lines.

    Raises:
        PeerError: If it cannot be made: wrong Python, no network, no space, not writable.
    """
    folder = environment_folder()
    if not folder.exists():
        if sys.version_info[:2] not in _SUPPORTED:
            raise PeerError(
                "`peers` needs CPython 3.11 or 3.12, for which the peer's packages exist. "
                f"Received: Python {sys.version.split()[0]}"
            )
        _make(folder, progress)
    return _python(folder)


def _make(folder: Path, progress: Callable[[str], None]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise PeerError(
            f"The cache folder {folder.parent} cannot be written ({error.strerror}). "
            "Set BNNKERAS_CACHE to another one."
        ) from error
    try:
        progress(f"Making the peer environment {folder}")
        _run([sys.executable, "-m", "venv", str(temporary)], progress)
        install = [str(_python(temporary)), "-m", "pip", "install", "--disable-pip-version-check"]
        _run([*install, *PINS], progress)
        _run([*install, "--no-deps", *PINS_ALONE], progress)
        progress("Trying the peer environment")
        _run([str(_python(temporary)), "-c", _CHECK], progress)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process was faster: its environment is as good.
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _run(command: Sequence[str], progress: Callable[[str], None]) -> None:
    """Runs a command and passes its lines on.

    Raises:
        PeerError: If it fails, with the end of its output.
    """
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        for line in process.stdout or ():
            if line.strip():
                tail.append(line.rstrip())
                progress(line.strip())
    if process.returncode:
        raise PeerError(
            f"The peer environment cannot be made: `{' '.join(command)}` ended with status "
            f"{process.returncode}.\n" + "\n".join(tail)
        )


def _python(folder: Path) -> Path:
    if os.name == "nt":
        return folder / "Scripts" / "python.exe"
    return folder / "bin" / "python"
