"""What a training benchmark says: a table and a JSON file."""

import dataclasses
import os
import platform
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from bnnkeras.cli.benchmarks.contenders import Contender
from bnnkeras.cli.benchmarks.spread import ratio_spread, spread


def training_report(
    contenders: Sequence[Contender], results: Sequence[dict[str, Any]], settings: dict[str, Any]
) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        contenders: Who took part. The first is the reference of the ratios, if there are several.
        results: What `measure` returned for them.
        settings: The benchmark's own arguments, kept as they are.
    """
    reference = results[0]["samples_per_second"] if len(results) > 1 else None
    entries = []
    for contender, result in zip(contenders, results, strict=True):
        speeds = result["samples_per_second"]
        entry = {
            "name": contender.name,
            "model": contender.model,
            "backend": contender.backend,
            "dtype": contender.dtype,
            **result["facts"],
            "samples_per_second": dataclasses.asdict(spread(speeds)),
            "processor_seconds_per_step": dataclasses.asdict(
                spread(result["processor_seconds_per_step"])
            ),
            "samples_per_second_by_round": speeds,
        }
        if reference is not None:
            entry["ratio"] = dataclasses.asdict(ratio_spread(speeds, reference))
        entries.append(entry)
    return {
        **settings,
        "machine": {
            "processors": os.cpu_count(),
            "architecture": platform.machine(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "reference": contenders[0].name if reference is not None else None,
        "contenders": entries,
    }


def training_table(report: dict[str, Any]) -> Table:
    """The report as a table: median and quartiles."""
    title = (
        f"Training steps: batch {report['batch_size']} of "
        f"{' x '.join(map(str, report['input_shape']))}, {report['rounds']} rounds of "
        f"{report['steps']} steps"
    )
    table = Table(title=title, caption="Median (quartiles) over the rounds.")
    table.add_column("contender")
    table.add_column("samples/s", justify="right")
    table.add_column("processor s/step", justify="right")
    if report["reference"] is not None:
        table.add_column(f"speed / {report['reference']}", justify="right")
    for entry in report["contenders"]:
        columns = ("samples_per_second", "processor_seconds_per_step", "ratio")
        cells = [_cell(entry[column]) for column in columns if column in entry]
        table.add_row(entry["name"], *cells)
    return table


def _cell(values: dict[str, float]) -> str:
    lower, upper = values["lower_quartile"], values["upper_quartile"]
    return f"{values['median']:.3g} ({lower:.3g} to {upper:.3g})"
