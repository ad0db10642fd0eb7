"""Numbers as people read them."""


def readable_bytes(count: float) -> str:
    """A number of bytes; 1 kB is 1000 bytes.

    Example:
        >>> [readable_bytes(count) for count in (0, 999, 1_500, 4_189_440)]
        ['0 B', '999 B', '1.50 kB', '4.19 MB']
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def readable_ms(value: float | None) -> str:
    """Milliseconds with three digits; a dash for what was not measured.

    Example:
        >>> [readable_ms(value) for value in (23.9547, 0.01234, None)]
        ['24.0 ms', '0.0123 ms', '-']
    """
    if value is None:
        return "-"
    decimals = 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{decimals}f} ms"


def readable_shape(shape: tuple[int, ...]) -> str:
    """A shape as `1 x 8 x 8 x 64`.

    Example:
        >>> readable_shape((1, 8, 8, 64))
        '1 x 8 x 8 x 64'
    """
    return " x ".join(map(str, shape)) or "scalar"
