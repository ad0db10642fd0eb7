"""Data sets of dense prediction in their official folders: ADE20K, PASCAL VOC, NYUv2 and KITTI."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnnkeras.datasets.images import pillow


@dataclass(frozen=True)
class DenseFiles(Sequence):
    """Images with a map of labels or depths each, read from their files when asked for.

    `files[i]` is `(image, target)`: uint8 `(height, width, 3)`, and int32 labels `(height, width)`
    or float32 depths in metres `(height, width, 1)`, 0 where there is none.

    Attributes:
        pairs: Tuple of pairs of paths, image and target.
        decode: Turns the numbers of a target's file into the target.
        classes: Channels of the logits of a network for it, with the class to ignore as the last;
            `None` for depths.
    """

    pairs: tuple[tuple[Path, Path], ...]
    decode: Callable[[np.ndarray], np.ndarray]
    classes: int | None

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        image, target = (_pixels(path) for path in self.pairs[index])
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=-1)
        return image[..., :3].astype("uint8"), self.decode(target)


def ade20k(folder: str | os.PathLike, split: str = "training") -> DenseFiles:
    """ADE20K's scene parsing (ADEChallengeData2016): 150 classes and 150 for what to ignore.

    Args:
        folder: With `images/<split>/*.jpg` and `annotations/<split>/*.png`.
        split: `"training"` or `"validation"`.

    Raises:
        ValueError: If `split` is unknown.
        FileNotFoundError: If there are no images, or one has no annotation.
    """
    _check_split(split, ("training", "validation"))
    folder = Path(folder)
    images = sorted((folder / "images" / split).glob("*.jpg"))
    targets = [folder / "annotations" / split / f"{image.stem}.png" for image in images]
    return DenseFiles(_checked(folder, images, targets), ade20k_labels, 151)


def pascal_voc(folder: str | os.PathLike, split: str = "train") -> DenseFiles:
    """PASCAL VOC 2012's segmentation: the background, 20 classes, and 21 for what to ignore.

    The released training of BiDense takes `"trainval"` and validates on `"val"`, which is part of
    it: its validation scores are of images that it has trained on. `"train"` has none of them.

    Args:
        folder: `VOC2012`, with `ImageSets/Segmentation`, `JPEGImages` and `SegmentationClass`.
        split: `"train"`, `"val"` or `"trainval"`.

    Raises:
        ValueError: If `split` is unknown.
        FileNotFoundError: If a file is missing.
    """
    _check_split(split, ("train", "val", "trainval"))
    folder = Path(folder)
    names = (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
    images = [folder / "JPEGImages" / f"{name}.jpg" for name in names]
    targets = [folder / "SegmentationClass" / f"{name}.png" for name in names]
    return DenseFiles(_checked(folder, images, targets), _voc_labels, 22)


def nyu_depth(listing, images, depths=None) -> DenseFiles:
    """NYUv2 by a list of files: depths in millimetres.

    Args:
        listing: Path of a text file with a line `<image> <depth> ...` for each pair, as BTS has it.
            Lines whose depth is `None` are left out.
        images: Folder of the images.
        depths: Folder of the depths. Defaults to `images`.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    return _listed(listing, images, depths, 1000.0)


def kitti_depth(listing, images, depths=None) -> DenseFiles:
    """KITTI by a list of files: depths in 1/256 m; arguments as for `nyu_depth`."""
    return _listed(listing, images, depths, 256.0)


def _listed(listing, images, depths, unit):
    images = Path(images)
    depths = images if depths is None else Path(depths)
    lines = [line.split() for line in Path(listing).read_text().splitlines() if line.strip()]
    known = [line for line in lines if line[1] != "None"]
    pairs = _checked(
        images,
        # The lists begin some names with a slash.
        [images / line[0].lstrip("/") for line in known],
        [depths / line[1].lstrip("/") for line in known],
    )
    return DenseFiles(pairs, _Depths(unit), None)


@dataclass(frozen=True)
class _Depths:
    unit: float

    def __call__(self, values):
        return (values.astype("float32") / self.unit)[..., None]


def ade20k_labels(values: np.ndarray) -> np.ndarray:
    """The labels of an annotation's numbers, whose 0 is what nobody labelled: 150, to ignore."""
    return np.where(values == 0, 150, values.astype("int32") - 1).astype("int32")


def _voc_labels(values):
    return np.where(values == 255, 21, values).astype("int32")


def _check_split(split, known):
    if split not in known:
        raise ValueError(f"`split` must be one of {known}. Received: split={split!r}")


def _checked(folder, images, targets):
    if not images:
        raise FileNotFoundError(f"There are no images of this split in {folder}")
    for path in (*images, *targets):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}")
    return tuple(zip(images, targets, strict=True))


def _pixels(path):
    with pillow("Reading").open(path) as picture:
        return np.asarray(picture)
