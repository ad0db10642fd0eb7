"""How arrays and JSON values travel between the deploy worker and its client."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def encode(message: Mapping[str, Any]) -> bytes:
    """Returns one line of JSON; paths become strings and NumPy scalars numbers.

    Raises:
        TypeError: If a value is none of JSON's.
    """
    return json.dumps(message, default=_plain).encode() + b"\n"


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> list[str]:
    """Writes arrays to an `.npz` file and returns their names in the file's order.

    The names travel in the message: inside `np.savez` a name such as `"file"` would be taken
    for an argument.

    Raises:
        TypeError: If an array holds objects or a type that `.npy` does not preserve.
    """
    values = {name: np.asarray(value) for name, value in arrays.items()}
    for name, value in values.items():
        if value.dtype.kind not in "biufcSU":
            raise TypeError(
                f"`arrays[{name!r}]` must hold numbers, booleans or strings. "
                f"Received: dtype {value.dtype}"
            )
    np.savez(path, *values.values())
    return list(values)


def load_arrays(path: Path, names: list[str], *, remove: bool = True) -> dict[str, np.ndarray]:
    """Reads the arrays that `save_arrays` wrote, and removes the file unless told not to."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[f"arr_{index}"] for index, name in enumerate(names)}
    if remove:
        path.unlink()
    return arrays


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Parameters and results must be JSON values. Received: {value!r}")
