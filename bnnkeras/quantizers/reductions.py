"""Means over the axes of kernels and activations, in a precision that holds them."""

import math
from collections.abc import Sequence

import keras
from keras import ops

# "kernel": output channels come last. "spatial": samples come first, channels last.
_NAMED_AXES = {
    "all": lambda rank: range(rank),
    "kernel": lambda rank: range(rank - 1),
    "spatial": lambda rank: range(1, rank - 1),
}


def checked_axes(axes: str | Sequence[int]) -> str | tuple[int, ...]:
    """`axes` as an argument of a part: a name or a tuple of integers.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(axes, str):
        if axes in _NAMED_AXES:
            return axes
    elif isinstance(axes, Sequence) and axes:
        integers = tuple(axis for axis in axes if type(axis) is int)
        if len(integers) == len(axes):
            return integers
    names = ", ".join(f'"{name}"' for name in _NAMED_AXES)
    raise ValueError(f"`axes` must be {names} or a tuple of integers. Received: axes={axes!r}")


def resolve_axes(axes: str | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The non-negative axes that `axes` means for a tensor of rank `rank`."""
    if isinstance(axes, str):
        return tuple(_NAMED_AXES[axes](rank))
    return tuple(sorted(axis % rank for axis in axes))


def count(shape: Sequence[int | None], axes: str | tuple[int, ...]) -> int:
    """How many values are reduced to one.

    Raises:
        ValueError: If a size is unknown.
    """
    axes_of_shape = resolve_axes(axes, len(shape))
    sizes = [size for size in (shape[axis] for axis in axes_of_shape) if size is not None]
    if len(sizes) < len(axes_of_shape):
        raise ValueError(f"The reduced axes {axes!r} need known sizes. Received: shape={shape}")
    return math.prod(sizes)


def tensor(variable):
    """The value of a variable. JAX's functions would take the variable itself for a constant."""
    return ops.cast(variable, variable.dtype)


def wide(x):
    """`x` in float32, or in float64 if it is."""
    if keras.backend.standardize_dtype(x.dtype) in ("float32", "float64"):
        return x
    return ops.cast(x, "float32")


def mean(x, axes: str | tuple[int, ...]):
    """The mean over `axes`, which are kept with size 1; float32 or float64."""
    x = wide(x)
    resolved = resolve_axes(axes, len(x.shape))
    if not resolved:
        return x
    if keras.backend.standardize_dtype(x.dtype) == "float64":
        # Keras computes `mean` in float32 here, except on TensorFlow.
        total, number = (
            ops.sum(term, axis=resolved, keepdims=True) for term in (x, ops.ones_like(x))
        )
        return total / number
    return ops.mean(x, axis=resolved, keepdims=True)
