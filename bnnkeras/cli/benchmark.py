"""`bnnkeras benchmark`: how fast models train, measured against others in the same run."""

import enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Measure speed against peers, in one run.")


class Backend(enum.StrEnum):
    """Keras's backends."""

    tensorflow = "tensorflow"
    jax = "jax"
    torch = "torch"


class Dtype(enum.StrEnum):
    """Dtype policies."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"


@app.callback()
def _group() -> None:
    """Measure speed against peers, in one run."""


@app.command()
def training(
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Add Larq Zoo's network on legacy tf-keras as the reference, in an environment "
            "of its own (made once: 2.4 GB under BNNKERAS_CACHE or ~/.cache/bnnkeras).",
        ),
    ] = False,
    model: Annotated[str, typer.Option(help="A model of the zoo.")] = "birealnet18",
    batch_size: Annotated[int, typer.Option(help="Images per step.", min=1)] = 16,
    size: Annotated[int, typer.Option(help="Height and width in pixels.", min=1)] = 224,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.", min=1)] = 15,
    steps: Annotated[int, typer.Option(help="Steps per contender and round.", min=1)] = 3,
    backend: Annotated[
        list[Backend] | None, typer.Option(help="Keras backend; repeat for several.")
    ] = None,
    dtype: Annotated[
        list[Dtype] | None, typer.Option(help="Dtype policy; repeat for several.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the report.")] = None,
) -> None:
    """Measure training steps: forward, backward and Adam, on synthetic images in memory.

    A step is `model.train_on_batch` with label-smoothed cross-entropy: what `model.fit` runs for a
    batch, without the input pipeline, compiled with Keras's defaults. Each contender lives in a
    process of its own; they take turns, and compilation and warm-up do not count. Ratios are taken
    round by round against the first contender, the peer if there is one. "Processor s/step" is the
    time that all cores together spent: it shows a difference even where other work disturbs the
    clock.
    """
    from bnnkeras.cli.benchmarks.contenders import ContenderError
    from bnnkeras.cli.benchmarks.run import run_training
    from bnnkeras.environments import PrivateEnvironmentError

    try:
        run_training(
            model=model,
            backends=backend or ["tensorflow"],
            dtypes=dtype or ["float32"],
            peers=peers,
            batch_size=batch_size,
            size=size,
            rounds=rounds,
            steps=steps,
            output=output,
        )
    except (ContenderError, PrivateEnvironmentError, OSError, ValueError) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None
