"""What fewer bits cost: the file against the same network in float32, on the same inputs."""

import dataclasses

import numpy as np

from bnnkeras.converters.float_parts.recipe import Recipe
from bnnkeras.converters.interpreter import Interpreter


@dataclasses.dataclass(frozen=True)
class QuantizationCost:
    """How a file with float parts in fewer bits differs from the float32 file of the same model.

    Attributes:
        mode: `"float16"`, `"int8-weights"` or `"int8"`.
        keep_float: Names of layers that stayed in float32 on request.
        file_bytes: Size of the file.
        float32_bytes: Size of the float32 file.
        samples: Number of samples that the files were compared on.
        measured_on: `"representative_data"`, `"inputs"` or `"noise"`: where they came from. On
            noise the numbers say little about real data.
        argmax_agreement: Share of samples with the same largest entry of the last axis, over all
            outputs.
        largest_difference: Largest difference at the outputs.
        largest_output: Largest magnitude at the outputs of the float32 file, to compare it with.
        correlation: Pearson correlation of all outputs; 1 where neither file's outputs vary.
    """

    mode: str
    keep_float: tuple[str, ...]
    file_bytes: int
    float32_bytes: int
    samples: int
    measured_on: str
    argmax_agreement: float
    largest_difference: float
    largest_output: float
    correlation: float

    def __str__(self) -> str:
        return (
            f"{self.mode}: {self.file_bytes:,} bytes instead of {self.float32_bytes:,}; on "
            f"{self.samples} samples ({self.measured_on}) {self.argmax_agreement:.1%} have the "
            f"same largest output, outputs differ by up to {self.largest_difference:.3g} of "
            f"{self.largest_output:.3g}, correlation {self.correlation:.5f}"
        )


def measured_cost(
    recipe: Recipe,
    flatbuffer: bytes,
    float32_flatbuffer: bytes,
    inputs: dict[str, np.ndarray],
    measured_on: str,
    timeout_seconds: float | None = 600.0,
) -> QuantizationCost:
    """Runs both files, under the fastest kernel here, and compares their outputs."""
    found, wanted = (
        _outputs(Interpreter(file), inputs, timeout_seconds)
        for file in (flatbuffer, float32_flatbuffer)
    )
    same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(found, wanted, strict=True)]
    ones, others = (np.concatenate([a.ravel() for a in values]) for values in (found, wanted))
    ones, others = ones.astype(np.float64), others.astype(np.float64)
    varies = ones.std() > 0 and others.std() > 0
    return QuantizationCost(
        mode=recipe.mode,
        keep_float=recipe.keep_float,
        file_bytes=len(flatbuffer),
        float32_bytes=len(float32_flatbuffer),
        samples=len(next(iter(inputs.values()))),
        measured_on=measured_on,
        argmax_agreement=float(np.mean(np.concatenate([part.ravel() for part in same]))),
        largest_difference=float(np.abs(ones - others).max()),
        largest_output=float(np.abs(others).max()),
        correlation=float(np.corrcoef(ones, others)[0, 1]) if varies else 1.0,
    )


def _outputs(interpreter, inputs, timeout_seconds) -> list[np.ndarray]:
    outputs = interpreter.predict(inputs, timeout_seconds=timeout_seconds)
    return [*outputs.values()] if isinstance(outputs, dict) else [outputs]
