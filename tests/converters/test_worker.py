"""The deploy worker: values, errors, crashes, time limits, interrupts, and its end."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

import bnnkeras
from bnnkeras.converters import layers
from bnnkeras.converters.worker import (
    DeployWorker,
    WorkerCrash,
    WorkerError,
    WorkerMemoryError,
    WorkerTimeout,
    client,
    environment,
    get_worker,
    memory,
    replay,
    reproducer,
    requirements,
)

COMMANDS = """
import os, signal, sys, time
from bnnkeras.converters.worker import command

@command("echo")
def echo(arrays, **parameters):
    print("python noise")
    os.system("echo shell noise")
    return parameters, arrays

@command("fail")
def fail(arrays, *, kind):
    print("the library's own words", file=sys.stderr)
    errors = {"ValueError": ValueError, "FileNotFoundError": FileNotFoundError,
              "ZeroDivisionError": ZeroDivisionError, "Own": type("Own", (Exception,), {})}
    raise errors[kind]("`x` must be 1. Received: 2")

@command("missing")
def missing(arrays):
    from bnnkeras.converters.worker.requirements import import_or_explain
    sys.modules["larq_compute_engine"] = None
    try:
        import_or_explain("larq_compute_engine.mlir.python.tflite_schema")
    finally:
        del sys.modules["larq_compute_engine"]

@command("numpy_2")
def numpy_2(arrays):
    import numpy
    from bnnkeras.converters.worker.requirements import import_lce_interpreter
    version, numpy.__version__ = numpy.__version__, "2.4.0"
    try:
        import_lce_interpreter()
    finally:
        numpy.__version__ = version

@command("die")
def die(arrays, *, number, files=()):
    print("last words", file=sys.stderr)
    os.kill(os.getpid(), number)

@command("leave")
def leave(arrays):
    os._exit(3)

@command("sleep")
def sleep(arrays, *, seconds):
    time.sleep(seconds)
    return {}, {}

@command("allocate")
def allocate(arrays, *, path, names):
    held = []
    while True:
        held.append(b"x" * 10_000_000)
        time.sleep(0.01)

@command("imported")
def imported(arrays):
    import bnnkeras, keras, numpy
    from importlib import metadata
    from bnnkeras.converters import layers
    versions = {name: metadata.version(name) for name in ("bnnkeras", "keras")}
    files = [module.__file__ for module in (bnnkeras, keras, layers)]
    return {"files": files, "versions": versions, "path": sys.path}, {}

@command("bad_result")
def bad_result(arrays):
    return {"value": object()}, {}
"""
NAMES = [
    "echo",
    "fail",
    "missing",
    "numpy_2",
    "die",
    "leave",
    "sleep",
    "bad_result",
    "allocate",
    "imported",
]


ENVIRONMENT = client._environment


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployWorker]:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "worker_test_commands.py").write_text(COMMANDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        # TensorFlow takes seconds at each of the many starts, and these commands need none.
        patch.setattr(client, "_environment", lambda: {**os.environ, "KERAS_BACKEND": "numpy"})
        worker = DeployWorker({name: "worker_test_commands" for name in NAMES})
        yield worker
        worker.close()


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The temporary folder, where reproducers go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    # A process whose parent died waits as a zombie where nothing collects it.
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process_id)], capture_output=True, text=True
    ).stdout
    return bool(state.strip()) and not state.startswith("Z")


def _wait_until_dead(process_id: int) -> None:
    end = time.monotonic() + 30
    while _alive(process_id):
        assert time.monotonic() < end, f"process {process_id} lives on"
        time.sleep(0.05)


def test_values_and_arrays_come_back_and_prints_do_no_harm(worker: DeployWorker) -> None:
    arrays = {
        "file": np.arange(6, dtype=np.int8).reshape(2, 3),
        "a/b:0": np.array(2.5, np.float16),
        "empty": np.zeros((0, 4), bool),
        "text": np.array(["ä", "bc"]),
    }
    result, returned = worker.request(
        "echo", arrays, number=np.float32(0.5), path=Path("x"), nested={"a": [1, None, "ü\n"]}
    )
    assert result == {"number": 0.5, "path": "x", "nested": {"a": [1, None, "ü\n"]}}
    assert list(returned) == list(arrays)
    for name, array in arrays.items():
        assert returned[name].dtype == array.dtype
        np.testing.assert_array_equal(returned[name], array)


def test_array_files_are_removed(worker: DeployWorker) -> None:
    worker.request("echo", {"x": np.zeros(3)})
    assert {path.name for path in worker._folder.iterdir()} == {"packages", "stderr.txt"}


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError])
def test_common_errors_keep_their_type(worker: DeployWorker, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        worker.request("fail", kind=kind.__name__)
    assert type(caught.value) is kind
    assert str(caught.value) == "`x` must be 1. Received: 2"
    assert isinstance(caught.value.__cause__, WorkerError)
    assert "worker_test_commands.py" in str(caught.value.__cause__)


@pytest.mark.parametrize("kind", ["ZeroDivisionError", "Own"])
def test_other_errors_name_their_type_and_show_stderr(worker: DeployWorker, kind: str) -> None:
    with pytest.raises(WorkerError, match=f'"fail" failed with {kind}: `x` must be 1') as caught:
        worker.request("fail", kind=kind)
    assert caught.value.type_name == kind
    assert "the library's own words" in str(caught.value)


def test_errors_leave_the_process_alone(worker: DeployWorker) -> None:
    worker.request("echo")
    before = worker.process_id
    with pytest.raises(ValueError, match="`command` must be one of .* Received: 'nothing'"):
        worker.request("nothing")
    with pytest.raises(TypeError, match="JSON values. Received: <object"):
        worker.request("echo", value=object())
    with pytest.raises(TypeError, match=r"`arrays\['x'\]` must hold .* Received: dtype object"):
        worker.request("echo", {"x": np.array([object()])})
    with pytest.raises(TypeError, match="JSON values. Received: <object"):
        worker.request("bad_result")
    assert worker.request("echo", value=1) == ({"value": 1}, {})
    assert worker.process_id == before


@pytest.mark.parametrize("command", ["missing", "numpy_2"])
def test_a_missing_extra_is_one_clear_error(worker: DeployWorker, command: str) -> None:
    advice = r'Run `bnnkeras deploy-env` once.*pip install "bnnkeras\[deploy\]"'
    with pytest.raises(ImportError, match=advice) as caught:
        worker.request(command)
    reasons = {"missing": "larq_compute_engine cannot be imported", "numpy_2": "found 2.4.0"}
    assert reasons[command] in str(caught.value)


def test_platforms_without_wheels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(requirements.sys, "platform", "linux")
    assert not requirements.machine_has_wheels()
    message = requirements.explain("x")
    assert "x86-64 Linux and arm64 macOS only" in message and "deploy-env" not in message


def test_a_crash_names_signal_and_command_and_the_next_request_works(
    worker: DeployWorker,
) -> None:
    worker.request("echo")
    folder = worker._folder
    with pytest.raises(WorkerCrash, match='killed by SIGSEGV during "die"') as caught:
        worker.request("die", number=int(signal.SIGSEGV))
    assert "last words" in str(caught.value)
    assert not folder.exists()
    with pytest.raises(WorkerCrash, match='exited with status 3 during "leave"'):
        worker.request("leave")
    assert worker.request("echo", value=1) == ({"value": 1}, {})


def test_a_process_that_died_between_requests_is_replaced(worker: DeployWorker) -> None:
    worker.request("echo")
    before = worker.process_id
    assert before is not None
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert worker.request("echo", value=2) == ({"value": 2}, {})
    assert worker.process_id != before


def test_a_command_that_takes_too_long_is_ended(worker: DeployWorker) -> None:
    worker.request("echo")
    before = worker.process_id
    assert before is not None
    with pytest.raises(WorkerTimeout, match=r'did not finish "sleep" in 0\.2 s'):
        worker.request("sleep", seconds=600, timeout_seconds=0.2)
    _wait_until_dead(before)


def test_a_command_that_takes_too_much_memory_is_ended(worker: DeployWorker) -> None:
    worker.request("echo")
    before = worker.process_id
    assert before is not None
    limit = memory.resident_bytes(before) + 300_000_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNNKERAS_DEPLOY_MEMORY_GB", str(limit / 1e9))
        with pytest.raises(
            WorkerMemoryError, match=r'GB of memory during "allocate", over the limit'
        ):
            worker.request("allocate", path="", names=[])
    _wait_until_dead(before)
    assert worker.request("echo", value=5) == ({"value": 5}, {})


def test_memory_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", ())
    machine = memory.limit_bytes()
    assert 0 < machine < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    limits = (tmp_path / "missing", tmp_path / "none", tmp_path / "memory.max")
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", limits)
    assert memory.limit_bytes() == 750_000
    monkeypatch.setenv("BNNKERAS_DEPLOY_MEMORY_GB", "1.5")
    assert memory.limit_bytes() == 1_500_000_000
    for value in ("0", "-1", "nan", "many"):
        monkeypatch.setenv("BNNKERAS_DEPLOY_MEMORY_GB", value)
        with pytest.raises(ValueError, match=f"BNNKERAS_DEPLOY_MEMORY_GB .* Received: '{value}'"):
            memory.limit_bytes()


def test_a_request_that_ends_the_worker_can_be_replayed(
    worker: DeployWorker, temporary: Path
) -> None:
    (temporary / "deploy.keras").write_bytes(b"the model")
    arrays = {"x": np.arange(3), "file": np.array(["a"])}
    parameters = {"number": int(signal.SIGABRT), "files": [{"path": temporary / "deploy.keras"}]}
    with pytest.raises(WorkerCrash, match="killed by SIGABRT") as caught:
        worker.request("die", arrays, **parameters)
    folder = caught.value.reproducer
    assert folder is not None and folder.parent == temporary
    assert f"-m bnnkeras.converters.worker.replay {folder}" in str(caught.value)
    assert (folder / "stderr.txt").read_text() == "last words\n"
    # The caller's file is gone by now.
    (temporary / "deploy.keras").unlink()
    command, read, found = reproducer.read(folder)
    assert command == "die" and found["number"] == signal.SIGABRT
    (file,) = found["files"]
    assert file["path"].read_bytes() == b"the model"
    np.testing.assert_array_equal(read["x"], arrays["x"])
    assert list(read) == ["x", "file"]

    with pytest.raises(WorkerCrash, match="killed by SIGABRT"):
        replay.replay(folder, worker)


def test_few_reproducers_are_kept(worker: DeployWorker, temporary: Path) -> None:
    folders = []
    for _ in range(4):
        with pytest.raises(WorkerCrash) as caught:
            worker.request("leave")
        folders.append(caught.value.reproducer)
    assert [folder.exists() for folder in folders] == [False, True, True, True]
    with pytest.raises(WorkerTimeout) as caught:
        worker.request("sleep", seconds=600, timeout_seconds=0.1)
    assert caught.value.reproducer.exists() and not folders[1].exists()


def test_a_reproducer_that_cannot_be_written_hides_nothing(
    worker: DeployWorker, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    worker.request("echo")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    with pytest.raises(WorkerCrash, match="(?s)status 3.*The request could not be saved") as caught:
        worker.request("leave")
    assert caught.value.reproducer is None


def test_replaying_names_what_is_no_reproducer(temporary: Path) -> None:
    with pytest.raises(ValueError, match="`folder` must be a reproducer .* Received: "):
        replay.replay(temporary)
    with pytest.raises(SystemExit, match="ValueError: `folder` must be a reproducer"):
        replay.main([str(temporary)])
    # A file of elsewhere is not named from inside.
    request = {"command": "echo", "names": [], "parameters": {"x": {"__file__": "../../secret"}}}
    (temporary / "request.json").write_text(json.dumps(request))
    assert reproducer.read(temporary)[2] == {"x": temporary / "files" / "secret"}


def test_an_interrupt_ends_the_command_and_the_next_answer_is_the_right_one(
    worker: DeployWorker,
) -> None:
    worker.request("echo")
    before = worker.process_id
    assert before is not None
    # A shell that runs the tests in the background has them ignore interrupts.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        worker.request("sleep", seconds=600, timeout_seconds=60)
    timer.join()
    signal.signal(signal.SIGINT, ignored)
    _wait_until_dead(before)
    assert worker.request("echo", value=3) == ({"value": 3}, {})


def test_threads_get_their_own_answers(worker: DeployWorker) -> None:
    answers: dict[int, int] = {}

    def ask(number: int) -> None:
        result, arrays = worker.request("echo", {"x": np.full(100, number)}, value=number)
        assert (arrays["x"] == number).all()
        answers[number] = result["value"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: number for number in range(8)}


def test_a_forked_copy_leaves_the_worker_alone(worker: DeployWorker) -> None:
    worker.request("echo")
    copy = os.fork()
    if copy == 0:
        worker.close()
        os._exit(0 if worker.process_id is None else 1)
    assert os.waitpid(copy, 0)[1] == 0
    before = worker.process_id
    assert worker.request("echo", value=4) == ({"value": 4}, {})
    assert worker.process_id == before


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_the_worker_ends_with_its_client(end: str) -> None:
    program = (
        "import json, time\n"
        "import os\n"
        "from bnnkeras.converters.worker import client, get_worker\n"
        "client._environment = lambda: dict(os.environ)\n"
        "worker = get_worker()\n"
        "worker.request('environment')\n"
        "print(json.dumps([worker.process_id, str(worker._folder)]), flush=True)\n"
        f"time.sleep({0 if end == 'exit' else 600})\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process_id, folder = json.loads(process.stdout.readline())
        if end == "kill":
            process.kill()
    _wait_until_dead(process_id)
    assert not Path(folder).exists()


def test_a_python_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNNKERAS_DEPLOY_PYTHON", "/nowhere/python")
    with pytest.raises(WorkerError, match="BNNKERAS_DEPLOY_PYTHON .* Received: /nowhere/python"):
        DeployWorker().request("environment")


def test_a_python_without_the_packages_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    # -I -S: this Python without its installed packages.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("BNNKERAS_DEPLOY_PYTHON", str(python))
    with pytest.raises(ImportError, match=r"has no module bnnkeras\. .*bnnkeras\[deploy\]"):
        DeployWorker().request("environment")


def test_a_python_with_packages_of_its_own_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = (
        "import json, sys\n"
        "print(json.dumps({'versions': {'bnnkeras': '0.0.1', 'keras': '3.0'}}), flush=True)\n"
        "sys.stdin.read()"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{child}"\n')
    python.chmod(0o755)
    monkeypatch.setenv("BNNKERAS_DEPLOY_PYTHON", str(python))
    with pytest.raises(WorkerError, match=r"ignores PYTHONPATH\. Received: .*'0\.0\.1'.*, not "):
        DeployWorker().request("environment")


def test_the_worker_imports_this_process_s_packages(worker: DeployWorker) -> None:
    result, _ = worker.request("imported")
    assert result["versions"] == {"bnnkeras": bnnkeras.__version__, "keras": keras.__version__}
    packages = worker._folder / "packages"
    expected = [bnnkeras.__file__, keras.__file__, layers.__file__]
    for file, own in zip(result["files"], expected, strict=True):
        assert Path(file).is_relative_to(packages)
        assert os.path.samefile(file, own)


def test_another_python_gets_nothing_else_of_this_path(monkeypatch, tmp_path: Path) -> None:
    before = {"PYTHONPATH": "theirs", "PYTHONHOME": "home", "A": "b"}
    own = client._with_packages(dict(before), tmp_path, sys.executable)
    assert own == {**before, "PYTHONPATH": f"{tmp_path}{os.pathsep}theirs"}
    other = client._with_packages(dict(before), tmp_path, "/other/python")
    assert other == {"A": "b", "PYTHONPATH": str(tmp_path)}


def _private(monkeypatch: pytest.MonkeyPatch, python: Path | None) -> None:
    class Private:
        def python(self):
            return python

    monkeypatch.setattr(environment, "DEPLOY", Private())
    monkeypatch.delenv("BNNKERAS_DEPLOY_PYTHON", raising=False)


def test_the_python_is_named_or_this_one_or_private(monkeypatch: pytest.MonkeyPatch) -> None:
    _private(monkeypatch, Path("/private/python"))
    assert environment.choose_python() == sys.executable
    monkeypatch.setattr(np, "__version__", "2.4.0")
    assert environment.choose_python() == "/private/python"
    monkeypatch.setenv("BNNKERAS_DEPLOY_PYTHON", "/named/python")
    assert environment.choose_python() == "/named/python"


@pytest.mark.parametrize("missing", ["numpy", *requirements.PACKAGES])
def test_without_a_python_the_error_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    _private(monkeypatch, None)
    if missing == "numpy":
        monkeypatch.setattr(np, "__version__", "2.4.0")
        reason = r"LCE's interpreter fails under NumPy 2 and newer \(found 2\.4\.0\)"
    else:
        # How Python marks a module that cannot be imported.
        monkeypatch.setitem(sys.modules, missing, None)
        reason = f"{missing} is not installed here"
    with pytest.raises(ImportError, match=f"but {reason}. Run `bnnkeras deploy-env` once"):
        DeployWorker().request("environment")


def test_the_worker_runs_under_tensorflow_whatever_the_backend_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_environment", ENVIRONMENT)
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    worker = DeployWorker()
    result, _ = worker.request("environment")
    worker.close()
    assert result["executable"] == os.environ.get("BNNKERAS_DEPLOY_PYTHON", sys.executable)
    assert result["keras_backend"] == "tensorflow"
    # Switched off, it would compute with other kernels than the user's own process.
    assert "TF_ENABLE_ONEDNN_OPTS" not in ENVIRONMENT()


def test_one_worker_is_shared() -> None:
    assert get_worker() is get_worker()


def test_the_client_imports_neither_tensorflow_nor_lce() -> None:
    program = (
        "import sys\n"
        "import bnnkeras.converters.worker, bnnkeras.converters.interpreter\n"
        "import bnnkeras.converters.flatbuffer\n"
        "print(sorted({'tensorflow', 'larq_compute_engine'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "[]"
