"""Recipes of BiPointNet's tasks and variants: released numbers, and what `fit` makes of them."""

import dataclasses

import keras
import numpy as np
import pytest

from bnnkeras import zoo
from bnnkeras.callbacks import EDESchedule
from bnnkeras.datasets import point_clouds
from bnnkeras.zoo.bipointnet.recipe import PointCrossentropy, class_weights


def test_variants():
    assert zoo.recipe("bipointnet-irnet").error_decay == (1e-3, 10.0, 200, 1)
    assert zoo.recipe("bidgcnn-xnor").model_arguments == {
        "binarization": "xnor",
        "aggregation": "max",
    }
    for name in ("bipointnet", "bipointnet2", "bidgcnn", "bipointcnn", "bipointnet-vanilla"):
        real = zoo.recipe(f"{name}-real")
        assert real.model_arguments["binarization"] is None
        (stage,) = real.stages
        assert {stage.rates.rate(epoch, 200) for epoch in (0, 199)} == {1e-3}


def test_irnets_schedule():
    """k and t of the released code, which count epochs from 1 and to 200."""
    schedule = EDESchedule(*zoo.recipe("bipointnet-irnet").error_decay)
    for epoch in (1, 50, 150, 200):
        t = 10 ** (-3 + 0.02 * epoch)
        assert schedule.values(epoch - 1) == pytest.approx((max(1 / t, 1), t), rel=1e-9)


def test_segmentation():
    part = zoo.recipe("bipointnetpartsegmentation")
    scene = zoo.recipe("bipointnetsemanticsegmentation-real")
    assert (part.batch_size, part.stages[0].epochs, part.augmentation) == (96, 250, (0.01, 15.0))
    assert (scene.batch_size, scene.stages[0].epochs, scene.augmentation) == (128, 128, None)
    rates = [scene.stages[0].rates.rate(epoch, 128) for epoch in (0, 9, 10, 20, 127)]
    assert rates == pytest.approx([1e-3, 1e-3, 7e-4, 4.9e-4, 1e-3 * 0.7**12])


def test_weighted_crossentropy():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 5, 3)).astype("float32")
    labels = generator.integers(0, 3, (2, 5))
    weights = class_weights([0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2], 3)
    assert weights == pytest.approx((2.0, 4 ** (1 / 3), 1.0))
    values = np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(
        logits, labels[..., None], -1
    ).squeeze(-1)
    of_points = np.array(weights)[labels]
    for loss, expected in (
        (PointCrossentropy(weights), (of_points * values).sum() / of_points.sum()),
        (PointCrossentropy(), values.mean()),
    ):
        twin = PointCrossentropy.from_config(loss.get_config())
        for item in (loss, twin):
            assert float(item(labels, logits)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"all of the 3 classes. Received: \[2, 1, 0\] of each"):
        class_weights([0, 0, 1], 3)


@pytest.mark.slow
def test_fit_on_parts():
    train, test = point_clouds.solids(points=32, train_per_class=1, test_per_class=1)
    recipe = zoo.recipe("bipointnetpartsegmentation").scaled(
        epochs=1, batch_size=8, classes=3, transforms=False
    )
    recipe = dataclasses.replace(recipe, class_weights=(1.0, 2.0, 3.0))
    training = recipe.fit((train.points, train.parts), (test.points, test.parts), verbose=0)
    assert training.model.output_shape == (None, 32, 3)
    history = training.history["binary"]
    assert 0 < history["val_mean_iou"][0] < 1 and 0 < history["val_accuracy"][0] < 1
    assert np.isfinite(keras.ops.convert_to_numpy(training.model(test.points))).all()
