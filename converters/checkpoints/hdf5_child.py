"""Reads Keras weight files; run as a program, because HDF5 hangs on some damaged files.

`python -P hdf5_child.py PATH LIMIT_BYTES` writes one line of JSON, what a legacy file holds or why
it cannot be read, and then the bytes of all arrays in that order if they are within the limit.
`python -P hdf5_child.py PATH check` looks at a file of Keras 3 and writes `{}` or the error.
It imports nothing of bnnkeras: Keras would take seconds to load.
"""

import contextlib
import json
import sys
from typing import Any

import h5py
import numpy as np

# Room for Python, NumPy and HDF5 themselves.
_OVERHEAD_BYTES = 1 << 30
_MOST_NAMES = 100_000


def listing(file: h5py.File) -> list[dict[str, Any]]:
    """The layers of a file in order, each with its weights' names, shapes and types.

    Raises:
        ValueError: If the file is not of this kind, or refers to something outside of itself.
    """
    root = _child(file, "model_weights") if "model_weights" in file else file
    names = _names(root, "layer_names")
    if names is None:
        raise ValueError(
            "it has no `layer_names`, which Keras 2 writes; a `.weights.h5` file of Keras 3 is "
            "read by `model.load_weights`"
        )
    if "top_level_model_weights" in root:
        names = [*names, "top_level_model_weights"]
    layers = []
    for name in names:
        group = _child(root, name)
        weights = [_describe(group, weight) for weight in _names(group, "weight_names") or []]
        if weights:
            layers.append({"name": name, "weights": weights})
    return layers


def arrays(file: h5py.File, layers: list[dict[str, Any]]):
    """The values that `listing` announced, little-endian and in order."""
    root = file["model_weights"] if "model_weights" in file else file
    for layer in layers:
        for weight in layer["weights"]:
            dataset = root[layer["name"]][weight["name"]]
            yield np.asarray(dataset[()], dtype=np.dtype(weight["dtype"]).newbyteorder("<"))


def check(file: h5py.File) -> None:
    """Walks all of a file, whatever its layout.

    Raises:
        ValueError: If an array is compressed, lies outside of the file, or claims more bytes than
            the file has.
    """
    groups, seen, claimed = [file], 0, 0
    while groups:
        group = groups.pop()
        for name in group:
            seen += 1
            if seen > _MOST_NAMES:
                raise ValueError(f"it has more than {_MOST_NAMES} members")
            child = _child(group, name)
            if isinstance(child, h5py.Group):
                groups.append(child)
                continue
            _check_storage(child, f"{group.name}/{name}")
            claimed += child.size * child.dtype.itemsize
    if claimed > file.id.get_filesize():
        raise ValueError("its arrays claim more bytes than it has")


def _names(group, attribute):
    """A list of names; Keras cuts one that is too long for HDF5 into `attribute0`, 1, ..."""
    if attribute in group.attrs:
        parts = [group.attrs[attribute]]
    else:
        parts = []
        while f"{attribute}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{attribute}{len(parts)}"])
        if not parts:
            return None
    names = [name for part in parts for name in np.asarray(part).ravel().tolist()]
    if len(names) > _MOST_NAMES:
        raise ValueError(f"it lists {len(names)} names")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _child(group, path):
    """What lies under a path, step by step: links could lead into other files of the user."""
    for name in path.split("/"):
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{path!r} is not there")
        link = group.get(name, getlink=True)
        if type(link) is not h5py.HardLink:
            raise ValueError(f"{path!r} is a link or not there")
        group = group[name]
    return group


def _describe(group, name):
    dataset = _child(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name!r} is no array")
    _check_storage(dataset, name)
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{name!r} is no array of real numbers but of {dataset.dtype}")
    return {"name": name, "shape": list(dataset.shape), "dtype": dataset.dtype.name}


def _check_storage(dataset, name):
    storage = dataset.id.get_create_plist()
    if dataset.external or dataset.is_virtual or storage.get_nfilters():
        raise ValueError(
            f"{name!r} is compressed or lies in another file, which Keras never writes"
        )


def _limit_memory(limit_bytes):
    # POSIX only, and macOS refuses it.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def answer(path: str, limit_bytes: int | None) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What is in the file, or an error; the arrays if together they are within the limit.

    Without a limit, only whether the file may be opened.
    """
    try:
        with h5py.File(path, "r") as file:
            if limit_bytes is None:
                check(file)
                return {}, []
            layers = listing(file)
            sizes = [
                int(np.prod(weight["shape"], dtype=object)) * np.dtype(weight["dtype"]).itemsize
                for layer in layers
                for weight in layer["weights"]
            ]
            within = sum(sizes) <= limit_bytes
            values = list(arrays(file, layers)) if within else []
            return {"layers": layers, "within": within}, values
    except Exception as error:  # Whatever HDF5 and NumPy make of foreign bytes.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"error": reason[:500]}, []


def main() -> None:
    limit_bytes = None if sys.argv[2] == "check" else int(sys.argv[2])
    # The arrays are there twice, the second time as the bytes written.
    _limit_memory(2 * (limit_bytes or 0) + _OVERHEAD_BYTES)
    header, values = answer(sys.argv[1], limit_bytes)
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    for array in values:
        sys.stdout.buffer.write(array.tobytes())


if __name__ == "__main__":
    main()
