"""Private environments: made once, whole or not at all, by one process at a time."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnnkeras import environments
from bnnkeras.environments import PrivateEnvironment, PrivateEnvironmentError, find_python

ROOT = Path(__file__).resolve().parents[2]
LISTS = [
    ROOT / "converters" / "worker" / "environment.txt",
    ROOT / "bnnkeras" / "cli" / "benchmarks" / "larq_zoo.txt",
]

# Stands for a Python, its `venv` and its `pip`: notes what it is called with, and fails where a
# file says so.
PYTHON = """#!{python}
import os, shutil, sys, time
from pathlib import Path
here = Path({here!r})
with open(here / "calls.txt", "a") as calls:
    print(*sys.argv[1:3] if sys.argv[1] == "-m" else ["probe"], file=calls)
if sys.argv[1:2] == ["-I"]:
    print(Path(sys.argv[0]).absolute())
if "venv" in sys.argv:
    target = Path(sys.argv[-1], "bin")
    target.mkdir(parents=True)
    shutil.copy(sys.argv[0], target / "python")
if "pip" in sys.argv:
    print("Collecting numpy")
    print(*sorted(name for name in os.environ if name.startswith("PIP_TARGET")))
    if (here / "fail").exists():
        sys.exit("ERROR: no network")
    if (here / "hang").exists():
        (here / "process_id").write_text(str(os.getpid()))
        (here / "process_id").rename(here / "hanging")
        time.sleep(600)
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BNNKERAS_CACHE", str(tmp_path / "cache"))
    python = tmp_path / "python3"
    python.write_text(PYTHON.format(python=sys.executable, here=str(tmp_path)))
    python.chmod(0o755)
    (tmp_path / "list.txt").write_text("numpy==1.26.4\n")
    return tmp_path


def _environment(place: Path, check=lambda python: None) -> PrivateEnvironment:
    return PrivateEnvironment("test", place / "list.txt", check)


def _calls(place: Path) -> list[str]:
    return (place / "calls.txt").read_text().splitlines()


def _made(environment: PrivateEnvironment) -> list[str]:
    return sorted(path.name for path in environment.folder.iterdir() if path.is_dir())


def test_it_is_made_once_and_checked_before_it_counts(place: Path, monkeypatch) -> None:
    # pip would install elsewhere.
    monkeypatch.setenv("PIP_TARGET", str(place))
    checked, lines = [], []

    def check(python: Path) -> None:
        assert environment.python() is None
        checked.append(python)

    environment = _environment(place, check)
    assert environment.python() is None
    python = environment.make(python=place / "python3", progress=lines.append)
    assert checked == [python] == [environment.python()]
    assert python.is_relative_to(place / "cache" / "environments")
    assert _calls(place)[-2:] == ["-m venv", "-m pip"]
    assert "Collecting numpy" in lines and "PIP_TARGET" not in lines
    assert environment.make(python=place / "python3") == python
    assert _calls(place).count("-m pip") == len(checked) == 1


def test_other_versions_are_another_environment(place: Path) -> None:
    environment = _environment(place)
    python = environment.make(python=place / "python3")
    before = environment.folder
    (place / "list.txt").write_text("numpy==1.26.5\n")
    assert environment.python() is None and environment.outdated() == [before]
    (place / "list.txt").write_text("numpy==1.26.4\n")
    assert environment.python() == python and environment.outdated() == []


def test_recreating_replaces_only_by_one_that_works(place: Path) -> None:
    environment = _environment(place)
    first = environment.make(python=place / "python3")
    (place / "fail").touch()
    with pytest.raises(PrivateEnvironmentError, match="(?s)status 1; nothing was left.*no network"):
        environment.make(python=place / "python3", recreate=True)
    assert environment.python() == first
    (place / "fail").unlink()
    second = environment.make(python=place / "python3", recreate=True)
    assert environment.python() == second != first
    assert _made(environment) == [second.parents[1].name]


def test_one_that_fails_its_check_leaves_nothing(place: Path) -> None:
    def check(python: Path) -> None:
        raise ImportError("no LCE")

    environment = _environment(place, check)
    with pytest.raises(PrivateEnvironmentError, match="does not work, and was removed: no LCE"):
        environment.make(python=place / "python3")
    assert environment.python() is None and _made(environment) == []


def test_one_whose_python_is_gone_is_made_anew(place: Path) -> None:
    environment = _environment(place)
    environment.make(python=place / "python3").unlink()
    assert environment.python() is None
    assert environment.make(python=place / "python3") == environment.python()
    (environment.folder / "current.json").write_text("{broken")
    assert environment.python() is None


MAKE = """
import sys
from pathlib import Path
from bnnkeras.environments import PrivateEnvironment
environment = PrivateEnvironment("test", Path(sys.argv[1], "list.txt"), lambda python: None)
def progress(line):
    print(line, flush=True)
environment.make(python=Path(sys.argv[1], "python3"), progress=progress)
"""


def _start(place: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKE, str(place)],
        # The lightest backend: importing it is most of what this process does.
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        stdout=subprocess.PIPE,
        text=True,
    )


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_making_is_cleared_away_and_its_pip_keeps_others_out(place: Path) -> None:
    environment = _environment(place)
    (place / "hang").touch()
    first = _start(place)
    _wait_for(place / "hanging")
    first.kill()
    first.wait()
    assert environment.python() is None and _made(environment) == ["1"]
    (place / "hang").unlink()
    # pip lives on and writes: the second must not start before it has ended.
    second = _start(place)
    assert second.stdout is not None
    assert second.stdout.readline().startswith("Another process is making this environment")
    os.kill(int((place / "hanging").read_text()), signal.SIGKILL)
    assert second.wait(timeout=120) == 0
    assert environment.python() is not None and len(_made(environment)) == 1


def test_a_folder_that_cannot_be_written_is_named(place: Path, monkeypatch) -> None:
    monkeypatch.setenv("BNNKERAS_CACHE", str(place / "list.txt"))
    with pytest.raises(PrivateEnvironmentError, match="list.txt.* Set BNNKERAS_CACHE to another"):
        _environment(place).make()


def test_only_pythons_that_work_are_taken(monkeypatch, tmp_path: Path) -> None:
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    working = tmp_path / "versions" / "3.12.99" / "bin" / "python3.12"
    working.parent.mkdir(parents=True)
    working.write_text(f"#!/bin/sh\necho {working}\n")
    working.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(environments.sys, "executable", str(broken))
    assert find_python() == str(working)
    with pytest.raises(
        PrivateEnvironmentError, match=f"--python. Received: {re.escape(str(broken))}$"
    ):
        find_python(broken)
    with pytest.raises(PrivateEnvironmentError, match="Received: /nowhere"):
        find_python("/nowhere")


def test_this_python_is_judged_by_trying() -> None:
    expected = sys.version_info[:2] in environments.PYTHON_VERSIONS
    if expected:
        assert find_python(sys.executable) == sys.executable
    else:
        with pytest.raises(PrivateEnvironmentError):
            find_python(sys.executable)


def _versions(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "each line is name==version"
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_lists_agree_with_the_constraints(path: Path) -> None:
    constraints = _versions(ROOT / "constraints.txt")
    versions = _versions(path)
    assert len(versions) > 30
    for name in versions.keys() & constraints.keys():
        assert versions[name] == constraints[name], name
    # What Larq Zoo needs and nothing else does.
    others = versions.keys() - constraints.keys()
    assert others <= {"click", "larq-zoo", "typeguard", "zookeeper"}


def test_current_json_is_readable_by_people(place: Path) -> None:
    environment = _environment(place)
    environment.make(python=place / "python3")
    current = json.loads((environment.folder / "current.json").read_text())
    assert current == {"folder": "1", "made_with": str(place / "python3")}
