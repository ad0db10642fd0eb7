"""Augmentations and preprocessing of published recipes, one image at a time.

Each is data (a frozen dataclass) and a function `transform(image, generator) -> image` of a NumPy
array `(height, width, 3)`, red, green and blue from 0 to 255, and a `numpy.random.Generator`.
Images are resized by Pillow, as torchvision does.
"""

import math
from dataclasses import dataclass

import numpy as np

# Of ImageNet, red, green and blue, on the scale of [0, 1].
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
# Blue, green and red, on the scale of [0, 255].
CAFFE_MEAN = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and aspect, resized bilinearly.

    Args:
        size: Height and width of the result. Defaults to 224.
        area: Pair of floats, the box's share of the image. A share above 1 never fits and is drawn
            again.
        ratio: Pair of floats, width by height.
        attempts: After so many boxes that don't fit: the largest central one of the ratio.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets.images import RandomResizedCrop
        >>> image = np.zeros((40, 60, 3), "uint8")
        >>> RandomResizedCrop(32)(image, np.random.default_rng(0)).shape
        (32, 32, 3)

    Reference:
        Szegedy et al., Going Deeper with Convolutions (CVPR 2015); torchvision's transform.
    """

    size: int = 224
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    attempts: int = 10

    def __call__(self, image, generator):
        top, left, height, width = self.box(image.shape[0], image.shape[1], generator)
        return _resized(image[top : top + height, left : left + width], self.size, self.size)

    def box(self, height: int, width: int, generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of a box."""
        low, high = (math.log(value) for value in self.ratio)
        for _ in range(self.attempts):
            area = height * width * generator.uniform(*self.area)
            aspect = math.exp(generator.uniform(low, high))
            rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < rows <= height and 0 < columns <= width:
                top = int(generator.integers(0, height - rows + 1))
                left = int(generator.integers(0, width - columns + 1))
                return top, left, rows, columns
        rows, columns = height, width
        if width / height < self.ratio[0]:
            rows = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            columns = round(height * self.ratio[1])
        return (height - rows) // 2, (width - columns) // 2, rows, columns


@dataclass(frozen=True)
class Resize:
    """The shorter side at `size`, bilinearly; the other side keeps the aspect.

    Args:
        size: Integer. Defaults to 256.
    """

    size: int = 256

    def __call__(self, image, generator=None):
        height, width = image.shape[:2]
        if height <= width:
            return _resized(image, self.size, int(self.size * width / height))
        return _resized(image, int(self.size * height / width), self.size)


@dataclass(frozen=True)
class CenterCrop:
    """The middle of the image.

    Args:
        size: Height and width. Defaults to 224.
    """

    size: int = 224

    def __call__(self, image, generator=None):
        top, left = (round((length - self.size) / 2) for length in image.shape[:2])
        return image[top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class RandomCrop:
    """A random part of the image.

    Args:
        size: Height and width. Defaults to 32.
        padding: Pixels of 0 around the image first. Defaults to 0.
    """

    size: int = 32
    padding: int = 0

    def __call__(self, image, generator):
        image = np.pad(image, ((self.padding,) * 2, (self.padding,) * 2, (0, 0)))
        top, left = (
            int(generator.integers(0, length - self.size + 1)) for length in image.shape[:2]
        )
        return image[top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class RandomFlip:
    """Left and right exchanged, half of the time."""

    def __call__(self, image, generator):
        return image[:, ::-1] if generator.random() < 0.5 else image


@dataclass(frozen=True)
class Lighting:
    """Noise along the principal colours of ImageNet: V (alpha lambda) is added to every pixel.

    Args:
        deviation: Float, of the three normal alphas. Defaults to 0.1.
        scale: `"official"` (default) adds the increments, which are meant for [0, 1], to the image
            of [0, 255] and truncates it: a channel falls by 1 where its increment is negative.
            `"intended"` adds 255 times as much and returns float32.

    Raises:
        ValueError: If `scale` is unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets.images import Lighting
        >>> image = np.full((1, 1, 3), 100, "uint8")
        >>> Lighting().shifted(image, np.float32([1.0, 0.0, 0.0])).tolist()
        [[[99, 99, 99]]]

    Reference:
        Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks
        (NIPS 2012), section 4.1; Bi-Real Net's released training code.
    """

    deviation: float = 0.1
    scale: str = "official"

    def __post_init__(self):
        if self.scale not in ("official", "intended"):
            raise ValueError(
                f'`scale` must be "official" or "intended". Received: scale={self.scale!r}'
            )

    def __call__(self, image, generator):
        return self.shifted(image, generator.normal(0, self.deviation, 3).astype("float32"))

    def shifted(self, image, alpha):
        """The image with given alphas."""
        increments = self.increments(alpha)
        if self.scale == "intended":
            return (image + 255 * increments).astype("float32")
        return np.clip(image + increments, 0, 255).astype("uint8")

    @staticmethod
    def increments(alpha):
        """V (alpha lambda), for red, green and blue."""
        return _COLOURS @ (np.asarray(alpha, "float64") * _VARIANCES)


_VARIANCES = np.array([0.2175, 0.0188, 0.0045])
_COLOURS = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue changed at random, in random order.

    Each of the first three blends the image with black, with its mean grey, or with its own grey,
    by a factor from 1 - amount to 1 + amount; the hue moves by up to `hue` of its circle.

    Args:
        brightness: Float. Defaults to 0.2.
        contrast: Float. Defaults to 0.2.
        saturation: Float. Defaults to 0.2.
        hue: Float up to 0.5. Defaults to 0.1.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets.images import ColorJitter
        >>> grey = np.full((2, 2, 3), 100, "uint8")
        >>> jittered = ColorJitter(0.0, 0.0, 0.2, 0.1)(grey, np.random.default_rng(0))
        >>> bool((jittered == 100).all())
        True

    Reference:
        torchvision.transforms.ColorJitter.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.1

    def __call__(self, image, generator):
        amounts = (self.brightness, self.contrast, self.saturation)
        factors = [generator.uniform(1 - amount, 1 + amount) for amount in amounts]
        turn = generator.uniform(-self.hue, self.hue)
        changes = (
            lambda x: factors[0] * x,
            lambda x: _blend(x, np.round(_grey(x).mean()), factors[1]),
            lambda x: _blend(x, _grey(x), factors[2]),
            lambda x: _turned_hue(x, turn),
        )
        for index in generator.permutation(len(changes)):
            image = np.clip(changes[index](np.asarray(image, "float32")), 0, 255).astype("uint8")
        return image


def _grey(image):
    return np.floor(image @ np.array([0.299, 0.587, 0.114], "float32"))[..., None]


def _blend(image, other, factor):
    return factor * image + (1 - factor) * other


def _turned_hue(image, turn):
    """The colours turned around the grey axis of the hexagonal cone HSV, by a share of a circle."""
    largest, smallest = image.max(axis=-1), image.min(axis=-1)
    chroma = largest - smallest
    safe = np.where(chroma > 0, chroma, 1)
    red, green, blue = np.moveaxis(image, -1, 0)
    sixth = np.select(
        [largest == red, largest == green],
        [(green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    # A channel's distance from the full colour, in sixths of the circle around which it lies.
    places = (sixth[..., None] + 6 * turn + np.array([5, 3, 1], "float32")) % 6
    fall = np.clip(np.minimum(places, 4 - places), 0, 1)
    return np.round(largest[..., None] - chroma[..., None] * fall)


@dataclass(frozen=True)
class Normalize:
    """(image / 255 - mean) / deviation per channel, as float32.

    Args:
        mean: Of red, green and blue on [0, 1]. Defaults to ImageNet's.
        deviation: Likewise.
    """

    mean: tuple[float, ...] = MEAN
    deviation: tuple[float, ...] = DEVIATION

    def __call__(self, image, generator=None):
        scaled = np.asarray(image, "float32") / 255
        return (scaled - np.array(self.mean, "float32")) / np.array(self.deviation, "float32")


@dataclass(frozen=True)
class SubtractMean:
    """Blue, green and red minus their means on [0, 255], as Caffe's networks take them.

    Args:
        mean: Of blue, green and red. Defaults to ImageNet's.
    """

    mean: tuple[float, ...] = CAFFE_MEAN

    def __call__(self, image, generator=None):
        return np.asarray(image, "float32")[..., ::-1] - np.array(self.mean, "float32")


@dataclass(frozen=True)
class ImageTransforms:
    """Transforms one after the other; of a batch, image by image.

    Args:
        transforms: Tuple of functions `transform(image, generator) -> image`.
    """

    transforms: tuple

    def image(self, image, generator):
        """One image."""
        for transform in self.transforms:
            image = transform(image, generator)
        return np.ascontiguousarray(image)

    def __call__(self, images, generator):
        return np.stack([self.image(image, generator) for image in images])


def pillow(purpose: str):
    """Pillow's module `Image`.

    Args:
        purpose: What images need it for, at the start of the error: `"Resizing"`.

    Raises:
        ImportError: If the `datasets` extra is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f'{purpose} images needs Pillow: pip install "bnnkeras[datasets]"'
        ) from error
    return Image


def _resized(image, height: int, width: int):
    Image = pillow("Resizing")
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
