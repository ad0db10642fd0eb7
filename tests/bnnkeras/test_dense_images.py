"""Augmentations of images with their targets, batches of both, and windows over large pictures."""

import keras
import numpy as np
import pytest
from keras import layers

from bnnkeras import datasets
from bnnkeras.datasets import dense_files, dense_images, images
from bnnkeras.sliding import predict_sliding

pytest.importorskip("PIL", reason="resizing images needs the datasets extra")


def pair(height=30, width=40, seed=0):
    """An image whose red channel is its target: what happens to one must happen to the other."""
    target = np.random.default_rng(seed).integers(0, 200, (height, width)).astype("int32")
    return np.stack([target, 0 * target, 0 * target], -1).astype("uint8"), target


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "transform",
    [
        dense_images.RandomFlip(),
        dense_images.RandomCrop(20, 24),
        dense_images.CentreCrop(20, 24),
        dense_images.CentreCrop(20, 24, bottom=True),
        dense_images.Box((3, 9), (5, 30)),
    ],
)
def test_image_and_target_move_together(transform, seed):
    image, target = transform(*pair(), generator(seed))
    np.testing.assert_array_equal(image[..., 0], target)
    depths = pair()[1].astype("float32")[..., None]
    np.testing.assert_array_equal(
        transform(pair()[0], depths, generator(seed))[1][..., 0], target.astype("float32")
    )


def test_crops_are_where_they_should_be():
    image, target = pair()
    found = dense_images.CentreCrop(20, 24)(image, target)[1]
    np.testing.assert_array_equal(found, target[5:25, 8:32])
    found = dense_images.CentreCrop(20, 23, bottom=True)(image, target)[1]
    np.testing.assert_array_equal(found, target[10:, 8:31])
    with pytest.raises(ValueError, match=r"at least 31 x 4 pixels. Received: image.shape=\(30"):
        dense_images.CentreCrop(31, 4)(image, target)
    flipped = {
        bool((dense_images.RandomFlip()(image, target, generator(seed))[1] != target).any())
        for seed in range(8)
    }
    assert flipped == {True, False}
    corners = {
        tuple(dense_images.RandomCrop(20, 24)(image, target, generator(seed))[1][0, :2])
        for seed in range(8)
    }
    assert len(corners) > 4


def test_padding_is_black_and_ignored():
    image, target = dense_images.RandomCrop(36, 24, fill=150)(*pair(), generator())
    assert image.shape == (36, 24, 3) and (target[30:] == 150).all() and not image[30:].any()
    np.testing.assert_array_equal(image[:30, :, 0], target[:30])


def test_sizes_of_scaled_pictures():
    lengths = set()
    for seed in range(40):
        for height, width in ((30, 40), (40, 30)):
            transform = dense_images.RandomScale(20, 80)
            image, target = transform(*pair(height, width), generator(seed))
            assert image.shape[:2] == target.shape and image.dtype == "uint8"
            longer, shorter = max(target.shape), min(target.shape)
            assert shorter == int(longer * 0.75 + 0.5)
            assert np.argmax(target.shape) == np.argmax((height, width))
            # Labels are taken, not mixed.
            assert set(np.unique(target)) <= set(np.unique(pair(height, width)[1]))
            lengths.add(longer)
    assert 20 <= min(lengths) < 30 and 70 < max(lengths) <= 80
    image, target = dense_images.ShorterSide(45)(*pair())
    assert image.shape == (45, 60, 3) and target.shape == (45, 60)
    same = dense_images.ShorterSide(30)(*pair())
    np.testing.assert_array_equal(same[1], pair()[1])


def test_rotation():
    """About the middle, by at most the degrees; outside is no depth."""
    target = np.zeros((41, 81, 1), "float32")
    target[20] = 3.0
    image = np.repeat((target * 80).astype("uint8"), 3, axis=-1)
    slopes = []
    for seed in range(20):
        turned_image, turned = dense_images.RandomRotation(5.0)(image, target, generator(seed))
        assert turned.shape == target.shape and set(np.unique(turned)) == {0.0, 3.0}
        assert turned[20, 40] == 3 and turned_image[20, 40, 0] == 240
        rows = turned[..., 0].argmax(axis=0)
        slopes.append(np.polyfit(np.arange(5, 76) - 40, rows[5:76] - 20, 1)[0])
    assert np.abs(slopes).max() <= np.tan(np.radians(5.0)) + 0.01
    assert min(slopes) < -0.03 and max(slopes) > 0.03


def test_photometry():
    image, target = np.full((2, 2, 3), 100, "uint8"), np.ones((2, 2, 1), "float32")
    found = []
    for seed in range(60):
        changed, same = dense_images.RandomPhotometry()(image, target, generator(seed))
        assert (
            same is target and changed.dtype == "float32" and changed.min() == changed[0, 0].min()
        )
        found.append(changed[0, 0])
    found = np.array(found)
    unchanged = (found == 100).all(axis=1)
    assert 15 < unchanged.sum() < 45
    # The extremes: gamma, brightness and colour against 100 / 255.
    low, high = (
        255 * (1 - s * 0.25) * (1 - s * 0.1) * (100 / 255) ** (1 + s * 0.1) for s in (1, -1)
    )
    assert low <= found.min() < 85 and 115 < found.max() <= high
    white = np.full((1, 1, 3), 255, "uint8")
    changed = [dense_images.RandomPhotometry()(white, target, generator(s))[0] for s in range(9)]
    assert np.max(changed) == 255


def test_batches_repeat_and_differ():
    pairs = [pair(seed=seed) for seed in range(5)]
    normalize = dense_images.OfImage(images.Normalize())

    def batches(**options):
        transforms = (dense_images.RandomFlip(), dense_images.RandomCrop(8, 10), normalize)
        return dense_images.DenseBatches(pairs, 2, transforms, **options)

    one, other = batches(), batches()
    assert len(one) == 3 and one.classes is None
    assert [len(one[number][0]) for number in range(3)] == [2, 2, 1]
    x, y = one[0]
    assert x.shape == (2, 8, 10, 3) and x.dtype == "float32" and y.shape == (2, 8, 10)
    # Back from float32 to values of up to 255.
    np.testing.assert_allclose((x[..., 0] * 0.229 + 0.485) * 255, y, atol=1e-3)
    np.testing.assert_array_equal(x, other[0][0])
    one.on_epoch_end()
    assert (one[0][1] != y).any()
    held_out = dense_images.DenseBatches(pairs, 2, shuffle=False)
    np.testing.assert_array_equal(held_out[1][1], [pairs[2][1], pairs[3][1]])
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        dense_images.DenseBatches(pairs, 0)


def test_batches_know_the_classes_of_files():
    files = dense_files.DenseFiles((), dense_files.ade20k_labels, 151)
    assert dense_images.DenseBatches(files, 2).classes == 151


# --- TensorFlow Datasets -----------------------------------------------------------------------


def test_masks_by_name(tmp_path, generated_tfds):
    generated_tfds.write_dense(tmp_path, "scene_parse150", {"train": 5, "test": 3})
    crop = (dense_images.CentreCrop(16, 20),)
    batches = datasets.TFDSBatches(
        "scene_parse150", "test", 2, crop, shuffle=False, data_dir=tmp_path
    )
    assert (batches.classes, len(batches), batches.samples) == (151, 2, 3)
    x, y = batches[0]
    assert x.shape == (2, 16, 20, 3) and y.dtype == "int32"
    numbers = generated_tfds.mask(1, 24)[4:20, 2:22].astype("int32")
    np.testing.assert_array_equal(y[1], np.where(numbers == 0, 150, numbers - 1))
    assert datasets.TFDSBatches("scene_parse150", "train", 5, data_dir=tmp_path)[0][1].shape[0] == 5


def test_depths_by_name(tmp_path, generated_tfds):
    generated_tfds.write_dense(tmp_path, "nyu_depth_v2", {"train": 2, "validation": 1})
    batches = datasets.TFDSBatches("nyu_depth_v2", "train", 2, shuffle=False, data_dir=tmp_path)
    x, y = batches[0]
    assert batches.classes is None and x.shape == (2, 480, 640, 3)
    np.testing.assert_array_equal(y[1, ..., 0], generated_tfds.depth(1).astype("float32"))


# --- Sliding windows ---------------------------------------------------------------------------


def network(size=(6, 8)):
    """One output the first channel, the other the place within the window."""
    inputs = keras.Input((*size, 3))
    first = layers.Lambda(lambda x: x[..., :1], output_shape=(*size, 1))(inputs)
    ones = layers.Lambda(lambda x: 0 * x[..., :1] + 1, output_shape=(*size, 1))(inputs)
    place = layers.Cropping2D(((0, 5), (0, 0)))(ones)
    place = layers.ZeroPadding2D(((0, 5), (0, 0)))(place)
    return keras.Model(inputs, layers.Concatenate()([first, place]))


@pytest.mark.parametrize("size", [(6, 8), (7, 8), (13, 30), (4, 20), (3, 5)])
def test_sliding_windows_cover_every_pixel(size):
    image = np.random.default_rng(0).normal(size=(*size, 3)).astype("float32")
    found = predict_sliding(network(), image)
    assert found.shape == (*size, 2)
    np.testing.assert_allclose(found[..., 0], image[..., 0], rtol=1e-6)


def test_windows_that_overlap_count_alike():
    image = np.zeros((9, 8, 3), "float32")
    found = predict_sliding(network(), image, 3)
    # The windows begin at rows 0 and 3; row 3 is the second one's first row, and in both.
    np.testing.assert_allclose(found[:, 0, 1], [1, 0, 0, 0.5, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(predict_sliding(network(), image, (3, 8)), found)
    for stride in (0, 7):
        with pytest.raises(ValueError, match=f"`stride` must be .*Received: stride={stride}"):
            predict_sliding(network(), image, stride)
    with pytest.raises(ValueError, match="an output as large as its input"):
        inputs = keras.Input((6, 8, 3))
        predict_sliding(keras.Model(inputs, layers.Flatten()(inputs)), image)
