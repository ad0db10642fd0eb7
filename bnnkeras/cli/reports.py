"""Where commands write their reports."""

from pathlib import Path
from typing import Annotated

import typer

ReportOption = Annotated[
    Path | None,
    typer.Option(help="Where to write the report: .html (a page with pictures) or .json."),
]


def check_report_name(path: Path | None) -> None:
    """Refuses a report that could not be written, before the work and not after it.

    Raises:
        ValueError: If the name ends in something else than .html and .json.
    """
    if path is not None and path.suffix.lower() not in (".html", ".json"):
        raise ValueError(f"`--report` must end in .html or .json. Received: {str(path)!r}")
