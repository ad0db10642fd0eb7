"""What gets installed, what an import costs, and which way the imports point."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folder in the repository -> package as installed (setup.cfg, package_dir).
FOLDERS = {"bnnkeras": "bnnkeras", "zoo": "bnnkeras.zoo", "converters": "bnnkeras.converters"}
# Loaded only inside the functions that need them.
HEAVY = {
    "jax",
    "larq_compute_engine",
    "tensorflow",
    "tensorflow_datasets",
    "tf_keras",
    "torch",
}


def _light_backend() -> str:
    """A Keras backend other than TensorFlow."""
    for name in ("jax", "torch"):
        if importlib.util.find_spec(name) is not None:
            return name
    return "numpy"


def _modules_loaded_by(statement: str, folder: Path) -> set[str]:
    """Names in sys.modules after `statement`, run in a new process outside the repository."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": _light_backend()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_loads_only_the_library(tmp_path):
    loaded = _modules_loaded_by("import bnnkeras", tmp_path)
    assert "bnnkeras" in loaded
    assert not loaded & {"tensorflow", "bnnkeras.zoo", "bnnkeras.converters", "bnnkeras.cli"}


def test_zoo_and_converters_load_without_tensorflow(tmp_path):
    loaded = _modules_loaded_by("import bnnkeras.zoo, bnnkeras.converters", tmp_path)
    assert not loaded & {"tensorflow", "larq_compute_engine", "tensorflow_datasets"}


def _files(folder: str) -> Iterator[Path]:
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def test_wheel_holds_every_file(tmp_path):
    # Built from a copy: setuptools keeps a build/lib with files that were deleted since.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    result = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        info = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    expected = {
        (Path(package.replace(".", "/")) / path.relative_to(ROOT / folder)).as_posix()
        for folder, package in FOLDERS.items()
        for path in _files(folder)
    }
    assert expected - packed == set(), "missing in setup.cfg (packages or package_data)"
    assert packed - expected == set()
    assert info


def _imports(path: Path, package: str, everywhere: bool) -> Iterator[str]:
    """Absolute names that a file imports: at module level, or `everywhere` (in functions too).

    `from a import b` counts as `a` and `a.b`, since b may be a module. Imports under
    `if TYPE_CHECKING` are never run and do not count.
    """
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    pending: list[ast.AST] = [ast.parse(path.read_text(), filename=str(path))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parents = parts[: len(parts) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif everywhere or not isinstance(node, functions):
            pending += ast.iter_child_nodes(node)


def _sources(folder: str) -> list[tuple[Path, str]]:
    """The Python files of a folder, each with the package that its relative imports start from."""
    return [
        (path, ".".join([FOLDERS[folder], *path.relative_to(ROOT / folder).parts[:-1]]))
        for path in _files(folder)
        if path.suffix == ".py"
    ]


def _within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _offences(folder: str, forbidden: set[str], *, everywhere: bool, but: tuple = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, package in _sources(folder)
        if not _within(package, set(but))
        for name in _imports(path, package, everywhere)
        if _within(name, forbidden)
    ]


def test_library_does_not_import_zoo_or_converters():
    above = {"bnnkeras.zoo", "bnnkeras.converters", "bnnkeras.cli"}
    assert _offences("bnnkeras", above, everywhere=True, but=("bnnkeras.cli",)) == []


def test_converters_do_not_import_zoo():
    assert _offences("converters", {"bnnkeras.zoo", "bnnkeras.cli"}, everywhere=True) == []


def test_zoo_does_not_import_the_command():
    assert _offences("zoo", {"bnnkeras.cli"}, everywhere=True) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_heavy_imports_are_inside_functions(folder):
    # The deploy worker is a program of its own, started only in an environment that has them.
    but = ("bnnkeras.cli", "bnnkeras.converters.worker")
    assert _offences(folder, HEAVY, everywhere=False, but=but) == []


def test_library_needs_only_keras_and_numpy():
    allowed = sys.stdlib_module_names | {"bnnkeras", "keras", "numpy"}
    others = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path, package in _sources("bnnkeras")
        if not _within(package, {"bnnkeras.cli"})
        for name in _imports(path, package, everywhere=False)
        if name.split(".")[0] not in allowed
    }
    assert others == set()


def test_direction_checks_see_every_kind_of_import(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import torch.nn as nn\n"
        "from . import zoo\n"
        "from ..converters import report\n"
        "try:\n    import jax\nexcept ImportError:\n    jax = None\n"
        "if TYPE_CHECKING:\n    import tensorflow\n"
        "def function():\n    import larq_compute_engine\n"
    )
    top = set(_imports(file, "bnnkeras.layers", everywhere=False))
    assert top == {
        "torch.nn",
        "bnnkeras.layers",
        "bnnkeras.layers.zoo",
        "bnnkeras.converters",
        "bnnkeras.converters.report",
        "jax",
    }
    assert set(_imports(file, "bnnkeras.layers", everywhere=True)) - top == {"larq_compute_engine"}
