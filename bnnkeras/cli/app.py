"""The commands, their options, and errors as one line."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bnnkeras.cli import benchmark, models, train
from bnnkeras.cli.errors import errors_as_one_line

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Binary neural networks: train with Keras, ship verified .tflite files.",
)
app.add_typer(benchmark.app, name="benchmark")
models.add_to(app)
train.add_to(app)


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
    with errors_as_one_line("Interrupted. The same command goes on from here."):
        from bnnkeras.cli.demo import run

        if not run(epochs=epochs, seed=seed, output=output, console=Console()):
            raise typer.Exit(1)


@app.command()
def deploy_env(
    python: Annotated[
        Path | None, typer.Option(help="The CPython 3.11 or 3.12 to make it with.")
    ] = None,
    recreate: Annotated[bool, typer.Option("--recreate", help="Make it anew.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is there and whether it works.")
    ] = False,
) -> None:
    """Make the private environment that converts and runs .tflite files, once.

    Needed where this Python cannot: LCE needs CPython 3.10 to 3.12 and NumPy 1. It is kept under
    BNNKERAS_CACHE or ~/.cache/bnnkeras.
    """
    with errors_as_one_line():
        from bnnkeras.cli import deploy_env as environment

        if check:
            environment.check(Console())
        else:
            environment.make(python, recreate, Console())
