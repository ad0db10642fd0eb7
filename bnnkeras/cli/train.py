"""`bnnkeras train RECIPE`: a network of the zoo by its published recipe."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.pretty import Pretty

from bnnkeras.cli.errors import errors_as_one_line


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; --list shows them.")] = "",
    data: Annotated[
        str | None,
        typer.Option(
            help="A name of TensorFlow Datasets, `digits` (embedded), or an .npz file with "
            "x_train, y_train, x_test, y_test. The recipe's own data set by default."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every stage.", min=1)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step; rates are scaled with it.", min=1)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The first rate of every stage.")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Weights of the teacher, for recipes that compare with one."),
    ] = None,
    no_retention: Annotated[
        bool, typer.Option("--no-retention", help="Train without that comparison.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets by name lie.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Allow the data set to be downloaded.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results; build/train/RECIPE by default.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe, train nothing.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="Print the names of recipes.")] = False,
) -> None:
    """Train a network of the zoo by its published recipe, and keep the model.

    Interrupt it at any time: the same command goes on from the last whole epoch. The results are
    model.keras (which returns logits) and history.json.
    """
    with errors_as_one_line("Interrupted. The same command goes on from here."):
        import dataclasses

        from bnnkeras import zoo
        from bnnkeras.files import check_writable, replacing

        console = Console()
        if list_all or not recipe:
            for name in zoo.list_recipes():
                console.print(name)
            return
        chosen = dataclasses.replace(zoo.recipe(recipe), seed=seed)
        chosen = chosen.scaled(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
        if no_retention:
            chosen = dataclasses.replace(chosen, retention=None)
        if show:
            console.print(Pretty(chosen))
            return
        folder = Path("build/train") / chosen.name if output is None else output
        check_writable(folder)
        chosen, training, validation = _data(data or chosen.dataset, chosen)
        result = chosen.fit(
            training,
            validation,
            teacher=teacher,
            folder=folder / "state",
            data_dir=data_dir,
            download=download,
        )
        with replacing(folder / "model.keras") as temporary:
            result.model.save(temporary)
        with replacing(folder / "history.json") as temporary:
            temporary.write_text(json.dumps(result.history, indent=2) + "\n")
        last = {name: values[-1] for name, values in result.history[chosen.stages[-1].name].items()}
        found = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
        console.print(f"{folder / 'model.keras'}: {found}")


def _data(name: str, recipe):
    """The recipe with the classes of the data, and what its `fit` takes."""
    import numpy as np

    from bnnkeras import datasets

    if name == "digits":
        (x, y), validation = datasets.digits()
        augment = datasets.random_shift(2)
        batches = datasets.Batches(x, y, recipe.batch_size, augment, recipe.seed)
        return recipe.scaled(classes=10), batches, validation
    if not name.endswith(".npz"):
        return recipe, name, None
    with np.load(name) as file:
        missing = [key for key in ("x_train", "y_train", "x_test", "y_test") if key not in file]
        if missing:
            raise ValueError(
                "The file must hold x_train, y_train, x_test and y_test. "
                f"Received: {name!r} without {missing}"
            )
        training, validation = (
            (file["x_train"], file["y_train"]),
            (file["x_test"], file["y_test"]),
        )
    return recipe.scaled(classes=int(training[1].max()) + 1), training, validation
