"""Interrupted training ends with the numbers of an uninterrupted one."""

import json

import keras
import numpy as np
import pytest

from bnnkeras import datasets, layers
from bnnkeras.training import fit_resumable

_EPOCHS = 4


def _model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.QuantConv2D(8, 3, kernel_quantizer="ste_sign", input_quantizer="ste_sign"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    schedule = keras.optimizers.schedules.PolynomialDecay(1e-2, 4 * _EPOCHS, 0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    return model


def _batches():
    (x, y), _ = datasets.digits(size=8, channels=1)
    return datasets.Batches(x[:64], y[:64], 16, augment=datasets.random_shift(1), seed=2)


class _Stop(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.where = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.where:
            raise KeyboardInterrupt


def test_resumed_training_equals_the_uninterrupted(tmp_path):
    straight = _model()
    wanted = fit_resumable(straight, _batches(), _EPOCHS, tmp_path / "a", verbose=0)

    with pytest.raises(KeyboardInterrupt):
        fit_resumable(
            _model(), _batches(), _EPOCHS, tmp_path / "b", callbacks=[_Stop(2, 1)], verbose=0
        )
    assert json.loads((tmp_path / "b/state.json").read_text())["epoch"] == 2
    resumed = _model()
    history = fit_resumable(resumed, _batches(), _EPOCHS, tmp_path / "b", verbose=0)

    assert int(resumed.optimizer.iterations) == int(straight.optimizer.iterations) == 16
    assert len(history["loss"]) == _EPOCHS
    np.testing.assert_allclose(history["loss"], wanted["loss"], rtol=1e-5)
    for one, other in zip(resumed.get_weights(), straight.get_weights(), strict=True):
        # Threads may add the gradients of a batch in another order.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not (tmp_path / "b").exists()


def test_state_of_other_settings_is_not_used(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit_resumable(
            _model(),
            _batches(),
            _EPOCHS,
            tmp_path,
            settings={"seed": 1},
            callbacks=[_Stop(1, 0)],
            verbose=0,
        )
    model = _model()
    history = fit_resumable(model, _batches(), 2, tmp_path, settings={"seed": 2}, verbose=0)
    assert len(history["loss"]) == 2
    assert int(model.optimizer.iterations) == 8


def test_half_written_weights_do_not_count(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit_resumable(_model(), _batches(), _EPOCHS, tmp_path, callbacks=[_Stop(1, 0)], verbose=0)
    # As if the process died between the two files of the second epoch.
    (tmp_path / "epoch2.weights.h5").write_bytes(b"half")
    history = fit_resumable(_model(), _batches(), _EPOCHS, tmp_path, verbose=0)
    assert len(history["loss"]) == _EPOCHS


@pytest.mark.parametrize("epochs", [0, 2.5])
def test_bad_epochs(tmp_path, epochs):
    with pytest.raises(ValueError, match="Received: epochs"):
        fit_resumable(_model(), _batches(), epochs, tmp_path)
