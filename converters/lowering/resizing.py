"""Rules of maps of another size, and of a factor per channel."""

import keras
import numpy as np

from bnnkeras.converters.layers import BilinearResizing
from bnnkeras.converters.lowering.maps import check_layout
from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.layers import AdaptiveAveragePooling, AlignedResizing, LayerScale
from bnnkeras.layers.resizing import bins


@lowering_rule(AlignedResizing)
def resize(builder, layer, inputs):
    """One RESIZE_BILINEAR: LCE unrolls a product with a matrix into one for each row."""
    check_layout(layer, inputs)
    if inputs.shape[1:3] == (layer.height, layer.width):
        return inputs
    return BilinearResizing(
        layer.height, layer.width, name=builder.name(layer.name), dtype=builder.dtype
    )(inputs)


@lowering_rule(AdaptiveAveragePooling)
def pool_adaptively(builder, layer, inputs):
    """Means over everything or over windows side by side where it is that, else over slices."""
    check_layout(layer, inputs)
    sizes, counts = inputs.shape[1:3], (layer.height, layer.width)
    if counts == (1, 1):
        return builder.mean(inputs, (1, 2), layer.name)
    if not any(size % count for size, count in zip(sizes, counts, strict=True)):
        window = tuple(size // count for size, count in zip(sizes, counts, strict=True))
        if window == (1, 1):
            return inputs
        return keras.layers.AveragePooling2D(
            window, name=builder.name(layer.name), dtype=builder.dtype
        )(inputs)
    x = inputs
    for axis, count in enumerate(counts, start=1):
        if x.shape[axis] != count:
            x = _means_of_slices(builder, x, axis, count, layer.name)
    return x


def _means_of_slices(builder, x, axis, count, name):
    means = []
    for start, end in bins(x.shape[axis], count):
        piece = x[(slice(None),) * axis + (slice(start, end),)]
        means.append(builder.mean(piece, (axis,), name) if end - start > 1 else piece)
    return builder.concatenate(means, axis, name)


@lowering_rule(LayerScale)
def scale_channels(builder, layer, inputs):
    gamma = keras.ops.convert_to_numpy(layer.gamma).astype("float64")
    return builder.affine(inputs, gamma, np.zeros_like(gamma), layer.name)
