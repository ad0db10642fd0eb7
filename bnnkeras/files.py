"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def check_writable(folder: str | os.PathLike) -> None:
    """Makes a folder if it is missing and fails now, and not after hours, if it is read-only.

    Raises:
        OSError: If the folder cannot be made or written, naming it.
    """
    _temporary(Path(folder), "").unlink()


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it becomes `path` when the block succeeds.

    Args:
        path: The file wanted. Its folder is made if it is missing.

    Raises:
        OSError: If the folder cannot be made or written, naming `path`.
    """
    path = Path(path)
    # The suffix stays: Keras chooses the format of a file by it.
    temporary = _temporary(path.parent, "".join(path.suffixes))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        # mkstemp makes files for the owner alone.
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(folder: Path, suffix: str) -> Path:
    """A new empty file in `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=suffix, dir=folder)
    except OSError as error:
        raise type(error)(
            error.errno, f"Cannot write to the output folder {str(folder)!r}: {error.strerror}"
        ) from error
    os.close(handle)
    return Path(name)
