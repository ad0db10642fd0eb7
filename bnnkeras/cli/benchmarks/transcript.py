"""What TensorFlow Lite's benchmark program (and LCE's, which is built on it) prints.

Lines of two kinds count; a log prefix such as `INFO:` in front of them may be missing:

    INFO: count=50 first=24040 curr=23941 min=23891 max=24213 avg=23980.1 std=61 p5=.. median=..
    INFO: Inference timings in us: Init: 734, First inference: .., Warmup (avg): .., Inference ..
    INFO: Memory footprint delta from the start of the tool (MB): init=1.31641 overall=6.55469

and the table in run order under `Operator-wise Profiling Info for Regular Benchmark Runs:`, whose
columns are named in its first line. The name ends in `:` and the operator's position in the file.
"""

import dataclasses
import re

from bnnkeras.cli.benchmarks.adb import DeviceError
from bnnkeras.converters import Report
from bnnkeras.converters.reporting import Latency

_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}"
)
_COUNTS = re.compile(r"\bcount=(\d+) (.*=.*)")
_MEMORY = re.compile(rf"[Mm]emory footprint.* \(MB\): init={_NUMBER} overall={_NUMBER}")
_PROFILE = "Operator-wise Profiling Info for Regular Benchmark Runs:"
_RUN_ORDER = "== Run Order =="
_POSITION = re.compile(r":(\d+)\s*$")
_TAIL_LINES = 5


@dataclasses.dataclass(frozen=True)
class Transcript:
    """The numbers in the program's output.

    Attributes:
        runs: Number of timed runs.
        initialization_ms: Time to load the file.
        first_ms: First inference.
        mean_ms: Mean of the timed runs.
        median_ms: Their median, `None` where an older program does not print it.
        memory_bytes: Memory that the program took on, `None` where it does not tell.
        operators: Pairs of operator kind and mean milliseconds by position in the file; empty
            without profiling.
    """

    runs: int
    initialization_ms: float
    first_ms: float
    mean_ms: float
    median_ms: float | None
    memory_bytes: int | None
    operators: dict[int, tuple[str, float]]


def parse(output: str) -> Transcript:
    """Reads the program's output.

    Raises:
        DeviceError: If it holds no timings, with its last lines.
    """
    timings = _TIMINGS.search(output)
    counts = _COUNTS.findall(output.split(timings.group())[0]) if timings else []
    if not timings or not counts:
        tail = "\n".join(output.strip().splitlines()[-_TAIL_LINES:])
        raise DeviceError(f"The benchmark program printed no timings. Its last lines:\n{tail}")
    initialization, first, _, mean = (float(value) / 1e3 for value in timings.groups())
    # The last line of counts is that of the timed runs, after the warm-up.
    runs, values = counts[-1]
    statistics = dict(re.findall(rf"(\w+)={_NUMBER}", values))
    memory = _MEMORY.search(output)
    return Transcript(
        runs=int(runs),
        initialization_ms=initialization,
        first_ms=first,
        mean_ms=mean,
        median_ms=float(statistics["median"]) / 1e3 if "median" in statistics else None,
        memory_bytes=int(float(memory.group(2)) * 2**20) if memory else None,
        operators=_operators(output),
    )


def with_transcript(
    report: Report, output: str, *, device: str, kernel: str, threads: int
) -> Report:
    """A file's report with what the program measured.

    Args:
        report: The report about the file that was run.
        output: What the program printed.
        device: Name of the phone.
        kernel: The kernel asked for.
        threads: The threads asked for.

    Raises:
        DeviceError: If the output holds no timings, or its operators are not those of the file.
    """
    found = parse(output)
    kinds = {row.index: row.operator for row in report.rows}
    foreign = {
        position: kind
        for position, (kind, _) in found.operators.items()
        # Newer programs add the tensor types or the delegate to a kind.
        if position not in kinds or kinds[position].lower() not in kind.lower()
    }
    if foreign:
        position, kind = next(iter(foreign.items()))
        raise DeviceError(
            "The profile is not that of the file: the program ran other operators, for example "
            f"{kind} at position {position}, where the file has {kinds.get(position, 'none')}"
        )
    total = sum(time for _, time in found.operators.values())
    latency = Latency(
        kernel=kernel,
        num_threads=threads,
        device=device,
        runs=found.runs,
        mean_ms=found.mean_ms,
        p50_ms=found.median_ms,
        memory_bytes=found.memory_bytes,
        operator_share=total / found.mean_ms if found.operators else None,
    )
    rows = tuple(
        dataclasses.replace(row, latency_ms=found.operators[row.index][1])
        if row.index in found.operators
        else row
        for row in report.rows
    )
    return dataclasses.replace(report, rows=rows, latencies=(*report.latencies, latency))


def _operators(output: str) -> dict[int, tuple[str, float]]:
    _, found, profile = output.partition(_PROFILE)
    _, ordered, table = profile.partition(_RUN_ORDER)
    if not found or not ordered:
        return {}
    lines = table.splitlines()[1:]
    if not lines:
        return {}
    columns = [name.strip().lower() for name in re.findall(r"\[([^\]]+)\]", lines[0])]
    if "avg ms" not in columns or columns[-1] != "name":
        raise DeviceError(f"The profile has other columns than expected: {lines[0].strip()}")
    # The kind may hold spaces, the name anything: what is between them are numbers.
    numbers_between = rf"(?:[\d.]+%?\s+){{{len(columns) - 2}}}"
    row = re.compile(rf"\s*(.*?)\s+({numbers_between})(\S.*)$")
    operators: dict[int, tuple[str, float]] = {}
    for line in lines[1:]:
        cells = row.match(line.rstrip())
        if cells is None:
            break
        position = _POSITION.search(cells.group(3))
        if position is None:
            continue
        numbers = [float(cell.rstrip("%")) for cell in cells.group(2).split()]
        values = dict(zip(columns[1:-1], numbers, strict=True))
        # The mean is that of one call; a row may stand for several in a run.
        time = values["avg ms"] * max(values.get("times called", 1.0), 1.0)
        operators[int(position.group(1))] = (cells.group(1), time)
    return operators
