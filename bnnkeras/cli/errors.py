"""Errors of commands as one line."""

import contextlib
import os
from collections.abc import Iterator

import typer


@contextlib.contextmanager
def errors_as_one_line(interrupted: str = "Interrupted.") -> Iterator[None]:
    """Bad input and missing packages are no reason for a traceback; status 1.

    With `BNNKERAS_TRACEBACK` set there is one.

    Args:
        interrupted: What to say after an interrupt (status 130).
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.secho(f"\n{interrupted}", err=True)
        raise typer.Exit(130) from None
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        # Exit and Abort of click are RuntimeErrors.
        if os.environ.get("BNNKERAS_TRACEBACK") or isinstance(error, (typer.Exit, typer.Abort)):
            raise
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
