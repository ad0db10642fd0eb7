"""`bnnkeras train`."""

import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from bnnkeras.cli.app import app


def _run(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_list_and_show():
    listed = _run("--list")
    assert listed.exit_code == 0 and "birealnet18-caffe" in listed.stdout.split()
    shown = _run("lcrresnet18", "--show", "--epochs", 3, "--batch-size", 64)
    assert shown.exit_code == 0
    assert "epochs=3" in shown.stdout and "CosineDecay(base=0.05)" in shown.stdout
    assert "retention=None" in _run("lcrresnet18", "--show", "--no-retention").stdout


@pytest.mark.slow
def test_trains_from_a_file_and_resumes(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 16, 16, 3)).astype("float32"), np.arange(12) % 3
    np.savez(tmp_path / "data.npz", x_train=x[:8], y_train=y[:8], x_test=x[8:], y_test=y[8:])
    arguments = ["lcrresnet20", "--no-retention", "--data", tmp_path / "data.npz", "--epochs", 1]
    arguments += ["--batch-size", 4, "--output", tmp_path / "out"]
    result = _run(*arguments)
    assert result.exit_code == 0, result.output
    history = json.loads((tmp_path / "out/history.json").read_text())
    assert len(history["binary"]["val_accuracy"]) == 1
    model = keras.saving.load_model(tmp_path / "out/model.keras")
    assert model.output_shape == (None, 3)
    # The same command finds the training done.
    assert _run(*arguments).exit_code == 0
    assert json.loads((tmp_path / "out/history.json").read_text()) == history


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "`name` must be one of"),
        (["lcrresnet20", "--data", "digits"], "`teacher` must be a model"),
        (["birealnet18", "--data", "nowhere.npz"], "nowhere.npz"),
        (["birealnet18", "--data-dir", "/nowhere"], "imagenet2012"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path):
    result = _run(*arguments, "--output", tmp_path)
    assert result.exit_code == 1 and message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_files_with_other_names(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    result = _run("birealnet18", "--data", tmp_path / "data.npz", "--output", tmp_path)
    assert result.exit_code == 1 and "without ['x_train'" in result.output
