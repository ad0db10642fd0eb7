"""The deploy worker's commands that measure `.tflite` files: their latency and their memory."""

import ctypes
import functools
import gc
import re
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bnnkeras.converters import cutting, flatbuffer
from bnnkeras.converters.worker import requirements
from bnnkeras.converters.worker.registry import Arrays, command
from bnnkeras.converters.worker.running import KERNELS, LoadedModel, default_kernel, sample

_STATUS = Path("/proc/self/status")
_CLEAR_REFERENCES = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@command("benchmark")
def benchmark(
    arrays: Arrays, *, files: list[dict[str, Any]], rounds: int = 30, runs: int = 1, warmup: int = 5
) -> tuple[dict[str, Any], Arrays]:
    """Times files against each other, in turns.

    Each of `files` is `{"path": ..., "runner": "lce" | "tflite", "kernel": None | ...,
    "num_threads": 1}`; `"tflite"` is the stock interpreter with its default XNNPACK delegate. In a
    round each file runs `runs` times in a row, and every second round goes in the opposite order.
    The result is `{"latency_ms": [...], "kernels": [...]}`: for each file, `runs` numbers for each
    of the `rounds`, and the kernel behind `None`.
    """
    calls = [_timed_call(**file) for file in files]
    latency: list[list[list[float]]] = [[] for _ in calls]
    for call in calls:
        for _ in range(warmup):
            call()
    turns = list(zip(calls, latency, strict=True))
    for number in range(rounds):
        for call, times in turns if number % 2 == 0 else reversed(turns):
            if len(turns) > 1:
                # What the others left in the caches is not this file's to pay for.
                call()
            times.append([_milliseconds(call) for _ in range(runs)])
    kernels = [file.get("kernel") or default_kernel() for file in files]
    return {"latency_ms": latency, "kernels": kernels}, {}


@command("operator_latency")
def operator_latency(
    arrays: Arrays, *, path: str, kernel: str | None, num_threads: int, runs: int, copies: int
) -> tuple[dict[str, Any], Arrays]:
    """Times every operator by itself, on the values that it meets in the whole model.

    An operator is cut out into a file of its own, with its constants, and into a second one where
    it stands `1 + copies` times. The difference is `copies` times the operator, without the call of
    the interpreter and the copying of inputs and outputs, which take longer than small operators.

    The result is `{"latency_ms": [...], "whole_ms": ...}`: a number for each operator, `None` for
    one that computes nothing from the inputs (it runs once, or not at all) or that calls another
    subgraph; and the median of the whole model, run between the operators.
    """
    data = Path(path).read_bytes()
    loaded = LoadedModel(data, kernel, num_threads)
    cutter = cutting.OperatorCutter(data)
    model = cutter.model
    values = dict(zip(model.inputs, loaded.sample_inputs(), strict=True))
    computed = [index for operator in model.operators for index in operator.outputs]
    tapped = _interpreter(flatbuffer.with_outputs(data, computed), loaded.kernel, num_threads)
    values |= zip(computed, tapped.predict([values[index] for index in model.inputs]), strict=True)
    latency: list[float | None] = []
    run_whole, whole = loaded.timed_call(), []
    for operator in model.operators:
        # The first brings the model back into the caches.
        run_whole()
        whole.append(_milliseconds(run_whole))
        cuts = [cutter.alone(operator.index, count) for count in (1, 1 + copies)]
        few, many = (
            None if cut is None else _call(cut, values, loaded.kernel, num_threads) for cut in cuts
        )
        if few is None or many is None:
            latency.append(None)
        else:
            latency.append(_difference(few, many, runs) / copies)
    return {"latency_ms": latency, "whole_ms": statistics.median(whole)}, {}


@command("memory")
def memory(
    arrays: Arrays, *, path: str, kernel: str | None, num_threads: int
) -> tuple[dict[str, Any], Arrays]:
    """The most memory that this process takes on for a file: its bytes, its arena, its caches.

    The result is `{"memory_bytes": ...}`, `None` where the system does not tell (Linux does).
    """
    flatbuffer.check(Path(path).read_bytes())
    requirements.import_lce_interpreter()
    gc.collect()
    _give_back_freed_memory()
    if not _CLEAR_REFERENCES.exists():
        return {"memory_bytes": None}, {}
    _CLEAR_REFERENCES.write_text(_RESET_PEAK)
    before = _resident_bytes("VmRSS")
    interpreter = _interpreter(Path(path).read_bytes(), kernel or default_kernel(), num_threads)
    inputs = [
        sample(shape, np.dtype(dtype).name)
        for shape, dtype in zip(interpreter.input_shapes, interpreter.input_types, strict=True)
    ]
    for _ in range(2):
        interpreter.predict(inputs)
    return {"memory_bytes": max(_resident_bytes("VmHWM") - before, 0)}, {}


def _timed_call(
    path: str, runner: str = "lce", kernel: str | None = None, num_threads: int = 1
) -> Callable[[], Any]:
    data = Path(path).read_bytes()
    if runner == "lce":
        return LoadedModel(data, kernel, num_threads).timed_call()
    if runner != "tflite":
        raise ValueError(f'`runner` must be "lce" or "tflite". Received: {runner!r}')
    flatbuffer.check(data)
    lite = requirements.import_or_explain("tensorflow").lite
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        interpreter = lite.Interpreter(model_content=data, num_threads=num_threads)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        values = sample(detail["shape"], np.dtype(detail["dtype"]).name)
        interpreter.set_tensor(detail["index"], values)
    return interpreter.invoke


def _call(
    cut: cutting.Cut, values: dict[int, np.ndarray], kernel: str, num_threads: int
) -> Callable[[], Any]:
    interpreter = _interpreter(cut.data, kernel, num_threads)
    return functools.partial(interpreter.predict, [values[index] for index in cut.inputs])


def _interpreter(data: bytes, kernel: str, num_threads: int) -> "_Kept":
    """LCE's inner interpreter, on a file that was checked before."""
    interpreter = requirements.import_lce_interpreter()
    loaded = interpreter(data, num_threads=num_threads, **KERNELS[kernel]).interpreter
    return _Kept(loaded, data)


class _Kept:
    """An interpreter together with the bytes that it may refer to."""

    def __init__(self, interpreter: Any, data: bytes) -> None:
        self._interpreter, self._data = interpreter, data
        self.input_shapes = interpreter.input_shapes
        self.input_types = interpreter.input_types

    def predict(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the file on inputs in the interpreter's order."""
        return self._interpreter.predict(inputs)


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _difference(few: Callable[[], Any], many: Callable[[], Any], runs: int) -> float:
    """Median milliseconds of `many` less those of `few`, taken in turns; at least 0."""
    few(), many()
    pairs = [(_milliseconds(few), _milliseconds(many)) for _ in range(runs)]
    short, long = (statistics.median(times) for times in zip(*pairs, strict=True))
    return max(long - short, 0.0)


def _resident_bytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else 0


def _give_back_freed_memory() -> None:
    """Otherwise the measured part would live in what was freed before it, and count as nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # No glibc.
        pass
