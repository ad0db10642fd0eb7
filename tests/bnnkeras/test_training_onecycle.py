"""The one-cycle schedule against PyTorch's numbers, and the optimizer that follows it."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras.training import OneCycleAdamW
from bnnkeras.training.onecycle import OneCycle


@pytest.mark.parametrize("epochs, peak", [(50, "0.0001"), (200, "0.0001"), (50, "6e-05")])
def test_official_cycle(epochs, peak, goldens):
    golden, cycle = goldens("bidense", "ops"), OneCycle(float(peak))
    rates = [cycle.rate(epoch, epochs) for epoch in range(epochs)]
    np.testing.assert_allclose(rates, golden[f"onecycle_{epochs}_{peak}/lr"], rtol=1e-9)
    momenta = [cycle.momentum(epoch, epochs) for epoch in range(epochs)]
    np.testing.assert_allclose(momenta, golden[f"onecycle_{epochs}_{peak}/beta1"], rtol=1e-9)


def test_steps_follow_the_cycle():
    """Two steps per epoch against AdamW written out, in NumPy."""
    epochs, steps, peak = 10, 2, 0.1
    variable = keras.Variable(np.array([1.0, -2.0], "float32"))
    optimizer = OneCycleAdamW(peak, epochs, steps)
    optimizer.build([variable])
    generator = np.random.default_rng(0)
    x, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for step in range(epochs * steps):
        gradient = generator.normal(size=2)
        optimizer.apply([ops.convert_to_tensor(gradient, "float32")], [variable])
        rate = OneCycle(peak).rate(step // steps, epochs)
        beta = OneCycle(peak).momentum(step // steps, epochs)
        x = x * (1 - rate * 0.01)
        m, v = beta * m + (1 - beta) * gradient, 0.999 * v + 0.001 * gradient**2
        corrected = m / (1 - beta ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        x = x - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        np.testing.assert_allclose(ops.convert_to_numpy(variable), x, rtol=2e-4)


def test_config_round_trip():
    optimizer = OneCycleAdamW(0.1, 4, 2, weight_decay=0.02)
    again = OneCycleAdamW.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config() and again.weight_decay == 0.02
