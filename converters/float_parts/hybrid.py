"""How TFLite's hybrid kernels round their inputs: to 8 bits, with a range of its own for each.

    CONV_2D, a scale per filter    x = scale (q - zero_point)   a range per sample
    CONV_2D, one scale             x = scale q                  a range per sample
    FULLY_CONNECTED                x = scale q                  a range per row

Measured on Larq Compute Engine 0.16: with these inputs a float operator gives what the hybrid
kernel gives, up to the rounding of float32.
"""

import numpy as np

_LOWEST, _HIGHEST = -128, 127
# Products and sums below 256 in float32 are off by less than 256 2^-24; twice that, and a margin.
_UNDECIDED = 2.0**-14


def rounded_inputs(
    kind: str, values: np.ndarray, per_filter: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What a hybrid kernel makes of its inputs, as real values, and by how much it may differ.

    Args:
        kind: `"CONV_2D"` or `"FULLY_CONNECTED"`.
        values: float32 array, the samples first; for `"FULLY_CONNECTED"` the features last.
        per_filter: Whether the weights have more than one scale.

    Returns:
        The rounded values; and 0, or one step where a value lies in the middle of two, so that the
        last bit of a product decides, which compilers form in one order or another.
    """
    if kind == "FULLY_CONNECTED":
        pairs = [_symmetric(row) for row in values.reshape(-1, values.shape[-1])]
    else:
        pairs = [(_asymmetric if per_filter else _symmetric)(sample) for sample in values]
    rounded, undecided = zip(*pairs, strict=True)
    return np.stack(rounded).reshape(values.shape), np.stack(undecided).reshape(values.shape)


def _symmetric(values):
    """scale * round(x / scale), scale = max |x| / 127."""
    largest = np.float32(np.abs(values).max())
    if largest == 0:
        return np.zeros_like(values), np.zeros_like(values)
    exact = values * (np.float32(_HIGHEST) / largest)
    integers = np.clip(_round(exact), -_HIGHEST, _HIGHEST)
    scale = largest / np.float32(_HIGHEST)
    return integers * scale, _undecided(exact) * scale


def _asymmetric(values):
    """scale * (round(x / scale + zero point) - zero point), the range widened to hold 0."""
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if lowest == highest:
        return np.zeros_like(values), np.zeros_like(values)
    exact = (highest - lowest) / (_HIGHEST - _LOWEST)
    # The zero point is that of the end at which it is rounded less.
    from_lowest, from_highest = _LOWEST - lowest / exact, _HIGHEST - highest / exact
    precise = abs(_LOWEST) + abs(lowest / exact) < abs(_HIGHEST) + abs(highest / exact)
    zero = np.clip(_round(np.float64(from_lowest if precise else from_highest)), _LOWEST, _HIGHEST)
    scale = np.float32(exact)
    zero = np.float32(zero)
    placed = zero + values * (np.float32(1.0) / scale)
    integers = np.clip(_round(placed), _LOWEST, _HIGHEST)
    return (integers - zero) * scale, _undecided(placed) * scale


def _undecided(values):
    """1 where a value is in the middle of two integers, as far as float32 can tell."""
    return (np.abs(values - np.floor(values) - 0.5) < _UNDECIDED).astype(values.dtype)


def _round(values):
    """To the nearest integer, halves away from zero, as C rounds."""
    return np.copysign(np.floor(np.abs(values) + 0.5), values).astype(values.dtype)
