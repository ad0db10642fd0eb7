"""Latency and memory of `.tflite` files on this machine."""

import dataclasses
import os
import platform
import statistics
from collections.abc import Sequence

import numpy as np

from bnnkeras.converters.reporting import Latency, Report, inspect
from bnnkeras.converters.worker import WorkerError, get_worker

_WARM_UP_RUNS = 5
# Enough runs of an operator for a median, and copies of it for what lasts a microsecond.
_OPERATOR_RUNS = 20
_OPERATOR_COPIES = 4


def measure_latency(
    files: Sequence[tuple[str, str | os.PathLike]],
    runs: int = 30,
    timeout_seconds: float = 600.0,
) -> list[list[float]]:
    """Times files against each other, in turns so that a busy machine slows all of them alike.

    Args:
        files: Pairs of a runner and a path. The runner is `"lce"` (Larq Compute Engine, the fastest
            kernel here) or `"tflite"` (stock TensorFlow Lite with XNNPACK). One thread each.
        runs: Number of timed runs of each file.
        timeout_seconds: Bound for all of it.

    Returns:
        One list of `runs` latencies in milliseconds for each file.
    """
    result, _ = get_worker().request(
        "benchmark",
        files=[{"runner": runner, "path": path} for runner, path in files],
        rounds=runs,
        timeout_seconds=timeout_seconds,
    )
    return [[time for (time,) in rounds] for rounds in result["latency_ms"]]


def benchmark(
    files: Sequence[str | os.PathLike],
    *,
    kernels: Sequence[str | None] = (None,),
    num_threads: int = 1,
    rounds: int = 10,
    runs: int = 10,
    by_operator: bool = True,
    timeout_seconds: float = 600.0,
) -> list[Report]:
    """Measures how long files take in Larq Compute Engine, and what of that is which operator.

    All pairs of a file and a kernel take turns, `rounds` times `runs` runs each, every second round
    in the opposite order. Operators are timed one by one, in files of their own that hold them
    once and five times; the difference is free of what the call of an interpreter costs. They are
    timed with the kernel that was the fastest.

    Args:
        files: Paths of `.tflite` files.
        kernels: LCE's kernels: `"default"`, `"reference"`, `"indirect"`, or `None` for the fastest
            one here. If there are several, one that cannot run a file is left out, and is among
            the report's `refusals`.
        num_threads: Threads of the interpreter; only `"default"` and float operators use several.
        rounds: Number of rounds.
        runs: Runs in a round.
        by_operator: Whether to time the operators too.
        timeout_seconds: Bound for each request to the deploy worker.

    Returns:
        One `Report` for each file, with `latencies` and the rows' `latency_ms`.

    Raises:
        ValueError: If an argument is out of range, or a file is damaged.
        WorkerError: If LCE cannot run a file.

    Example:
        ```python
        (report,) = converters.benchmark(["model.tflite"], kernels=["default", "indirect"])
        print(report)
        ```
    """
    for name, value in (("num_threads", num_threads), ("rounds", rounds), ("runs", runs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
    if not files or not kernels:
        raise ValueError(f"`files` and `kernels` must not be empty. Received: {files}, {kernels}")
    reports = [inspect(path, timeout_seconds=timeout_seconds) for path in files]
    contenders, memory = [], []
    for number, path in enumerate(files):
        for kernel in kernels:
            try:
                used = _memory(path, kernel, num_threads, timeout_seconds)
            except WorkerError as error:
                if len(kernels) == 1:
                    raise
                why = str(error).splitlines()[0]
                reports[number] = dataclasses.replace(
                    reports[number], refusals={**reports[number].refusals, str(kernel): why}
                )
                continue
            contenders.append(
                (number, {"path": path, "kernel": kernel, "num_threads": num_threads})
            )
            memory.append(used)
    result, _ = get_worker().request(
        "benchmark",
        files=[contender for _, contender in contenders],
        rounds=rounds,
        runs=runs,
        warmup=_WARM_UP_RUNS,
        timeout_seconds=timeout_seconds,
    )
    for (number, _), kernel, times, used in zip(
        contenders, result["kernels"], result["latency_ms"], memory, strict=True
    ):
        latency = _latency(kernel, num_threads, times, used)
        reports[number] = dataclasses.replace(
            reports[number], latencies=(*reports[number].latencies, latency)
        )
    if by_operator:
        reports = [
            _with_operators(report, path, timeout_seconds) if report.latencies else report
            for report, path in zip(reports, files, strict=True)
        ]
    return reports


def _memory(path, kernel, num_threads, timeout_seconds) -> int | None:
    result, _ = get_worker().request(
        "memory", path=path, kernel=kernel, num_threads=num_threads, timeout_seconds=timeout_seconds
    )
    return result["memory_bytes"]


def _latency(kernel, num_threads, times, memory_bytes) -> Latency:
    flat = [time for round_times in times for time in round_times]
    p50, p90, p99 = (float(value) for value in np.percentile(flat, (50, 90, 99)))
    return Latency(
        kernel=kernel,
        num_threads=num_threads,
        device=f"{platform.system()} {platform.machine()}",
        runs=len(flat),
        mean_ms=statistics.fmean(flat),
        round_medians_ms=tuple(statistics.median(round_times) for round_times in times),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        memory_bytes=memory_bytes,
    )


def _with_operators(report: Report, path, timeout_seconds) -> Report:
    fastest = min(report.latencies, key=lambda latency: latency.p50_ms or latency.mean_ms)
    result, _ = get_worker().request(
        "operator_latency",
        path=path,
        kernel=fastest.kernel,
        num_threads=fastest.num_threads,
        runs=_OPERATOR_RUNS,
        copies=_OPERATOR_COPIES,
        timeout_seconds=timeout_seconds,
    )
    times = result["latency_ms"]
    # Over what the whole took at the same time, not in the rounds before.
    share = sum(time or 0.0 for time in times) / result["whole_ms"]
    return dataclasses.replace(
        report,
        rows=tuple(
            dataclasses.replace(row, latency_ms=time)
            for row, time in zip(report.rows, times, strict=True)
        ),
        latencies=tuple(
            dataclasses.replace(latency, operator_share=share) if latency is fastest else latency
            for latency in report.latencies
        ),
    )
