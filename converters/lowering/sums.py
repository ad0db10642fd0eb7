"""Rules of what constants pass through on their way to a binary convolution: sums, means, copies.

A constant per channel behind an activation costs an addition over a whole map. Carried on, it joins
the next threshold, and the bias of the convolution that a shortcut is added to.
"""

import keras
import numpy as np
from keras import layers

from bnnkeras.converters.graph import producer
from bnnkeras.converters.lowering.maps import check_layout
from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.converters.lowering.standard import keep


@lowering_rule(layers.Add)
def add(builder, layer, inputs):
    """(p + c) + (q + d) = (p + q) + (c + d), the constant in the bias of a convolution."""
    if len({(len(tensor.shape), tensor.shape[-1]) for tensor in inputs}) > 1:
        return keep(builder, layer, inputs)
    parts, constants = zip(*(builder.carried(tensor) for tensor in inputs), strict=True)
    known = [constant for constant in constants if constant is not None]
    if not known:
        return keep(builder, layer, inputs)
    constant = sum(known[1:], start=known[0])
    absorbed = builder.absorbed_by_any(parts, constant, layer.name)
    if absorbed is None:
        return builder.carry(keep(builder, layer, list(parts)), constant, layer.name)
    return keep(builder, layer, absorbed)


@lowering_rule(layers.Concatenate)
def concatenate(builder, layer, inputs):
    parts, constants = zip(*(builder.carried(tensor) for tensor in inputs), strict=True)
    if layer.axis not in (-1, len(inputs[0].shape) - 1) or any(c is None for c in constants):
        return keep(builder, layer, inputs)
    joined = keep(builder, layer, list(parts))
    return builder.carry(joined, np.concatenate(constants), layer.name)


@lowering_rule(layers.AveragePooling2D)
def average_pool(builder, layer, inputs):
    """The mean of a constant is the constant: padding does not count."""
    check_layout(layer, inputs)
    x, constant = builder.carried(inputs)
    y = keep(builder, layer, x)
    return y if constant is None else builder.carry(y, constant, layer.name)


@lowering_rule(layers.GlobalAveragePooling2D)
def global_average_pool(builder, layer, inputs):
    check_layout(layer, inputs)
    x, constant = builder.carried(inputs)
    y = keep(builder, layer, x)
    return y if constant is None else builder.carry(y, constant, layer.name)


@lowering_rule(layers.Average)
def average(builder, layer, inputs):
    """The mean of dense layers on the same features is one dense layer with the mean weights."""
    sources, features = zip(*(producer(tensor) for tensor in inputs), strict=True)
    same = len({id(tensors[0]) for tensors in features if tensors}) == 1
    if not (same and all(map(_is_linear_dense, sources))):
        return keep(builder, layer, inputs)
    kernel = sum(_numbers(source.kernel) for source in sources) / len(sources)
    bias = sum(0.0 if s.bias is None else _numbers(s.bias) for s in sources) / len(sources)
    dense = layers.Dense(
        kernel.shape[-1], name=builder.name(f"{layer.name}_merged"), dtype=builder.dtype
    )
    names = " and ".join(source.name for source in sources)
    builder.note(layer, f"{names} became one dense layer with the mean of their weights")
    x, constant = builder.carried(features[0][0])
    # (p + c) W = p W + c W. TensorFlow Lite would do the same, and no longer be what was checked.
    bias = bias + (0.0 if constant is None else constant @ kernel)
    return builder.place(dense, x, [kernel, np.broadcast_to(bias, kernel.shape[-1:])])


def _is_linear_dense(layer) -> bool:
    return type(layer) is layers.Dense and layer.activation is keras.activations.linear


def _numbers(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")
