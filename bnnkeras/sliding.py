"""Pictures larger than a network's input: windows that overlap, and the mean of what they say."""

import keras
import numpy as np


def predict_sliding(
    model: keras.Model, image: np.ndarray, stride: int | tuple[int, int] | None = None
) -> np.ndarray:
    """The mean of a network's output over all windows that cover a pixel.

    The windows are of the size of the network's input and `stride` apart; the last ones lie at the
    picture's edge. A picture that is smaller than a window is padded with 0 at the bottom and on
    the right.

    Args:
        model: A network whose output is as large as its input, such as
            `bnnkeras.zoo.BiDenseUperNet`.
        image: `(height, width, channels)`, as the network takes it.
        stride: Pixels from one window to the next, one integer or rows and columns, at most the
            window's size. Defaults to two thirds of the window.

    Returns:
        `(height, width, outputs)`, float32.

    Raises:
        ValueError: If `stride` is out of range, or the network's output is of another size.

    Example:
        >>> import keras, numpy as np
        >>> from bnnkeras.sliding import predict_sliding
        >>> inputs = keras.Input((4, 4, 3))
        >>> model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))
        >>> predict_sliding(model, np.zeros((7, 10, 3), "float32")).shape
        (7, 10, 2)
    """
    window = tuple(model.input_shape[1:3])
    if None in window or tuple(model.output_shape[1:3]) != window:
        raise ValueError(
            "`model` must have an output as large as its input. Received: "
            f"input_shape={model.input_shape}, output_shape={model.output_shape}"
        )
    if stride is None:
        strides = tuple(max(2 * size // 3, 1) for size in window)
    else:
        strides = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if any(not 0 < step <= size for step, size in zip(strides, window, strict=True)):
        raise ValueError(
            f"`stride` must be from 1 to the window's size, {window}. Received: stride={stride!r}"
        )
    height, width = image.shape[:2]
    missing = [(0, max(size - have, 0)) for size, have in zip(window, (height, width), strict=True)]
    image = np.pad(image, (*missing, (0, 0)))
    total = np.zeros((*image.shape[:2], model.output_shape[-1]), "float32")
    count = np.zeros((*image.shape[:2], 1), "float32")
    for top in _starts(image.shape[0], window[0], strides[0]):
        for left in _starts(image.shape[1], window[1], strides[1]):
            place = slice(top, top + window[0]), slice(left, left + window[1])
            total[place] += model.predict(image[place][None], verbose=0)[0]
            count[place] += 1
    return (total / count)[:height, :width]


def _starts(length, window, stride):
    """Where windows begin: every `stride` pixels, and one at the end."""
    last = length - window
    return [*range(0, last, stride), last]
