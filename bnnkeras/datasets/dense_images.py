"""Augmentations of images together with their map of labels or depths, and batches of both.

Each is data (a frozen dataclass) and a function `transform(image, target, generator)` that returns
both again: the image `(height, width, 3)`, red, green and blue from 0 to 255; the target `(height,
width)` of integer labels or `(height, width, 1)` of depths. Images are resized bilinearly, targets
take the nearest value, both by Pillow.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import keras
import numpy as np

from bnnkeras.datasets.dense_files import DenseFiles
from bnnkeras.datasets.images import pillow


@dataclass(frozen=True)
class RandomFlip:
    """Left and right exchanged, half of the time."""

    def __call__(self, image, target, generator):
        if generator.random() < 0.5:
            return image[:, ::-1], target[:, ::-1]
        return image, target


@dataclass(frozen=True)
class RandomScale:
    """The longer side at a random length; the other side keeps the aspect.

    Args:
        low: Integer, the smallest length. Defaults to 260.
        high: Integer, the largest, inclusive. Defaults to 1040.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets.dense_images import RandomScale
        >>> image, mask = np.zeros((30, 60, 3), "uint8"), np.zeros((30, 60), "int32")
        >>> RandomScale(40, 40)(image, mask, np.random.default_rng(0))[1].shape
        (20, 40)
    """

    low: int = 260
    high: int = 1040

    def __call__(self, image, target, generator):
        height, width = image.shape[:2]
        longer = int(generator.integers(self.low, self.high + 1))
        if height > width:
            size = longer, int(width * longer / height + 0.5)
        else:
            size = int(height * longer / width + 0.5), longer
        return _resized(image, *size, "BILINEAR"), _resized(target, *size, "NEAREST")


@dataclass(frozen=True)
class ShorterSide:
    """The shorter side at `size`; the other side keeps the aspect.

    Args:
        size: Integer. Defaults to 480.
    """

    size: int = 480

    def __call__(self, image, target, generator=None):
        height, width = image.shape[:2]
        shorter = min(height, width)
        size = int(height * self.size / shorter), int(width * self.size / shorter)
        return _resized(image, *size, "BILINEAR"), _resized(target, *size, "NEAREST")


@dataclass(frozen=True)
class RandomCrop:
    """A random part, of pictures that are padded at the bottom and on the right if need be.

    Args:
        height: Integer. Defaults to 480.
        width: Integer. Defaults to 480.
        fill: What the target holds where it was padded: the label to ignore. The image is black.
    """

    height: int = 480
    width: int = 480
    fill: int = 0

    def __call__(self, image, target, generator):
        missing = (
            (0, max(self.height - image.shape[0], 0)),
            (0, max(self.width - image.shape[1], 0)),
        )
        image = np.pad(image, (*missing, (0, 0)))
        rest = ((0, 0),) * (target.ndim - 2)
        target = np.pad(target, (*missing, *rest), constant_values=self.fill)
        top = int(generator.integers(0, image.shape[0] - self.height + 1))
        left = int(generator.integers(0, image.shape[1] - self.width + 1))
        place = slice(top, top + self.height), slice(left, left + self.width)
        return image[place], target[place]


@dataclass(frozen=True)
class CentreCrop:
    """The middle.

    Args:
        height: Integer. Defaults to 480.
        width: Integer. Defaults to 480.
        bottom: Whether to take the lowest rows instead of the middle ones, as for KITTI.
    """

    height: int = 480
    width: int = 480
    bottom: bool = False

    def __call__(self, image, target, generator=None):
        if image.shape[0] < self.height or image.shape[1] < self.width:
            raise ValueError(
                f"`image` must be of at least {self.height} x {self.width} pixels. "
                f"Received: image.shape={image.shape}"
            )
        top, left = image.shape[0] - self.height, (image.shape[1] - self.width) // 2
        if not self.bottom:
            top, left = round(top / 2), round((image.shape[1] - self.width) / 2)
        place = slice(top, top + self.height), slice(left, left + self.width)
        return image[place], target[place]


@dataclass(frozen=True)
class Box:
    """A fixed part.

    Args:
        rows: Pair of integers, the first row and the one behind the last.
        columns: Likewise.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]

    def __call__(self, image, target, generator=None):
        place = slice(*self.rows), slice(*self.columns)
        return image[place], target[place]


@dataclass(frozen=True)
class RandomRotation:
    """Turned about the middle by up to `degrees` to either side; what comes from outside is 0.

    Args:
        degrees: Float. Defaults to 2.5.
    """

    degrees: float = 2.5

    def __call__(self, image, target, generator):
        angle = generator.uniform(-self.degrees, self.degrees)
        return tuple(
            _by_pillow(values, lambda picture, by: picture.rotate(angle, by), by)
            for values, by in ((image, "BILINEAR"), (target, "NEAREST"))
        )


@dataclass(frozen=True)
class RandomPhotometry:
    """Half of the time: c b (image / 255)^g * 255 with a random gamma, brightness and colour.

    Args:
        brightness: Float: b is from 1 - brightness to 1 + brightness. Defaults to 0.25 (NYUv2; 0.1
            for KITTI).
        gamma: Float, likewise. Defaults to 0.1.
        colour: Float, likewise, with a c for each channel. Defaults to 0.1.
    """

    brightness: float = 0.25
    gamma: float = 0.1
    colour: float = 0.1

    def __call__(self, image, target, generator):
        image = np.asarray(image, "float32")
        if generator.random() < 0.5:
            gamma = generator.uniform(1 - self.gamma, 1 + self.gamma)
            brightness = generator.uniform(1 - self.brightness, 1 + self.brightness)
            colours = generator.uniform(1 - self.colour, 1 + self.colour, 3)
            bright = brightness * colours * (image / 255) ** gamma
            image = (255 * np.clip(bright, 0, 1)).astype("float32")
        return image, target


@dataclass(frozen=True)
class OfImage:
    """A transform of the image alone, of `bnnkeras.datasets.images`.

    Args:
        transform: A function `transform(image, generator) -> image`.
    """

    transform: Callable

    def __call__(self, image, target, generator=None):
        return self.transform(image, generator), target


@dataclass(frozen=True)
class DenseTransforms:
    """Transforms one after the other.

    Args:
        transforms: Tuple of functions `transform(image, target, generator) -> (image, target)`.
    """

    transforms: tuple

    def __call__(self, image, target, generator):
        for transform in self.transforms:
            image, target = transform(image, target, generator)
        return np.ascontiguousarray(image), np.ascontiguousarray(target)


class DenseBatches(keras.utils.PyDataset):
    """Feeds `model.fit` from files of images and targets, read and transformed when asked for.

    Each batch is a pure function of (seed, epoch, number), as those of `Batches`, so that
    `bnnkeras.training.fit_resumable` continues exactly.

    Args:
        files: `DenseFiles`, or any sequence of pairs of arrays.
        batch_size: Positive integer; the last batch may be smaller.
        transforms: Tuple of transforms of this module; they must end with pictures of one size.
        shuffle: Whether the order is random. Defaults to `True`.
        seed: Integer that all randomness follows from.
        threads: Threads that read and transform. Defaults to 8.

    Raises:
        ValueError: If `batch_size` is not positive.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets.dense_images import DenseBatches, RandomCrop
        >>> pairs = [(np.zeros((9, 9, 3), "uint8"), np.zeros((9, 9), "int32"))] * 3
        >>> x, y = DenseBatches(pairs, 2, (RandomCrop(4, 6),))[0]
        >>> x.shape, y.shape
        ((2, 4, 6, 3), (2, 4, 6))
    """

    def __init__(self, files, batch_size, transforms=(), shuffle=True, seed=0, threads=8):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")
        self.files = files
        self.batch_size = batch_size
        self.transforms = DenseTransforms(tuple(transforms))
        self.shuffle, self.seed, self.threads = shuffle, seed, threads
        self.epoch = 0

    @property
    def classes(self) -> int | None:
        """Channels of the logits of a network for the files; `None` for depths."""
        return self.files.classes if isinstance(self.files, DenseFiles) else None

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch_size)

    def __getitem__(self, number: int):
        order = np.arange(len(self.files))
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(len(order))
        first = number * self.batch_size
        chosen = order[first : first + self.batch_size]

        def example(place, index):
            generator = np.random.default_rng((self.seed, self.epoch, place))
            image, target = self.files[index]
            return self.transforms(image, target, generator)

        with ThreadPoolExecutor(self.threads) as pool:
            pairs = list(pool.map(example, range(first, first + len(chosen)), chosen))
        images, targets = zip(*pairs, strict=True)
        return np.stack(images), np.stack(targets)

    def on_epoch_end(self) -> None:
        self.epoch += 1


def _resized(values, height, width, resampling):
    if values.shape[:2] == (height, width):
        return values
    return _by_pillow(values, lambda picture, by: picture.resize((width, height), by), resampling)


def _by_pillow(values, change, resampling):
    """`change(picture, resampling)` of an array: RGB of uint8, labels or depths."""
    Image = pillow("Resizing")
    single = values.ndim == 3 and values.shape[-1] == 1
    # Pillow has pictures of int32 and of float32, with one channel.
    picture = Image.fromarray(np.ascontiguousarray(values[..., 0] if single else values))
    changed = np.asarray(change(picture, Image.Resampling[resampling]))
    return changed[..., None] if single else changed
