"""HyperparameterScheduler, per epoch and per step."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers
from bnnkeras.callbacks import HyperparameterScheduler
from bnnkeras.optimizers import Bop, CaseOptimizer

X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 2)).astype("float32")


def value(variable):
    return float(ops.convert_to_numpy(variable))


def build_model(optimizer, **compile_arguments):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.QuantDense(2, kernel_quantizer="ste_sign", kernel_constraint="weight_clip"),
        ]
    )
    model.compile(optimizer, "mse", **compile_arguments)
    return model


class Record(keras.callbacks.Callback):
    """What the training steps used, read after each of them."""

    def __init__(self, read):
        super().__init__()
        self.read, self.seen = read, []

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.seen.append(value(self.read()))


def test_epoch():
    model = build_model(keras.optimizers.SGD(0.5))
    scheduler = HyperparameterScheduler(lambda epoch: 2.0**-epoch, "learning_rate")
    history = model.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[scheduler])
    assert history.history["learning_rate"] == [1.0, 0.5, 0.25]
    assert value(model.optimizer.learning_rate) == 0.25


def test_step_and_current_value():
    model = build_model(keras.optimizers.SGD(1.0))
    seen = []

    def halve(step, current):
        seen.append((step, current))
        return current / 2

    scheduler = HyperparameterScheduler(halve, "learning_rate", update_freq="step")
    record = Record(lambda: model.optimizer.learning_rate)
    callbacks = [scheduler, record]
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    assert seen == [(step, 2.0**-step) for step in range(6)]
    assert record.seen == [2.0 ** -(step + 1) for step in range(6)]
    assert history.history["learning_rate"] == [2.0**-3, 2.0**-6]
    # t goes on where the optimizer is, not at 0.
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=callbacks)
    assert [step for step, _ in seen[6:]] == [6, 7, 8]


@pytest.mark.parametrize("eager", [True, False])
def test_steps_use_the_value(eager):
    """With a rate of 0 from the second step on, training stands still; without, it moves."""
    kernels = []
    for schedule in (lambda step: float(step < 1), lambda step: 1.0):
        keras.utils.set_random_seed(0)
        jit = {"jit_compile": False} if eager else {}
        model = build_model(keras.optimizers.SGD(1.0), run_eagerly=eager, **jit)
        scheduler = HyperparameterScheduler(schedule, "learning_rate", update_freq="step")
        states = []
        for _ in range(3):
            model.fit(X[:8], Y[:8], batch_size=8, verbose=0, callbacks=[scheduler])
            states.append(ops.convert_to_numpy(model.layers[0].bias).copy())
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, callbacks=[scheduler])
        states.append(ops.convert_to_numpy(model.layers[0].bias).copy())
        kernels.append(states)
    stopped, moving = kernels
    np.testing.assert_array_equal(stopped[0], moving[0])
    for state in stopped[1:]:
        np.testing.assert_array_equal(state, stopped[0])
    assert not np.array_equal(moving[3], moving[0])


@pytest.mark.parametrize("update_freq", ["epoch", "step"])
def test_case_optimizer(update_freq):
    bop, adam = Bop(threshold=1e-6, gamma=1e-3), keras.optimizers.Adam(0.01)
    model = build_model(CaseOptimizer((Bop.is_binary_variable, bop), default_optimizer=adam))

    def scheduler(hyperparameter, optimizer, log_name=None):
        return HyperparameterScheduler(
            lambda t: 1.0 / (1.0 + t),
            hyperparameter,
            optimizer=optimizer,
            update_freq=update_freq,
            log_name=log_name,
        )

    callbacks = [
        scheduler("gamma", bop),
        scheduler("threshold", bop, "bop/threshold"),
        scheduler("lr", adam),
    ]
    history = model.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=callbacks).history
    expected = [1.0, 1 / 2, 1 / 3] if update_freq == "epoch" else [1 / 3, 1 / 6, 1 / 9]
    for name in ("gamma", "bop/threshold", "lr"):
        np.testing.assert_allclose(history[name], expected, rtol=1e-6, err_msg=name)
    for variable in (bop.gamma, bop.threshold, adam.learning_rate):
        np.testing.assert_allclose(value(variable), expected[-1], rtol=1e-6)


def test_inside_a_loss_scale_optimizer():
    model = build_model(keras.optimizers.LossScaleOptimizer(Bop(gamma=0.5)))
    scheduler = HyperparameterScheduler(lambda step, gamma: gamma / 2, "gamma", update_freq="step")
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[scheduler])
    assert value(model.optimizer.inner_optimizer.gamma) == 0.5 / 8


def test_verbose(capsys):
    model = build_model(keras.optimizers.SGD(0.5))
    for update_freq in ("epoch", "step"):
        scheduler = HyperparameterScheduler(
            lambda t: 0.25, "learning_rate", verbose=1, update_freq=update_freq, log_name="rate"
        )
        model.fit(X, Y, batch_size=24, verbose=0, callbacks=[scheduler])
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 0: rate is now 0.25.",
        "Batch 1: rate is now 0.25.",
    ]


def test_a_learning_rate_schedule_is_a_schedule():
    decay = keras.optimizers.schedules.InverseTimeDecay(1.0, decay_steps=1, decay_rate=1.0)
    model = build_model(keras.optimizers.SGD(0.5))
    scheduler = HyperparameterScheduler(decay, "learning_rate")
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[scheduler]).history
    np.testing.assert_allclose(history["learning_rate"], [1, 1 / 2, 1 / 3], rtol=1e-6)


def test_a_failing_schedule_says_so():
    """A TypeError of its own is no sign of a schedule with one argument."""

    def broken(t, current):
        raise TypeError("broken schedule")

    model = build_model(keras.optimizers.SGD(0.5))
    with pytest.raises(TypeError, match="broken schedule"):
        model.fit(X, Y, verbose=0, callbacks=[HyperparameterScheduler(broken, "learning_rate")])


def test_errors(backend):
    with pytest.raises(ValueError, match="`update_freq` must be .*Received: update_freq='batch'"):
        HyperparameterScheduler(float, "learning_rate", update_freq="batch")
    with pytest.raises(ValueError, match="`schedule` must be callable. Received: schedule=0.1"):
        HyperparameterScheduler(0.1, "learning_rate")
    model = build_model(keras.optimizers.SGD(0.5, momentum=0.9))
    wrong = HyperparameterScheduler(float, "gamma")
    with pytest.raises(
        ValueError, match="must have the attribute.*Received: hyperparameter='gamma"
    ):
        model.fit(X, Y, verbose=0, callbacks=[wrong])
    # A number of the optimizer, not a variable: compiled steps would never see it change.
    constant = HyperparameterScheduler(lambda epoch: 0.5, "momentum")
    if backend == "torch":
        model.fit(X, Y, verbose=0, callbacks=[constant])
    else:
        with pytest.raises(ValueError, match="is no variable.*Received: hyperparameter='momentum'"):
            model.fit(X, Y, verbose=0, callbacks=[constant])
        model.compile(model.optimizer, "mse", run_eagerly=True, jit_compile=False)
        model.fit(X, Y, verbose=0, callbacks=[constant])
    assert model.optimizer.momentum == 0.5
