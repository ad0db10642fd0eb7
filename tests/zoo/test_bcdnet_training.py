"""How BCDNet is trained: the official rates, the recipes, the teacher, both steps in `fit`."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import zoo
from bnnkeras.datasets import images
from bnnkeras.zoo import bcdnet
from bnnkeras.zoo.bcdnet import CosineBySteps


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def test_official_rates(goldens, float64):
    golden = goldens("bcdnet", "misc")
    first, second = (stage.rates for stage in zoo.recipe("bcdneta").stages)
    for key, rates, steps in (("step1", first, 300_000), ("step2", second, 600_000)):
        schedule = rates.schedule(steps // 100, 100)
        found = [float(numpy(schedule(step - 1))) for step in golden["lr/iters"]]
        # Where the cosine ends, 1 + cos loses what is left of the last digits.
        np.testing.assert_allclose(found, golden[f"lr/{key}"], rtol=1e-9, atol=1e-15)
        copy = CosineBySteps.from_config(schedule.get_config())
        assert float(numpy(copy(7))) == float(numpy(schedule(7)))


def test_warmup_must_end_before_the_training():
    with pytest.raises(ValueError, match="`warmup_steps` must be .*Received: warmup_steps=5"):
        CosineBySteps(1e-3, 5, warmup_steps=5)


@pytest.mark.parametrize("name", ["bcdneta", "bcdnetb"])
def test_recipes(name):
    recipe = zoo.recipe(name)
    assert (recipe.model, recipe.batch_size) == (name, 256)
    first, second = recipe.stages
    assert (first.epochs, second.epochs) == (60, 120)
    for stage, decay in ((first, 0.01), (second, 0.0)):
        optimizer = stage.optimizer.build(1e-3)
        assert isinstance(optimizer, keras.optimizers.AdamW)
        assert (optimizer.epsilon, optimizer.weight_decay) == (1e-8, decay)
        assert stage.label_smoothing == 0.1
    assert first.model_arguments == {"binary_weights": False} and not second.model_arguments
    jitter = images.ColorJitter(0.2, 0.2, 0.2, 0.1)
    assert jitter in first.train_transforms and jitter not in second.train_transforms
    with pytest.raises(ValueError, match="`teacher` must be a model.*Received: teacher=None"):
        recipe.fit((np.zeros((4, 32, 32, 3), "float32"), np.arange(4)))


@pytest.mark.slow
def test_both_steps():
    """A recipe scaled down: the second step starts from the weights of the first."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (8, 32, 32, 3)).astype("uint8"), np.arange(8) % 4
    recipe = zoo.recipe("bcdnetb").scaled(
        epochs=1, batch_size=4, classes=4, width=0.125, depths=(0, 0, 0, 0), mlp_blocks=1
    )
    crop = (images.RandomResizedCrop(32), images.ColorJitter(), images.Normalize())
    stages = tuple(
        dataclasses.replace(stage, train_transforms=crop, rates=bcdnet.rates.RatesBySteps(1e-3))
        for stage in recipe.stages
    )
    recipe = dataclasses.replace(recipe, stages=stages)
    teacher = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]
    )
    started = []

    class Starts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            started.append(self.model.student.get_weights())

    training = recipe.fit((x, y), teacher=teacher, callbacks=[Starts()], verbose=0)
    assert set(training.history) == {"binary_activations", "binary"}
    for logs in training.history.values():
        assert {"loss", "hard_loss", "soft_loss", "accuracy"} <= set(logs)
        assert np.isfinite(logs["loss"]).all()
    assert len(started) == 2
    quantizers = [getattr(v, "kernel_quantizer", None) for v in training.model.layers]
    assert any(quantizers)
    for index, variable in enumerate(training.model.weights):
        value = numpy(variable)
        assert np.isfinite(value).all(), variable.path
        assert not np.array_equal(value, started[0][index]), variable.path


def test_teacher_sees_what_keras_expects():
    """Images normalized for the student, as `keras.applications` wants them."""
    teacher = bcdnet.resnet50_teacher(None, (32, 32, 3))
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    wanted = keras.applications.resnet50.preprocess_input(x.copy())
    first = keras.Model(teacher.input, teacher.get_layer("to_blue_green_red").output)
    np.testing.assert_allclose(numpy(first(bcdnet.preprocess_input(x))), wanted, atol=1e-3)
    assert teacher.output_shape == (None, 1000)
    with pytest.raises(ValueError, match="`weights` must be .*Received: weights='missing.h5'"):
        bcdnet.resnet50_teacher("missing.h5")


def test_synchronized(backend):
    if backend != "tensorflow":
        pytest.skip("Keras synchronizes batch normalization on TensorFlow only")
    model = zoo.BCDNetA(input_shape=(32, 32, 3), width=0.125, mlp_blocks=1, synchronized=True)
    norms = [v for v in model.layers if isinstance(v, keras.layers.BatchNormalization)]
    assert len(norms) == 1 + 2 * 10 + 4 and all(layer.synchronized for layer in norms)
