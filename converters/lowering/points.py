"""Rules of layers on sets of points."""

import keras
import numpy as np

from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.layers.points import PointTransform


@lowering_rule(PointTransform)
def lower_transform(builder, layer, points, matrices):
    """The identity joins the layer that predicts the matrix; a product of floats is left."""
    size = layer.size(matrices.shape)
    matrices = builder.shift(matrices, np.eye(size).reshape(-1), layer.name)
    matrices = builder.reshape(matrices, (size, size), f"{layer.name}_matrix")
    if size == points.shape[-1]:
        return keras.ops.matmul(points, matrices)
    moved = keras.ops.matmul(points[..., :size], matrices)
    return builder.concatenate([moved, points[..., size:]], -1, layer.name)
