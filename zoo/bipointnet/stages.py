"""BiDGCNN in two files: where neighbours among features are searched for between networks."""

from typing import NamedTuple

import keras

from bnnkeras.layers.points import EdgeFeatures


class Stages(NamedTuple):
    """A network around a search for neighbours: `last([x, neighbours(x)])` of x = `first(clouds)`.

    Attributes:
        first: Clouds -> features of the points.
        neighbours: Features -> [x_i, x_j - x_i] of the nearest ones, without weights: what an
            application computes between the two files.
        last: Both -> the network's outputs.
    """

    first: keras.Model
    neighbours: EdgeFeatures
    last: keras.Model


def stages(model: keras.Model) -> Stages:
    """Cuts a `BiDGCNN` where it searches for neighbours among features, to deploy the parts.

    Features of signs take few values, so distances between them are often equal, and the last bit
    decides which points are neighbours: no file can be verified to choose the same ones. Neighbours
    by position are no such case, and stay in the file.

    Args:
        model: A `BiDGCNN`. The parts share its layers.

    Returns:
        `Stages`.

    Raises:
        ValueError: If the model has no such search, or several.

    Example:
        ```python
        first, neighbours, last = zoo.bipointnet.stages(model)
        converters.convert(first, "first.tflite")
        converters.convert(last, "last.tflite")
        ```
    """
    found = [
        layer
        for layer in model.layers
        if isinstance(layer, EdgeFeatures) and layer.input.shape[-1] > 3
    ]
    if len(found) != 1:
        raise ValueError(
            "`model` must search for neighbours among features once, as BiDGCNN does. "
            f"Received: {model.name!r} with {len(found)} such layers"
        )
    (neighbours,) = found
    first = keras.Model(model.input, neighbours.input, name=f"{model.name}_first")
    last = keras.Model(
        [neighbours.input, neighbours.output], model.output, name=f"{model.name}_last"
    )
    return Stages(first, neighbours, last)
