"""`bnnkeras deploy-env`: what it says and makes; the environment itself is tested elsewhere."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from bnnkeras import environments
from bnnkeras.cli import deploy_env
from bnnkeras.cli.app import app
from bnnkeras.converters.worker import environment, requirements
from bnnkeras.environments import PrivateEnvironmentError

VERSIONS = "Python 3.12.1, numpy 1.26.4"


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a Python of NumPy 2 around which everything works."""
    monkeypatch.setenv("BNNKERAS_CACHE", str(tmp_path))
    monkeypatch.delenv("BNNKERAS_DEPLOY_PYTHON", raising=False)
    monkeypatch.setattr(requirements, "numpy_fits", lambda: False)
    monkeypatch.setattr(requirements, "machine_has_wheels", lambda: True)
    monkeypatch.setattr(deploy_env, "try_out", lambda python: VERSIONS)
    return tmp_path


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["deploy-env", *arguments])
    return result.exit_code, result.output


def _make_one() -> Path:
    folder = environment.DEPLOY.folder
    (folder / "1" / "bin").mkdir(parents=True)
    (folder / "1" / "bin" / "python").symlink_to(sys.executable)
    (folder / "current.json").write_text(json.dumps({"folder": "1", "made_with": "/python3.12"}))
    return folder / "1" / "bin" / "python"


def test_checking_says_what_is_missing() -> None:
    code, output = _run("--check")
    assert code == 1
    assert "There is no environment" in output and "Run `bnnkeras deploy-env` once" in output


def test_checking_says_what_is_used() -> None:
    python = _make_one()
    code, output = _run("--check")
    assert code == 0
    assert "made with /python3.12" in output and f"It works: {VERSIONS}" in output
    assert f"Models are converted with {python} (this Python does not fit: " in output


def test_one_that_is_there_is_tried_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    _make_one()
    monkeypatch.setattr(environments.PrivateEnvironment, "make", None)
    code, output = _run()
    assert code == 0 and f"It works: {VERSIONS}" in output

    def fail(python: Path) -> str:
        raise PrivateEnvironmentError("no LCE")

    monkeypatch.setattr(deploy_env, "try_out", fail)
    code, output = _run()
    assert code == 1 and "no LCE" in output and "`bnnkeras deploy-env --recreate`" in output


def test_a_python_that_does_not_fit_is_named() -> None:
    code, output = _run("--python", "/nowhere/python")
    assert code == 1 and "CPython 3.12 or 3.11" in output
    assert "Received: /nowhere/python" in output


def test_machines_without_wheels_are_named(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(requirements, "machine_has_wheels", lambda: False)
    code, output = _run()
    assert code == 1 and "x86-64 Linux and arm64 macOS only" in output
    assert list(place.iterdir()) == []
