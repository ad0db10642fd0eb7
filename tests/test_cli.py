"""The `bnnkeras` command, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

_DEMO = [sys.executable, "-m", "bnnkeras_command", "demo"]
_KEYS = {
    "accuracy_keras",
    "accuracy_lce",
    "binary_layers_converted",
    "binary_layers_total",
    "probe_max_difference",
    "verified",
}


def _run(arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "bnnkeras_command", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.mark.slow
def test_demo_resumes_and_reports(tmp_path):
    command = [*_DEMO, "--epochs", "2", "--output", str(tmp_path)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A shell that runs the tests in the background has children ignore interrupts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 240
        while not (tmp_path / "training_state/state.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    log = (tmp_path / "log").read_text()
    assert "Interrupted" in log and "Epoch 1/2" in log

    finished = _run(command[3:])
    assert finished.returncode == 0, finished.stderr
    assert "Epoch 2/2" in finished.stdout and "Epoch 1/2" not in finished.stdout
    # Nothing of TensorFlow's log, and no warning of ours.
    assert finished.stderr == ""
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() >= _KEYS
    assert report["verified"] is True
    assert report["probe_max_difference"] == 0
    assert report["binary_layers_converted"] == report["binary_layers_total"] == 16
    assert report["predictions_different"] <= 2
    assert report["accuracy_keras"] > 0.5
    assert f"{report['accuracy_lce']:.2%}" in finished.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "birealnet18.keras",
        "birealnet18.tflite",
        "birealnet18_float32.tflite",
        "log",
        "report.json",
        "training.png",
    }
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_unwritable_output_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    finished = _run(["demo", "--output", str(tmp_path / "file/results")])
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert "output folder" in finished.stderr and str(tmp_path) in finished.stderr
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_bad_option_names_it():
    finished = _run(["demo", "--epochs", "0"])
    assert finished.returncode == 2
    assert "epochs" in finished.stderr


def test_missing_backend_is_named():
    # None marks a module that cannot be imported.
    code = "import sys; sys.modules['torch'] = None; import bnnkeras_command as c; c.main()"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 1
    assert finished.stderr == (
        "Keras's backend, torch, is not installed. Set KERAS_BACKEND to one that is: jax, "
        "tensorflow or torch.\n"
    )


@pytest.mark.parametrize(
    ("module", "extra"), [("typer", "bnnkeras[cli]"), ("sklearn", "bnnkeras[datasets]")]
)
def test_missing_extra_is_named(tmp_path, module, extra):
    # A module that cannot be found, the way Python reports a package that is not installed.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            raise ModuleNotFoundError(name, name={module!r})\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    finished = _run(["demo", "--output", str(tmp_path / "out")], env=environment)
    assert finished.returncode == 1
    assert extra in finished.stderr
    assert "Traceback" not in finished.stderr
