"""The packages that the deploy worker takes from its client: bnnkeras and Keras.

The worker's Python may be that of another environment, made by another version of this package, or
one whose Keras is older than the one that saved the model, which it would refuse. Both packages are
pure Python, so the worker imports the client's own, through a folder of links that comes before the
packages of its environment.
"""

import importlib.util
from pathlib import Path

import keras

import bnnkeras


def link(folder: Path) -> None:
    """Makes a folder that, on the path, offers the bnnkeras and the Keras of this process.

    Args:
        folder: Path. Made here.
    """
    package = folder / "bnnkeras"
    package.mkdir(parents=True)
    for entry in Path(bnnkeras.__file__).parent.iterdir():
        (package / entry.name).symlink_to(entry)
    # An editable install has these two beside the package, and its finder puts them inside.
    for name in ("converters", "zoo"):
        spec = importlib.util.find_spec(f"bnnkeras.{name}")
        if spec is not None and spec.origin is not None and not (package / name).exists():
            (package / name).symlink_to(Path(spec.origin).parent)
    (folder / "keras").symlink_to(Path(keras.__file__).parent)
    # `importlib.metadata` finds the versions by these.
    for name, version in versions().items():
        information = folder / f"{name}-{version}.dist-info"
        information.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (information / "METADATA").write_text(text)


def versions() -> dict[str, str]:
    """The versions of the packages that client and worker share."""
    return {"bnnkeras": bnnkeras.__version__, "keras": keras.__version__}
