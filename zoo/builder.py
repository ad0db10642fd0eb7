"""What all classification models of the zoo share: the conventions of `keras.applications`."""

import numbers
import os

import keras
from keras import layers

from bnnkeras.converters import load_official
from bnnkeras.converters.checkpoints.files import SUFFIXES as OFFICIAL_SUFFIXES


def torch_initializer():
    """PyTorch's default for convolutions and dense layers: U(-b, b), b = 1 / sqrt(fan_in)."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def he_normal(mode: str = "fan_in"):
    """PyTorch's and Caffe's normal distribution of deviation sqrt(2 / fan), not truncated."""
    return keras.initializers.VarianceScaling(2.0, mode=mode, distribution="untruncated_normal")


def batch_normalization(name: str, synchronized: bool = False):
    """PyTorch's defaults: epsilon 1e-5, and what Keras calls a momentum of 0.9.

    Args:
        name: Name of the layer.
        synchronized: Whether statistics are those of all replicas of a distribution strategy.
    """
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, synchronized=synchronized, name=name
    )


def image_input(input_shape, input_tensor, default_shape):
    """The symbolic image that a model starts from.

    Args:
        input_shape: `(height, width, channels)`, or `None` for `default_shape`.
        input_tensor: A Keras tensor to build on, or `None`.
        default_shape: The shape of the published network.

    Raises:
        ValueError: If a shape is no image's, or both arguments disagree.
    """
    if input_tensor is not None:
        if not isinstance(input_tensor, keras.KerasTensor) or len(input_tensor.shape) != 4:
            received = getattr(input_tensor, "shape", None)
            raise ValueError(
                "`input_tensor` must be a Keras tensor of shape (batch, height, width, channels), "
                "as `keras.Input` or a layer returns. Received: input_tensor of type "
                f"{type(input_tensor).__name__}, input_tensor.shape={received}"
            )
        if input_shape is not None and tuple(input_shape) != tuple(input_tensor.shape[1:]):
            raise ValueError(
                "`input_shape` and `input_tensor` must agree. Received: "
                f"input_shape={input_shape}, input_tensor.shape={input_tensor.shape}"
            )
        return input_tensor
    shape = default_shape if input_shape is None else input_shape
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not _are_sizes(shape):
        raise ValueError(
            "`input_shape` must be (height, width, channels), channels last: positive integers, "
            f"height and width may be None. Received: input_shape={input_shape}"
        )
    return keras.Input(shape)


def _are_sizes(shape):
    known = [size for axis, size in enumerate(shape) if size is not None or axis == 2]
    return all(isinstance(size, numbers.Integral) and int(size) > 0 for size in known)


def classification_head(
    x,
    classes,
    include_top,
    pooling,
    classifier_activation,
    kernel_initializer,
    bias_initializer,
    neck=None,
):
    """Global pooling and classifier, or what `include_top=False` leaves of them.

    Args:
        x: The feature map.
        classes: Number of classes.
        include_top: Whether there is a classifier.
        pooling: Without it: `None`, `"avg"` or `"max"`.
        classifier_activation: Of the classifier, or `None`.
        kernel_initializer: Of the classifier.
        bias_initializer: Likewise.
        neck: A function of the pooled features, between them and the classifier.
    """
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = x if neck is None else neck(x)
        return layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            name="classifier",
        )(x)
    if pooling == "avg":
        return layers.GlobalAveragePooling2D(name="pool")(x)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(name="pool")(x)
    return x


def check_top(include_top, classes, pooling):
    """Raises `ValueError` where the arguments of the head are out of range."""
    if pooling not in (None, "avg", "max"):
        raise ValueError(f'`pooling` must be None, "avg" or "max". Received: pooling={pooling!r}')
    if include_top and (not isinstance(classes, int) or classes < 1):
        raise ValueError(f"`classes` must be a positive integer. Received: classes={classes!r}")


def finish(inputs, outputs, name, weights):
    """The functional model, with the weights of a local file loaded if a path is given.

    Args:
        inputs: The symbolic image that the model started from.
        outputs: What it ends in.
        name: Name of the model.
        weights: `None`, the path of a `.weights.h5` or `.keras` file of this architecture, or of
            a checkpoint of the official implementation, which `load_official` reads.

    Raises:
        ValueError: If `weights` is something else, or the file holds other weights.
    """
    sources = keras.utils.get_source_inputs(inputs)
    # A list of one would make the model warn at every call with a bare tensor.
    model = keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name=name)
    if weights is None:
        return model
    path = os.fspath(weights) if isinstance(weights, (str, os.PathLike)) else ""
    if not os.path.isfile(path):
        raise ValueError(
            "`weights` must be None or the path of an existing file: .weights.h5 or .keras of this "
            f"architecture, or {', '.join(OFFICIAL_SUFFIXES)} of the official implementation (no "
            f"trained weights come with the package). Received: weights={weights!r}"
        )
    if path.lower().endswith(OFFICIAL_SUFFIXES):
        load_official(model, path)
    else:
        model.load_weights(path)
    return model
