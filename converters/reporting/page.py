"""A report as one page with pictures: styles and SVG inside, no scripts, no network."""

import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bnnkeras.converters.reporting import text
from bnnkeras.converters.reporting.charts import Bar, bars, steps
from bnnkeras.converters.reporting.units import readable_bytes, readable_ms, readable_shape
from bnnkeras.models.tables import readable_count

if TYPE_CHECKING:
    from bnnkeras.converters.reporting.report import OperatorRow, Report

# Blue and orange of Okabe and Ito, which colour-blind readers tell apart as well, and green.
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5a6472; --paper: #fff; --card: #f4f6f8;
  --line: #d5dae0; --binary: #0072b2; --float: #d95f02; --int8: #00875f; --plain: #8a94a0;
  --bad: #b3261e; --good: #00693e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a2abb6; --paper: #14171a;
  --card: #1f2429; --line: #3a424b; --binary: #56b4e9; --float: #f0903f; --int8: #35c595;
  --plain: #7d8792; --bad: #ff8a80; --good: #6fd8a4; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .3rem; }
p { margin: .2rem 0 .8rem; color: var(--soft); max-width: 46rem; }
small { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.card { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.3rem; line-height: 1.25; font-weight: 600; }
.card span { color: var(--soft); font-size: .85rem; }
.good b { color: var(--good); } .bad b, li.bad { color: var(--bad); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem;
  color: var(--soft); margin-bottom: .5rem; }
.legend svg { width: .8rem; height: .8rem; margin-right: .4rem; vertical-align: -.05rem; }
.bar { display: grid; grid-template-columns: minmax(0, 17rem) minmax(4rem, 1fr) 9rem; gap: .7rem;
  align-items: center; font-size: .85rem; padding: .08rem 0; }
.bar .label { text-align: right; }
.bar svg { width: 100%; height: .85rem; border-bottom: 1px solid var(--line); }
.bar .value { font-variant-numeric: tabular-nums; white-space: nowrap; }
.binary { fill: var(--binary); } .float { fill: var(--float); } .int8 { fill: var(--int8); }
.plain, .live { fill: var(--plain); } .peak { fill: var(--float); }
.steps { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0 .6rem; margin: .5rem 0; }
.steps svg { width: 100%; height: 11rem; border: solid var(--line); border-width: 0 0 1px 1px; }
.steps .scale { display: flex; flex-direction: column; justify-content: space-between;
  text-align: right; }
.steps figcaption, .steps .scale { font-size: .85rem; color: var(--soft); }
.steps figcaption { grid-column: 2; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; font-size: .82rem; overflow-wrap: normal; }
.wide table { width: 100%; }
th, td { padding: .22rem .7rem; text-align: left; vertical-align: top; }
.wide th, .wide td { white-space: nowrap; }
th { background: var(--card); } tr + tr td { border-top: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: minmax(6rem, 11rem) minmax(0, 1fr); gap: .15rem 1rem;
  font-size: .88rem; margin: .5rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
ul { padding-left: 1.2rem; }
@media (max-width: 40rem) {
  .bar { grid-template-columns: minmax(0, 1fr) auto; gap: 0 .7rem; padding: .2rem 0; }
  .bar .label { text-align: left; } .bar svg { grid-row: 2; grid-column: 1 / 3; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
}
"""
# Even text that slipped through unescaped could load or run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_KINDS = {"binary": "binary", "float32": "float"}
_LEGEND = {
    "binary": "1 bit (LceBconv2d)",
    "float": "float",
    "int8": "smaller types",
    "plain": "no kernel",
}


def report_page(report: "Report") -> str:
    """The page."""
    sections = [
        _header(report),
        _cards(report),
        _remarks(report),
        _by_layer(
            report,
            "Bytes of weights by layer",
            "Kernels, multipliers and biases as they are stored in the file.",
            lambda row: row.weight_bytes,
            readable_bytes,
        ),
        _by_layer(
            report,
            "Multiply-accumulates by layer",
            "One run of the file. A binary one costs a fraction of a float one: a processor does "
            "dozens of them in one instruction.",
            lambda row: row.macs,
            readable_count,
        ),
        _latency(report),
        _activations(report),
        _verification(report),
        _operators(report),
        _facts(report),
    ]
    title = html.escape(f"{report.file}: report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _header(report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    made = f"Made by {versions}." if versions else "Made by a program that is not named in it."
    return f"<header><h1>{html.escape(report.file)}</h1><p>{html.escape(made)}</p></header>"


def _cards(report) -> str:
    share = report.binary_share
    weights = readable_bytes(text.binary_weight_bytes(report))
    cards = [
        ("", readable_bytes(report.file_bytes), f"file, {weights} of it binary operators"),
        ("", *_binary_card(report)),
        ("", "-" if share is None else f"{share:.1%}", "of multiply-accumulates are binary"),
        ("", readable_bytes(report.activation_bytes), "activations at a time, at least"),
    ]
    if report.latencies:
        best = min(report.latencies, key=_typical_ms)
        what = "mean" if best.p50_ms is None else "median"
        about = f"{what}, {best.kernel} kernel, {best.device}"
        cards.append(("", readable_ms(_typical_ms(best)), about))
    if report.quantization is not None:
        agreement = f"{report.quantization['argmax_agreement']:.1%}"
        cards.append(("", agreement, "of samples decided as in float32"))
    verification = report.verification
    if verification is not None:
        kind, word = ("good", "verified") if verification["passed"] else ("bad", "not verified")
        cards.append((kind, word, "the file against the model"))
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card {kind}"><b>{html.escape(value)}</b>'
            f"<span>{html.escape(name)}</span></div>"
            for kind, value, name in cards
        )
        + "</div>"
    )


def _typical_ms(latency) -> float:
    return latency.mean_ms if latency.p50_ms is None else latency.p50_ms


def _binary_card(report) -> tuple[str, str]:
    if report.binary_layers is None:
        count = sum(row.precision == "binary" for row in report.rows)
        return str(count), "operators are LceBconv2d"
    return (
        f"{len(report.layers_in_bits)} of {len(report.binary_layers)}",
        "layers built as binary run in 1 bit",
    )


def _remarks(report) -> str:
    lines = text.sentences(report)
    if not lines:
        return ""
    items = "".join(
        f"<li{_bad(line)}>{html.escape(line[:1].upper() + line[1:])}</li>" for line in lines
    )
    return f"<h2>Remarks</h2><ul>{items}</ul>"


def _bad(line: str) -> str:
    return "" if line.startswith("note") else ' class="bad"'


def _kind(row: "OperatorRow") -> str:
    return _KINDS.get(row.precision, "int8" if row.precision else "plain")


def _grouped(report, value: Callable[["OperatorRow"], float]) -> list[Bar]:
    """One bar for each layer, with a part for each kind of operator."""
    layers: dict[str, dict[str, float]] = {}
    for row in report.rows:
        parts = layers.setdefault(row.layer or row.operator, {})
        parts[_kind(row)] = parts.get(_kind(row), 0) + value(row)
    return [
        Bar(layer, tuple((kind, parts[kind]) for kind in _LEGEND if parts.get(kind)))
        for layer, parts in layers.items()
    ]


def _legend(entries: Iterable[Bar]) -> str:
    used = {kind for entry in entries for kind, _ in entry.parts}
    items = "".join(
        f'<span><svg aria-hidden="true"><rect class="{kind}" width="100%" height="100%"/></svg>'
        f"{name}</span>"
        for kind, name in _LEGEND.items()
        if kind in used
    )
    return f'<div class="legend">{items}</div>'


def _by_layer(report, title, explanation, value, show) -> str:
    entries = _grouped(report, value)
    if not any(entry.total for entry in entries):
        return ""
    return (
        f"<section><h2>{title}</h2><p>{explanation}</p>"
        f"{_legend(entries)}{bars(entries, show)}</section>"
    )


def _latency(report) -> str:
    parts = []
    if report.latencies:
        rows = [
            [
                latency.kernel,
                str(latency.num_threads),
                latency.device,
                str(latency.runs),
                readable_ms(latency.mean_ms),
                readable_ms(latency.p50_ms),
                readable_ms(latency.p90_ms),
                readable_ms(latency.p99_ms),
                "-" if latency.memory_bytes is None else readable_bytes(latency.memory_bytes),
            ]
            for latency in report.latencies
        ]
        columns = ["kernel", "threads", "device", "runs", "mean", "p50", "p90", "p99", "memory"]
        parts.append(f"<section><h2>Latency</h2>{_table(columns, rows, 3)}</section>")
    if text.has_latency(report):
        share = next((item for item in report.latencies if item.operator_share), None)
        explanation = "Each operator by itself, on the values that it meets in the whole model."
        if share is not None:
            explanation += f" They add up to {share.operator_share:.1%} of the whole"
            explanation += f" ({html.escape(share.kernel)} kernel)."
        parts.append(
            _by_layer(
                report,
                "Latency by layer",
                explanation,
                lambda row: row.latency_ms or 0.0,
                readable_ms,
            )
        )
    return "".join(parts)


def _activations(report) -> str:
    if not report.rows:
        return ""
    values = [row.live_bytes for row in report.rows]
    labels = [f"{row.layer} {row.operator}".strip() for row in report.rows]
    return (
        "<section><h2>Activation memory</h2><p>Bytes that are needed while each operator runs. "
        "The peak is a lower bound of the interpreter's arena, which adds scratch buffers and "
        f"gaps.</p>{steps(values, labels, readable_bytes)}</section>"
    )


def _verification(report) -> str:
    verification = report.verification
    if verification is None or not verification.get("kernels"):
        return ""
    kernels = verification["kernels"]
    names = list(next(iter(kernels.values())))
    rows = [
        [kernel, *(_plain_number(result.get(name)) for name in names)]
        for kernel, result in kernels.items()
    ]
    columns = ["kernel", *(name.replace("_", " ") for name in names)]
    return f"<section><h2>Verification</h2>{_table(columns, rows, 1)}</section>"


def _operators(report) -> str:
    total = report.binary_macs + report.other_macs
    measured = text.has_latency(report)
    columns = ["#", "layer", "operator", "precision", "output", "type", "weights", "MACs", "share"]
    rows = []
    for row in report.rows:
        cells = [
            str(row.index),
            row.layer,
            row.operator,
            row.precision,
            readable_shape(row.output_shape),
            row.output_dtype,
            readable_bytes(row.weight_bytes) if row.weight_bytes else "",
            f"{row.macs:,}" if row.macs else "",
            f"{row.macs / total:.1%}" if row.macs else "",
        ]
        if measured:
            cells.append("" if row.latency_ms is None else f"{row.latency_ms:.4f}")
        rows.append(cells)
    table = _table([*columns, "ms"] if measured else columns, rows, 6)
    return f"<section><h2>Operators</h2>{table}</section>"


def _facts(report) -> str:
    entries = [item for item in text.summary(report) if item[0] not in ("latency", "made by")]
    entries += [
        (name.replace("_", " "), _plain_value(value)) for name, value in report.metadata.items()
    ]
    items = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in entries
    )
    return f"<section><h2>The file</h2><dl>{items}</dl></section>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], first_number: int) -> str:
    """A table; its columns from `first_number` on are flush right."""

    def line(tag, cells):
        return "".join(
            f"<{tag}{' class=number' if place >= first_number else ''}>{html.escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{line("th", columns)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _plain_number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def _plain_value(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_plain_value(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain_value, value))
    return str(value)
