"""Reports about files, with or without the model they were made of."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from bnnkeras.converters.reporting.report import OperatorRow, Report, TensorInfo
from bnnkeras.converters.verification import Verification
from bnnkeras.converters.worker import get_worker

# What has a field of its own in the report, or is spread over its rows.
_SHOWN_ELSEWHERE = {"model", "binary_layers", "float_reasons", "notes", "operator_layers"}
_VERSION = "_version"


def inspect(
    flatbuffer: bytes | str | os.PathLike,
    *,
    verification: Verification | None = None,
    timeout_seconds: float = 600.0,
) -> Report:
    """Reports what a `.tflite` file consists of.

    Of a file that `convert` made, the names of layers and the reasons for float ones are read from
    its metadata; other files are described by what is in them.

    Args:
        flatbuffer: The bytes of the file, or its path.
        verification: What `verify` found out about it, to be part of the report.
        timeout_seconds: Bound for the request to the deploy worker.

    Returns:
        A `Report`.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If the file is no TFLite file, is damaged or was edited after conversion.
        ImportError: If the `deploy` extra is missing.

    Example:
        ```python
        report = converters.inspect("model.tflite")
        print(report)
        report.save("model.html")
        ```
    """
    name = None
    if isinstance(flatbuffer, (str, os.PathLike)):
        name = Path(flatbuffer).name
        flatbuffer = Path(flatbuffer).read_bytes()
    if not isinstance(flatbuffer, bytes):
        raise TypeError(
            "`flatbuffer` must be the bytes of a .tflite file or a path. "
            f"Received: {type(flatbuffer).__name__}"
        )
    facts, _ = get_worker().request(
        "describe",
        {"flatbuffer": np.frombuffer(flatbuffer, np.uint8)},
        timeout_seconds=timeout_seconds,
    )
    stored = facts["metadata"]
    return Report(
        file=name or stored.get("model") or "model",
        model=stored.get("model") or "",
        file_bytes=len(flatbuffer),
        sha256=facts["sha256"],
        sealed=facts["sealed"],
        versions={
            key.removesuffix(_VERSION): str(value)
            for key, value in stored.items()
            if key.endswith(_VERSION)
        },
        inputs=_interface(facts["inputs"]),
        outputs=_interface(facts["outputs"]),
        rows=tuple(
            OperatorRow(**{**row, "output_shape": tuple(row["output_shape"])})
            for row in facts["operators"]
        ),
        binary_layers=tuple(stored["binary_layers"]) if "binary_layers" in stored else None,
        float_reasons=stored.get("float_reasons", {}),
        notes=stored.get("notes", {}),
        metadata={
            key: value
            for key, value in stored.items()
            if key not in _SHOWN_ELSEWHERE and not key.endswith(_VERSION) and value
        },
        verification=None if verification is None else plain_values(verification),
    )


def _interface(entries: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in entries
    )


def plain_values(record) -> dict[str, Any]:
    """A dataclass as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(record)))
