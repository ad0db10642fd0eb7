"""The commands, their options, and errors as one line."""

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bnnkeras.cli import benchmark

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Binary neural networks: train with Keras, ship verified .tflite files.",
)
app.add_typer(benchmark.app, name="benchmark")


@app.callback()
def _start() -> None:
    """Binary neural networks: train with Keras, ship verified .tflite files."""


@app.command()
def demo(
    epochs: Annotated[int, typer.Option(help="Epochs of training.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("build/demo"),
) -> None:
    """Train Bi-Real Net 18 on scanned digits, convert, verify and run it, and say how it went.

    Interrupt it at any time: the same command goes on from the last whole epoch.
    """
    with _errors_as_one_line():
        from bnnkeras.cli.demo import run

        if not run(epochs=epochs, seed=seed, output=output, console=Console()):
            raise typer.Exit(1)


@contextlib.contextmanager
def _errors_as_one_line():
    """Bad input and missing packages are no reason for a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.secho("\nInterrupted. The same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if os.environ.get("BNNKERAS_TRACEBACK"):
            raise
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
