"""The examples in the docstrings, run on the modules as they are imported.

`pytest --doctest-modules zoo` would import zoo/ a second time under another name, and its classes
would be registered with Keras twice.
"""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("bnnkeras", "bnnkeras.zoo", "bnnkeras.converters")
# What is above or beside the library may need TensorFlow; the rest runs on every backend.
NEEDS_TENSORFLOW = ("bnnkeras.cli", "bnnkeras.converters")


def _raise(name: str) -> None:
    # walk_packages would swallow the ImportError of a package and skip what is inside.
    raise


def _module_names() -> list[str]:
    names = set(PACKAGES)
    for name in PACKAGES:
        package = importlib.import_module(name)
        names |= {m.name for m in pkgutil.walk_packages(package.__path__, f"{name}.", _raise)}
    return sorted(name for name in names if not name.endswith("__main__"))


def _parameter(name: str):
    neutral = not name.startswith(NEEDS_TENSORFLOW)
    return pytest.param(name, marks=[pytest.mark.any_backend] if neutral else [])


@pytest.mark.parametrize("name", [_parameter(name) for name in _module_names()])
def test_docstring_examples(name):
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, optionflags=flags)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples (output above)"
