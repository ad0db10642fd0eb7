"""Deployment from where Larq Compute Engine does not run: NumPy 2, CPython 3.13."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from bnnkeras import converters
from bnnkeras.converters.worker import WorkerTimeout, client, get_worker
from bnnkeras.converters.worker.environment import DEPLOY
from bnnkeras.converters.worker.replay import replay
from bnnkeras.environments import PrivateEnvironment, PrivateEnvironmentError
from bnnkeras.layers import QuantDense

ROOT = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).with_name("environments")


def test_one_process_serves_a_whole_program(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self.pid)

    monkeypatch.setattr(client.subprocess, "Popen", Popen)
    get_worker().close()
    for units in (3, 5):
        model = keras.Sequential(
            [
                keras.Input((32,)),
                QuantDense(units, input_quantizer="ste_sign", kernel_quantizer="ste_sign"),
            ]
        )
        conversion = converters.convert(model)
        interpreter = converters.Interpreter(conversion.flatbuffer)
        values = np.random.default_rng(units).normal(size=(4, 32)).astype("float32")
        # A binary layer without scale: whole numbers.
        np.testing.assert_array_equal(
            interpreter.predict(values), keras.ops.convert_to_numpy(model(values))
        )
        assert converters.verify(model, conversion.flatbuffer).passed
        assert started == [get_worker().process_id]


@pytest.mark.slow
def test_a_conversion_that_takes_too_long_can_be_replayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    quantized = QuantDense(4, input_quantizer="ste_sign", kernel_quantizer="ste_sign")
    model = keras.Sequential([keras.Input((32,)), quantized])
    with pytest.raises(WorkerTimeout, match='did not finish "convert"') as caught:
        converters.convert(model, timeout_seconds=0.001)
    folder = caught.value.reproducer
    assert folder is not None and len(list((folder / "files").iterdir())) == 1
    # Once more with the usual limit, in the process that the next request starts.
    assert isinstance(replay(folder, get_worker()), dict)


USE = """
import json, sys
import keras
import numpy as np
from bnnkeras import converters
from bnnkeras.converters.worker import get_worker, requirements
from bnnkeras.zoo import BiRealNet18

keras.utils.set_random_seed(0)
model = BiRealNet18(input_shape=(32, 32, 3), classes=10)
model.compile("adam", "sparse_categorical_crossentropy")
images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
model.fit(images, np.arange(8), batch_size=4, epochs=2, verbose=0)
conversion = converters.convert(model, sys.argv[1])
answers = converters.Interpreter(sys.argv[1]).predict(images)
environment, _ = get_worker().request("environment")
print(json.dumps({
    "difference": float(np.abs(answers - model.predict(images, verbose=0)).max()),
    "passed": conversion.verification.passed,
    "probe": conversion.verification.probe_max_difference,
    "binary_layers": conversion.verification.binary_layers_converted,
    "backend": keras.backend.backend(),
    "numpy": np.__version__,
    "python": sys.version_info[:2],
    "unfit": requirements.unfit_because(),
    "worker": environment,
}))
"""


@pytest.fixture(scope="module")
def cache() -> Iterator[None]:
    """Where environments stay between runs: gigabytes that need not be installed each time."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("BNNKERAS_TEST_CACHE"):
            patch.setenv("BNNKERAS_CACHE", os.environ["BNNKERAS_TEST_CACHE"])
        patch.delenv("BNNKERAS_DEPLOY_PYTHON", raising=False)
        yield


def _made(environment: PrivateEnvironment) -> Path:
    try:
        return environment.make()
    except PrivateEnvironmentError as error:
        if "none was found" in str(error):
            pytest.skip(str(error))
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        reached = subprocess.run([*pip, os.devnull, "namex==0.1.0"], capture_output=True, text=True)
        if "No matching distribution" in reached.stderr:
            pytest.skip(f"pip reaches no packages to make an environment with: {reached.stderr}")
        raise


@pytest.fixture(scope="module")
def deploy_python(cache: None) -> Path:
    return _made(DEPLOY)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bnnkeras as `pip install` of this repository puts it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "bnnkeras_command.py"):
        shutil.copy(ROOT / name, source)
    for name in ("bnnkeras", "zoo", "converters"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


def _use(python: Path, path: str, folder: Path) -> dict:
    removed = ("BNNKERAS_DEPLOY_PYTHON", "PYTHONHOME")
    variables = {name: value for name, value in os.environ.items() if name not in removed}
    variables.update(KERAS_BACKEND="jax", PYTHONPATH=path, TF_CPP_MIN_LOG_LEVEL="3")
    result = subprocess.run(
        [str(python), "-P", "-c", USE, str(folder / "model.tflite")],
        env=variables,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


def _judge(report: dict, deploy_python: Path) -> None:
    assert report["passed"] and report["probe"] == 0 and report["binary_layers"] == 16
    # A sign may flip where JAX and LCE round differently; these images show none.
    assert report["difference"] < 1e-4
    assert report["backend"] == "jax"
    assert report["worker"]["executable"] == str(deploy_python)
    assert report["worker"]["versions"]["numpy"] == "1.26.4"


def _imports_jax(python: Path) -> None:
    subprocess.run([str(python), "-c", "import jax"], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_numpy_2_and_todays_jax(deploy_python: Path, installed: Path, tmp_path: Path) -> None:
    environment = PrivateEnvironment("test-numpy2", LISTS / "numpy2.txt", _imports_jax)
    python = _made(environment)
    (site,) = deploy_python.parents[1].glob("lib/python*/site-packages")
    # After the environment's own packages, so that its NumPy 2 comes first.
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.path.append({str(site)!r})\n")
    report = _use(python, f"{installed}{os.pathsep}{tmp_path}", tmp_path)
    assert report["numpy"].startswith("2.")
    assert "fails under NumPy 2" in report["unfit"]
    _judge(report, deploy_python)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_python_313_without_tensorflow(
    deploy_python: Path, installed: Path, tmp_path: Path
) -> None:
    environment = PrivateEnvironment(
        "test-python313", LISTS / "python313.txt", _imports_jax, ((3, 13),)
    )
    report = _use(_made(environment), str(installed), tmp_path)
    assert report["python"] == [3, 13] and report["numpy"].startswith("2.")
    assert report["unfit"] == "tensorflow is not installed here"
    _judge(report, deploy_python)
