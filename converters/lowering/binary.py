"""The binary convolution: what every 1-bit layer comes down to, in a form that LCE gets right."""

import dataclasses

import keras
import numpy as np

from bnnkeras.converters.graph import producer
from bnnkeras.converters.lowering.activations import is_sign_keeping
from bnnkeras.converters.lowering.geometry import Axis


@dataclasses.dataclass(frozen=True)
class BinaryConvolution:
    """scale * conv(pad(sign(x)), signs) + bias on maps (batch, height, width, channels).

    Attributes:
        name: Name of the layer it stems from.
        signs: The kernel of exact +-1, (height, width, channels, filters).
        scale: (filters,) factors.
        bias: (filters,) summands.
        rows: Padding and stride along the height.
        columns: Padding and stride along the width.
        dilation_rate: Pair of integers.
        pad_value: What the signs are padded with: 0, 1 or -1.
    """

    name: str
    signs: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    rows: Axis
    columns: Axis
    dilation_rate: tuple[int, int] = (1, 1)
    pad_value: float = 0.0

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def filters(self) -> int:
        """Number of output channels."""
        return self.signs.shape[-1]


def binary_convolution(builder, x, convolution: BinaryConvolution):
    """Lays the deploy form of a binary convolution; `x` has its threshold subtracted already."""
    axes = convolution.axes
    pads_nothing = not any(pad for axis in axes for pad in axis.explicit)
    if convolution.pad_value or pads_nothing:
        return _valid(builder, x, convolution)
    # LCE's reference kernel refuses zero padding on an odd number of channels.
    even = x.shape[-1] % 2 == 0
    if even and all(axis.is_same or axis.is_appended_same or axis.is_flipped_same for axis in axes):
        return _same(builder, x, convolution)
    return _bordered(builder, x, convolution)


def _valid(builder, x, convolution):
    """No padding, or padding with a sign: done before the sign, where LCE keeps it apart."""
    # sign(0) = +1: padding with 0 before the sign is padding with 1 after it.
    value = min(convolution.pad_value, 0.0)
    x = builder.pad(x, [axis.explicit for axis in convolution.axes], convolution.name, value)
    x = _signed(builder, x, convolution, convolution.signs, "valid")
    return builder.affine(x, convolution.scale, convolution.bias, convolution.name)


def _same(builder, x, convolution):
    """LCE's own zero padding, on a reversed map or with one more row where that makes it fit."""
    name, axes = convolution.name, convolution.axes
    # Flipping is faster than appending (5 to 20 % of a layer on x86), which serves where the
    # kernel is larger than the map.
    flip = [
        number
        for number, axis in enumerate(axes, start=1)
        if axis.is_flipped_same and not axis.is_same
    ]
    append = [(0, int(not (axis.is_same or axis.is_flipped_same))) for axis in axes]
    x = builder.flip(x, flip, name)
    x = builder.pad(x, append, name)
    # The kernel is HWIO: its axes 0 and 1 are the map's axes 1 and 2.
    kernel = np.flip(convolution.signs, [axis - 1 for axis in flip])
    x = _signed(builder, x, convolution, kernel, "same")
    x = builder.affine(x, convolution.scale, convolution.bias, name)
    return builder.flip(builder.crop(x, *append, name), flip, name)


def _bordered(builder, x, convolution):
    """Zeros as ones, and what those ones add taken off again.

    With the kernel negated this is a constant minus a convolution, the one order that LCE's
    converter does not fuse.
    """
    name, scale, bias = convolution.name, convolution.scale, convolution.bias
    x = builder.pad(x, [axis.explicit for axis in convolution.axes], name)
    x = _signed(builder, x, convolution, -convolution.signs, "valid")
    x = builder.affine(x, scale, np.zeros_like(bias), name)
    return builder.subtract_from(bias - scale * _border(convolution), x, name)


def _signed(builder, x, convolution, kernel, padding):
    x = builder.sign(_without_activations(builder, x, convolution.name), convolution.name)
    strides = tuple(axis.stride for axis in convolution.axes)
    return builder.convolution(
        x, kernel, strides, padding, convolution.dilation_rate, convolution.name
    )


def _without_activations(builder, x, name):
    """x without what does not change its sign, so that LCE passes on or pools bits.

    It is looked for behind what moves values or picks one of them.
    """
    source, inputs = producer(x)
    if is_sign_keeping(source):
        return _without_activations(builder, inputs[0], name)
    moves = (
        keras.layers.Concatenate,
        keras.layers.MaxPooling2D,
        keras.layers.RepeatVector,
        keras.layers.Reshape,
    )
    if not isinstance(source, moves):
        return x
    stripped = [_without_activations(builder, tensor, name) for tensor in inputs]
    if all(one is other for one, other in zip(stripped, inputs, strict=True)):
        return x
    if isinstance(source, keras.layers.Concatenate):
        return builder.concatenate(stripped, source.axis, name)
    if isinstance(source, keras.layers.Reshape):
        return builder.reshape(stripped[0], x.shape[1:], f"{name}_reshape")
    return builder.again(source, stripped[0], name)


def _border(convolution):
    """What padding with ones instead of zeros adds at each position: (H', W', filters)."""
    rows, columns = convolution.axes
    outside = np.pad(
        np.zeros((rows.size, columns.size)), [rows.explicit, columns.explicit], constant_values=1.0
    )
    taps = convolution.signs.sum(axis=2)
    result = np.zeros((rows.outputs, columns.outputs, convolution.filters))
    for row in range(taps.shape[0]):
        for column in range(taps.shape[1]):
            from_row = row * convolution.dilation_rate[0]
            from_column = column * convolution.dilation_rate[1]
            window = outside[from_row :: rows.stride, from_column :: columns.stride]
            window = window[: rows.outputs, : columns.outputs]
            result += window[..., None] * taps[row, column]
    return result
