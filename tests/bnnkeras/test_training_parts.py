"""Rates, optimizer and loss of published recipes."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras.training import CoupledSGD, SmoothedCrossentropy, fit_resumable, rates


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def test_official_rates_of_lcrbnn(goldens):
    golden = goldens("lcrbnn", "quantizers")
    found = [rates.CosineDecay(0.1).rate(epoch, 100) for epoch in range(100)]
    np.testing.assert_allclose(found, golden["lr_lcr_imagenet_warm0"], rtol=1e-9, atol=1e-12)
    found = [rates.WarmupCosine(0.1).rate(epoch, 100) for epoch in range(100)]
    np.testing.assert_allclose(found, golden["lr_lcr_imagenet_warm1"], rtol=1e-9)


def test_clean_warmup_ends_at_zero():
    schedule = rates.WarmupCosine(0.1, official=False)
    found = [schedule.rate(epoch, 100) for epoch in range(100)]
    np.testing.assert_allclose(found[:6], [0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert 0 < found[-1] < 1e-4 and max(found) == 0.1


def test_bi_real_nets_rates_are_one_epoch_early():
    schedule = rates.LinearDecay(1e-3)
    assert schedule.rate(0, 256) == pytest.approx(1e-3 * 255 / 256)
    assert schedule.rate(255, 256) == 0
    per_step = rates.LinearDecay(1e-3, per_step=True).schedule(4, 10)
    assert float(numpy(per_step(0))) == pytest.approx(1e-3)
    assert float(numpy(per_step(20))) == pytest.approx(5e-4)


def test_steps_are_shares_of_the_training():
    schedule = rates.StepDecay(0.08, (0.5, 0.75))
    found = [schedule.rate(epoch, 40) for epoch in (0, 19, 20, 29, 30, 39)]
    np.testing.assert_allclose(found, [0.08, 0.08, 0.008, 0.008, 0.0008, 0.0008])
    thirds = rates.StepDecay(1.0, (1 / 3, 2 / 3))
    found = [thirds.rate(epoch, 90) for epoch in (29, 30, 59, 60)]
    np.testing.assert_allclose(found, [1, 0.1, 0.1, 0.01])


def test_epoch_rates_follow_the_optimizers_steps():
    schedule = rates.LinearDecay(1.0).schedule(4, steps_per_epoch=3)
    found = [float(numpy(schedule(step))) for step in range(14)]
    expected = np.repeat([0.75, 0.5, 0.25, 0.0], 3).tolist() + [0.0, 0.0]
    np.testing.assert_allclose(found, expected)
    copy = rates.EpochRates.from_config(schedule.get_config())
    assert copy.rates == schedule.rates and copy.steps_per_epoch == 3
    for arguments in (([], 3), ([0.1], 0)):
        with pytest.raises(ValueError, match="Received: rates="):
            rates.EpochRates(*arguments)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    start = generator.normal(size=(5, 3)).astype("float32")
    gradients = generator.normal(size=(6, 5, 3)).astype("float32")
    steps = [0.1, 0.1, 0.02, 0.02, 0.3, 0.3]

    theirs = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.SGD(
        [theirs], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov
    )
    variable = keras.Variable(start)
    optimizer = CoupledSGD(rates.EpochRates(steps, 1), 0.9, nesterov, weight_decay=0.01)
    for rate, gradient in zip(steps, gradients, strict=True):
        reference.param_groups[0]["lr"] = rate
        theirs.grad = torch.tensor(gradient)
        reference.step()
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        np.testing.assert_allclose(numpy(variable), theirs.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_sgd_configuration():
    optimizer = CoupledSGD(0.5, momentum=0.9, nesterov=True, weight_decay=1e-4)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, CoupledSGD)
    assert (copy.momentum, copy.nesterov, copy.coupled_decay) == (0.9, True, 1e-4)
    for arguments in ({"momentum": 1.0}, {"weight_decay": -1}):
        with pytest.raises(ValueError, match="Received: "):
            CoupledSGD(0.1, **arguments)


def test_official_smoothed_loss(float64, goldens, fill, numerics):
    golden = goldens("birealnet", "quantizers")
    logits = fill.fill_input("labelsmooth:logits", (4, 10), -3, 3)
    labels = (3 * np.arange(4) + 1) % 10
    loss = SmoothedCrossentropy(0.1)
    result = numerics.gradients(lambda x: loss(labels, x), [logits])
    numerics.assert_close(result.value, golden["label_smooth/loss"])
    numerics.assert_close(result.inputs[0], golden["label_smooth/grad"])
    column = loss(labels[:, None], ops.convert_to_tensor(logits))
    numerics.assert_close(numpy(column), golden["label_smooth/loss"])
    assert SmoothedCrossentropy.from_config(loss.get_config()).smoothing == 0.1
    with pytest.raises(ValueError, match="Received: smoothing=1"):
        SmoothedCrossentropy(1)


def test_training_without_a_folder_keeps_no_state(tmp_path, monkeypatch):
    from bnnkeras.datasets import Batches

    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    batches = Batches(np.ones((8, 2), "float32"), np.ones((8, 1), "float32"), 4)
    history = fit_resumable(model, batches, 3, None, verbose=0)
    assert len(history["loss"]) == 3 and not list(tmp_path.iterdir())
