"""Training recipes: the official numbers, and what `fit` makes of them."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import zoo
from bnnkeras.datasets import Batches, images, point_clouds
from bnnkeras.training import CoupledSGD
from bnnkeras.zoo import recipes

pytestmark = pytest.mark.any_backend


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def arrays(count=8, size=16, dtype="float32"):
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, (count, size, size, 3)).astype(dtype)
    return x if dtype == "uint8" else x / 128 - 1, np.arange(count) % 4


# --- The official numbers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "batch_size", "rate"),
    [("birealnet18", 512, 1e-3), ("birealnet34", 512, 1e-3), ("birealnet50", 256, 5e-4)],
)
def test_bi_real_nets_recipes(name, batch_size, rate):
    recipe = zoo.recipe(name)
    (stage,) = recipe.stages
    assert (recipe.model, recipe.dataset, recipe.batch_size) == (name, "imagenet2012", batch_size)
    assert (stage.epochs, stage.label_smoothing) == (256, 0.1)
    optimizer = stage.optimizer.build(stage.rates.schedule(256, 10))
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-8)
    assert not optimizer.weight_decay
    assert stage.rates.rate(0, 256) == pytest.approx(rate * 255 / 256)
    assert stage.rates.rate(255, 256) == 0
    kinds = [type(transform).__name__ for transform in recipe.train_transforms]
    assert kinds == ["RandomResizedCrop", "Lighting", "RandomFlip", "Normalize"]
    crop, lighting = recipe.train_transforms[:2]
    assert (crop.size, crop.area, crop.ratio) == (224, (0.08, 1.0), (3 / 4, 4 / 3))
    assert (lighting.deviation, lighting.scale) == (0.1, "official")
    assert recipe.evaluation_transforms == (
        images.Resize(256),
        images.CenterCrop(224),
        images.Normalize(),
    )


@pytest.mark.parametrize(
    ("name", "batch_size", "epochs", "rates"),
    [
        ("birealnet18-caffe", 128, 20, {0: 0.01, 9: 0.01, 10: 1e-3, 15: 1e-4}),
        ("birealnet34-caffe", 1024, 40, {0: 0.08, 19: 0.08, 20: 8e-3, 30: 8e-4}),
    ],
)
def test_caffes_recipes(name, batch_size, epochs, rates):
    recipe = zoo.recipe(name)
    assert [stage.name for stage in recipe.stages] == ["relu", "leaky_clip", "clip", "binary", "bn"]
    assert recipe.batch_size == batch_size and recipe.model_arguments == {"convention": "caffe"}
    binary = recipe.stages[3]
    assert binary.epochs == epochs and binary.label_smoothing == 0
    for epoch, rate in rates.items():
        assert binary.rates.rate(epoch, epochs) == pytest.approx(rate)
    optimizer = binary.optimizer.build(0.1)
    assert (optimizer.momentum, optimizer.coupled_decay) == (0.9, 0)
    assert recipe.stages[0].optimizer.build(0.1).coupled_decay == 1e-4
    assert recipe.stages[4].bn_retraining and recipe.stages[4].epochs == 1


@pytest.mark.parametrize("name", ["lcrresnet18", "lcrresnet34"])
def test_lcrbnns_recipes(name, goldens):
    recipe = zoo.recipe(name)
    (stage,) = recipe.stages
    assert (stage.epochs, recipe.batch_size, recipe.error_decay) == (100, 128, (1e-3, 10.0))
    golden = goldens("lcrbnn", "quantizers")["lr_lcr_imagenet_warm0"]
    found = [stage.rates.rate(epoch, 100) for epoch in range(100)]
    np.testing.assert_allclose(found, golden, rtol=1e-9, atol=1e-12)
    optimizer = stage.optimizer.build(0.1)
    assert isinstance(optimizer, CoupledSGD) and not optimizer.nesterov
    assert (optimizer.momentum, optimizer.coupled_decay) == (0.9, 1e-4)
    assert recipe.retention.arguments == {"alpha": 8.0, "batch_size": 128}
    assert recipe.retention.teacher == name.replace("lcr", "")
    assert recipe.train_transforms[0].area == (0.08, 1.25)


def test_irnets_recipes():
    for name, epochs, rate, t_min in (
        ("lcrresnet20", 400, 0.1, 1e-3),
        ("lcrvggsmall", 300, 0.007, 0.1),
    ):
        recipe = zoo.recipe(name)
        (stage,) = recipe.stages
        assert (stage.epochs, recipe.batch_size) == (epochs, 128)
        assert recipe.error_decay == (t_min, 10.0)
        assert stage.rates.rate(0, epochs) == rate
        assert recipe.train_transforms[:2] == (images.RandomFlip(), images.RandomCrop(32, 4))


def test_irnets_recipes_for_imagenet():
    for name, weight_decay in (("lcrresnet18", 1e-5), ("lcrresnet34", 1e-4)):
        recipe = zoo.recipe(f"{name}-irnet")
        (stage,) = recipe.stages
        assert (recipe.model, recipe.batch_size, stage.epochs) == (name, 2048, 100)
        optimizer = stage.optimizer.build(0.1)
        assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
        assert optimizer.coupled_decay == weight_decay
        # The configuration counts in steps: 62,500 of them.
        schedule = stage.rates.schedule(100, 625)
        published = {0: 0.2, 1250: 0.5, 2500: 0.8, 18749: 0.8, 18750: 0.08, 37500: 8e-3}
        for step, rate in {**published, 56249: 8e-3, 56250: 8e-4, 62499: 8e-4}.items():
            assert float(schedule(step)) == pytest.approx(rate), step
        assert images.ColorJitter(0.2, 0.2, 0.2, 0.1) in recipe.train_transforms
    recipe = zoo.recipe("lcrresnet20-1w32a")
    assert recipe.model_arguments == {"binary_activations": False}
    assert recipe.error_decay == (0.1, 10.0) and recipe.retention is None


def test_bipointnets_recipes():
    for name in ("bipointnet", "bipointnet-vanilla", "bipointnet2", "bidgcnn", "bipointcnn"):
        recipe = zoo.recipe(name)
        (stage,) = recipe.stages
        assert (recipe.batch_size, stage.epochs, stage.label_smoothing) == (256, 200, 0.0)
        assert [stage.rates.rate(epoch, 200) for epoch in (0, 100)] == [1e-3, pytest.approx(5e-4)]
        optimizer = stage.optimizer.build(1e-3)
        assert (optimizer.epsilon, optimizer.weight_decay) == (1e-8, None)


def test_fit_on_clouds():
    meshes = [point_clouds.solid(name, np.random.default_rng(0)) for name in ("cone", "table")]
    batches = point_clouds.MeshBatches(meshes * 2, [0, 1, 0, 1], batch_size=4, points=32)
    recipe = zoo.recipe("bipointnet-vanilla").scaled(epochs=2, batch_size=4, classes=2)
    training = recipe.fit(batches, verbose=0)
    assert training.model.input_shape == (None, 32, 3)
    assert len(training.history["binary"]["loss"]) == 2


# --- Recipes as data -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.list_recipes())
def test_every_recipe_names_what_exists(name):
    recipe = zoo.recipe(name.upper())
    assert recipe.name == name and recipe.model in zoo.list_models()
    assert recipe.retention is None or recipe.retention.teacher in zoo.list_models()
    assert recipe.notes and name in repr(recipe)
    for stage in recipe.stages:
        rates = [stage.rates.rate(epoch, stage.epochs) for epoch in range(stage.epochs)]
        assert min(rates) >= 0 and max(rates) > 0
        assert callable(stage.optimizer.build(0.1).apply)
    model_arguments = {**recipe.model_arguments, **recipe.stages[0].model_arguments}
    # Clouds of points, or images.
    of_points = recipe.model.startswith(("bipoint", "bidgcnn"))
    input_shape = (256, 3) if of_points else (32, 32, 3)
    if recipe.model.startswith("bidense"):
        input_shape, model_arguments["size"] = (56, 56, 3), "pocket"
    zoo.get(recipe.model, input_shape=input_shape, classes=10, **model_arguments)


def test_scaled():
    recipe = zoo.recipe("lcrresnet18").scaled(epochs=7, batch_size=32, classes=4)
    (stage,) = recipe.stages
    assert (stage.epochs, recipe.batch_size, stage.rates.base) == (7, 32, 0.025)
    assert recipe.retention.arguments == {"alpha": 8.0, "batch_size": 32}
    assert recipe.model_arguments == {"classes": 4}
    assert recipe.scaled(learning_rate=0.5).stages[0].rates.base == 0.5
    with pytest.raises(ValueError, match="Received: epochs=0"):
        recipe.scaled(epochs=0)


def test_unknown_recipe():
    with pytest.raises(ValueError, match="must be one of .*'birealnet18'.*Received: name='none'"):
        zoo.recipe("none")
    with pytest.raises(ValueError, match="'lion'"):
        recipes.Optimizer("lion").build(0.1)


# --- fit -----------------------------------------------------------------------------------------


def small(name="lcrresnet20", **changes):
    recipe = zoo.recipe(name).scaled(epochs=2, batch_size=4, classes=4)
    return dataclasses.replace(recipe, **changes)


@pytest.mark.slow
def test_fit_with_a_teacher():
    shape = {"input_shape": (16, 16, 3), "classes": 4, "classifier_activation": None}
    teacher = zoo.ResNet20(**shape)
    training = small().fit(arrays(), arrays(), teacher=teacher, verbose=0)
    assert training.model.name == "lcrresnet20" and training.model.output_shape == (None, 4)
    history = training.history["binary"]
    assert {"loss", "retention_loss", "val_crossentropy", "ede_t"} <= history.keys()
    assert history["ede_t"] == pytest.approx([1e-3, 0.1])


def test_teacher_from_a_file(tmp_path):
    shape = {"input_shape": (16, 16, 3), "classes": 4, "classifier_activation": None}
    teacher = zoo.ResNet20(**shape)
    teacher.save_weights(tmp_path / "teacher.weights.h5")
    recipe = small()
    found = recipe._teacher(tmp_path / "teacher.weights.h5", shape)
    for one, other in zip(found.get_weights(), teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="`teacher` must be a model .*Received: teacher=None"):
        recipe.fit(arrays())
    assert dataclasses.replace(recipe, retention=None)._teacher(None, shape) is None


@pytest.mark.slow
def test_stages_hand_on_their_weights(monkeypatch):
    stages = []
    fit = recipes.fit_resumable

    def watched(model, *args, **kwargs):
        before = model.get_weights()
        history = fit(model, *args, **kwargs)
        stages.append((model, before, model.get_weights()))
        return history

    monkeypatch.setattr(recipes, "fit_resumable", watched)
    recipe = zoo.recipe("birealnet18-caffe").scaled(epochs=1, batch_size=4, classes=4)
    kept = tuple(stage for stage in recipe.stages if stage.name in ("clip", "binary", "bn"))
    recipe = dataclasses.replace(recipe, stages=kept)
    training = recipe.fit(arrays(4, 32), verbose=0)
    assert list(training.history) == ["clip", "binary", "bn"]
    (_, _, real), (_, binary, trained), (last, signs, _) = stages
    for one, other in zip(real, binary, strict=True):
        np.testing.assert_array_equal(one, other)
    kernel = [v.path for v in last.weights].index("stage1_block0_conv/kernel")
    np.testing.assert_array_equal(signs[kernel], np.sign(trained[kernel]))
    assert training.model is last


class _Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_resumed_recipe_equals_the_uninterrupted(tmp_path):
    recipe = small(retention=None)
    data = arrays()
    straight = recipe.fit(data, folder=tmp_path / "a", verbose=0)
    with pytest.raises(KeyboardInterrupt):
        recipe.fit(data, folder=tmp_path / "b", callbacks=[_Stop()], verbose=0)
    resumed = recipe.fit(data, folder=tmp_path / "b", verbose=0)
    np.testing.assert_allclose(
        resumed.history["binary"]["loss"], straight.history["binary"]["loss"], rtol=1e-4
    )
    for one, other in zip(resumed.model.get_weights(), straight.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    # A finished training is not done again, unless the recipe is another one.
    again = recipe.fit(data, folder=tmp_path / "b", callbacks=[_Stop()], verbose=0)
    assert again.history == resumed.history
    other = dataclasses.replace(recipe, seed=1)
    with pytest.raises(KeyboardInterrupt):
        other.fit(data, folder=tmp_path / "b", callbacks=[_Stop()], verbose=0)


def test_images_are_transformed_and_other_arrays_are_not():
    seen = []
    transforms = (images.CenterCrop(16), lambda image, generator: seen.append(1) or image / 255)
    recipe = small(retention=None, train_transforms=transforms, evaluation_transforms=transforms)
    x, y = arrays(8, 20, "uint8")
    batches = recipe._data((x, y), True, {})
    assert batches[0][0].shape == (4, 16, 16, 3) and len(seen) == 4
    x, y = arrays()
    plain = recipe._data((x, y), True, {})
    assert isinstance(plain, Batches) and plain.augment is None
    held_out = recipe._data((x, y), False, {})
    assert held_out[0] is x
    assert recipe._data(plain, True, {}) is plain


@pytest.mark.slow
def test_data_sets_by_name(tmp_path, generated_tfds):
    generated_tfds.write(tmp_path, "cifar10", {"train": 12, "test": 8}, 32, 10)
    recipe = zoo.recipe("lcrresnet20").scaled(epochs=1, batch_size=4)
    recipe = dataclasses.replace(recipe, retention=None)
    training = recipe.fit("cifar10", data_dir=tmp_path, verbose=0)
    assert training.model.input_shape == (None, 32, 32, 3)
    assert training.model.output_shape == (None, 10)
    assert "val_accuracy" in training.history["binary"]
