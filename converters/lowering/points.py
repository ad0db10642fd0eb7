"""Rules of layers on sets of points."""

import math

import keras
import numpy as np
from keras import ops

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering.pooling import maximum, shifted
from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.layers.points import (
    EdgeFeatures,
    FarthestPoints,
    NeighbourAggregation,
    NeighbourFeatures,
    PointTransform,
    SampleAndGroup,
)

# Coordinates x, y and z.
_POSITION = 3


@lowering_rule(PointTransform)
def lower_transform(builder, layer, points, matrices):
    """The identity joins the layer that predicts the matrix; a product of floats is left."""
    size = layer.size(matrices.shape)
    matrices = builder.shift(matrices, np.eye(size).reshape(-1), layer.name)
    matrices = builder.reshape(matrices, (size, size), f"{layer.name}_matrix")
    # A layer, not the operation: its name marks the product in the file.
    product = keras.layers.Dot((2, 1), name=builder.name(layer.name), dtype=builder.dtype)
    if size == points.shape[-1]:
        return product([points, matrices])
    moved = product([points[..., :size], matrices])
    return builder.concatenate([moved, points[..., size:]], -1, layer.name)


@lowering_rule(EdgeFeatures)
def keep_edges(builder, layer, inputs):
    if inputs.shape[-1] > _POSITION:
        raise UnsupportedLayerError(
            layer,
            "its neighbours are those among features, where rounding decides between equally near "
            "ones: convert the parts of the network that `bnnkeras.zoo.bipointnet.stages` returns",
        )
    return keep_neighbours(builder, layer, inputs)


@lowering_rule(FarthestPoints, NeighbourFeatures, SampleAndGroup)
def keep_neighbours(builder, layer, *args):
    """Built-in operators of TensorFlow Lite (TOPK_V2, GATHER, WHILE), the same to the last bit."""
    return builder.copy(layer)(*args)


@lowering_rule(NeighbourAggregation)
def aggregate_neighbours(builder, layer, edges, present):
    """As the aggregation over all points, with those that are not there out of the way."""
    shape = layer.compute_output_shape(edges.shape, present.shape)[1:]
    offset = layer.shift(edges.shape)
    present = ops.expand_dims(present, -1)
    if layer.mode == "max":
        x = shifted(builder, edges, offset, layer.name)
        x = maximum(builder, ops.where(present, x, -math.inf), (2,), layer.name)
        return builder.reshape(x, shape, f"{layer.name}_squeeze")
    number = ops.sum(ops.cast(present, builder.dtype), axis=2)
    x = ops.sum(ops.where(present, edges, 0.0), axis=2) / number
    return shifted(builder, x, offset, layer.name)
