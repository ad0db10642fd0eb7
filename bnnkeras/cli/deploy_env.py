"""`bnnkeras deploy-env`: the private environment in which `.tflite` files are made and run."""

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

from bnnkeras.converters.worker import requirements
from bnnkeras.converters.worker.environment import DEPLOY, choose_python, try_out
from bnnkeras.environments import PrivateEnvironmentError


def make(python: Path | None, recreate: bool, console: Console) -> None:
    """Makes the environment if there is none, tries it, and says what the worker will use.

    Args:
        python: The CPython 3.11 or 3.12 to make it with; `None` searches.
        recreate: Whether to make it anew where there is one.
        console: Where progress and the outcome go.

    Raises:
        PrivateEnvironmentError: If it cannot be made or does not work.
    """
    if not requirements.machine_has_wheels():
        raise PrivateEnvironmentError(
            "Larq Compute Engine has wheels for x86-64 Linux and arm64 macOS only. "
            f"Received: {sys.platform} {platform.machine()}"
        )
    existing = DEPLOY.python()
    if existing is not None and not recreate:
        console.print(f"The environment is there: {DEPLOY.folder}", soft_wrap=True)
        _try(existing, console)
    else:
        console.print(
            "Making the environment, once: it downloads TensorFlow and Larq Compute Engine "
            f"(2.3 GB on disk) to {DEPLOY.folder}",
            soft_wrap=True,
        )
        with console.status("") as status:
            DEPLOY.make(python=python, recreate=recreate, progress=_shown_in(status))
        console.print("Made, and tried: a small network was converted, verified and run.")
    for folder in DEPLOY.outdated():
        console.print(f"Of another version of bnnkeras, and not needed by this one: {folder}")
    _say_what_is_used(console)


def check(console: Console) -> None:
    """Says what is there, what the worker will use, and whether that works.

    Raises:
        ImportError: If there is no Python for the worker.
        PrivateEnvironmentError: If the one there is does not work.
    """
    python = DEPLOY.python()
    if python is None:
        console.print(f"There is no environment {DEPLOY.folder}", soft_wrap=True)
    else:
        made_with = json.loads((DEPLOY.folder / "current.json").read_text())["made_with"]
        size = _bytes(python.parents[1]) / 1e9
        console.print(f"Environment: {python.parents[1]}", soft_wrap=True)
        console.print(f"made with {made_with}, {size:.1f} GB", soft_wrap=True)
    _say_what_is_used(console)
    _try(Path(choose_python()), console)


def _try(python: Path, console: Console) -> None:
    with console.status("Trying it"):
        try:
            versions = try_out(python)
        except PrivateEnvironmentError as error:
            raise PrivateEnvironmentError(
                f"{error}\n`{requirements.COMMAND} --recreate` makes the environment anew."
            ) from error
    console.print(f"It works: {versions}", soft_wrap=True)


def _say_what_is_used(console: Console) -> None:
    python = choose_python()
    reason = f"this Python does not fit: {requirements.unfit_because()}"
    if os.environ.get(requirements.VARIABLE):
        reason = f"{requirements.VARIABLE} names it"
    elif python == sys.executable:
        reason = "this Python, which has all that is needed"
    console.print(f"Models are converted with {python} ({reason})", soft_wrap=True)


def _shown_in(status: Status) -> Callable[[str], None]:
    """A function that shows the lines it is called with one after the other, in one place."""

    def show(line: str) -> None:
        status.update(Text(line, overflow="ellipsis", no_wrap=True))

    return show


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))
