"""Bi-Real Net and LCR-BNN become verified `.tflite` files with every binary layer in 1 bit."""

import numpy as np
import pytest

from bnnkeras import converters, zoo

SMALL = {"input_shape": (96, 96, 3), "classes": 10}
# Zoo model, arguments, binary convolutions.
CASES = {
    "lcrresnet20": ("lcrresnet20", {}, 18),
    "birealnet34": ("birealnet34", SMALL, 32),
    "birealnet50": ("birealnet50", SMALL, 47),
    "lcrcifarresnet18": ("lcrcifarresnet18", {}, 16),
    "lcrvggsmall": ("lcrvggsmall", {}, 5),
    "deep stem, averages": ("lcrresnet18", {**SMALL, "deep_stem": True, "avg_down": True}, 16),
    "1-bit weights alone": ("lcrresnet20", {"binary_activations": False}, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_binary_layer_runs_in_one_bit(case, tmp_path, backend):
    if backend != "tensorflow":
        pytest.skip("converting happens in TensorFlow's process, whatever the backend")
    name, arguments, layers = CASES[case]
    conversion = converters.convert(zoo.get(name, **arguments), tmp_path / "model.tflite")
    verification = conversion.verification
    assert verification.passed and verification.probe_max_difference == 0
    assert verification.binary_layers_converted == verification.binary_layers_total == layers


@pytest.mark.slow
def test_official_checkpoint_to_file(tmp_path, goldens, fill, backend):
    """An official state dict, its trainer's scales and prefixes included, into a verified file."""
    if backend != "tensorflow":
        pytest.skip("converting happens in TensorFlow's process, whatever the backend")
    shapes = goldens.names("lcrbnn", "irnet_resnet20_1w1a")
    state = {f"module.{name}": value for name, value in fill.fill_state(shapes).items()}
    np.savez(tmp_path / "checkpoint.npz", **state)
    model = zoo.LCRResNet20(weights=tmp_path / "checkpoint.npz")
    conversion = converters.convert(model, tmp_path / "model.tflite")
    assert conversion.verification.passed
    assert conversion.verification.binary_layers_converted == 18
