"""The ported Larq example learns, and is Larq's own network when its import line is."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from bnnkeras import models

EXAMPLE = Path(__file__).parents[2] / "examples" / "binarynet.py"
WIDTH = 8

# The script with its import lines changed, run under Larq: shapes, and outputs for given weights.
LARQ_PROGRAM = """
import json, sys
import numpy as np

script, folder, width = sys.argv[1:]
source = open(script).read()
for ours, larqs in [("import keras\\n", "import tf_keras as keras\\n"),
                    ("import bnnkeras as lq\\n", "import larq as lq\\n")]:
    assert source.count(ours) == 1
    source = source.replace(ours, larqs)
namespace = {"__name__": "example"}
exec(source, namespace)
assert namespace["lq"].__name__ == "larq"
model = namespace["binarynet"](int(width))
with np.load(f"{folder}/given.npz") as given:
    model.set_weights([given[f"arr_{i}"] for i in range(len(given.files) - 1)])
    outputs = model(given["images"], training=False).numpy()
layers = [
    [layer.name, list(layer.output_shape), [list(w.shape) for w in layer.weights]]
    for layer in model.layers
]
np.savez(f"{folder}/found.npz", outputs=outputs, layers=json.dumps(layers),
         count=model.count_params())
"""


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("binarynet", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_has_the_documented_numbers(example):
    """Those of the table in Larq's documentation."""
    profile = models.ModelProfile(example.binarynet())
    assert profile.weight_count(1) == 10_352_000
    assert profile.weight_count(32) == 7_700
    assert profile.op_count("mac", 1) == 510_961_664
    assert profile.op_count("mac", 32) == 3_110_400


@pytest.mark.slow
def test_learns():
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "--width", str(WIDTH), "--epochs", "3"],
        # PyTorch's threads wait for each other: on a busy machine one alone is 30 times as fast.
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr
    accuracy = float(re.findall(r"^Test accuracy: ([0-9.]+)$", result.stdout, re.M)[-1])
    # Chance is 0.1.
    assert accuracy > 0.6, result.stdout


@pytest.mark.slow
def test_is_larqs_network(example, backend, tmp_path):
    if backend != "tensorflow":
        pytest.skip("runs on TensorFlow: Larq is the same on every backend")
    for package in ("larq", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    keras.utils.clear_session()
    model = example.binarynet(WIDTH)
    generator = np.random.default_rng(0)
    weights = []
    for variable in model.weights:
        low = 0.5 if variable.name == "moving_variance" else -1.0
        weights.append(generator.uniform(low, 1.0, variable.shape).astype("float32"))
    model.set_weights(weights)
    images = generator.uniform(-1, 1, (8, 32, 32, 3)).astype("float32")
    np.savez(tmp_path / "given.npz", *weights, images=images)
    result = subprocess.run(
        [sys.executable, "-c", LARQ_PROGRAM, str(EXAMPLE), str(tmp_path), str(WIDTH)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    layers = [
        [layer.name, list(layer.output.shape), [list(w.shape) for w in layer.weights]]
        for layer in model.layers
    ]
    with np.load(tmp_path / "found.npz") as found:
        assert keras.tree.map_structure(str, layers) == keras.tree.map_structure(
            str, json.loads(str(found["layers"]))
        )
        assert model.count_params() == found["count"]
        outputs = model.predict(images, verbose=0)
        assert np.ptp(outputs) > 0.1
        np.testing.assert_allclose(outputs, found["outputs"], rtol=0, atol=1e-5)
