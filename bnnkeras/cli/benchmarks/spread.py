"""Median and quartiles."""

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of some values and the quartiles around it."""

    median: float
    lower_quartile: float
    upper_quartile: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated between the values.

    Raises:
        ValueError: If there are no values.

    Example:
        >>> from bnnkeras.cli.benchmarks.spread import spread
        >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
        Spread(median=3.0, lower_quartile=2.0, upper_quartile=4.0)
    """
    if not values:
        raise ValueError(f"`values` must hold at least one number. Received: {values!r}")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)


def ratio_spread(values: Sequence[float], reference: Sequence[float]) -> Spread:
    """The spread of value / reference, taken round by round."""
    return spread([value / other for value, other in zip(values, reference, strict=True)])
