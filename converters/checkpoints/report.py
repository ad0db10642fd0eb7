"""What loading did, or why it did nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

_SHOWN = 12


@dataclass(frozen=True)
class LoadReport:
    """What was loaded from a checkpoint.

    Args:
        source: The path, or the type of the mapping.
        loaded: Names in the checkpoint that filled variables.
        unused: Names in the checkpoint that this model has no use for.
        kept: Optional names that the checkpoint lacks; their variables kept their values.
        notes: What the user should know, one sentence each.
        name_map: Name of the map of official names; `None` for a Larq file, which goes by order.
    """

    source: str
    loaded: tuple[str, ...]
    unused: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    name_map: str | None = None


def enumerate_briefly(items: Iterable[str]) -> str:
    """The first dozen, and how many more."""
    items = list(items)
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
