"""From images as they are read to what the ImageNet and CIFAR networks of the zoo take, and back.

Mean and standard deviation are those of ImageNet on the scale of [0, 1], as in torchvision.
"""

import numpy as np

from bnnkeras.datasets.images import CAFFE_MEAN, DEVIATION, MEAN


def preprocess_input(x, convention: str = "pytorch"):
    """(x / 255 - mean) / deviation per channel, or Caffe's BGR minus its mean.

    Args:
        x: Images `(..., height, width, 3)`, red, green and blue from 0 to 255: an array or tensor.
        convention: `"pytorch"` (default) or `"caffe"`.

    Returns:
        float32, of the same shape and kind.

    Raises:
        ValueError: If `convention` is unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.zoo.birealnet import preprocess_input
        >>> preprocess_input(np.zeros((1, 1, 3), "uint8")).round(3).ravel().tolist()
        [-2.118000030517578, -2.0360000133514404, -1.8040000200271606]
    """
    if convention not in ("pytorch", "caffe"):
        raise ValueError(
            f'`convention` must be "pytorch" or "caffe". Received: convention={convention!r}'
        )
    if isinstance(x, (np.ndarray, list, tuple)):
        x = np.asarray(x, "float32")
    else:
        from keras import ops

        x = ops.cast(x, "float32")
    if convention == "caffe":
        return x[..., ::-1] - np.array(CAFFE_MEAN, "float32")
    return (x / 255 - np.array(MEAN, "float32")) / np.array(DEVIATION, "float32")


def decode_predictions(predictions, top: int = 5):
    """The most probable ImageNet classes of each image.

    Keras fetches the list of class names (35 kB) from the network at the first call.

    Args:
        predictions: `(batch, 1000)`, probabilities or logits.
        top: Integer. How many classes. Defaults to 5.

    Returns:
        For each image a list of `(wordnet_id, name, value)`.

    Raises:
        ValueError: If `predictions` is not `(batch, 1000)`.

    Example:
        ```python
        zoo.birealnet.decode_predictions(model.predict(images), top=3)
        ```
    """
    from keras.applications.imagenet_utils import decode_predictions as decode

    predictions = np.asarray(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != 1000:
        raise ValueError(
            "`predictions` must have the shape (batch, 1000). "
            f"Received: predictions.shape={predictions.shape}"
        )
    return decode(predictions, top=top)
