"""The heads of BiDense's networks: logits or depths at the size of the input."""

import math

import keras
from keras import layers

from bnnkeras.layers import AlignedResizing
from bnnkeras.zoo.bidense.blocks import real_convolution

TASKS = ("segmentation", "depth")
_PLACES = ("input", "quarter")


def check_task(task, classes, max_depth, classify_at) -> None:
    """Raises `ValueError` where an argument of the head is out of range."""
    if task not in TASKS:
        raise ValueError(f"`task` must be one of {TASKS}. Received: task={task!r}")
    if task == "segmentation" and (
        isinstance(classes, bool) or not isinstance(classes, int) or classes < 2
    ):
        raise ValueError(f"`classes` must be an integer above 1. Received: classes={classes!r}")
    if not isinstance(max_depth, (int, float)) or not 0 < max_depth < math.inf:
        raise ValueError(f"`max_depth` must be positive. Received: max_depth={max_depth!r}")
    if classify_at not in _PLACES:
        raise ValueError(
            f"`classify_at` must be one of {_PLACES}. Received: classify_at={classify_at!r}"
        )


def dense_head(x, image, form, task, classes, max_depth, classify_at):
    """The features at the size of the image, a 3x3 unit with ReLU, and a real 1x1 convolution.

    Args:
        x: The features, `(batch, height, width, channels)`.
        image: The network's input, of which the size is taken.
        form: The network's form.
        task: `"segmentation"` or `"depth"`.
        classes: Number of logits.
        max_depth: The largest depth.
        classify_at: `"input"`, or `"quarter"` to resize the result instead of the features.
    """
    resize = AlignedResizing(*image.shape[1:3], name="resize")
    if classify_at == "input":
        x = resize(x)
    # A quarter of the features are enough for one depth.
    filters = x.shape[-1] if task == "segmentation" else x.shape[-1] // 4
    x = form.head(x, filters, task, "head")
    x = real_convolution(x, classes if task == "segmentation" else 1, 1, "prediction")
    if classify_at == "quarter":
        x = resize(x)
    if task == "segmentation":
        return x
    x = layers.Activation("sigmoid", name="sigmoid")(x)
    return keras.ops.multiply(x, float(max_depth))
