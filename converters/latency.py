"""Latency of `.tflite` files on this machine."""

import os
from collections.abc import Sequence

from bnnkeras.converters.worker import get_worker


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
        runs=runs,
        timeout_seconds=timeout_seconds,
    )
    return result["latency_ms"]
