"""Looks at `.keras` files that nobody vouches for, before Keras opens them."""

import tempfile
import zipfile
from pathlib import Path

from bnnkeras.converters.checkpoints import hdf5
from bnnkeras.converters.checkpoints.files import check_stored_archive, unreadable

_CONFIGURATION = "config.json"
_WEIGHTS = "model.weights.h5"


def check_keras_archive(path: Path) -> None:
    """Refuses `.keras` files that are damaged, or larger inside than outside.

    The members' checksums are compared, compression is refused (Keras uses none), and the weights
    are looked through in a child process: HDF5 can hang on damaged files, refer to other files of
    the user and claim arrays of any size. What the configuration does is Keras's safe mode's part.

    Args:
        path: The file.

    Raises:
        ValueError: If it is not what `model.save` writes.
    """
    with unreadable(path), tempfile.TemporaryDirectory(prefix="bnnkeras-") as folder:
        check_stored_archive(path, checksums=True)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if _CONFIGURATION not in names or _WEIGHTS not in names:
                raise ValueError(f"it holds no {_CONFIGURATION} or no {_WEIGHTS}")
            # One name twice: what is looked at must be what Keras reads.
            if len(set(names)) != len(names):
                raise ValueError("it has two members of one name")
            archive.extract(_WEIGHTS, folder)
        hdf5.ask(Path(folder, _WEIGHTS), "check")
