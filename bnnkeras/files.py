"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it becomes `path` when the block succeeds.

    Args:
        path: The file wanted. Its folder is made if it is missing.

    Raises:
        OSError: If the folder cannot be made or written, naming `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays: Keras chooses the format of a file by it.
        handle, name = tempfile.mkstemp(suffix="".join(path.suffixes), dir=path.parent)
    except OSError as error:
        raise type(error)(
            error.errno, f"Cannot write to the output folder {str(path.parent)!r}: {error.strerror}"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        # mkstemp makes files for the owner alone.
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
