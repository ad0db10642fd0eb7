"""Fixtures of the zoo's tests."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """reference.py: zoo models held against the official networks' numbers."""
    # By its path, as tests/conftest.py does: tests/ is not on sys.path.
    path = Path(__file__).with_name("reference.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
