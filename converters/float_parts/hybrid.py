"""How TFLite's hybrid kernels round their inputs: to 8 bits, with a range of its own for each.

    CONV_2D, a scale per filter    x = scale (q - zero_point)   a range per sample
    CONV_2D, one scale             x = scale q                  a range per sample
    FULLY_CONNECTED                x = scale q                  a range per row

Measured on Larq Compute Engine 0.16: with these inputs a float operator gives what the hybrid
kernel gives, up to the rounding of float32.
"""

import numpy as np

_LOWEST, _HIGHEST = -128, 127


def rounded_inputs(kind: str, values: np.ndarray, per_filter: bool) -> np.ndarray:
    """What a hybrid kernel makes of its inputs, as real values.

    Args:
        kind: `"CONV_2D"` or `"FULLY_CONNECTED"`.
        values: float32 array, the samples first; for `"FULLY_CONNECTED"` the features last.
        per_filter: Whether the weights have more than one scale.
    """
    if kind == "FULLY_CONNECTED":
        rows = values.reshape(-1, values.shape[-1])
        return np.stack([_symmetric(row) for row in rows]).reshape(values.shape)
    return np.stack([(_asymmetric if per_filter else _symmetric)(sample) for sample in values])


def _symmetric(values):
    """scale * round(x / scale), scale = max |x| / 127."""
    largest = np.float32(np.abs(values).max())
    if largest == 0:
        return np.zeros_like(values)
    integers = _round(values * (np.float32(_HIGHEST) / largest))
    return np.clip(integers, -_HIGHEST, _HIGHEST) * (largest / np.float32(_HIGHEST))


def _asymmetric(values):
    """scale * (round(x / scale + zero point) - zero point), the range widened to hold 0."""
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if lowest == highest:
        return np.zeros_like(values)
    exact = (highest - lowest) / (_HIGHEST - _LOWEST)
    # The zero point is that of the end at which it is rounded less.
    from_lowest, from_highest = _LOWEST - lowest / exact, _HIGHEST - highest / exact
    precise = abs(_LOWEST) + abs(lowest / exact) < abs(_HIGHEST) + abs(highest / exact)
    zero = np.clip(_round(np.float64(from_lowest if precise else from_highest)), _LOWEST, _HIGHEST)
    scale = np.float32(exact)
    zero = np.float32(zero)
    integers = np.clip(_round(zero + values * (np.float32(1.0) / scale)), _LOWEST, _HIGHEST)
    return (integers - zero) * scale


def _round(values):
    """To the nearest integer, halves away from zero, as C rounds."""
    return np.copysign(np.floor(np.abs(values) + 0.5), values).astype(values.dtype)
