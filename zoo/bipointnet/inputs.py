"""What the models on point clouds start from."""

import numbers

import keras
from keras import layers

from bnnkeras.zoo import builder


def points_input(input_shape, input_tensor, default_shape, fewest_channels: int = 3):
    """The symbolic cloud that a model starts from.

    Args:
        input_shape: `(points, channels)`, or `None` for `default_shape`.
        input_tensor: A Keras tensor to build on, or `None`.
        default_shape: The shape of the published network.
        fewest_channels: How many channels there must be.

    Raises:
        ValueError: If a shape is no cloud's, or both arguments disagree.
    """
    if input_tensor is not None:
        if not isinstance(input_tensor, keras.KerasTensor) or len(input_tensor.shape) != 3:
            raise ValueError(
                "`input_tensor` must be a Keras tensor of shape (batch, points, channels), as "
                "`keras.Input` or a layer returns. Received: input_tensor of type "
                f"{type(input_tensor).__name__}, shape {getattr(input_tensor, 'shape', None)}"
            )
        if input_shape is not None and tuple(input_shape) != tuple(input_tensor.shape[1:]):
            raise ValueError(
                "`input_shape` and `input_tensor` must agree. Received: "
                f"input_shape={input_shape}, input_tensor.shape={input_tensor.shape}"
            )
        _check(input_tensor.shape[1:], fewest_channels, input_tensor.shape)
        return input_tensor
    shape = default_shape if input_shape is None else input_shape
    _check(shape, fewest_channels, input_shape)
    return keras.Input(shape)


def _check(shape, fewest_channels, received):
    if (
        not isinstance(shape, (tuple, list))
        or len(shape) != 2
        or not all(isinstance(size, numbers.Integral) and int(size) > 0 for size in shape)
        or shape[1] < fewest_channels
    ):
        raise ValueError(
            "`input_shape` must be (points, channels): a fixed number of points, which pools and "
            f"converters need, and at least {fewest_channels} channels, x, y and z first. "
            f"Received: input_shape={received}"
        )


def finish_without_top(inputs, x, pooling, name, weights):
    """The model that ends in the features of the points, or in their mean or maximum."""
    if pooling == "avg":
        x = layers.GlobalAveragePooling1D(name="features_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling1D(name="features_pool")(x)
    return builder.finish(inputs, x, name, weights)
