"""The embedded data set: scanned handwritten digits that ship inside scikit-learn."""

import numpy as np


def digits(size: int = 32, channels: int = 3):
    """1,797 scanned handwritten digits with a fixed stratified split, without a download.

    The scans are 8x8 pixels with 17 grey levels (the test part of the UCI data set "Optical
    Recognition of Handwritten Digits"). They are enlarged bilinearly (pixel centres aligned) and
    scaled to [-1, 1], paper to ink.

    Args:
        size: Height and width of the images. Defaults to 32.
        channels: 1 for grey, 3 for the same grey in red, green and blue. Defaults to 3.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images of shape `(1437, size, size, channels)` and
        `(360, size, size, channels)`, float32; labels 0 to 9, int64. The split is
        `train_test_split(test_size=0.2, stratify=labels, random_state=0)`.

    Raises:
        ValueError: If an argument is out of range.
        ImportError: If scikit-learn is missing.

    Example:
        >>> from bnnkeras import datasets
        >>> (x_train, y_train), (x_test, y_test) = datasets.digits(size=16, channels=1)
        >>> x_train.shape, x_test.shape
        ((1437, 16, 16, 1), (360, 16, 16, 1))

    Reference:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
        Repository (1998).
    """
    if not isinstance(size, int) or size < 8:
        raise ValueError(f"`size` must be an integer of at least 8. Received: size={size!r}")
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3. Received: channels={channels!r}")
    try:
        from scipy import ndimage
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            'The embedded digits come with scikit-learn: pip install "bnnkeras[datasets]"'
        ) from error

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype("float32") / 8 - 1
    images = ndimage.zoom(images, (1, size / 8, size / 8), order=1, mode="nearest", grid_mode=True)
    images = np.repeat(images[..., None], channels, axis=-1)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return (x_train, y_train), (x_test, y_test)
