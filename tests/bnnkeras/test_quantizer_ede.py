"""The schedule of the error decay estimator, and its state as state: saved, but no weight."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import quantizers
from bnnkeras.callbacks import EDESchedule
from bnnkeras.layers import QuantDense

OFFICIAL = {
    "resnet20_1w1a": EDESchedule(1e-3, 10, epochs=400),
    "resnet20_1w32a": EDESchedule(1e-1, 10, epochs=400),
    "vgg_small_1w1a": EDESchedule(1e-1, 10, epochs=300),
    "lcr_imagenet": EDESchedule(epochs=100),
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_official_schedules(case, goldens):
    golden, schedule = goldens("lcrbnn", "quantizers"), OFFICIAL[case]
    k, t = np.transpose([schedule.values(epoch) for epoch in range(schedule.epochs)])
    np.testing.assert_allclose(t, golden[f"schedule_{case}_t"], rtol=1e-9)
    np.testing.assert_allclose(k, golden[f"schedule_{case}_k"], rtol=1e-9)


def test_bipointnet_schedule(goldens):
    schedule = EDESchedule(epochs=200, first_epoch=1)
    for epoch, k, t in goldens("bipointnet", "quantizers")["ir_schedule"]:
        np.testing.assert_allclose(schedule.values(int(epoch) - 1), (k, t), rtol=1e-9)


def build(kernel="libra_kernel", inputs="ede_sign"):
    layer = QuantDense(3, input_quantizer=inputs, kernel_quantizer=kernel, name="binary")
    return keras.Sequential([keras.Input((8,)), layer])


def state(model) -> list[float]:
    layer = model.get_layer("binary")
    parts = (layer.input_quantizer.estimator, layer.kernel_quantizer.estimator)
    return [float(ops.convert_to_numpy(v)) for part in parts for v in part._variables]


def data():
    generator = np.random.default_rng(0)
    return generator.normal(size=(32, 8)), generator.normal(size=(32, 3))


class Seen(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_epoch_end(self, epoch, logs=None):
        self.values.append(state(self.model))


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_fit_follows_the_schedule(mode, backend):
    """The compiled step must see k and t change: its gradients are those of each epoch."""
    model, (x, y) = build(), data()
    jit = mode == "compiled" and backend != "torch"
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=mode == "eager", jit_compile=jit)
    schedule, seen = EDESchedule(0.1, 10), Seen()
    layer = model.get_layer("binary")
    for epoch in range(4):
        kernel = ops.convert_to_numpy(layer.kernel)
        k, t = EDESchedule(0.1, 10, epochs=4).values(epoch)
        expected = gradient_of_libra(x, y, kernel, ops.convert_to_numpy(layer.bias), k, t)
        model.fit(
            x,
            y,
            batch_size=32,
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=[EDESchedule(0.1, 10, epochs=4), seen],
            verbose=0,
        )
        moved = kernel - ops.convert_to_numpy(layer.kernel)
        np.testing.assert_allclose(moved, expected, rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(seen.values[-1], [k, t, k, t], rtol=1e-6)
    history = model.fit(x, y, epochs=2, callbacks=[schedule], verbose=0).history
    np.testing.assert_allclose(history["ede_t"], [0.1, 1.0], rtol=1e-6)
    np.testing.assert_allclose(history["ede_k"], [10, 1], rtol=1e-6)


def gradient_of_libra(x, y, kernel, bias, k, t):
    """dL/dW of the mean squared error, by lcrbnn.md, section 2.2."""
    centred = kernel - kernel.mean(axis=0)
    deviation = np.sqrt((centred**2).sum(axis=0) / (len(kernel) - 1))
    h = centred / deviation
    scale = 2 ** np.round(np.log2(np.abs(h).mean(axis=0)))
    signs = np.where(x >= 0, 1.0, -1.0)
    outputs = signs @ (scale * np.where(h >= 0, 1.0, -1.0)) + bias
    upstream = signs.T @ (2 * (outputs - y) / y.size)
    u = upstream * scale * k * t * (1 - np.tanh(t * h) ** 2)
    inner = (u * h).sum(axis=0) / (len(kernel) - 1)
    return (u - u.mean(axis=0) - h * inner) / deviation


def test_state_is_saved_and_is_no_weight(tmp_path):
    model, (x, y) = build(), data()
    plain = build("ste_sign", "ste_sign")
    assert len(model.weights) == len(plain.weights) == 2
    assert model.count_params() == plain.count_params()
    assert len(model.get_weights()) == 2 and model.non_trainable_weights == []
    assert len(model.non_trainable_variables) == 4
    model.compile("sgd", "mse")
    model.fit(x, y, epochs=3, callbacks=[EDESchedule()], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert state(loaded) == state(model) != state(build())
    # A checkpoint made with other estimators leaves the state as it is.
    plain.save_weights(tmp_path / "plain.weights.h5")
    other = build()
    other.get_layer("binary").kernel_quantizer.estimator.assign(3.0, 2.0)
    other.load_weights(tmp_path / "plain.weights.h5")
    assert state(other)[2:] == [3.0, 2.0]
    np.testing.assert_array_equal(other.get_weights()[0], plain.get_weights()[0])


def test_other_variables_are_still_checked(tmp_path):
    quantizer = quantizers.Binarizer(
        quantizers.LearnedThreshold(), estimator=quantizers.ErrorDecay()
    )
    build("ste_sign", quantizer).save_weights(tmp_path / "learned.weights.h5")
    with pytest.raises(ValueError, match="expected 0 variables|could not be loaded"):
        build("ste_sign", "ede_sign").load_weights(tmp_path / "learned.weights.h5")


def test_errors():
    x, y = data()
    model = build("ste_sign", "ste_sign")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="ErrorDecay estimator.*Received: model"):
        model.fit(x, y, callbacks=[EDESchedule()], verbose=0)
    for options in ({"t_min": 0}, {"t_max": -1}, {"epochs": 0}):
        with pytest.raises(ValueError, match=f"`{list(options)[0]}` must be .*Received: "):
            EDESchedule(**options)
