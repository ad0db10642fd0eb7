"""The embedded digits and the batches made of them."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bnnkeras import datasets


def test_split_is_the_documented_one():
    (x_train, y_train), (x_test, y_test) = datasets.digits(size=8, channels=1)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    for ours, raw in ((x_train, parts[0]), (x_test, parts[1])):
        np.testing.assert_array_equal(ours.reshape(len(raw), -1), raw.astype("float32") / 8 - 1)
    np.testing.assert_array_equal(y_train, parts[2])
    np.testing.assert_array_equal(y_test, parts[3])


def test_resizing_is_bilinear_with_aligned_pixel_centres():
    (small, _), _ = datasets.digits(size=8, channels=1)
    (large, _), _ = datasets.digits(size=16, channels=1)
    # Twice the size: new centres lie 1/4 of a pixel beside the old ones.
    padded = np.pad(small[0, :, :, 0], 1, mode="edge")

    def doubled(rows):
        before = 0.75 * rows[1:-1] + 0.25 * rows[:-2]
        after = 0.75 * rows[1:-1] + 0.25 * rows[2:]
        return np.stack([before, after], axis=1).reshape(-1, rows.shape[1])

    wanted = doubled(doubled(padded).T).T
    np.testing.assert_allclose(large[0, :, :, 0], wanted, atol=1e-6)


def test_channels_repeat_the_grey():
    (x_train, _), _ = datasets.digits(size=32)
    assert x_train.shape == (1437, 32, 32, 3)
    np.testing.assert_array_equal(x_train[..., 0], x_train[..., 2])


@pytest.mark.parametrize("arguments", [{"size": 7}, {"size": 8.5}, {"channels": 2}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="Received"):
        datasets.digits(**arguments)


def _batches(**arguments):
    x = np.arange(40.0).reshape(10, 2, 2, 1)
    return datasets.Batches(x, np.arange(10), 4, **arguments)


def test_batches_cover_every_sample_once_an_epoch():
    batches = _batches()
    labels = np.concatenate([batches[number][1] for number in range(len(batches))])
    assert sorted(labels) == list(range(10))
    assert [len(batches[number][1]) for number in range(len(batches))] == [4, 4, 2]


def test_batches_are_a_function_of_seed_and_epoch():
    def augment(x, generator):
        return x + generator.normal(size=x.shape)

    one, other = _batches(augment=augment, seed=3), _batches(augment=augment, seed=3)
    first = one[1]
    one.on_epoch_end()
    other.epoch = 1
    np.testing.assert_array_equal(one[2][0], other[2][0])
    assert not np.array_equal(one[1][0], first[0])
    assert not np.array_equal(_batches(augment=augment, seed=4)[1][0], first[0])


def test_plain_fit_sees_new_batches_every_epoch():
    import keras

    seen = []

    class Noting(datasets.Batches):
        def __getitem__(self, number):
            seen.append(self.epoch)
            return super().__getitem__(number)

    layers = [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    batches = Noting(np.zeros((10, 2, 2, 1), "float32"), np.zeros((10, 1), "float32"), 4)
    model.fit(batches, epochs=3, verbose=0)
    assert len(set(seen)) >= 3


def test_random_shift_moves_and_repeats_the_edge():
    images = np.random.default_rng(1).normal(size=(50, 5, 4, 2))
    shifted = datasets.random_shift(2)(images, np.random.default_rng(0))
    moved = set()
    for image, found in zip(images, shifted, strict=True):
        candidates = {}
        for down in range(-2, 3):
            for right in range(-2, 3):
                rows = np.clip(np.arange(5) + down, 0, 4)
                columns = np.clip(np.arange(4) + right, 0, 3)
                candidates[down, right] = image[rows][:, columns]
        matching = [move for move, value in candidates.items() if np.array_equal(value, found)]
        assert len(matching) == 1
        moved.update(matching)
    assert len(moved) > 15


@pytest.mark.parametrize(
    ("x", "y", "size"), [(np.zeros((3, 1)), np.zeros(2), 1), (np.zeros((3, 1)), np.zeros(3), 0)]
)
def test_bad_batches(x, y, size):
    with pytest.raises(ValueError, match="Received"):
        datasets.Batches(x, y, size)
