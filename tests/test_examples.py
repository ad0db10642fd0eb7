"""The training examples run to their end, on little data for one epoch, and print what they say."""

import runpy
import sys
from pathlib import Path

import keras
import pytest

from bnnkeras import datasets
from bnnkeras.datasets import digits

EXAMPLES = Path(__file__).parents[1] / "examples"
if keras.backend.backend() != "tensorflow":
    pytest.skip("examples are the same on all backends", allow_module_level=True)

pytestmark = pytest.mark.slow


def few_digits(**arguments):
    """The first 64 images of each part: an example must not take minutes here."""
    return tuple((images[:64], labels[:64]) for images, labels in digits(**arguments))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example with arguments, and returns what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(datasets, "digits", few_digits)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("name", "arguments", "printed"),
    [
        ("train_birealnet.py", ["--epochs", 1], "mean"),
        ("train_lcrbnn.py", ["--epochs", 1], "LCR-BNN: mean"),
        ("train_bcdnet.py", ["--size", 32, "--epochs", 1, 1, "--verbose", 0], "accuracy_second"),
    ],
)
def test_digits(run, name, arguments, printed):
    assert printed in run(name, *arguments)


CLOUDS = ["--points", 32, "--clouds", 2, "--epochs", 1, "--seeds", 1]


def test_finished_clouds_are_not_trained_again(run, tmp_path):
    output = tmp_path / "finished.jsonl"
    first = run("train_bipointnet.py", "classes", *CLOUDS, "--output", output)
    again = run("train_bipointnet.py", "classes", *CLOUDS, "--output", output)
    # The table alone: the line of each training is printed when it ends.
    assert first.endswith(again) and len(again) < len(first)
    assert again.startswith("binarization")


def test_parts_of_clouds(run, tmp_path):
    picture = tmp_path / "parts.png"
    run("train_bipointnet.py", "parts", *CLOUDS, "--picture", picture)
    assert picture.stat().st_size > 10_000


def test_scenes(run, tmp_path):
    pytest.importorskip("larq_compute_engine", reason="deployment needs the deploy extra")
    picture, kept, file = (tmp_path / name for name in ("scenes.png", "kept", "scenes.tflite"))
    arguments = ["--scenes", 16, "--size", 32, "--epochs", 2, "--folder", kept]
    printed = run("train_bidense.py", *arguments, "--picture", picture, "--tflite", file)
    assert "in 1 bit 27 of 27 layers; largest difference in the probe 0.0" in printed
    assert picture.stat().st_size > 10_000
    model = keras.models.load_model(kept / "bidense.keras", compile=False)
    assert model.output_shape == (None, 32, 32, 12)
