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
    # A layer, not the operation: its name marks the product in the file.
    product = keras.layers.Dot((2, 1), name=builder.name(layer.name), dtype=builder.dtype)
    if size == points.shape[-1]:
        return product([points, matrices])
    moved = product([points[..., :size], matrices])
    return builder.concatenate([moved, points[..., size:]], -1, layer.name)
