"""`bnnkeras benchmark`: how fast files run and models train, against others in the same run."""

import enum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from bnnkeras.cli.errors import errors_as_one_line
from bnnkeras.cli.reports import ReportOption


class _FilesByDefault(TyperGroup):
    """`benchmark model.tflite` is `benchmark files model.tflite`."""

    def parse_args(self, ctx, args):
        """Puts the command in front of what does not name one."""
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = ["files", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_FilesByDefault,
    no_args_is_help=True,
    help="Measure speed against peers, in one run: of .tflite files, or of training.",
)


class Backend(enum.StrEnum):
    """Keras's backends."""

    tensorflow = "tensorflow"
    jax = "jax"
    torch = "torch"


class Dtype(enum.StrEnum):
    """Dtype policies."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"


class Kernel(enum.StrEnum):
    """LCE's kernels."""

    default = "default"
    reference = "reference"
    indirect = "indirect"
    all = "all"


@app.callback()
def _group() -> None:
    """Measure speed against peers, in one run: of .tflite files, or of training."""


@app.command()
def files(
    file: Annotated[list[Path], typer.Argument(help=".tflite files.", metavar="FILE...")],
    threads: Annotated[int, typer.Option(help="Threads of the interpreter.", min=1)] = 1,
    kernel: Annotated[
        Kernel | None,
        typer.Option(
            help="LCE's kernel; the fastest one here by default. With --adb: the device's."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.", min=1)] = 10,
    runs: Annotated[int, typer.Option(help="Runs of a file in a round.", min=1)] = 10,
    layers: Annotated[
        bool, typer.Option("--layers/--no-layers", help="Whether to time every operator too.")
    ] = True,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Add Larq Zoo's network, converted by LCE itself, as the reference; it is built "
            "in an environment of its own (made once: 2.4 GB under BNNKERAS_CACHE or "
            "~/.cache/bnnkeras).",
        ),
    ] = False,
    adb: Annotated[
        bool, typer.Option("--adb", help="Run on a phone, with --lce-benchmark, and not here.")
    ] = False,
    serial: Annotated[
        str | None, typer.Option(help="Serial number of the phone, where there are several.")
    ] = None,
    lce_benchmark: Annotated[
        Path | None,
        typer.Option(help="LCE's benchmark program for the phone (lce_benchmark_model)."),
    ] = None,
    report: ReportOption = None,
) -> None:
    """Measure how long .tflite files take: percentiles, memory, and the share of every layer.

    `bnnkeras benchmark model.tflite` means this command. Files and kernels take turns, and ratios
    are taken round by round against the first one (the peer, if there is one). Every operator is
    also timed by itself, in a file that holds nothing else. x86 says nothing about ARM: use --adb.
    """
    with errors_as_one_line():
        from bnnkeras.cli.benchmarks.files import run_files, run_on_device

        if adb:
            if peers or kernel is Kernel.all:
                raise ValueError("`--adb` runs one kernel and no peers. Received: more")
            run_on_device(
                file,
                program=lce_benchmark,
                serial=serial,
                threads=threads,
                kernel=None if kernel is None else kernel.value,
                runs=rounds * runs,
                layers=layers,
                report=report,
            )
            return
        if serial is not None or lce_benchmark is not None:
            raise ValueError("`--serial` and `--lce-benchmark` need `--adb`. Received: none")
        run_files(
            file,
            threads=threads,
            kernel=None if kernel is None else kernel.value,
            rounds=rounds,
            runs=runs,
            layers=layers,
            peers=peers,
            report=report,
        )


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
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model of the zoo; repeat for several.",
            show_default="birealnet18",
            metavar="NAME",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per step.", min=1)] = 16,
    size: Annotated[int, typer.Option(help="Height and width of images, in pixels.", min=1)] = 224,
    points: Annotated[
        int | None,
        typer.Option(help="Points of a cloud, for models that take x, y and z.", min=1),
    ] = None,
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
    """Measure training steps: forward, backward and Adam, on synthetic images or clouds in
    memory.

    A step is `model.train_on_batch` with label-smoothed cross-entropy: what `model.fit` runs for a
    batch, without the input pipeline, compiled with Keras's defaults. Each contender lives in a
    process of its own; they take turns, and compilation and warm-up do not count. Ratios are taken
    round by round against the first contender, the peer if there is one. "Processor s/step" is the
    time that all cores together spent: it shows a difference even where other work disturbs the
    clock.
    """
    with errors_as_one_line():
        from bnnkeras.cli.benchmarks.run import run_training

        run_training(
            models=model or ["birealnet18"],
            backends=backend or ["tensorflow"],
            dtypes=dtype or ["float32"],
            peers=peers,
            batch_size=batch_size,
            input_shape=(size, size, 3) if points is None else (points, 3),
            rounds=rounds,
            steps=steps,
            output=output,
        )
