"""BiDense's recipes: the official numbers, and what `fit` makes of them."""

import dataclasses

import keras
import numpy as np
import pytest

from bnnkeras import zoo
from bnnkeras.datasets import dense_files, dense_images
from bnnkeras.training import OneCycleAdamW, PixelCrossentropy, ScaleInvariantLogLoss
from bnnkeras.training.rates import CosineDecay
from bnnkeras.zoo import recipes

RECIPES = {
    "bidenseupernet": (1e-4, 50, 32),
    "bidenseupernet-voc": (1e-4, 200, 32),
    "bidensedpt": (2e-4, 50, 32),
    "bidenseupernet-nyu": (6e-5, 50, 32),
    "bidenseupernet-kitti": (1e-4, 50, 64),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_official_numbers(name):
    rate, epochs, batch_size = RECIPES[name]
    recipe = zoo.recipe(name)
    (stage,) = recipe.stages
    assert (stage.rates.base, stage.epochs, recipe.batch_size) == (rate, epochs, batch_size)
    assert stage.optimizer.arguments == {"weight_decay": 0.01, "epsilon": 1e-8}
    depth = recipe.model_arguments["task"] == "depth"
    assert depth == (name.rpartition("-")[2] in ("nyu", "kitti"))
    if depth:
        assert recipe.minimum_depth == (1.0 if name.endswith("kitti") else 0.1)
        assert recipe.model_arguments["max_depth"] == (80.0 if name.endswith("kitti") else 10.0)


@pytest.mark.parametrize("name", RECIPES)
def test_transforms_end_with_one_size(name):
    """Pictures of the data set's sizes come out at the official crop, normalized."""
    recipe = zoo.recipe(name)
    crop = {"nyu": (416, 544), "kitti": (352, 704)}.get(name.rpartition("-")[2], (480, 480))
    size = {"nyu": (480, 640), "kitti": (375, 1242)}.get(name.rpartition("-")[2], (333, 500))
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*size, 3)).astype("uint8")
    if recipe.model_arguments["task"] == "depth":
        target = generator.uniform(1, 9, (*size, 1)).astype("float32")
    else:
        target = generator.integers(0, 20, size).astype("int32")
    for transforms in (recipe.train_transforms, recipe.evaluation_transforms):
        x, y = dense_images.DenseTransforms(transforms)(image, target, generator)
        assert x.shape == (*crop, 3) and y.shape == (*crop, *target.shape[2:])
        assert x.dtype == "float32" and -2.2 < x.min() < -1.5 and 1.5 < x.max() < 2.7
        assert y.dtype == target.dtype


def small(name, epochs=2, **model_arguments):
    """The recipe of the pocket network on pictures of 32 pixels."""
    recipe = zoo.recipe(name).scaled(epochs, 2, size="pocket", **model_arguments)
    return dataclasses.replace(
        recipe,
        train_transforms=(
            dense_images.RandomFlip(),
            dense_images.RandomCrop(32, 32, fill=5),
            recipe.train_transforms[-1],
        ),
        evaluation_transforms=(dense_images.CentreCrop(32, 32), recipe.train_transforms[-1]),
    )


def masks(count=4):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (count, 36, 40, 3)).astype("uint8")
    return x, generator.integers(0, 6, (count, 36, 40)).astype("int32")


@pytest.fixture
def untrained(monkeypatch):
    """`fit` without the training: compiling a network of maps takes longer than all the rest."""

    def look(model, batches, epochs, folder, settings, validation_data=None, **fit_arguments):
        x, y = batches[0]
        model.data = [(x.shape, y.shape)]
        if validation_data is not None:
            model.data.append(tuple(values.shape for values in validation_data[0]))
        return {"loss": [1.0]}

    monkeypatch.setattr(recipes, "fit_resumable", look)


@pytest.mark.slow
def test_fit_on_masks():
    x, y = masks(2)
    training = small("bidenseupernet-voc", epochs=1, classes=6).fit((x, y), (x, y), verbose=0)
    assert training.model.output_shape == (None, 32, 32, 6)
    history = training.history["binary"]
    assert {"loss", "mean_iou", "val_official_mean_iou", "val_pixel_accuracy"} <= history.keys()


def test_files_decide_the_classes(tmp_path, untrained):
    """And the optimizer's cycle is the recipe's."""
    Image = pytest.importorskip("PIL.Image", reason="reading images needs the datasets extra")
    pairs = []
    for number, (image, mask) in enumerate(zip(*masks(4), strict=True)):
        paths = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        for path, values in zip(paths, (image, mask.astype("uint8")), strict=True):
            Image.fromarray(values).save(path)
        pairs.append(paths)
    files = dense_files.DenseFiles(tuple(pairs), lambda values: values.astype("int32"), 7)
    model = small("bidenseupernet").fit(files, files, verbose=0).model
    assert model.output_shape == (None, 32, 32, 7)
    assert model.data == [((2, 32, 32, 3), (2, 32, 32))] * 2
    assert isinstance(model.loss, PixelCrossentropy)
    assert isinstance(model.optimizer, OneCycleAdamW)
    assert model.optimizer.peak_rate == pytest.approx(1e-4 * 2 / 32)
    assert (model.optimizer.epochs, model.optimizer.steps_per_epoch) == (2, 2)


def test_other_rates_take_the_recipes_optimizer(untrained):
    recipe = small("bidenseupernet", classes=6)
    stage = dataclasses.replace(recipe.stages[0], rates=CosineDecay(1e-3))
    model = dataclasses.replace(recipe, stages=(stage,)).fit(masks(), verbose=0).model
    assert isinstance(model.optimizer, keras.optimizers.AdamW)
    assert (model.optimizer.beta_1, model.optimizer.weight_decay) == (0.9, 0.01)


def test_depths(untrained):
    x, _ = masks()
    y = np.random.default_rng(1).uniform(1, 9, (4, 36, 40, 1)).astype("float32")
    model = small("bidenseupernet-kitti").fit((x, y), verbose=0).model
    assert model.output_shape == (None, 32, 32, 1)
    assert model.data == [((2, 32, 32, 3), (2, 32, 32, 1))]
    assert isinstance(model.loss, ScaleInvariantLogLoss) and model.loss.minimum == 1.0


def test_masks_by_name(tmp_path, generated_tfds, untrained):
    generated_tfds.write_dense(tmp_path, "scene_parse150", {"train": 4, "test": 2}, size=34)
    model = small("bidenseupernet").fit("scene_parse150", data_dir=tmp_path, verbose=0).model
    assert model.output_shape == (None, 32, 32, 151)
    assert model.data == [((2, 32, 32, 3), (2, 32, 32))] * 2
