"""The deploy worker's commands that run `.tflite` files."""

import functools
import hashlib
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata as distributions
from typing import Any

import numpy as np

from bnnkeras.converters import flatbuffer
from bnnkeras.converters.worker import requirements
from bnnkeras.converters.worker.registry import Arrays, command

KERNELS: dict[str, dict[str, bool]] = {
    "default": {},
    "reference": {"use_reference_bconv": True},
    "indirect": {"use_indirect_bgemm": True},
}
_CACHED_INTERPRETERS = 8


@command("environment")
def environment(arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Returns the worker's Python, its Keras backend and the versions of what it uses."""
    import keras

    versions: dict[str, str | None] = {}
    for name in ("numpy", "keras", "tensorflow", "larq-compute-engine", "flatbuffers"):
        try:
            versions[name] = distributions.version(name)
        except distributions.PackageNotFoundError:
            versions[name] = None
    result = {
        "executable": sys.executable,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "keras_backend": keras.backend.backend(),
        "versions": versions,
    }
    return result, {}


@command("load")
def load(arrays: Arrays, *, kernel: str | None, num_threads: int) -> tuple[dict[str, Any], Arrays]:
    """Checks a model, loads it and keeps it under its hash; describes its inputs and outputs."""
    data = arrays["model"].tobytes()
    loaded = _loaded(hashlib.sha256(data).hexdigest(), kernel, num_threads, data)
    return {"kernel": loaded.kernel, "inputs": loaded.inputs, "outputs": loaded.outputs}, {}


@command("predict")
def predict(
    arrays: Arrays, *, sha256: str, kernel: str | None, num_threads: int, batched: bool
) -> tuple[dict[str, Any], Arrays]:
    """Runs a kept model on checked inputs, in as many calls as its batch size needs.

    The result says `{"loaded": False}` where the model is not kept any more.
    """
    try:
        loaded = _loaded(sha256, kernel, num_threads, None)
    except LookupError:
        return {"loaded": False}, {}
    return {"loaded": True}, loaded.predict(arrays, batched)


class LoadedModel:
    """A model in LCE's interpreter, with its inputs and outputs by name."""

    def __init__(self, data: bytes, kernel: str | None, num_threads: int) -> None:
        self.kernel = kernel or default_kernel()
        if self.kernel not in KERNELS:
            raise ValueError(f"`kernel` must be None or one of {[*KERNELS]}. Received: {kernel!r}")
        interpreter = requirements.import_lce_interpreter()
        flatbuffer.check(data)
        model = flatbuffer.read(data)
        # LCE may refer to the bytes as long as it lives.
        self._data = data
        loaded = interpreter(data, num_threads=num_threads, **KERNELS[self.kernel])
        # LCE's public `predict` feeds single samples, which files of a fixed batch refuse.
        self._run = loaded.interpreter.predict
        self._inputs = [_name_of(index, model.signature_inputs) for index in model.inputs]
        self._output_positions = {
            name: model.outputs.index(index) for name, index in model.signature_outputs.items()
        }
        self.inputs = _describe(model, model.signature_inputs)
        self.outputs = _describe(model, model.signature_outputs)

    def predict(self, arrays: Arrays, batched: bool) -> Arrays:
        """Runs the arrays; `batched` splits and pads them along the first axis."""
        if not batched:
            return self._outputs(arrays)
        size = self.inputs[0]["shape"][0]
        count = len(next(iter(arrays.values())))
        pieces = []
        for start in range(0, count, size):
            piece = {name: value[start : start + size] for name, value in arrays.items()}
            missing = size - min(size, count - start)
            if missing:
                piece = {
                    name: np.concatenate([value, np.repeat(value[-1:], missing, axis=0)])
                    for name, value in piece.items()
                }
            pieces.append(self._outputs(piece))
        if len(pieces) == 1:
            # Without a copy: taps of large maps are most of what is in memory.
            return {name: value[:count] for name, value in pieces[0].items()}
        return {
            name: np.concatenate([piece[name] for piece in pieces])[:count] for name in pieces[0]
        }

    def timed_call(self) -> Callable[[], Any]:
        """Returns a call that runs the model once on fixed inputs."""
        return functools.partial(self._run, self.sample_inputs())

    def sample_inputs(self) -> list[np.ndarray]:
        """Noise for every input, in the interpreter's order."""
        shapes = {item["name"]: (item["shape"], item["dtype"]) for item in self.inputs}
        return [sample(*shapes[name]) for name in self._inputs]

    def _outputs(self, arrays: Arrays) -> Arrays:
        values = self._run([np.ascontiguousarray(arrays[name]) for name in self._inputs])
        return {name: values[position] for name, position in self._output_positions.items()}


_interpreters: dict[tuple[str, str | None, int], LoadedModel] = {}


def default_kernel() -> str:
    """The fastest kernel here: without assembly on x86, only `indirect` avoids copies."""
    return "indirect" if platform.machine() in ("x86_64", "AMD64") else "default"


def _loaded(sha256: str, kernel: str | None, num_threads: int, data: bytes | None) -> LoadedModel:
    key = (sha256, kernel, num_threads)
    loaded = _interpreters.pop(key, None)
    if loaded is None:
        if data is None:
            raise LookupError(sha256)
        loaded = LoadedModel(data, kernel, num_threads)
    # Last used, last in the dict: the first is the one to forget.
    _interpreters[key] = loaded
    if len(_interpreters) > _CACHED_INTERPRETERS:
        del _interpreters[next(iter(_interpreters))]
    return loaded


def _name_of(index: int, names: dict[str, int]) -> str:
    for name, named in names.items():
        if named == index:
            return name
    raise ValueError(
        f"The file's signature must name every input. Received: {names} without tensor {index}"
    )


def _describe(model: flatbuffer.FlatbufferModel, names: dict[str, int]) -> list[dict[str, Any]]:
    tensors = model.tensors
    return [
        {"name": name, "shape": list(tensors[index].shape), "dtype": tensors[index].dtype}
        for name, index in names.items()
    ]


def sample(shape: Sequence[int], dtype: str) -> np.ndarray:
    """Fixed noise of a shape and a type."""
    values = np.random.default_rng(0).normal(size=tuple(shape))
    return values.astype(dtype)
