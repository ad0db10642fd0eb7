"""Padding amounts of one axis. An extent is a kernel's size with its dilation: (k - 1) d + 1."""

from keras import ops

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


def same_pads(size, extent: int, stride: int) -> tuple:
    """TensorFlow's `"same"`: ceil(size / stride) outputs, the odd element padded at the end.

    `size` is an integer, or a scalar tensor where a graph leaves it open; so are the amounts.
    """
    if stride == 1:
        total = extent - 1
    else:
        total = (-(-size // stride) - 1) * stride + extent - size
        if extent < stride:  # Only then the last window may end before the input does.
            total = max(total, 0) if isinstance(size, int) else ops.maximum(total, 0)
    return total // 2, total - total // 2


def pad_widths(spatial: list[tuple], data_format: str) -> list[tuple]:
    """The amounts of the spatial axes, completed for the batch and channel axes."""
    none = [(0, 0)]
    return none + spatial + none if data_format == "channels_last" else none * 2 + spatial


def padded_shape(shape: tuple, widths: list[tuple[int, int]]) -> tuple:
    """`shape` after padding; unknown sizes stay `None`."""
    return tuple(
        None if size is None else size + before + after
        for size, (before, after) in zip(shape, widths, strict=True)
    )


def window_count(size: int | None, extent: int, stride: int) -> int | None:
    """How many windows fit into a padded axis; `None` for an unknown size.

    Raises:
        ValueError: If none does.
    """
    if size is None:
        return None
    if size < extent:
        raise ValueError(
            "Computed output size would be zero or negative. "
            f"Received: padded input size={size}, kernel size with dilation={extent}"
        )
    return (size - extent) // stride + 1
