"""Augmentations of published recipes, and data sets by name."""

import numpy as np
import pytest

from bnnkeras import datasets
from bnnkeras.datasets import images


def generator(seed=0):
    return np.random.default_rng(seed)


def picture(height=40, width=60, seed=0):
    return generator(seed).integers(0, 256, (height, width, 3), dtype="uint8")


def test_official_lighting(goldens, fill):
    golden = goldens("birealnet", "quantizers")
    for index in range(6):
        alpha = fill.fill_input(f"lighting:{index}", (3,)).astype("float32")
        image = np.floor(256 * fill.unit(f"input:lighting:img:{index}", (5, 6, 3))).astype("uint8")
        increments = images.Lighting.increments(alpha)
        np.testing.assert_allclose(increments, golden[f"lighting/inc_{index}"], rtol=1e-6)
        found = images.Lighting().shifted(image, alpha)
        np.testing.assert_array_equal(found, golden[f"lighting/uint8_{index}"])


def test_intended_lighting_adds_on_the_scale_of_the_image():
    image, alpha = picture(), np.float32([0.1, -0.2, 0.05])
    found = images.Lighting(scale="intended").shifted(image, alpha)
    assert found.dtype == np.float32
    expected = image + 255 * images.Lighting.increments(alpha)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="Received: scale='both'"):
        images.Lighting(scale="both")


def test_random_resized_crop_draws_boxes_in_range():
    crop = images.RandomResizedCrop(24, area=(0.25, 0.5))
    random = generator()
    boxes = np.array([crop.box(40, 60, random) for _ in range(300)])
    top, left, height, width = boxes.T
    assert (top + height <= 40).all() and (left + width <= 60).all() and boxes.min() >= 0
    share = height * width / 2400
    assert share.min() > 0.22 and share.max() < 0.53 and np.ptp(share) > 0.2
    ratio = width / height
    assert ratio.min() > 0.7 and ratio.max() < 1.42
    assert crop(picture(), random).shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((40, 60), (0, 3, 40, 53)), ((60, 40), (3, 0, 53, 40)), ((9, 9), (0, 0, 9, 9))],
)
def test_boxes_that_never_fit_become_the_central_one(size, expected):
    crop = images.RandomResizedCrop(24, area=(1.2, 1.25))
    # (Of a square only an area of 1 could fit.)
    top, left, height, width = crop.box(*size, generator())
    assert (top, left, height, width) == expected


def test_evaluation_is_the_centre_of_the_resized_image():
    image = picture(50, 100)
    resized = images.Resize(25)(image)
    assert resized.shape == (25, 50, 3)
    assert images.Resize(25)(picture(100, 50)).shape == (50, 25, 3)
    assert images.Resize(50)(image) is image
    cropped = images.CenterCrop(20)(resized)
    np.testing.assert_array_equal(cropped, resized[2:22, 15:35])


def test_random_crop_and_flip():
    image = picture(32, 32)
    found = {images.RandomCrop(32, padding=4)(image, generator(s)).tobytes() for s in range(50)}
    assert len(found) > 30
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {padded[r : r + 32, c : c + 32].tobytes() for r in range(9) for c in range(9)}
    assert found <= windows
    flips = [images.RandomFlip()(image, generator(seed)) for seed in range(40)]
    same = sum(np.array_equal(flip, image) for flip in flips)
    assert 8 < same < 32
    assert sum(np.array_equal(flip, image[:, ::-1]) for flip in flips) == 40 - same


def test_normalization_and_caffes_means():
    image = np.array([[[255, 0, 51]]], "uint8")
    found = images.Normalize()(image)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)
    np.testing.assert_array_equal(images.SubtractMean()(image).ravel(), [51 - 104, -117, 255 - 123])


def test_transforms_of_a_batch():
    transforms = images.ImageTransforms((images.RandomCrop(8), images.Normalize()))
    batch = np.stack([picture(10, 10, seed) for seed in range(3)])
    found = transforms(batch, generator())
    assert found.shape == (3, 8, 8, 3) and found.dtype == np.float32
    np.testing.assert_array_equal(found, transforms(batch, generator()))


# --- Data sets by name -------------------------------------------------------------------------

# The other split, the data set's classes, and the size of the generated images.
LAYOUTS = {"cifar10": ("test", 10, 32), "imagenet2012": ("validation", 1000, 48)}


@pytest.fixture(scope="module", params=LAYOUTS)
def prepared(request, tmp_path_factory, generated_tfds):
    other, classes, size = LAYOUTS[request.param]
    folder = tmp_path_factory.mktemp("tfds")
    generated_tfds.write(folder, request.param, {"train": 23, other: 7}, size, 10)
    return request.param, other, folder, classes


def test_batches_of_a_data_set_by_name(prepared, generated_tfds):
    name, other, folder, classes = prepared
    train = datasets.TFDSBatches(name, "train", 8, (images.CenterCrop(32),), data_dir=folder)
    assert (len(train), train.samples, train.classes) == (3, 23, classes)
    found = [train[number] for number in range(3)]
    assert [x.shape for x, _ in found] == [(8, 32, 32, 3), (8, 32, 32, 3), (7, 32, 32, 3)]
    labels = np.concatenate([y for _, y in found])
    assert sorted(labels) == sorted(index % 10 for index in range(23))
    assert labels.tolist() != [index % 10 for index in range(23)]
    held_out = datasets.TFDSBatches(name, other, 8, shuffle=False, data_dir=folder)
    x, y = held_out[0]
    np.testing.assert_array_equal(y, np.arange(7))
    if name == "cifar10":  # JPEG changes pixels.
        np.testing.assert_array_equal(x[3], generated_tfds.picture(3, 32))


def test_epochs_of_a_data_set_repeat_and_differ(prepared):
    name, _, folder, _ = prepared

    def batches():
        transforms = (images.RandomCrop(24), images.RandomFlip())
        return datasets.TFDSBatches(name, "train", 8, transforms, seed=3, data_dir=folder)

    one, other = batches(), batches()
    first = [one[number] for number in range(3)]
    one.on_epoch_end()
    other.epoch = 1
    for number in (0, 1, 2):
        np.testing.assert_array_equal(one[number][0], other[number][0])
    # A batch alone, out of order, is the one of the sequence.
    np.testing.assert_array_equal(batches()[2][0], first[2][0])
    assert not np.array_equal(one[0][1], first[0][1])


def test_data_sets_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="'cifar10' is not prepared.*Received: data_dir="):
        datasets.TFDSBatches("cifar10", "train", 8, data_dir=str(tmp_path))


def test_color_jitter_is_torchvisions():
    """Against PIL's conversions, which torchvision uses for images."""
    from PIL import Image, ImageEnhance

    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype("uint8")

    class Fixed:
        """A generator that draws what it is told to, and applies one change only."""

        def __init__(self, change, value):
            self.change, self.value, self.drawn = change, value, 0

        def uniform(self, low, high):
            self.drawn += 1
            neutral = 0.0 if self.drawn == 4 else 1.0
            return self.value if self.drawn - 1 == self.change else neutral

        def permutation(self, count):
            assert count == 4
            return [self.change]

    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for change, enhancer in enumerate(enhancers):
        for factor in (0.8, 1.2):
            wanted = np.asarray(enhancer(Image.fromarray(image)).enhance(factor), int)
            found = images.ColorJitter()(image, Fixed(change, factor)).astype(int)
            assert np.abs(found - wanted).max() <= 1
    for turn in (-0.1, 0.05, 0.1):
        pixels = np.array(Image.fromarray(image).convert("HSV"))
        # PIL's hue has 256 steps, so its colours are coarser.
        pixels[..., 0] += np.uint8(round(turn * 255) % 256)
        wanted = np.asarray(Image.fromarray(pixels, "HSV").convert("RGB"), int)
        found = images.ColorJitter()(image, Fixed(3, turn)).astype(int)
        assert np.abs(found - wanted).max() <= 8
    assert (images.ColorJitter()(image, np.random.default_rng(0)) != image).any()
    unchanged = images.ColorJitter(0.0, 0.0, 0.0, 0.0)(image, np.random.default_rng(0))
    assert np.abs(unchanged.astype(int) - image).max() <= 1
