"""Private environments: exact versions of packages for one purpose, made once and kept in a cache.

Each lives under `cache_folder() / "environments"`, in a folder named after what is installed, so
that other versions are another environment. Inside it the virtual environments are numbered, and
`current.json` names the one that is complete. Making one again never harms the one in use before
the new one works, an interrupted making leaves nothing that is taken for complete, and the paths
inside are right because nothing is ever renamed.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bnnkeras.files import replacing

# What the pinned versions have wheels for, the preferred one first.
PYTHON_VERSIONS = ((3, 12), (3, 11))
# Debian's stripped Pythons, pyenv's shims and the like are there but fail: each is tried.
_PROBE = """
import sys, ssl, venv, ensurepip
assert sys.implementation.name == "cpython" and sys.maxsize > 2**32
assert sys.version_info[:2] in {}
print(sys.executable)
"""
_PROBE_SECONDS = 60
# Settings with which pip would install elsewhere, or something else.
_PIP_SETTINGS = ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_CONSTRAINT", "PIP_REQUIRE_HASHES")
_TAIL_LINES = 15


class PrivateEnvironmentError(RuntimeError):
    """A private environment cannot be made, or does not work."""


def cache_folder() -> Path:
    """Where environments are kept: `BNNKERAS_CACHE`, or `~/.cache/bnnkeras`."""
    return Path(os.environ.get("BNNKERAS_CACHE") or Path.home() / ".cache" / "bnnkeras")


@dataclasses.dataclass(frozen=True)
class PrivateEnvironment:
    """A virtual environment with exactly the packages of a list.

    Args:
        name: String. What it is for, as the start of the folder's name.
        requirements: Path of a requirements file that lists everything to install, the packages
            that packages need too, each as `name==version`.
        check: Function that is called with the path of the environment's Python, and raises where
            the environment does not do its work. Tried before an environment counts as complete.
        python_versions: Tuple of pairs. The versions of CPython that the packages are for, the
            preferred one first.

    Example:

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "requirements.txt")
    >>> _ = file.write_text("six==1.17.0")
    >>> PrivateEnvironment("example", file, check=lambda python: None).python() is None
    True
    """

    name: str
    requirements: Path
    check: Callable[[Path], None] = dataclasses.field(repr=False)
    python_versions: tuple[tuple[int, int], ...] = PYTHON_VERSIONS

    @property
    def folder(self) -> Path:
        """Its folder, whether or not it is there: another one for other versions or machines."""
        digest = hashlib.sha256(self.requirements.read_bytes()).hexdigest()[:8]
        machine = f"{sys.platform}-{platform.machine()}"
        return cache_folder() / "environments" / f"{self.name}-{machine}-{digest}"

    def python(self) -> Path | None:
        """The environment's Python, `None` while there is no complete environment."""
        try:
            current = json.loads((self.folder / "current.json").read_text())
            python = self.folder / current["folder"] / "bin" / "python"
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # The Python that it was made with may be gone since.
        return python if os.access(python, os.X_OK) else None

    def outdated(self) -> list[Path]:
        """Folders of environments of this name for other versions of the packages."""
        pattern = f"{self.name}-{sys.platform}-{platform.machine()}-*"
        others = self.folder.parent.glob(pattern)
        return sorted(path for path in others if path != self.folder and path.is_dir())

    def make(
        self,
        *,
        python: str | os.PathLike | None = None,
        recreate: bool = False,
        progress: Callable[[str], None] = lambda message: None,
    ) -> Path:
        """Makes the environment if there is none; returns its Python.

        Two processes do not make it at once: the second waits, and takes what the first made.

        Args:
            python: The Python to make it with; `None` searches (`find_python`).
            recreate: Whether to make it anew where there is one.
            progress: Called with what happens next, and with pip's lines.

        Raises:
            PrivateEnvironmentError: If it cannot be made: no Python, no network, no space, not
                writable; or if it fails its check.
        """
        with self._lock(progress) as lock:
            existing = self.python()
            if existing is not None and not recreate:
                return existing
            base = find_python(python, self.python_versions)
            self._remove_all_but(existing)
            folder = self._new_folder()
            try:
                self._fill(folder, base, lock, progress)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            with replacing(self.folder / "current.json") as temporary:
                temporary.write_text(json.dumps({"folder": folder.name, "made_with": base}))
            made = folder / "bin" / "python"
            self._remove_all_but(made)
            return made

    def _fill(self, folder: Path, base: str, lock: int, progress: Callable[[str], None]) -> None:
        progress(f"Making {folder} with {base}")
        run = _Runner(lock, progress)
        run([base, "-m", "venv", str(folder)])
        python = folder / "bin" / "python"
        # The list is complete: nothing but the list is installed, at no other version.
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        run([*pip, "--no-deps", "-r", str(self.requirements)])
        progress("Trying it")
        try:
            self.check(python)
        except Exception as error:
            raise PrivateEnvironmentError(
                f"The environment {self.name} was made, but does not work, and was removed: {error}"
            ) from error

    def _new_folder(self) -> Path:
        number = 1
        while (self.folder / str(number)).exists():
            number += 1
        return self.folder / str(number)

    def _remove_all_but(self, python: Path | None) -> None:
        """Removes what interrupted makings and older ones left."""
        keep = python.parents[1] if python is not None else None
        for path in self.folder.iterdir():
            if path.is_dir() and path != keep:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _lock(self, progress: Callable[[str], None]) -> Iterator[int]:
        """Holds the lock of the folder; the system frees it when its last holder ends."""
        import fcntl  # Not on Windows, where importing this module must work.

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.folder / "lock", "a")
        except OSError as error:
            raise PrivateEnvironmentError(
                f"The cache folder {self.folder} cannot be written ({error.strerror}). "
                "Set BNNKERAS_CACHE to another one."
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("Another process is making this environment: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()


def find_python(
    wanted: str | os.PathLike | None = None,
    versions: Sequence[tuple[int, int]] = PYTHON_VERSIONS,
) -> str:
    """The path of a CPython that can make virtual environments.

    Args:
        wanted: The only one to try; `None` tries this process's Python, those on the PATH, pyenv's
            and uv's.
        versions: Pairs. The versions to take, the preferred one first.

    Raises:
        PrivateEnvironmentError: If none works, naming those tried.
    """
    tried = []
    for candidate in [os.fspath(wanted)] if wanted is not None else _candidates(versions):
        # -I: the variables and the folder of this process are not part of that Python.
        found = _output([candidate, "-I", "-c", _PROBE.format(tuple(versions))])
        if found is not None:
            return found
        if candidate not in tried:
            tried.append(candidate)
    names = " or ".join(f"{major}.{minor}" for major, minor in versions)
    raise PrivateEnvironmentError(
        f"CPython {names} with the modules venv, ensurepip and ssl is needed, for which the "
        "packages exist, and none was found. Install one (for example with `uv python install` "
        f"or pyenv) or name one with --python. Received: {', '.join(tried)}"
    )


def _candidates(versions: Sequence[tuple[int, int]]) -> Iterator[str]:
    yield sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    uv = shutil.which("uv")
    for major, minor in versions:
        name = f"python{major}.{minor}"
        for folder in os.get_exec_path():
            found = shutil.which(name, path=folder)
            if found is not None:
                yield found
        for path in sorted(pyenv.glob(f"versions/{major}.{minor}*/bin/{name}")):
            yield str(path)
        if uv is not None:
            found = _output([uv, "python", "find", "--no-python-downloads", f"{major}.{minor}"])
            if found is not None:
                yield found


def _output(command: Sequence[str]) -> str | None:
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 and result.stdout.strip() else None


class _Runner:
    """Runs commands, passes their lines on, and shows the last ones when one fails.

    Args:
        lock: File descriptor of the lock. The command inherits it, so that a pip that outlives
            this process keeps others out until it ends.
        progress: Called with each line.
    """

    def __init__(self, lock: int, progress: Callable[[str], None]) -> None:
        self.lock, self.progress = lock, progress

    def __call__(self, command: Sequence[str]) -> None:
        removed = (*_PIP_SETTINGS, "PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")
        variables = {name: value for name, value in os.environ.items() if name not in removed}
        tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=variables,
            pass_fds=(self.lock,),
        ) as process:
            for line in process.stdout or ():
                if line.strip():
                    tail.append(line.rstrip())
                    self.progress(line.strip())
        if process.returncode:
            raise PrivateEnvironmentError(
                f"`{' '.join(command)}` ended with status {process.returncode}; nothing was left "
                "behind. If packages were not found, are the network and pip's index reachable? "
                "The same command tries again.\n" + "\n".join(tail)
            )
