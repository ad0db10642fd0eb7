"""Live comparison with the quantizers and the training of Larq 0.14, on legacy tf-keras.

The layers are compared in test_layer_larq.py, the example network in test_binarynet.py.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from bnnkeras import layers, quantizers

HERE = Path(__file__).parent


def _module(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


live = _module("larq_live")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Larq's answers, by name."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("runs on TensorFlow: Larq is the same, its goldens are tested on each backend")
    for package in ("larq", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    path = tmp_path_factory.mktemp("larq") / "answers.npz"
    result = subprocess.run(
        [sys.executable, str(HERE / "larq_live.py"), str(path)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    with np.load(path) as found:
        return dict(found)


def assert_equal(actual, expected) -> None:
    """To float32 precision, at the scale of the array."""
    assert np.asarray(actual).shape == expected.shape
    atol = 1e-6 * max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=atol)


def made(name):
    if name.startswith("function/"):
        return getattr(quantizers, name.removeprefix("function/"))
    cls, options = live.QUANTIZERS[name]
    return getattr(quantizers, cls)(**options)


@pytest.mark.parametrize("kind", ["kernel", "activations"])
@pytest.mark.parametrize(
    "name", [*live.QUANTIZERS, *(f"function/{name}" for name in live.FUNCTIONS)]
)
def test_values_and_gradients(name, kind, answers, numerics):
    given = live.tensors()
    found = numerics.gradients(made(name), [given[kind]], given["upstream"])
    assert_equal(found.value, answers[f"{name}/{kind}/value"])
    assert_equal(found.inputs[0], answers[f"{name}/{kind}/gradient"])


def test_every_quantizer_of_larq_is_compared():
    names = {cls for cls, _ in live.QUANTIZERS.values()}
    assert names == {
        "ApproxSign",
        "DoReFa",
        "MagnitudeAwareSign",
        "NoOp",
        "SteHeaviside",
        "SteSign",
        "SteTern",
        "SwishSign",
    }


@pytest.mark.parametrize("optimizer", live.OPTIMIZERS)
def test_three_training_steps(optimizer, answers):
    found = live.train(keras, layers, optimizer)
    assert set(found) == {name for name in answers if name.startswith(f"{optimizer}/")}
    for name, value in found.items():
        expected = answers[name]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=0, atol=5e-6 * scale, err_msg=name)
    # Binary weights flipped: they trained, by every gradient in between.
    pairs = [[answers[f"{optimizer}/{step}/{index}"] for step in (0, 2)] for index in (0, 5, 9)]
    assert all((first != last).mean() > 0.5 for first, last in pairs)
    assert any((np.sign(first) != np.sign(last)).any() for first, last in pairs)
