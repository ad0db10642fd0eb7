"""Tables of text."""

from collections.abc import Sequence

Row = Sequence[str | int | float]


def draw_table(rows: Sequence[Row], title: str, has_header: bool) -> str:
    """A table with a frame of ASCII characters; its first column is flush left, the rest right.

    Args:
        rows: The entries. Floats get two decimals; a line break makes a second line.
        title: Stands in the upper edge.
        has_header: Whether to set the first and the last row off with a rule.

    Example:
        >>> print(draw_table([["Layer", "MACs"], ["conv", 12], ["Total", 12]], "m", True))
        +m------------+
        | Layer  MACs |
        +-------------+
        | conv     12 |
        +-------------+
        | Total    12 |
        +-------------+
    """
    cells = [[_text(value).split("\n") for value in row] for row in rows]
    widths = [
        max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)
    ]
    inner = max(sum(widths) + 2 * len(widths), len(title))
    widths[-1] += inner - sum(widths) - 2 * len(widths)
    rule = f"+{'-' * inner}+"
    lines = [f"+{title.ljust(inner, '-')}+"]
    for number, row in enumerate(cells):
        if has_header and number in (1, len(cells) - 1):
            lines.append(rule)
        for height in range(max(map(len, row))):
            parts = [cell[height] if height < len(cell) else "" for cell in row]
            first, *others = zip(parts, widths, strict=True)
            aligned = [first[0].ljust(first[1]), *(part.rjust(width) for part, width in others)]
            lines.append(f"| {'  '.join(aligned)} |")
    return "\n".join([*lines, rule])


def readable_count(number: float) -> str:
    """A count with three digits and k, M, B or T for powers of 1000.

    Example:
        >>> [readable_count(number) for number in (0, 12, 9600, 999_960, 11_689_512)]
        ['0', '12', '9.6 k', '1 M', '11.7 M']
    """
    rounded = float(f"{number:.3g}")
    if rounded >= 1e15:
        return f"{rounded:.2E}"
    for power, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= power:
            return f"{rounded / power:.3g} {unit}"
    return f"{rounded:.3g}"


def _text(value) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
