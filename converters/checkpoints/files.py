"""Opens checkpoint files that nobody vouches for.

No code in a file is run, what a file claims is checked against its size and against the shapes that
the model has before anything is allocated, and whatever is wrong is a `ValueError` with the path.
"""

import contextlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnnkeras.converters.checkpoints.arrays import StoredArray

_TORCH = (".pth", ".pt", ".tar", ".ckpt", ".bin")
SUFFIXES = (*_TORCH, ".npz", ".safetensors")


def open_file(path: str | os.PathLike) -> Mapping[str, Any]:
    """What a checkpoint file holds: names -> tensors or `StoredArray`s, wrapper dicts included.

    Args:
        path: A file with one of `SUFFIXES`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind, damaged, or holds code.
        ImportError: If the package that reads it is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"`source` must end in one of {SUFFIXES}. Received: {str(path)!r}")
    if suffix == ".npz":
        return _npz(path)
    return _safetensors(path) if suffix == ".safetensors" else _torch(path)


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Turns whatever a parser raises on foreign bytes into one `ValueError` with the path."""
    try:
        yield
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        reason = f"{kind}{error}".strip().splitlines()[0]
        raise ValueError(
            f"The checkpoint cannot be read: it is damaged or of another kind ({reason[:300]}). "
            f"Received: {str(path)!r}"
        ) from error


def check_stored_archive(path: Path, checksums: bool = False) -> None:
    """Refuses zip bombs: PyTorch and Keras store their members as they are, without compression.

    Args:
        path: A zip file.
        checksums: Whether to read all members and compare their checksums as well.

    Raises:
        ValueError: If members are compressed, overlap, or are damaged.
        zipfile.BadZipFile: If it is no zip file.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its members are compressed, as PyTorch and Keras never do")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members claim more bytes than it has")
        damaged = archive.testzip() if checksums else None
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged!r} differs")


def _import(name: str, path: Path):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        raise ImportError(
            f"Reading {str(path)!r} needs {name.partition('.')[0]}. Install it with "
            f'`pip install "bnnkeras[torch]"`. Received: {error}'
        ) from error


# --- .npz ------------------------------------------------------------------------------------


def _npz(path: Path) -> dict[str, StoredArray]:
    with unreadable(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) != len(members):
            raise ValueError("it has two members of one name")
        return {
            member.filename.removesuffix(".npy"): _npy(path, archive, member) for member in members
        }


def _npy(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray:
    """The header of one member; the values are read as long as the header says, and no longer."""
    with archive.open(member) as stream:
        shape, fortran, dtype = _npy_header(stream)

    def read():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with unreadable(path), zipfile.ZipFile(path) as again, again.open(member) as stream:
            _npy_header(stream)
            data = stream.read(size)
            # The read at the end also makes zipfile compare the checksum.
            if len(data) != size or stream.read(1):
                raise ValueError(f"{member.filename!r} is not of the size that it claims")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

    return StoredArray(shape, dtype.name, read)


def _npy_header(stream):
    version = np.lib.format.read_magic(stream)
    # Version 3 only differs for names of structured types, which are no numbers.
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"unknown version {version} of the .npy format")
    return readers[version](stream)


# --- .safetensors ----------------------------------------------------------------------------

_SAFETENSORS_DTYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


def _safetensors(path: Path) -> dict[str, StoredArray]:
    safetensors = _import("safetensors", path)
    # Keras depends on ml_dtypes; its import teaches NumPy the name bfloat16.
    import ml_dtypes  # noqa: F401

    def stored(file, name):
        header = file.get_slice(name)
        dtype = header.get_dtype()

        def read():
            with unreadable(path):
                return file.get_tensor(name)

        return StoredArray(tuple(header.get_shape()), _SAFETENSORS_DTYPES.get(dtype, dtype), read)

    # The library checks the header against the file's size. It maps the file, so nothing is read.
    with unreadable(path):
        file = safetensors.safe_open(path, framework="numpy")
        return {name: stored(file, name) for name in file.keys()}


# --- PyTorch ---------------------------------------------------------------------------------


def _torch(path: Path) -> Mapping[str, Any]:
    torch = _import("torch", path)
    with unreadable(path):
        with path.open("rb") as file:
            # As PyTorch tells its formats apart; the older one cannot be mapped.
            is_zip = file.read(4) == b"PK\x03\x04"
        if is_zip:
            # PyTorch skips the checksums.
            check_stored_archive(path, checksums=True)
        try:
            with warnings.catch_warnings():
                # On damaged files, about pickle protocols.
                warnings.simplefilter("ignore")
                # Mapped, a tensor is a view of the file and cannot be larger than it.
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            raise ValueError(_pickle_reason(str(error))) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"The checkpoint must hold a dict of tensors. Received: {str(path)!r} with "
            f"{type(content).__name__}"
        )
    return content


def _pickle_reason(message: str) -> str:
    """PyTorch's advice of many lines, which ends in disabling its protection, in one."""
    match = re.search(r"(?:GLOBAL|type) ([\w.]+\.[\w.]+)", message)
    if match is None:
        return "its pickle is damaged or holds more than tensors, numbers and containers"
    return (
        f"it holds {match.group(1)}, which may run code and is never loaded; if you trust the "
        "file, save its state dict alone: "
        "torch.save(torch.load(old, weights_only=False)['state_dict'], new)"
    )
