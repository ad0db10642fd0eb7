"""Batches of NumPy arrays, shuffled and augmented the same way whenever an epoch is run again."""

from collections.abc import Callable

import keras
import numpy as np


class Batches(keras.utils.PyDataset):
    """Feeds `model.fit` from arrays; each batch is a pure function of (seed, epoch, number).

    `bnnkeras.training.fit_resumable` sets `epoch`, so that a resumed training sees exactly the
    batches it would have seen without the interruption. In a plain `fit` the epoch advances by
    itself, and by more than one where Keras looks ahead.

    Args:
        x: Inputs, first axis the samples.
        y: Targets, likewise.
        batch_size: Samples per batch; the last batch of an epoch may be smaller.
        augment: `augment(x_batch, generator) -> x_batch`, with a `numpy.random.Generator`; `None`
            for no augmentation.
        seed: Integer that all randomness follows from.

    Raises:
        ValueError: If the arrays differ in length, or `batch_size` is not positive.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets import Batches
        >>> batches = Batches(np.zeros((10, 4)), np.zeros(10), batch_size=4)
        >>> len(batches), batches[2][0].shape
        (3, (2, 4))
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        augment: Callable | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if len(x) != len(y):
            raise ValueError(
                f"`x` and `y` must have the same length. Received: {len(x)} and {len(y)}"
            )
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.augment = augment
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, number: int):
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.x))
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        x = self.x[chosen]
        if self.augment is not None:
            x = self.augment(x, np.random.default_rng((self.seed, self.epoch, number)))
        return x, self.y[chosen]

    def on_epoch_end(self) -> None:
        self.epoch += 1


def random_shift(pixels: int) -> Callable:
    """An augmentation that moves each image by up to `pixels`, repeating its edge.

    Args:
        pixels: Largest shift along height and along width.
    """

    def augment(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        height, width = images.shape[1:3]
        padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
        offsets = generator.integers(0, 2 * pixels + 1, size=(len(images), 2))
        return np.stack(
            [
                image[row : row + height, column : column + width]
                for image, (row, column) in zip(padded, offsets, strict=True)
            ]
        )

    return augment
