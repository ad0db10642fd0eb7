"""Losses, metrics and scenes of dense prediction, against the official numbers."""

import numpy as np
import pytest
from keras import ops

from bnnkeras.datasets import SceneBatches, scenes
from bnnkeras.dense_metrics import DepthDelta, MeanIoU, PixelAccuracy, depth_metrics
from bnnkeras.training import PixelCrossentropy, ScaleInvariantLogLoss


def numpy(value):
    return ops.convert_to_numpy(value)


def segmentation(fill):
    logits = fill.fill_input("x:ce", (2, 6, 6, 7), -3, 3).transpose(0, 2, 3, 1)
    return np.floor(fill.fill_input("target:ce", (2, 6, 7), 0, 6)).astype("int32"), logits


def test_official_crossentropy(float64, goldens, fill, numerics):
    golden = goldens("bidense", "losses")
    labels, logits = segmentation(fill)
    loss = PixelCrossentropy()
    result = numerics.gradients(lambda x: x, [logits], loss=lambda x: loss(labels, x))
    numerics.assert_close(result.inputs[0].transpose(0, 3, 1, 2), golden["ce/grad"])
    value = loss(labels, ops.convert_to_tensor(logits, "float64"))
    numerics.assert_close(numpy(value)[None], golden["ce/loss"])


def test_ignored_labels():
    logits = np.random.default_rng(0).normal(size=(1, 2, 2, 3)).astype("float32")
    loss = PixelCrossentropy(ignored=0)
    one = float(loss(np.array([[[0, 1], [255, -1]]]), logits))
    other = float(PixelCrossentropy(ignored=7)(np.array([[[1]]]), logits[:, :1, 1:]))
    assert one == pytest.approx(other)
    assert float(loss(np.zeros((1, 2, 2), int), logits)) == 0


def test_official_silog(float64, goldens, fill, numerics):
    golden = goldens("bidense", "losses")
    depth = fill.fill_input("gt:depth", (1, 1, 12, 16), 0, 12).transpose(0, 2, 3, 1)
    x = fill.fill_input("x:depth", (1, 1, 12, 16), 0.01, 10).transpose(0, 2, 3, 1)
    loss = ScaleInvariantLogLoss()
    result = numerics.gradients(lambda x: x, [x], loss=lambda y: loss(depth, y))
    numerics.assert_close(result.inputs[0].transpose(0, 3, 1, 2), golden["silog/grad"])
    value = loss(ops.convert_to_tensor(depth), ops.convert_to_tensor(x))
    numerics.assert_close(numpy(value)[None], golden["silog/loss"])


def test_silog_of_a_perfect_prediction(numerics):
    depth = np.full((1, 2, 2, 1), 3.0, "float32")
    result = numerics.gradients(
        lambda x: x, [depth], loss=lambda x: ScaleInvariantLogLoss()(depth, x)
    )
    assert (result.inputs[0] == 0).all()


def test_official_segmentation_metrics(goldens, fill):
    golden = goldens("bidense", "losses")
    labels, logits = segmentation(fill)
    metric = MeanIoU(5, official=True)
    miou = float(metric(labels, logits.astype("float32")))
    # The official ratios are float32.
    assert miou == pytest.approx(golden["seg_metrics/miou"].item(), rel=1e-6)
    np.testing.assert_array_equal(numpy(metric.intersection), golden["seg_metrics/inter"])
    np.testing.assert_array_equal(numpy(metric._union()), golden["seg_metrics/union"])
    accuracy = float(PixelAccuracy(5, official=True)(labels, logits))
    assert accuracy == pytest.approx(golden["seg_metrics/pixacc"].item(), rel=1e-6)


def test_mean_iou_without_the_quirk():
    """A prediction of the ignored class is a miss, no false alarm of another class; absent classes
    don't count."""
    labels = np.array([[[0, 0, 1, 3]]])
    predictions = np.eye(4, dtype="float32")[None, None, [0, 3, 1, 2]]
    # Class 0: 1 of 2, class 1: 1 of 1, class 2 predicted where nothing counts.
    assert float(MeanIoU(3)(labels, predictions)) == pytest.approx(0.75)
    # Official: class 2 is absent but for the ignored prediction: 0 of 1.
    assert float(MeanIoU(3, official=True)(labels, predictions)) == pytest.approx(0.5)
    metric = MeanIoU(3)
    for column in range(4):
        metric.update_state(
            labels[..., column : column + 1], predictions[:, :, column : column + 1]
        )
    assert float(metric.result()) == pytest.approx(0.75)


@pytest.mark.parametrize("name", ["nyu", "kitti", "kitti_eigen"])
def test_official_depth_metrics(name, goldens, fill):
    maximum, size = (10, (480, 640)) if name == "nyu" else (80, (352, 1216))
    depth = np.maximum(
        fill.fill_input(f"gt:{name}", (1, 1, *size), -0.2 * maximum, 1.1 * maximum), 0
    )
    predicted = fill.fill_input(f"x:{name}", (1, 1, *size), 0, 1.2 * maximum)
    found = depth_metrics(predicted[0, 0], depth[0, 0], maximum, name)
    expected = goldens("bidense", "losses")[f"depth_metrics_{name}"]
    np.testing.assert_allclose(list(found.values())[:6], expected[:6], rtol=1e-9)
    # The official shares are float32.
    np.testing.assert_allclose(list(found.values())[6:], expected[6:], rtol=1e-6)


def test_depth_metrics_of_bad_predictions():
    depth = np.array([[1.0, 2.0], [3.0, 0.0]])
    predicted = np.array([[np.nan, np.inf], [3.0, np.nan]])
    found = depth_metrics(predicted, depth, 10.0)
    assert found["delta1"] == pytest.approx(1 / 3) and np.isfinite(list(found.values())).all()
    assert float(DepthDelta()(depth[1], predicted[1])) == 1.0
    with pytest.raises(ValueError, match="`crop` must be .*Received: crop='moon'"):
        depth_metrics(depth, depth, 10.0, "moon")
    with pytest.raises(ValueError, match="No pixel of `depth` counts"):
        depth_metrics(depth, 0 * depth, 10.0)
    with pytest.raises(ValueError, match="must have the same shape"):
        depth_metrics(depth, depth[:1], 10.0)


def test_scenes_are_deterministic_and_split():
    one, other = scenes(3, 32), scenes(2, 32)
    np.testing.assert_array_equal(one.images[:2], other.images)
    np.testing.assert_array_equal(one.masks[:2], other.masks)
    np.testing.assert_array_equal(one.images[1:], scenes(2, 32, first=1).images)
    for different in (scenes(2, 32, "test"), scenes(2, 32, seed=1), scenes(2, 32, first=3)):
        assert (different.masks != other.masks).any()


@pytest.mark.parametrize("target", ["masks", "depths"])
def test_every_epoch_has_new_scenes(target):
    batches, again = (SceneBatches(5, 2, target, 32, seed=3) for _ in range(2))
    assert len(batches) == 3
    wanted = scenes(10, 32, seed=3)
    for epoch in (0, 1):
        found = [batches[number] for number in (0, 1, 2)]
        assert [len(x) for x, _ in found] == [2, 2, 1]
        place = slice(5 * epoch, 5 * epoch + 5)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), wanted.images[place])
        targets = getattr(wanted, target)[place]
        np.testing.assert_array_equal(np.concatenate([y for _, y in found]), targets)
        batches.on_epoch_end()
    again.epoch = 1
    np.testing.assert_array_equal(again[2][0], wanted.images[9:])
    with pytest.raises(ValueError, match="`target` must be .*Received: target='labels'"):
        SceneBatches(5, 2, "labels")
    with pytest.raises(ValueError, match="`batch_size` must be .*Received: batch_size=0"):
        SceneBatches(5, 0)


def test_masks_and_depths_of_scenes_agree():
    """The background is the plane; a digit has one depth, before it."""
    batch = scenes(40, 64)
    plane = np.broadcast_to(np.linspace(9, 5, 64)[None, :, None, None], batch.depths.shape)
    background = batch.masks[..., None] == 0
    np.testing.assert_allclose(batch.depths[background], plane[background], rtol=1e-6)
    assert (batch.depths[~background] < 3.4).all() and batch.depths.min() == 2
    assert set(np.unique(batch.masks)) == set(range(11))
    assert np.abs(batch.images).max() <= 1 and batch.images.dtype == "float32"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"count": 0}, "`count` must be .*Received: count=0"),
        ({"count": 1, "size": 40}, "`size` must be .*Received: size=40"),
        ({"count": 1, "split": "valid"}, "`split` must be .*Received: split='valid'"),
    ],
)
def test_bad_scenes(arguments, message):
    with pytest.raises(ValueError, match=message):
        scenes(**arguments)
