"""Layers on sets of points."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras.layers import points
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
    cloud, matrices = keras.Input((8, 6)), keras.Input((9,))
    layer = PointTransform(0.5, "orthogonal")
    model = keras.Model([cloud, matrices], layer(cloud, matrices))
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


# --- Neighbours ------------------------------------------------------------------------------


@pytest.fixture
def cloud(float64, fill):
    return fill.fill_input("neighbours", (2, 64, 3), -0.4, 0.4)


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.375, 0.334])
def test_official_farthest_points(ratio, cloud, goldens):
    count = points.sampled_count(64, ratio)
    found = numpy(points.farthest_points(cloud, count))
    np.testing.assert_array_equal(found, goldens("bipointnet", "neighbours")[f"fps/{ratio}"])
    assert points.sampled_count(384, 0.334) == 129


@pytest.mark.parametrize("radius, limit", [(0.2, 64), (0.4, 64), (0.4, 8)])
def test_official_neighbours_within(radius, limit, cloud, goldens):
    golden = goldens("bipointnet", "neighbours")
    centres = np.take_along_axis(cloud, golden["fps/0.5"][..., None].astype(int), axis=1)
    found = numpy(points.neighbours_within(cloud, centres, radius, limit))
    np.testing.assert_array_equal(found, golden[f"radius/{radius}/{limit}"])
    more = numpy(points.neighbours_within(cloud, centres, radius, 70))
    assert more.shape == (2, 32, 70) and (more[..., 64:] == -1).all()


@pytest.mark.parametrize("count", [5, 20])
def test_official_nearest_neighbours(count, cloud, goldens):
    found = numpy(points.nearest_neighbours(cloud, count))
    np.testing.assert_array_equal(found, goldens("bipointnet", "neighbours")[f"knn/{count}"])


def test_equally_near_points_come_in_order():
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), axis=-1).reshape(1, 27, 3)
    for features in (grid, np.concatenate([grid, grid], axis=-1)):
        found = numpy(points.nearest_neighbours(features.astype("float32"), 27))[0]
        distances = ((features[0][:, None] - features[0][None]) ** 2).sum(axis=-1)
        np.testing.assert_array_equal(found, np.argsort(distances, axis=1, kind="stable"))


def test_edge_features(numerics):
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype("float32")
    layer = points.EdgeFeatures(3)
    indices = numpy(points.nearest_neighbours(x, 3))
    others = np.stack([one[index] for one, index in zip(x, indices, strict=True)])
    centres = np.repeat(x[:, :, None], 3, axis=2)
    upstream = np.random.default_rng(1).normal(size=(2, 9, 3, 8)).astype("float32")
    result = numerics.gradients(layer, [x], upstream)
    expected = np.concatenate([centres, others - centres], axis=-1)
    np.testing.assert_allclose(result.value, expected, rtol=1e-6)
    gradient = (upstream[..., :4] - upstream[..., 4:]).sum(axis=2)
    for cloud, chosen, values in zip(gradient, indices, upstream[..., 4:], strict=True):
        np.add.at(cloud, chosen, values)
    np.testing.assert_allclose(result.inputs[0], gradient, rtol=1e-4, atol=1e-5)
    inputs = keras.Input((9, 4))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, 9, 3, 8)
    np.testing.assert_array_equal(model.predict(x, verbose=0), result.value)
    assert points.EdgeFeatures.from_config(layer.get_config()).neighbours == 3
    with pytest.raises(ValueError, match="`neighbours` must be a positive integer. Received: "):
        points.EdgeFeatures(0)


def grouped(x):
    layer = points.SampleAndGroup(0.5, 0.8, 4)
    return layer, [numpy(y) for y in layer(x)]


def test_sample_and_group():
    x = np.random.default_rng(0).normal(size=(2, 16, 3)).astype("float32")
    features = np.random.default_rng(1).normal(size=(2, 16, 5)).astype("float32")
    layer, (centres, edges, present) = grouped(x)
    assert edges.shape == (2, 8, 4, 3) and 0.3 < present.mean() < 1
    np.testing.assert_array_equal(edges[~present], 0)
    assert (np.linalg.norm(edges, axis=-1) < 0.8).all()
    # Every neighbour is a point of the cloud, and each centre is its own neighbour.
    absolute = centres[:, :, None] + edges
    for cloud, neighbours, there in zip(x, absolute, present, strict=True):
        found = neighbours[there]
        nearest = np.abs(found[:, None] - cloud[None]).max(axis=-1).min(axis=1)
        assert nearest.max() < 1e-5
    few = present.sum(axis=-1) < 4
    assert few.any() and (np.abs(edges).max(axis=-1) == 0)[few].any(axis=-1).all()
    both = numpy(layer(x, features)[1])
    np.testing.assert_array_equal(both[..., 5:], edges)
    inputs = [keras.Input((16, 3)), keras.Input((16, 5))]
    model = keras.Model(inputs, points.SampleAndGroup(0.5, 0.8, 4)(*inputs))
    for found, expected in zip(model([x, features]), (centres, both, present), strict=True):
        np.testing.assert_array_equal(numpy(found), expected)
    assert [tuple(o.shape)[1:] for o in model.outputs] == [(8, 3), (8, 4, 8), (8, 4)]
    for arguments, message in {
        (0, 1, 1): "`ratio` must be",
        (0.5, 0, 1): "`radius` must be",
        (0.5, 1, 0): "`limit` must be",
    }.items():
        with pytest.raises(ValueError, match=f"{message} .*Received: "):
            points.SampleAndGroup(*arguments)


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_neighbour_aggregation(mode, numerics):
    edges = np.random.default_rng(0).integers(-2, 3, (2, 4, 5, 6)).astype("float32")
    present = np.random.default_rng(1).uniform(size=(2, 4, 5)) < 0.6
    present[..., 0] = True
    layer = points.NeighbourAggregation(mode, offset=0.25)
    result = numerics.gradients(lambda e: layer(e, present), [edges])
    mask = np.broadcast_to(present[..., None], edges.shape)
    if mode == "max":
        best = np.where(mask, edges, -np.inf).max(axis=2, keepdims=True)
        expected = best[:, :, 0]
        shares = (edges == best) & mask
        shares = shares / shares.sum(axis=2, keepdims=True)
    else:
        shares = mask / mask.sum(axis=2, keepdims=True)
        expected = (edges * shares).sum(axis=2)
    np.testing.assert_allclose(result.value, expected + 0.25, rtol=1e-6)
    np.testing.assert_allclose(result.inputs[0], shares, rtol=1e-6)


def test_neighbour_features():
    x = np.random.default_rng(0).normal(size=(2, 16, 3)).astype("float32")
    features = np.random.default_rng(1).normal(size=(2, 16, 5)).astype("float32")
    indices = numpy(points.nearest_neighbours(x, 8))[..., ::2]
    layer = points.NeighbourFeatures(4, dilation=2)
    inputs = [keras.Input((16, 3)), keras.Input((16, 5))]
    model = keras.Model(inputs, layer(*inputs))
    assert model.output_shape == (None, 16, 4, 8)
    found = numpy(model([x, features]))
    for index in range(2):
        chosen = indices[index]
        offsets = x[index][chosen] - x[index][:, None]
        np.testing.assert_allclose(found[index, ..., :3], offsets, rtol=1e-6)
        np.testing.assert_array_equal(found[index, ..., 3:], features[index][chosen])
    np.testing.assert_array_equal(numpy(layer(x)), found[..., :3])
    config = layer.get_config()
    assert points.NeighbourFeatures.from_config(config).get_config() == config
    with pytest.raises(ValueError, match="at least 17 points, a fixed number. Received: "):
        points.NeighbourFeatures(17)(x)
    with pytest.raises(ValueError, match="`dilation` must be a positive integer. Received: "):
        points.NeighbourFeatures(4, 0)


def test_farthest_points_with_features():
    x = np.random.default_rng(0).normal(size=(2, 16, 3)).astype("float32")
    features = np.random.default_rng(1).normal(size=(2, 16, 5)).astype("float32")
    inputs = [keras.Input((16, 3)), keras.Input((16, 5))]
    layer = points.FarthestPoints(0.25)
    model = keras.Model(inputs, layer(*inputs))
    assert [tuple(output.shape) for output in model.outputs] == [(None, 4, 3), (None, 4, 5)]
    positions, values = (numpy(y) for y in model([x, features]))
    for index, chosen in enumerate(numpy(points.farthest_points(x, 4))):
        np.testing.assert_array_equal(positions[index], x[index][chosen])
        np.testing.assert_array_equal(values[index], features[index][chosen])
    with pytest.raises(ValueError, match="`ratio` must be .*Received: ratio=0"):
        points.FarthestPoints(0)
