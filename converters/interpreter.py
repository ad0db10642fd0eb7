"""Runs `.tflite` files by the names of their signature."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnnkeras.converters import flatbuffer
from bnnkeras.converters.worker import get_worker


class Interpreter:
    """Runs a converted model in Larq Compute Engine, in the deploy worker.

    LCE's own interpreter crashes on damaged files and mixes up inputs and outputs; this one
    checks the file first (`converters.flatbuffer.check`), runs in a child process whose crash
    is a `WorkerCrash` here, and goes by names. Any number of samples can be given whatever the
    file's batch size: the last batch is padded and the padding's outputs are dropped.

    Args:
        model: Bytes of a `.tflite` file, or its path.
        kernel: `None` or one of `"default"`, `"reference"` and `"indirect"`. LCE's
            implementation of the binary convolution: its optimized one, plain loops, or the one
            with an indirection buffer. `None` takes the fastest here: `"indirect"` on x86 and
            `"default"` on ARM.
        num_threads: Integer. Threads of the interpreter; only `"default"` and float
            operators use more than one.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImportError: If the `deploy` extra is missing.
        ValueError: If the file is no TFLite file, is damaged or was edited after conversion, or
            if an argument is none of the allowed.
        WorkerError: If LCE refuses the file.

    Example:

    ```python
    interpreter = Interpreter("model.tflite")
    logits = interpreter.predict(images)
    ```
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        *,
        kernel: str | None = None,
        num_threads: int = 1,
    ) -> None:
        if isinstance(model, (str, os.PathLike)):
            model = Path(model).read_bytes()
        if not isinstance(model, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"`model` must be the bytes of a .tflite file or a path. Received: {model!r}"
            )
        if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
            raise ValueError(f"`num_threads` must be a positive integer. Received: {num_threads!r}")
        self._model = bytes(model)
        self._key: dict[str, Any] = {"kernel": kernel, "num_threads": num_threads}
        self._sha256 = hashlib.sha256(self._model).hexdigest()
        description = self._load()
        self._kernel: str = description["kernel"]
        self._inputs: dict[str, dict[str, Any]] = {v["name"]: v for v in description["inputs"]}
        self._outputs: dict[str, dict[str, Any]] = {v["name"]: v for v in description["outputs"]}

    @property
    def kernel(self) -> str:
        """The kernel in use, also where the argument was `None`."""
        return self._kernel

    @property
    def metadata(self) -> dict[str, Any] | None:
        """What `convert` stored in the file beside the network; `None` for files of others."""
        return flatbuffer.metadata(self._model)

    @property
    def input_names(self) -> list[str]:
        """The inputs' names, in the order of the file's signature (alphabetical)."""
        return list(self._inputs)

    @property
    def output_names(self) -> list[str]:
        """The outputs' names, in the order of the file's signature (alphabetical)."""
        return list(self._outputs)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input, with the batch size of the file."""
        return {name: tuple(value["shape"]) for name, value in self._inputs.items()}

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each output, with the batch size of the file."""
        return {name: tuple(value["shape"]) for name, value in self._outputs.items()}

    @property
    def input_dtypes(self) -> dict[str, str]:
        """NumPy name of each input's type."""
        return {name: value["dtype"] for name, value in self._inputs.items()}

    @property
    def output_dtypes(self) -> dict[str, str]:
        """NumPy name of each output's type."""
        return {name: value["dtype"] for name, value in self._outputs.items()}

    def predict(
        self,
        inputs: Any,
        *,
        timeout_seconds: float | None = 600.0,
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Computes the outputs for a batch of any size.

        Args:
            inputs: Array for a model with one input; or a dict from input names to arrays; or a
                list of arrays in the order of `input_names`, which need not be that of the
                Keras model. Types must be those of `input_dtypes`.
            timeout_seconds: Float or `None`. Longest time to wait.

        Returns:
            An array if the model has one output, else a dict from output names to arrays.

        Raises:
            ValueError: If names, shapes or types are not the model's.
            WorkerCrash: If LCE crashed.
            WorkerTimeout: If it took longer than `timeout_seconds`.
        """
        arrays = self._named(inputs)
        batched = self._is_batched()
        for name, array in arrays.items():
            self._check(name, array, batched)
        if batched and len({len(array) for array in arrays.values()}) > 1:
            raise ValueError(
                "`inputs` must all have the same number of samples. Received: shapes "
                f"{ {name: array.shape for name, array in arrays.items()} }"
            )
        parameters = {**self._key, "sha256": self._sha256, "batched": batched}
        for _ in range(2):
            result, outputs = get_worker().request(
                "predict", arrays, timeout_seconds=timeout_seconds, **parameters
            )
            if result["loaded"]:
                break
            # Restarted since, or so many models ago that this one was forgotten.
            self._load()
        return outputs if len(self._outputs) > 1 else next(iter(outputs.values()))

    def _load(self) -> dict[str, Any]:
        model = np.frombuffer(self._model, np.uint8)
        description, _ = get_worker().request("load", {"model": model}, **self._key)
        return description

    def _named(self, inputs: Any) -> dict[str, np.ndarray]:
        names = self.input_names
        if isinstance(inputs, Mapping):
            if set(inputs) != set(names):
                raise ValueError(f"`inputs` must have the keys {names}. Received: {[*inputs]}")
            return {name: np.asarray(inputs[name]) for name in names}
        if isinstance(inputs, Sequence):
            if len(inputs) != len(names):
                raise ValueError(
                    f"`inputs` must be {len(names)} arrays, for {names}. "
                    f"Received: {len(inputs)} values"
                )
            return {name: np.asarray(value) for name, value in zip(names, inputs, strict=True)}
        if len(names) != 1:
            raise ValueError(
                f"`inputs` must be a dict with the keys {names}, or a list in that order. "
                f"Received: a value of type {type(inputs).__name__}"
            )
        return {names[0]: np.asarray(inputs)}

    def _is_batched(self) -> bool:
        """Whether the first axis of everything is the batch, so that calls can be joined."""
        shapes = [*self.input_shapes.values(), *self.output_shapes.values()]
        return len({shape[:1] for shape in shapes}) == 1 and shapes[0] != ()

    def _check(self, name: str, array: np.ndarray, batched: bool) -> None:
        shape, dtype = self.input_shapes[name], self.input_dtypes[name]
        fits = array.shape == shape
        if batched:
            fits = array.ndim == len(shape) and array.shape[1:] == shape[1:] and len(array) > 0
        if not fits:
            allowed = ("batch", *shape[1:]) if batched else shape
            raise ValueError(
                f"`inputs[{name!r}]` must have shape ({', '.join(map(str, allowed))}). "
                f"Received: shape {array.shape}"
            )
        if array.dtype != dtype:
            raise ValueError(
                f"`inputs[{name!r}]` must have dtype {dtype}. Received: dtype {array.dtype}"
            )
