"""The training benchmark from arguments to table and file."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bnnkeras.cli.benchmarks.contenders import larq_contender, peer_of, zoo_contenders
from bnnkeras.cli.benchmarks.peers import LARQ_ZOO
from bnnkeras.cli.benchmarks.report import training_report, training_table
from bnnkeras.cli.benchmarks.rounds import measure
from bnnkeras.files import replacing


def run_training(
    *,
    models: Sequence[str],
    backends: Sequence[str],
    dtypes: Sequence[str],
    peers: bool,
    output: Path | None,
    console: Console | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measures, prints the table, writes the report if asked to, and returns it.

    Args:
        models: Models of the zoo.
        backends: Keras backends.
        dtypes: Dtype policies.
        peers: Whether Larq Zoo's network takes part, as the first contender.
        output: The JSON file, or `None`.
        console: Where progress and the table go.
        **settings: `batch_size`, `input_shape`, `rounds` and `steps`, as in `measure`.

    Raises:
        ContenderError, PrivateEnvironmentError: If a process or the peer's environment fails.
        OSError, ValueError: If an argument is out of range.
    """
    console = console or Console()
    if output is not None and output.is_dir():
        raise IsADirectoryError(f"`output` must name a file. Received: {str(output)!r}")
    contenders = zoo_contenders(models, backends, dtypes)
    # Opened before the measurement: a folder that cannot be written must fail now.
    with replacing(output) if output else contextlib.nullcontext() as temporary:
        with console.status("") as status:

            def progress(message: str) -> None:
                status.update(Text(message, overflow="ellipsis", no_wrap=True))

            if peers:
                peer_name = peer_of(models)
                if LARQ_ZOO.python() is None:
                    console.print(
                        "Making the peer environment, once: it downloads TensorFlow and Larq "
                        f"(2.4 GB on disk) to {LARQ_ZOO.folder}",
                        soft_wrap=True,
                    )
                python = LARQ_ZOO.make(progress=progress)
                contenders.insert(0, larq_contender(peer_name, python))
            results = measure(contenders, progress=progress, **settings)
        report = training_report(contenders, results, settings)
        console.print(training_table(report))
        if temporary is not None:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    if output is not None:
        console.print(f"Report: {output}", soft_wrap=True)
    return report
