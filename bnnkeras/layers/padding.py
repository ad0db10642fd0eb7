"""Padding amounts of one axis. An extent is a kernel's size with its dilation: (k - 1) d + 1."""

PADDINGS = ("valid", "same", "symmetric")


def padding_name(padding, allowed: tuple[str, ...] = PADDINGS) -> str:
    """`padding` in lower case.

    Raises:
        ValueError: If it is not one of `allowed`.
    """
    name = padding.lower() if isinstance(padding, str) else None
    if name not in allowed:
        names = ", ".join(f'"{value}"' for value in allowed)
        raise ValueError(f"`padding` must be one of {names}. Received: padding={padding!r}")
    return name


def symmetric_pads(extent: int) -> tuple[int, int]:
    """PyTorch's alignment: (extent - 1) // 2 before and after."""
    return (extent - 1) // 2, (extent - 1) // 2


def same_pads(size: int | None, extent: int, stride: int) -> tuple[int, int]:
    """TensorFlow's `"same"`: ceil(size / stride) outputs, the odd element padded at the end.

    Raises:
        ValueError: If `size` is unknown and the amount depends on it (stride > 1).
    """
    if stride == 1:
        total = extent - 1
    elif size is None:
        raise ValueError(
            'padding="same" with pad_values other than 0 and a stride > 1 needs a fixed input '
            f"size. Received: size=None, strides={stride}"
        )
    else:
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def pad_widths(spatial: list[tuple[int, int]], data_format: str) -> list[tuple[int, int]]:
    """The amounts of the spatial axes, completed for the batch and channel axes."""
    none = [(0, 0)]
    return none + spatial + none if data_format == "channels_last" else none * 2 + spatial


def padded_shape(shape: tuple, widths: list[tuple[int, int]]) -> tuple:
    """`shape` after padding; unknown sizes stay `None`."""
    return tuple(
        None if size is None else size + before + after
        for size, (before, after) in zip(shape, widths, strict=True)
    )
