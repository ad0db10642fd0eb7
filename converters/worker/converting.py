"""The deploy worker's conversion of what others made."""

from typing import Any

import numpy as np

from bnnkeras.converters.worker import requirements
from bnnkeras.converters.worker.registry import Arrays, command


@command("convert_saved_model")
def convert_saved_model(arrays: Arrays, *, path: str) -> tuple[dict[str, Any], Arrays]:
    """Hands a SavedModel to LCE's converter as it is; the array "flatbuffer" holds the file."""
    converter = requirements.import_or_explain("larq_compute_engine.mlir.python.converter")
    return {}, {"flatbuffer": np.frombuffer(converter.convert_saved_model(path), np.uint8)}
