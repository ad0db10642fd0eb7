"""The `bnnkeras` command: the one part of the package that stands above all others."""

import sys


def main() -> None:
    """Runs the command line."""
    try:
        from bnnkeras.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "matplotlib"):
            raise
        sys.exit(f'The command line needs {error.name}: pip install "bnnkeras[cli]"')
    app()
