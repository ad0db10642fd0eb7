"""Layers on sets of points."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras.layers.points import PointTransform, orthogonality


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def test_official_regulariser(float64, goldens, fill, numerics):
    golden = goldens("bipointnet", "layers")
    x = fill.fill_input("regulariser", (3, 6, 6))
    result = numerics.gradients(orthogonality, [x], np.ones(()))
    numerics.assert_close(result.value, golden["regulariser/value"])
    numerics.assert_close(result.inputs[0], golden["regulariser/grad"])


@pytest.mark.parametrize("penalty", ["released", "orthogonal"])
def test_penalties(penalty, numerics):
    a = np.random.default_rng(0).normal(size=(5, 4, 4)).astype("float32")
    t = a.transpose(0, 2, 1)
    rest = a @ (t - np.eye(4)) if penalty == "released" else a @ t - np.eye(4)
    expected = np.sqrt((rest**2).sum(axis=(1, 2))).mean()
    np.testing.assert_allclose(numpy(orthogonality(a, penalty)), expected, rtol=1e-5)
    # An orthogonal matrix has none, and a finite gradient.
    q = np.linalg.qr(a)[0] if penalty == "orthogonal" else np.stack([np.eye(4)] * 5)
    result = numerics.gradients(lambda m: orthogonality(m, penalty), [q.astype("float32")])
    assert result.value < 1e-5 and np.isfinite(result.inputs[0]).all()


@pytest.mark.parametrize("size, channels", [(3, 3), (3, 7), (5, 5)])
def test_transform(size, channels, numerics):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 8, channels)).astype("float32")
    m = generator.normal(size=(2, size * size)).astype("float32")
    matrices = m.reshape(2, size, size) + np.eye(size, dtype="float32")
    expected = np.concatenate([x[..., :size] @ matrices, x[..., size:]], axis=-1)
    result = numerics.gradients(PointTransform(), [x, m])
    np.testing.assert_allclose(result.value, expected, rtol=1e-5, atol=1e-5)
    upstream = np.ones((2, 8, size))
    np.testing.assert_allclose(
        result.inputs[1].reshape(2, size, size),
        np.einsum("bnk,bno->bko", x[..., :size], upstream),
        rtol=1e-4,
    )


def test_transform_in_a_model(tmp_path):
    points, matrices = keras.Input((8, 6)), keras.Input((9,))
    layer = PointTransform(0.5, "orthogonal")
    model = keras.Model([points, matrices], layer(points, matrices))
    assert model.output_shape == (None, 8, 6)
    x, m = np.ones((2, 8, 6), "float32"), np.ones((2, 9), "float32")
    expected = numpy(model([x, m]))
    assert len(layer.losses) == 1
    again = PointTransform.from_config(json.loads(json.dumps(layer.get_config())))
    assert (again.weight, again.penalty) == (0.5, "orthogonal")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded([x, m])), expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PointTransform(-1), "`weight` must be at least 0. Received: weight=-1"),
        (lambda: PointTransform(penalty="l2"), "`penalty` must be one of .*Received: penalty='l2'"),
        (
            lambda: PointTransform()(np.ones((1, 4, 3)), np.ones((1, 8))),
            r"`matrices` must have the shape \(batch, k \* k\). Received: \(1, 8\)",
        ),
        (
            lambda: PointTransform()(np.ones((1, 4, 3)), np.ones((1, 16))),
            r"at most as many rows as points have channels. Received: matrices of shape \(1, 16\)",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
