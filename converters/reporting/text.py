"""A report as text."""

from typing import TYPE_CHECKING, Any

from bnnkeras.converters.reporting.units import readable_bytes, readable_ms, readable_shape
from bnnkeras.models.tables import draw_table, readable_count

if TYPE_CHECKING:
    from bnnkeras.converters.reporting.report import Report


def report_text(report: "Report") -> str:
    """The summary, the operators, and whatever needs a sentence."""
    width = max(len(name) for name, _ in summary(report))
    lines = [f"{name:{width}}  {value}" for name, value in summary(report)]
    table = [_COLUMNS, *_rows(report), _total(report)]
    if not has_latency(report):
        table = [row[:-1] for row in table]
    lines.append(draw_table(table, report.file, has_header=True))
    return "\n".join([*lines, *sentences(report)])


def summary(report: "Report") -> list[tuple[str, str]]:
    """Names and values of what matters most."""
    share = report.binary_share
    rows = [
        ("file", f"{report.file}, {readable_bytes(report.file_bytes)}"),
        (
            "weights",
            f"{readable_bytes(report.weight_bytes)}, of which "
            f"{readable_bytes(binary_weight_bytes(report))} of binary operators",
        ),
        ("binary layers", binary_layers_text(report)),
        (
            "MACs",
            f"{readable_count(report.binary_macs)} binary, "
            f"{readable_count(report.other_macs)} other"
            + ("" if share is None else f" ({share:.1%} binary)"),
        ),
        ("activations", f"{readable_bytes(report.activation_bytes)} at a time, at least"),
        ("verified", verified_text(report)),
    ]
    for info, names in (("input", report.inputs), ("output", report.outputs)):
        rows += [
            (info, f"{item.name}: {readable_shape(item.shape)}, {item.dtype}") for item in names
        ]
    if report.quantization is not None:
        rows.append(("smaller floats", quantization_text(report.quantization)))
    rows += [("latency", latency_text(latency)) for latency in report.latencies]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    rows.append(("made by", versions or "unknown"))
    rows.append(("SHA-256", report.sha256 + (", as sealed" if report.sealed else "")))
    return rows


def binary_layers_text(report: "Report") -> str:
    """How many of the layers built as binary are binary in the file."""
    if report.binary_layers is None:
        count = sum(row.precision == "binary" for row in report.rows)
        return f"{count} LceBconv2d (the file does not tell what it was made of)"
    partly = report.layers_partly_in_bits
    text = f"{len(report.layers_in_bits)} of {len(report.binary_layers)} in 1 bit"
    return f"{text}, {len(partly)} partly" if partly else text


def verified_text(report: "Report") -> str:
    """The outcome of `verify` in a word."""
    if report.verification is None:
        return "not run"
    if not report.verification["passed"]:
        return "NO"
    probe = report.verification.get("probe_max_difference")
    if probe is None:
        return "yes (without the dyadic probe)"
    return f"yes (probe difference {probe:g})"


def quantization_text(cost: dict[str, Any]) -> str:
    """What float parts in fewer bits cost."""
    return (
        f"{cost['mode']}: {readable_bytes(cost['float32_bytes'])} in float32; on "
        f"{cost['samples']} samples ({cost['measured_on'].replace('_', ' ')}) "
        f"{cost['argmax_agreement']:.1%} have the same largest output, outputs differ by up to "
        f"{cost['largest_difference']:.3g} of {cost['largest_output']:.3g}"
    )


def latency_text(latency) -> str:
    """One line about a measurement."""
    if latency.p50_ms is None:
        times = f"{readable_ms(latency.mean_ms)} mean"
    else:
        times = (
            f"{readable_ms(latency.p50_ms)} median, {readable_ms(latency.p90_ms)} p90, "
            f"{readable_ms(latency.p99_ms)} p99"
        )
    text = (
        f"{times} ({latency.kernel} kernel, threads: {latency.num_threads}, "
        f"{latency.runs} runs, {latency.device})"
    )
    if latency.memory_bytes is not None:
        text += f"; memory {readable_bytes(latency.memory_bytes)}"
    if latency.operator_share is not None:
        text += f"; the operators add up to {latency.operator_share:.1%} of it"
    return text


def sentences(report: "Report") -> list[str]:
    """What a number cannot say: layers in float and why, notes, problems."""
    lines = [f"in float: {name}: {reason}" for name, reason in report.float_reasons.items()]
    lines += [
        f"in float: {name}: not an LceBconv2d"
        for name in report.layers_in_float
        if name not in report.float_reasons
    ]
    lines += [
        f"partly in float: {name}: {', '.join(_other_precisions(report, name))}"
        for name in report.layers_partly_in_bits
    ]
    lines += [f"note: {name}: {note}" for name, note in report.notes.items()]
    lines += [f"cannot run: {kernel} kernel: {why}" for kernel, why in report.refusals.items()]
    if report.verification is not None:
        lines += [f"problem: {problem}" for problem in report.verification["problems"]]
        for key, what in (("probe_cuts", "left out"), ("probe_replaced", "another quantizer")):
            reasons = report.verification.get(key, {})
            lines += [f"probe: {name}: {what}: {reason}" for name, reason in reasons.items()]
    return lines


def binary_weight_bytes(report: "Report") -> int:
    """Bytes of the constants of LceBconv2d: bits, multipliers and biases."""
    return sum(row.weight_bytes for row in report.rows if row.precision == "binary")


def has_latency(report: "Report") -> bool:
    """Whether operators were measured one by one."""
    return any(row.latency_ms is not None for row in report.rows)


def _other_precisions(report, layer) -> list[str]:
    rows = [row for row in report.rows if row.layer == layer]
    return [
        f"{row.operator} {row.precision}" for row in rows if row.precision not in ("", "binary")
    ]


_COLUMNS = ["layer", "operator", "precision", "output", "bytes", "MACs", "share", "ms"]


def _rows(report) -> list[list[str]]:
    total = report.binary_macs + report.other_macs
    return [
        [
            row.layer,
            row.operator,
            row.precision,
            readable_shape(row.output_shape),
            readable_bytes(row.weight_bytes) if row.weight_bytes else "",
            readable_count(row.macs) if row.macs else "",
            f"{row.macs / total:.1%}" if row.macs else "",
            "" if row.latency_ms is None else f"{row.latency_ms:.4f}",
        ]
        for row in report.rows
    ]


def _total(report) -> list[Any]:
    latency = sum(row.latency_ms or 0 for row in report.rows)
    macs = report.binary_macs + report.other_macs
    return [
        "Total",
        "",
        "",
        "",
        readable_bytes(report.weight_bytes),
        readable_count(macs),
        "100.0%" if macs else "",
        f"{latency:.4f}" if has_latency(report) else "",
    ]
