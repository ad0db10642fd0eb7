"""Rules of pooling: maxima as 2-D pools, which LCE computes on bits where a sign follows."""

import math

import numpy as np
from keras import layers

from bnnkeras.converters.graph import producer
from bnnkeras.converters.lowering.maps import check_layout
from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.converters.lowering.standard import keep
from bnnkeras.layers import EntropyMaximizingAggregation, MaxPooling2D

# Newer than the oldest Keras.
_ADAPTIVE = [
    getattr(layers, name)
    for name in ("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D")
    + ("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D")
    if hasattr(layers, name)
]
_IN_2D = {
    layers.AveragePooling1D: layers.AveragePooling2D,
    layers.MaxPooling1D: layers.MaxPooling2D,
}


@lowering_rule(layers.MaxPooling2D, MaxPooling2D, *_ADAPTIVE)
def keep_pooling(builder, layer, inputs):
    check_layout(layer, inputs)
    return keep(builder, layer, inputs)


@lowering_rule(*_IN_2D)
def pool_one_row(builder, layer, inputs):
    check_layout(layer, inputs)
    x = builder.reshape(inputs, (1, *inputs.shape[1:]), f"{layer.name}_expand")
    pool = _IN_2D[type(layer)](
        (1, *layer.pool_size),
        strides=(1, *layer.strides),
        padding=layer.padding,
        name=builder.name(layer.name),
        dtype=builder.dtype,
    )
    x = pool(x)
    return builder.reshape(x, x.shape[2:], f"{layer.name}_squeeze")


@lowering_rule(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D)
def pool_everything(builder, layer, inputs):
    check_layout(layer, inputs)
    x = maximum(builder, inputs, range(1, len(inputs.shape) - 1), layer.name)
    return builder.reshape(x, layer.compute_output_shape(inputs.shape)[1:], f"{layer.name}_squeeze")


@lowering_rule(EntropyMaximizingAggregation)
def aggregate(builder, layer, inputs):
    """max x + d = max (x + d): the offset joins what is before the pool, and the sign behind it."""
    shape = layer.compute_output_shape(inputs.shape)[1:]
    axis = layer.axis % len(inputs.shape)
    offset = layer.shift(inputs.shape)
    if layer.mode == "mean":
        x = builder.reshape(
            builder.mean(inputs, (axis,), layer.name), shape, f"{layer.name}_squeeze"
        )
        return shifted(builder, x, offset, layer.name)
    # Where the map is read elsewhere too, it stays as it is: of two affine maps of one convolution
    # LCE would fuse one, for both. The sign still moves before the pool.
    merge = not _is_read_elsewhere(layer)
    x = shifted(builder, inputs, offset, layer.name, merge=merge)
    x = maximum(builder, x, (axis,), layer.name)
    return builder.reshape(x, shape, f"{layer.name}_squeeze")


def _is_read_elsewhere(layer) -> bool:
    """Whether an input of the layer has other readers."""
    sources = (
        producer(tensor)[0] for node in layer._inbound_nodes for tensor in node.input_tensors
    )
    return any(len(source._outbound_nodes) > 1 for source in sources)


def shifted(builder, x, offset, name, merge=True):
    """x + one number, which joins what is before it unless `merge` is false."""
    if not offset:
        return x
    shift = builder.shift if merge else builder.offset
    return shift(x, np.full(x.shape[-1], offset), name)


def maximum(builder, x, axes, name):
    """Maxima over neighbouring axes, as a map (rows, columns, channels)."""
    axes = sorted(axes)
    before, after = x.shape[1 : axes[0]], x.shape[axes[-1] + 1 :]
    pooled = x.shape[axes[0] : axes[-1] + 1]
    if not before and len(pooled) == 2 and len(after) == 1:
        size = pooled
    elif not before:
        # Points as rows: the map that dense layers on points make.
        x = builder.reshape(x, (math.prod(pooled), 1, math.prod(after)), f"{name}_expand")
        size = (x.shape[1], 1)
    else:
        shape = (math.prod(before), math.prod(pooled), math.prod(after))
        x = builder.reshape(x, shape, f"{name}_expand")
        size = (1, x.shape[2])
    return builder.max_pool(x, size, name)
