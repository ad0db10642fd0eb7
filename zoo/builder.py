"""What all classification models of the zoo share: the conventions of `keras.applications`."""

import os

import keras
from keras import layers


def image_input(input_shape, input_tensor, default_shape):
    """The symbolic image that a model starts from.

    Args:
        input_shape: `(height, width, channels)`, or `None` for `default_shape`.
        input_tensor: A Keras tensor to build on, a backend tensor's shape to follow, or `None`.
        default_shape: The shape of the published network.

    Raises:
        ValueError: If a shape has not three entries, or both arguments disagree.
    """
    if input_tensor is not None:
        if not isinstance(input_tensor, keras.KerasTensor):
            raise ValueError(
                "`input_tensor` must be a Keras tensor, as `keras.Input` or a layer returns. "
                f"Received: input_tensor of type {type(input_tensor).__name__}"
            )
        if input_shape is not None and tuple(input_shape) != tuple(input_tensor.shape[1:]):
            raise ValueError(
                "`input_shape` and `input_tensor` must agree. Received: "
                f"input_shape={input_shape}, input_tensor.shape={input_tensor.shape}"
            )
        return input_tensor
    shape = tuple(default_shape if input_shape is None else input_shape)
    if len(shape) != 3 or not isinstance(shape[-1], int):
        raise ValueError(
            "`input_shape` must be (height, width, channels), channels last. "
            f"Received: input_shape={input_shape}"
        )
    return keras.Input(shape)


def classification_head(
    x, classes, include_top, pooling, classifier_activation, kernel_initializer, bias_initializer
):
    """Global pooling and classifier, or what `include_top=False` leaves of them."""
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
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

    Raises:
        ValueError: If `weights` is neither `None` nor the path of a `.weights.h5` or `.keras` file.
    """
    model = keras.Model(keras.utils.get_source_inputs(inputs), outputs, name=name)
    if weights is not None:
        path = os.fspath(weights) if isinstance(weights, (str, os.PathLike)) else ""
        if not os.path.isfile(path):
            raise ValueError(
                "`weights` must be None or the path of an existing .weights.h5 or .keras file "
                f"(no trained weights are published for this network). Received: weights={weights!r}"
            )
        model.load_weights(path)
    return model
