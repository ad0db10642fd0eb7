"""Pictures as inline SVG: no scripts, no network, sizes that follow the page."""

import dataclasses
import html
from collections.abc import Callable, Sequence

_SMALL_SHARE = 0.001


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar with parts of different colours.

    Attributes:
        label: What it stands for, in front of it.
        parts: Pairs of a CSS class and a value.
    """

    label: str
    parts: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        """The value of the whole bar."""
        return sum(value for _, value in self.parts)


def bars(entries: Sequence[Bar], show: Callable[[float], str]) -> str:
    """Horizontal bars, one below the other, with their values behind them.

    Args:
        entries: The bars. What is 0 is left out, and what is next to nothing becomes one bar.
        show: Writes a value.
    """
    whole = sum(entry.total for entry in entries)
    entries = _with_small_ones_joined([entry for entry in entries if entry.total > 0], whole)
    largest = max((entry.total for entry in entries), default=1)
    rows = []
    for entry in entries:
        start, pieces = 0.0, []
        for kind, value in entry.parts:
            length = 100 * value / largest
            pieces.append(
                f'<rect class="{kind}" x="{start:.3f}%" width="{length:.3f}%" height="100%"/>'
            )
            start += length
        label, shown = html.escape(entry.label), html.escape(show(entry.total))
        share = f"{entry.total / whole:.1%}"
        rows.append(
            f'<div class="bar" title="{label}: {shown}, {share}"><span class="label">{label}</span>'
            f'<svg aria-hidden="true">{"".join(pieces)}</svg>'
            f'<span class="value">{shown} <small>{share}</small></span></div>'
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def _with_small_ones_joined(entries: list[Bar], whole: float) -> list[Bar]:
    small = [entry for entry in entries if entry.total < _SMALL_SHARE * whole]
    if len(small) < 2:
        return entries
    parts: dict[str, float] = {}
    for entry in small:
        for kind, value in entry.parts:
            parts[kind] = parts.get(kind, 0) + value
    rest = Bar(f"{len(small)} more, each below {_SMALL_SHARE:.1%}", tuple(parts.items()))
    return [*(entry for entry in entries if entry.total >= _SMALL_SHARE * whole), rest]


def steps(values: Sequence[float], labels: Sequence[str], show: Callable[[float], str]) -> str:
    """Values in their order as columns without gaps, the largest marked.

    Args:
        values: The heights, at least one.
        labels: What each column stands for.
        show: Writes a value.
    """
    peak = max(values) or 1
    columns = []
    for number, (value, label) in enumerate(zip(values, labels, strict=True)):
        height = 100 * value / peak
        kind = "peak" if value == peak else "live"
        title = html.escape(f"{number}: {label}: {show(value)}")
        # Wider than its place by a trace: no light between neighbours.
        columns.append(
            f'<rect class="{kind}" x="{number}" y="{100 - height:.3f}" width="1.02" '
            f'height="{height:.3f}"><title>{title}</title></rect>'
        )
    where = labels[values.index(max(values))]
    return (
        '<figure class="steps">'
        f'<div class="scale"><span>{html.escape(show(peak))}</span><span>0</span></div>'
        f'<svg role="img" aria-label="{html.escape(f"Peak {show(peak)} at {where}")}" '
        f'viewBox="0 0 {len(values)} 100" preserveAspectRatio="none">{"".join(columns)}</svg>'
        f"<figcaption>operators in execution order; most at {html.escape(where)}</figcaption>"
        "</figure>"
    )
