"""The benchmark of `.tflite` files from arguments to tables and report."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnnkeras import converters
from bnnkeras.cli.benchmarks.adb import Phone
from bnnkeras.cli.benchmarks.peer_file import make_peer_file
from bnnkeras.cli.benchmarks.spread import ratio_spread
from bnnkeras.cli.benchmarks.transcript import with_transcript
from bnnkeras.cli.reports import check_report_name
from bnnkeras.converters import Report
from bnnkeras.converters.reporting.units import readable_bytes, readable_ms

_KERNELS = ("default", "reference", "indirect")
_LAYERS_SHOWN = 15


def run_files(
    files: Sequence[Path],
    *,
    threads: int,
    kernel: str | None,
    rounds: int,
    runs: int,
    layers: bool,
    peers: bool,
    report: Path | None,
    console: Console | None = None,
) -> list[Report]:
    """Measures files here, prints the tables and writes the first file's report if asked to.

    Args:
        files: The `.tflite` files.
        threads: Threads of the interpreter.
        kernel: One of LCE's kernels, `"all"`, or `None` for the fastest here.
        rounds: Interleaved rounds.
        runs: Runs of a file in a round.
        layers: Whether to time operators.
        peers: Whether Larq Zoo's counterpart of the first file takes part, as the first contender.
        report: The `.html` or `.json` file, or `None`.
        console: Where progress and tables go.

    Returns:
        The reports, the peer's included.
    """
    console = console or Console()
    check_report_name(report)
    with tempfile.TemporaryDirectory(prefix="bnnkeras-") as folder, console.status("") as status:

        def progress(message: str) -> None:
            status.update(Text(message, overflow="ellipsis", no_wrap=True))

        contenders = list(files)
        if peers:
            first = converters.inspect(contenders[0])
            contenders.insert(0, make_peer_file(first, Path(folder), progress))
        progress(f"Running {len(contenders)} files")
        reports = converters.benchmark(
            contenders,
            kernels=_KERNELS if kernel == "all" else (kernel,),
            num_threads=threads,
            rounds=rounds,
            runs=runs,
            by_operator=layers,
        )
    console.print(latency_table(reports))
    for measured in reports:
        for name, reason in measured.refusals.items():
            console.print(f"{measured.file}: the {name} kernel cannot run it: {reason}")
    own = reports[1 if peers else 0]
    if layers:
        console.print(layer_table(own))
    _save(own, report, console)
    return reports


def run_on_device(
    files: Sequence[Path],
    *,
    program: Path | None,
    serial: str | None,
    threads: int,
    kernel: str | None,
    runs: int,
    layers: bool,
    report: Path | None,
    console: Console | None = None,
) -> list[Report]:
    """Measures files on a phone, one after the other, and prints the tables.

    Args:
        files: The `.tflite` files.
        program: LCE's benchmark program for the phone.
        serial: Serial number of the phone, or `None` where there is one only.
        threads: Threads of the interpreter.
        kernel: `"reference"` or `"indirect"`, or `None` for the program's default.
        runs: Number of timed runs.
        layers: Whether to time operators.
        report: The `.html` or `.json` file, or `None`.
        console: Where progress and tables go.

    Returns:
        The reports.

    Raises:
        DeviceError: If the phone or the program does not do what it should.
    """
    console = console or Console()
    check_report_name(report)
    phone = Phone.connect(program, serial)
    reports = []
    with console.status("") as status:
        for file in files:
            inspected = converters.inspect(file)
            status.update(Text(f"Running {file.name} on {phone.name}"))
            output = phone.benchmark(
                file, threads=threads, kernel=kernel, runs=runs, profiling=layers
            )
            reports.append(
                with_transcript(
                    inspected,
                    output,
                    device=phone.name,
                    kernel=kernel or "default",
                    threads=threads,
                )
            )
    console.print(latency_table(reports))
    if layers:
        console.print(layer_table(reports[0]))
    _save(reports[0], report, console)
    return reports


def latency_table(reports: Sequence[Report]) -> Table:
    """Percentiles and memory of every file and kernel; the first one is the reference of ratios."""
    entries = [(report, latency) for report in reports for latency in report.latencies]
    threads = ", ".join(sorted({str(latency.num_threads) for _, latency in entries}))
    table = Table(title=f"Latency in milliseconds, threads: {threads}")
    table.add_column("file", overflow="fold")
    table.add_column("kernel", no_wrap=True)
    for column in ("p50", "p90", "p99", "mean", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    with_ratio = len(entries) > 1 and all(latency.round_medians_ms for _, latency in entries)
    if with_ratio:
        table.add_column("/ first", justify="right", no_wrap=True)
        table.caption = (
            "/ first: median of the ratio to the first line, round by round, and its quartiles."
        )
    for report, latency in entries:
        times = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.mean_ms)
        memory = latency.memory_bytes
        cells = ["-" if time is None else f"{time:.4g}" for time in times]
        cells.append("-" if memory is None else readable_bytes(memory))
        if with_ratio:
            ratio = ratio_spread(latency.round_medians_ms, entries[0][1].round_medians_ms)
            quartiles = f"{ratio.lower_quartile:.3f}-{ratio.upper_quartile:.3f}"
            cells.append(f"{ratio.median:.3f}\n{quartiles}")
        table.add_row(report.file, latency.kernel, *cells)
    return table


def layer_table(report: Report) -> Table:
    """The layers that take longest, with their share of the sum over all operators."""
    layers: dict[str, tuple[float, set[str]]] = {}
    for row in report.rows:
        time, kinds = layers.get(row.layer, (0.0, set()))
        layers[row.layer] = (time + (row.latency_ms or 0.0), kinds | ({row.precision} - {""}))
    total = sum(time for time, _ in layers.values())
    ordered = sorted(layers.items(), key=lambda item: -item[1][0])
    share = next((item.operator_share for item in report.latencies if item.operator_share), None)
    caption = None if share is None else f"The operators add up to {share:.1%} of the whole."
    table = Table(title=f"Where the time goes: {report.file}", caption=caption)
    for column in ("layer", "multiplies", "time", "share"):
        table.add_column(column, justify="right" if column in ("time", "share") else "left")
    for layer, (time, kinds) in ordered[:_LAYERS_SHOWN]:
        part = f"{time / total:.1%}" if total else "-"
        table.add_row(layer, ", ".join(sorted(kinds)), readable_ms(time), part)
    rest = ordered[_LAYERS_SHOWN:]
    if rest:
        time = sum(time for _, (time, _) in rest)
        part = f"{time / total:.1%}" if total else "-"
        table.add_row(f"{len(rest)} more", "", readable_ms(time), part)
    return table


def _save(report: Report, path: Path | None, console: Console) -> None:
    if path is not None:
        report.save(path)
        console.print(f"Report: {path}", soft_wrap=True)
