"""Embedded scenes for dense prediction: digits before a plane, with exact masks and depths."""

import functools
from dataclasses import dataclass

import keras
import numpy as np

from bnnkeras.datasets.digits import digits

# Share of the scene's size that a digit takes; the nearer, the larger.
_SHARES = (0.4375, 0.5, 0.5625, 0.625, 0.6875)
# How far a sticker reaches beyond the ink, as a share of its digit: networks whose maps are a
# quarter of the picture cannot resolve the strokes themselves.
_BORDER = 0.125
# What is hidden by more than this share cannot be told.
_HIDDEN = 1 / 3
_ATTEMPTS = 8
_NEAREST, _FARTHEST = 2.0, 9.0


@dataclass(frozen=True)
class Scenes:
    """What `scenes` returns.

    Attributes:
        images: `(count, size, size, 3)`, float32 in [-1, 1].
        masks: `(count, size, size)`, int32: 0 is the background, 1 + n the digit n.
        depths: `(count, size, size, 1)`, float32 in metres, 2 to 9.
    """

    images: np.ndarray
    masks: np.ndarray
    depths: np.ndarray


def scenes(
    count: int, size: int = 64, split: str = "train", seed: int = 0, first: int = 0
) -> Scenes:
    """Pictures of two scanned digits, of which one may hide part of the other, made on the spot.

    Each digit is a sticker of two colours: the ink of its scan and a border around it, which
    together are its mask. Its distance is 1.375 / (share of the picture's size that it takes)
    metres, from 2 to 3.1; the background is a plane from 9 m at the top to 5 m at the bottom. What
    is far is pale. A scene is a function of (`seed`, `split`, its number) alone; digits of the test
    split are scans that no scene of the training split holds.

    Args:
        count: Number of scenes.
        size: Height and width, a multiple of 16 and at least 32. Defaults to 64.
        split: `"train"` or `"test"`.
        seed: Integer.
        first: Number of the first scene. Defaults to 0.

    Returns:
        `Scenes`.

    Raises:
        ValueError: If an argument is out of range.
        ImportError: If scikit-learn is missing.

    Example:
        >>> from bnnkeras import datasets
        >>> batch = datasets.scenes(2, size=32)
        >>> batch.images.shape, batch.masks.shape, batch.depths.shape
        ((2, 32, 32, 3), (2, 32, 32), (2, 32, 32, 1))

    Reference:
        The scans: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (1998).
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"`count` must be a positive integer. Received: count={count!r}")
    if not isinstance(size, int) or size < 32 or size % 16:
        raise ValueError(
            f"`size` must be a multiple of 16 and at least 32. Received: size={size!r}"
        )
    if split not in ("train", "test"):
        raise ValueError(f'`split` must be "train" or "test". Received: split={split!r}')
    part = ("train", "test").index(split)
    scans = _scans(size, part)
    made = [
        _scene(scans, size, np.random.default_rng((seed, part, number)))
        for number in range(first, first + count)
    ]
    return Scenes(*(np.stack(arrays) for arrays in zip(*made, strict=True)))


class SceneBatches(keras.utils.PyDataset):
    """Feeds `model.fit` with training scenes that it has not seen in any epoch before.

    Each batch is a pure function of (seed, epoch, number), as those of `Batches`.

    Args:
        count: Scenes per epoch.
        batch_size: Positive integer; the last batch may be smaller.
        target: `"masks"` (default) or `"depths"`.
        size: As for `scenes`.
        seed: Likewise.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras import datasets
        >>> batches = datasets.SceneBatches(4, 3, size=32)
        >>> len(batches), batches[1][0].shape
        (2, (1, 32, 32, 3))
    """

    def __init__(
        self, count: int, batch_size: int, target: str = "masks", size: int = 64, seed: int = 0
    ):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")
        if target not in ("masks", "depths"):
            raise ValueError(f'`target` must be "masks" or "depths". Received: target={target!r}')
        self.count, self.batch_size, self.target = count, batch_size, target
        self.size, self.seed = size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __getitem__(self, number: int):
        start = number * self.batch_size
        count = min(self.batch_size, self.count - start)
        first = self.epoch * self.count + start
        batch = scenes(count, self.size, seed=self.seed, first=first)
        return batch.images, getattr(batch, self.target)

    def on_epoch_end(self) -> None:
        self.epoch += 1


@functools.lru_cache(maxsize=4)
def _scans(size, part):
    """Ink and labels of the scans of one split, at all sizes."""
    found = []
    for share in _SHARES:
        side = int(share * size)
        images, labels = digits(side - 2 * round(_BORDER * side), channels=1)[part]
        found.append((side, images[..., 0] > 0, labels))
    return found


def _scene(scans, size, generator):
    rows = np.linspace(0, 1, size)[:, None]
    depth = np.broadcast_to(_FARTHEST - 4 * rows, (size, size)).copy()
    colour = generator.uniform(0.2, 1.0, 3)
    image = np.broadcast_to(colour, (size, size, 3)).copy()
    image += generator.normal(0, 0.05, (size, size, 1))
    mask = np.zeros((size, size), "int32")
    # From the smallest, which is the farthest, to the nearest.
    for index in sorted(generator.integers(0, len(_SHARES), 2)):
        side, inks, labels = scans[index]
        chosen = generator.integers(len(inks))
        ink = np.pad(inks[chosen], round(_BORDER * side))
        sticker = _dilated(ink, round(_BORDER * side))
        for _ in range(_ATTEMPTS):
            top, left = generator.integers(0, size - side + 1, 2)
            place = (slice(top, top + side), slice(left, left + side))
            if (mask[place][sticker] > 0).sum() <= _HIDDEN * (mask > 0).sum():
                break
        for part in (sticker, ink):
            image[place][part] = generator.uniform(-1.0, 1.0, 3)
        mask[place][sticker] = 1 + labels[chosen]
        depth[place][sticker] = _NEAREST * _SHARES[-1] / _SHARES[index]
    # Haze: half of the contrast is left at 7 m.
    clear = np.exp2(-depth / 7)[..., None]
    image = np.clip(clear * image + (1 - clear) * 0.5, -1, 1)
    return image.astype("float32"), mask, depth[..., None].astype("float32")


def _dilated(ink, reach):
    """Where there is ink within `reach` rows and columns."""
    for axis in (0, 1):
        pads = [(reach, reach) if axis == number else (0, 0) for number in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(ink, pads), 2 * reach + 1, axis)
        ink = windows.any(axis=-1)
    return ink
