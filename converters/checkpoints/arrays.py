"""Arrays of a checkpoint: known by shape and type before anything of their size is allocated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnnkeras.converters.checkpoints.layouts import Shape

_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_NUMBERS = _FLOATS | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class StoredArray:
    """An array in a checkpoint, read when it is wanted.

    Args:
        shape: Its shape, as the file declares it.
        dtype: Name of its type; one that is no number is refused before reading.
        read: Returns the values.
    """

    shape: Shape
    dtype: str
    read: Callable[[], np.ndarray]


def from_value(value: Any) -> StoredArray | None:
    """An entry of a mapping: an array or tensor of any library; `None` if it is neither."""
    if hasattr(value, "detach") and hasattr(value, "layout"):
        return from_torch(value)
    if isinstance(value, (str, bytes)) or value is None:
        return None
    try:
        array = np.asarray(value)
    except Exception:  # Whatever another library's __array__ raises: it is no array to us.
        return None
    return StoredArray(array.shape, array.dtype.name, lambda: array)


def from_torch(tensor) -> StoredArray:
    """A PyTorch tensor; those without plain values get a type that is refused."""
    import torch

    shape = tuple(tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return StoredArray(shape, f"{tensor.layout} {dtype} on {tensor.device}", lambda: tensor)

    def read():
        plain = tensor.detach().cpu()
        # NumPy has no bfloat16; float32 holds its values exactly.
        return (plain.float() if dtype == "bfloat16" else plain).numpy()

    return StoredArray(shape, dtype, read)


def checked(stored: StoredArray) -> np.ndarray:
    """The values of an array of the wanted shape.

    Raises:
        ValueError: If they are no finite numbers.
    """
    if stored.dtype not in _NUMBERS:
        raise ValueError(f"is no array of real numbers but of {stored.dtype}")
    array = stored.read()
    if stored.dtype == "bfloat16":
        array = array.astype("float32")
    if stored.dtype in _FLOATS and not np.isfinite(array).all():
        raise ValueError(f"has {np.sum(~np.isfinite(array))} values that are not finite")
    return array


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """The values in the type of a variable, rounded but never out of its range.

    Raises:
        ValueError: If a value does not fit.
    """
    # Keras's backends take float32 for a bfloat16 variable, NumPy has no such type.
    target = np.dtype("float32" if dtype == "bfloat16" else dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(target)
    fits = np.isfinite(result).all() if target.kind == "f" else np.array_equal(result, array)
    if not fits:
        raise ValueError(
            f"has values that {dtype} cannot hold, as {np.ravel(array)[np.argmax(np.abs(array))]}"
        )
    return result
