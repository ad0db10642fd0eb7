"""Weights in fewer bits, in NumPy: what a file can hold, as float32 values."""

import numpy as np

# An operator and two tensors cost some 200 bytes.
_FEWEST_WEIGHTS = 256
_LARGEST_INT8 = 127
_SMALLEST_SCALE = np.finfo(np.float32).tiny


def pays(kernel: np.ndarray) -> bool:
    """Whether a kernel has so many weights that a file becomes smaller with fewer bits of them."""
    return kernel.size >= _FEWEST_WEIGHTS


def as_float16(rows: np.ndarray) -> np.ndarray | None:
    """Weights as float16; `None` where one is beyond its range of 65504."""
    if np.abs(rows).max(initial=0.0) > np.finfo(np.float16).max:
        return None
    return rows.astype(np.float16)


def as_int8(rows: np.ndarray, per_filter: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights as integers and scales: rows = scale * integer, zero point 0.

    scale = max |w| / 127, integer = round(w / scale); the error is at most half a scale.

    Args:
        rows: (filters, weights of one) float32 array.
        per_filter: Whether each filter has a scale of its own, or all of them one.

    Returns:
        int8 array of the same shape, within [-127, 127], and float32 array of the scales, of length
        filters or, where they are all equal, 1.
    """
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scales = (largest if per_filter else largest.max(keepdims=True)) / _LARGEST_INT8
    # Zeros, and what is too small to divide by, are zeros at any scale.
    scales = np.where(scales >= _SMALLEST_SCALE, scales, 1.0).astype(np.float32)
    if (scales == scales[0]).all():
        # TFLite's hybrid convolution takes equal scales for one scale, which it then does not find.
        scales = scales[:1]
    integers = np.rint(rows.astype(np.float64) / scales[:, None].astype(np.float64))
    return np.clip(integers, -_LARGEST_INT8, _LARGEST_INT8).astype(np.int8), scales


def rounded_to_float16(rows: np.ndarray) -> np.ndarray:
    """The values that float16 keeps of float32 weights; as they are beyond its range."""
    halves = as_float16(rows)
    return rows if halves is None else halves.astype(np.float32)


def rounded_to_int8(rows: np.ndarray, per_filter: bool) -> np.ndarray:
    """The values that int8 weights and their scales keep of float32 weights."""
    integers, scales = as_int8(rows, per_filter)
    return integers.astype(np.float32) * scales[:, None]
