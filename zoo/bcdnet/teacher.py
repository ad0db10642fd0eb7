"""The teacher of BCDNet on ImageNet: a ResNet-50 of `keras.applications`."""

import os

import keras
import numpy as np
from keras import layers

from bnnkeras.datasets.images import DEVIATION, MEAN


def resnet50_teacher(weights: str | os.PathLike | None, input_shape=(224, 224, 3)) -> keras.Model:
    """ResNet-50 that takes images as `preprocess_input` leaves them, and returns logits.

    The published teacher is torchvision's ResNet-50 (76.1 % top-1); Keras's has 74.9 %.

    Args:
        weights: The path of Keras's weights file, `"imagenet"` for Keras to find or fetch it
            itself (the only case that touches the network), or `None` for random weights.
        input_shape: Of the images. Defaults to `(224, 224, 3)`.

    Returns:
        A functional model, for `bnnkeras.training.Distiller`.

    Raises:
        ValueError: If `weights` is no such thing.

    Example:
        >>> from bnnkeras.zoo.bcdnet import resnet50_teacher
        >>> resnet50_teacher(None, (32, 32, 3)).output_shape
        (None, 1000)
    """
    if weights is not None and weights != "imagenet" and not os.path.isfile(weights):
        raise ValueError(
            '`weights` must be None, "imagenet" or the path of an existing file. '
            f"Received: weights={weights!r}"
        )
    images = keras.Input(input_shape)
    # Back to [0, 255], then blue, green and red minus Keras's means, as these weights want it.
    mean, deviation = 255 * np.array(MEAN), 255 * np.array(DEVIATION)
    keras_mean = np.array([103.939, 116.779, 123.68])
    reversed_kernel = np.diag(deviation)[:, ::-1][None, None]
    flip = layers.Conv2D(3, 1, name="to_blue_green_red")
    x = flip(images)
    flip.set_weights([reversed_kernel, mean[::-1] - keras_mean])
    network = keras.applications.ResNet50(
        weights=weights,
        input_shape=input_shape,
        include_top=True,
        classifier_activation=None,
    )
    return keras.Model(images, network(x), name="resnet50_teacher")
