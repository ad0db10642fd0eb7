"""Embedded scenes for dense prediction: digits before a plane, with exact masks and depths."""

from dataclasses import dataclass

import numpy as np

from bnnkeras.datasets.digits import digits

# Share of the scene's size that a digit takes; the nearer, the larger. The strokes of the smallest
# are about a tenth of it: four pixels of 96, which a network of maps of a quarter can resolve.
_SHARES = (0.375, 0.4375, 0.5, 0.5625, 0.625, 0.6875)
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


def scenes(count: int, size: int = 64, split: str = "train", seed: int = 0) -> Scenes:
    """Pictures of two to five scanned digits that hide each other, made without a download.

    Each digit is a coloured cut-out: its pixels are those of its scan that are more ink than paper,
    and so are those of its mask. Its distance is 1.375 / (share of the picture's size that it
    takes) metres, from 2 to 3.7; the background is a plane from 9 m at the top to 5 m at the
    bottom. What is far is pale. A scene is a function of (`seed`, `split`, its number)
    alone; digits of the test split are scans that no scene of the training split holds.

    Args:
        count: Number of scenes.
        size: Height and width, a multiple of 16 and at least 32. Defaults to 64.
        split: `"train"` or `"test"`.
        seed: Integer.

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
    scans = [digits(int(share * size), channels=1)[part] for share in _SHARES]
    made = [
        _scene(scans, size, np.random.default_rng((seed, part, number))) for number in range(count)
    ]
    return Scenes(*(np.stack(arrays) for arrays in zip(*made, strict=True)))


def _scene(scans, size, generator):
    rows = np.linspace(0, 1, size)[:, None]
    depth = np.broadcast_to(_FARTHEST - 4 * rows, (size, size)).copy()
    colour = generator.uniform(0.2, 1.0, 3)
    image = np.broadcast_to(colour, (size, size, 3)).copy()
    image += generator.normal(0, 0.05, (size, size, 1))
    mask = np.zeros((size, size), "int32")
    # From the smallest, which is the farthest, to the nearest.
    for index in sorted(generator.integers(0, len(_SHARES), generator.integers(2, 6))):
        images, labels = scans[index]
        chosen = generator.integers(len(images))
        ink = images[chosen, ..., 0] > 0
        side = len(ink)
        top, left = generator.integers(0, size - side + 1, 2)
        place = (slice(top, top + side), slice(left, left + side))
        image[place][ink] = generator.uniform(-1.0, 1.0, 3)
        mask[place][ink] = 1 + labels[chosen]
        depth[place][ink] = _NEAREST * _SHARES[-1] / _SHARES[index]
    # Haze: half of the contrast is left at 7 m.
    clear = np.exp2(-depth / 7)[..., None]
    image = np.clip(clear * image + (1 - clear) * 0.5, -1, 1)
    return image.astype("float32"), mask, depth[..., None].astype("float32")
