"""The commands that take models and files: `convert`, `verify`, `inspect`, `summary`, `import`."""

import enum
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from bnnkeras.cli.errors import errors_as_one_line
from bnnkeras.cli.reports import ReportOption, check_report_name


class Quantize(enum.StrEnum):
    """Smaller float parts."""

    float16 = "float16"
    int8_weights = "int8-weights"
    int8 = "int8"


ModelArgument = Annotated[Path, typer.Argument(help="A .keras file.", metavar="MODEL.keras")]
FileArgument = Annotated[Path, typer.Argument(help="A .tflite file.", metavar="FILE.tflite")]
InputsOption = Annotated[
    Path | None,
    typer.Option(
        help="Real inputs to verify with, samples first: an .npy file, or an .npz file with an "
        "array for each input. Noise is taken without it.",
        metavar="FILE",
    ),
]
InputSizeOption = Annotated[
    str | None,
    typer.Option(help="Size of the input, such as 224x224 or 224x224x3.", metavar="HxW[xC]"),
]
ExactZerosOption = Annotated[
    bool,
    typer.Option(
        "--exact-zeros",
        help="Two binary convolutions for layers built with sign_of_zero=0, so that 0 counts as 0.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(convert)
    app.command()(verify)
    app.command()(inspect)
    app.command()(summary)
    app.command("import")(import_checkpoint)


def convert(
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file to write; MODEL.tflite by default."),
    ] = None,
    quantize: Annotated[Quantize | None, typer.Option(help="Make the float parts smaller.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Representative inputs for --quantize, samples first: an .npy file, or an .npz "
            "file with an array for each input.",
            metavar="FILE",
        ),
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(help="A layer that --quantize leaves in float32; repeat for several."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--no-strict",
            help="Whether a binary layer left in float, or a failed check, is an error.",
        ),
    ] = True,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Whether to run the file and compare.")
    ] = True,
    inputs: InputsOption = None,
    batch_size: Annotated[int, typer.Option(help="Batch size of the file.", min=1)] = 1,
    input_size: InputSizeOption = None,
    exact_zeros: ExactZerosOption = False,
    report: ReportOption = None,
) -> None:
    """Convert a model to a verified .tflite file for Larq Compute Engine."""
    with errors_as_one_line():
        from bnnkeras import converters, zoo  # noqa: F401  (the zoo registers its layers)

        check_report_name(report)
        conversion = converters.convert(
            model,
            output or model.with_suffix(".tflite"),
            quantize=None if quantize is None else quantize.value,
            representative_data=None if data is None else _arrays(data, "data"),
            keep_float=keep_float or (),
            strict=strict,
            verify=verify,
            inputs=None if inputs is None else _arrays(inputs, "inputs"),
            batch_size=batch_size,
            input_size=None if input_size is None else _size(input_size),
            exact_zeros=exact_zeros,
        )
        _show(conversion.report, report)
        typer.echo(f"Written: {conversion.path}, {conversion.file_bytes:,} bytes")


def verify(
    model: ModelArgument,
    file: FileArgument,
    inputs: InputsOption = None,
    input_size: InputSizeOption = None,
    exact_zeros: ExactZerosOption = False,
    report: ReportOption = None,
) -> None:
    """Check that a .tflite file computes what a model computes; status 1 if it does not."""
    with errors_as_one_line():
        from bnnkeras import converters, zoo  # noqa: F401
        from bnnkeras.converters.models import load_model, with_input_size

        check_report_name(report)
        loaded = load_model(model)
        verification = converters.verify(
            with_input_size(loaded, None if input_size is None else _size(input_size)),
            file,
            None if inputs is None else _arrays(inputs, "inputs"),
            exact_zeros=exact_zeros,
        )
        if report is not None:
            converters.inspect(file, verification=verification).save(report)
        for kernel, result in verification.kernels.items():
            typer.echo(
                f"{kernel:10} binary error / bound {result.binary_error_over_bound:.3g}, "
                f"argmax agreement {result.argmax_agreement:.1%}, "
                f"probe difference {_or_dash(result.probe_difference)}"
            )
        count = f"{verification.binary_layers_converted} of {verification.binary_layers_total}"
        typer.echo(f"{count} binary layers in 1 bit")
        for problem in verification.problems:
            typer.secho(problem, fg="red", err=True)
        if not verification.passed:
            raise typer.Exit(1)
        typer.echo("Verified.")


def inspect(file: FileArgument, report: ReportOption = None) -> None:
    """Show what a .tflite file consists of: operators, bytes, work, binary or float and why."""
    with errors_as_one_line():
        from bnnkeras import converters

        check_report_name(report)
        _show(converters.inspect(file), report)


def summary(
    model: Annotated[str, typer.Argument(help="A .keras file, or the name of a model of the zoo.")],
    input_size: InputSizeOption = None,
) -> None:
    """Show what a model costs, layer by layer: bits, memory, multiply-accumulates."""
    with errors_as_one_line():
        from bnnkeras import models, zoo
        from bnnkeras.converters.models import load_model, with_input_size

        size = None if input_size is None else _size(input_size)
        if model.lower() in zoo.list_models():
            models.summary(_zoo_model(model, size))
        elif model.endswith(".keras"):
            models.summary(with_input_size(load_model(model), size))
        else:
            raise ValueError(
                f"`MODEL` must be a .keras file or one of {', '.join(zoo.list_models())}. "
                f"Received: {model!r}"
            )


def import_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Weights of the authors (.pth, .pt, .tar, .ckpt, .bin, .npz, .safetensors) or of "
            "Larq (.h5)."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="The model: a name of the zoo, or a .keras file to fill.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .keras file to write.")],
    input_size: InputSizeOption = None,
    classes: Annotated[
        int | None, typer.Option(help="Classes of a model of the zoo.", min=1)
    ] = None,
) -> None:
    """Load published weights into a model and save it. No code in the files is run."""
    with errors_as_one_line():
        from bnnkeras import converters, zoo  # noqa: F401
        from bnnkeras.converters.models import load_model, with_input_size
        from bnnkeras.files import replacing

        if output.suffix != ".keras":
            raise ValueError(f"`--output` must end in .keras. Received: {str(output)!r}")
        size = None if input_size is None else _size(input_size)
        if model.endswith(".keras"):
            if classes is not None:
                raise ValueError("`--classes` is for models of the zoo. Received: a .keras file")
            network = with_input_size(load_model(model), size)
        else:
            network = _zoo_model(model, size, classes)
        if checkpoint.suffix in (".h5", ".hdf5"):
            loaded = converters.load_larq(network, checkpoint)
        else:
            loaded = converters.load_official(network, checkpoint)
        with replacing(output) as temporary:
            network.save(temporary)
        typer.echo(f"Loaded {len(loaded.loaded)} arrays into {network.name}: {output}")
        for what, names in (("Not used", loaded.unused), ("Kept as built", loaded.kept)):
            if names:
                typer.echo(f"{what}: {', '.join(names)}")
        for note in loaded.notes:
            typer.echo(f"Note: {note}")


def _zoo_model(name: str, size: tuple[int, ...] | None, classes: int | None = None):
    from bnnkeras import zoo

    options: dict[str, Any] = {}
    if size is not None:
        options["input_shape"] = size if len(size) > 2 else (*size, 3)
    if classes is not None:
        options["classes"] = classes
    return zoo.get(name, **options)


def _show(report, path: Path | None) -> None:
    typer.echo(str(report))
    if path is not None:
        report.save(path)
        typer.echo(f"Report: {path}")


def _size(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})*", text):
        raise ValueError(
            f"`--input-size` must be positive integers such as 224x224. Received: {text!r}"
        )
    return tuple(map(int, text.split("x")))


def _arrays(path: Path, option: str):
    """What an .npy or .npz file holds; no pickles."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises many kinds for a damaged file.
        raise ValueError(
            f"`--{option}` must be an .npy or .npz file of numbers. Received: {str(path)!r} "
            f"({error})"
        ) from error
    return loaded


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
