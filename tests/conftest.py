"""Fixtures and markers for all tests. One run is one Keras backend: KERAS_BACKEND chooses it."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent


def _import_backend_quietly() -> None:
    """Import Keras with file descriptor 2 closed off: TensorFlow 2.21 writes its absl lines there
    before any setting could silence it."""
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    _import_backend_quietly()

import keras  # noqa: E402
from keras.src.backend.common import dtypes  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The library's tests run on every backend; of the zoo's the files that say so."""
    for item in items:
        if item.path.is_relative_to(TESTS / "bnnkeras"):
            item.add_marker("any_backend")


@pytest.fixture(autouse=True)
def _seed() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture
def backend() -> str:
    """The Keras backend of this run: "tensorflow", "jax" or "torch"."""
    return keras.backend.backend()


@pytest.fixture
def float64(monkeypatch) -> Iterator[None]:
    """Layers built in the test compute in float64, as the golden vectors were made."""
    # Outside TensorFlow, Keras demotes float64 to float32 in BatchNormalization, in `mean` (global
    # pooling) and, on PyTorch, in `matmul`, even if floatx is float64: 1e-7 of the output per block
    # of Bi-Real Net. Tests under this fixture show that the package is exact where Keras is.
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    if keras.backend.backend() == "jax":
        import jax

        # Without it JAX would give float32 silently, and the goldens would fail by 1e-7.
        if not jax.config.jax_enable_x64:
            pytest.fail("float64 tests on JAX need the environment variable JAX_ENABLE_X64=1")
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


class Goldens:
    """Outputs of the reference networks under tests/goldens/, read when asked for.

    `goldens("birealnet", "layers")` is birealnet/layers.npz, its arrays read one by one;
    `goldens.names("birealnet", "birealnet18")` is the official state dict's names and shapes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._open: dict[Path, np.lib.npyio.NpzFile] = {}

    def __call__(self, family: str, file: str) -> np.lib.npyio.NpzFile:
        path = self.folder / family / f"{file}.npz"
        if path not in self._open:
            self._open[path] = np.load(path)
        return self._open[path]

    def names(self, family: str, variant: str):
        path = self.folder / family / "names" / f"names_{variant}.json"
        return json.loads(path.read_text())

    def close(self) -> None:
        for file in self._open.values():
            file.close()


@pytest.fixture(scope="session")
def goldens() -> Iterator[Goldens]:
    loader = Goldens(TESTS / "goldens")
    yield loader
    loader.close()


def _module(path: Path) -> ModuleType:
    # By its path: tests/ is not on sys.path, where tests/bnnkeras/ would hide the package.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fill() -> ModuleType:
    """goldens/fill.py: the parameters and inputs that the golden vectors were made with."""
    return _module(TESTS / "goldens" / "fill.py")


@pytest.fixture(scope="session")
def numerics() -> ModuleType:
    """numerics.py: gradients on any backend, and the comparison with golden arrays."""
    return _module(TESTS / "numerics.py")


@pytest.fixture(scope="session")
def generated_tfds() -> ModuleType:
    """generated_tfds.py: images in the layout of TensorFlow Datasets."""
    return _module(TESTS / "generated_tfds.py")
