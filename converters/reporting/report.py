"""The report about a `.tflite` file: plain values, and how they are kept."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from bnnkeras.converters.reporting import page, text
from bnnkeras.files import replacing

_FORMAT = "bnnkeras report 1"


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or output of the file.

    Attributes:
        name: Its name in the signature.
        shape: Its shape, with the batch axis.
        dtype: NumPy name of its type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class OperatorRow:
    """One operator of the file.

    Attributes:
        index: Its position in execution order.
        operator: The schema's name (`"CONV_2D"`) or LCE's (`"LceBconv2d"`).
        layer: The Keras layer that it belongs to; in files of others, what the tensors' names tell.
        precision: `"binary"` for LceBconv2d alone; else the type of what is multiplied, such as
            `"float32"`, `"int8"` or, where kernel and input differ, `"int8 x float32"`. Empty for
            an operator that multiplies no kernel.
        output_shape: Shape of its first output. That of bits has words of 32 channels.
        output_dtype: Type of its first output.
        weight_bytes: Bytes of the constants that it reads, counted where they are read first.
        macs: Multiply-accumulates of one run of the file.
        live_bytes: Bytes of all activations that are needed while it runs.
        latency_ms: Milliseconds it takes by itself, or `None` where that was not measured.
    """

    index: int
    operator: str
    layer: str
    precision: str
    output_shape: tuple[int, ...]
    output_dtype: str
    weight_bytes: int
    macs: int
    live_bytes: int
    latency_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long the file took, run by run.

    Attributes:
        kernel: LCE's kernel, or what the device's benchmark ran.
        num_threads: Threads of the interpreter.
        device: Where it ran.
        runs: Number of runs behind the percentiles.
        mean_ms: Mean of the runs.
        round_medians_ms: Median of each round, for ratios to what was measured in the same rounds.
        p50_ms: Median, or `None` where only the mean is known.
        p90_ms: 90th percentile, or `None`.
        p99_ms: 99th percentile, or `None`.
        memory_bytes: Memory that the process took on to load and run the file, or `None`.
        operator_share: Sum of the rows' `latency_ms` over the whole, or `None`.
    """

    kernel: str
    num_threads: int
    device: str
    runs: int
    mean_ms: float
    round_medians_ms: tuple[float, ...] = ()
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    memory_bytes: int | None = None
    operator_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything there is to say about a `.tflite` file.

    `print(report)` shows it as tables; `save` writes it as JSON or as one page with pictures.

    Attributes:
        file: Name of the file, or of the model that was converted.
        model: Name of the model that it was made of; empty if the file does not tell.
        file_bytes: Its size.
        sha256: Its hash.
        sealed: Whether the file holds the hash that it had when bnnkeras made it.
        versions: Versions of what made it.
        inputs: The signature's inputs.
        outputs: The signature's outputs.
        rows: The operators in execution order.
        binary_layers: Layers that the user built as binary; `None` if the file does not tell.
        float_reasons: Layers of 1-bit inputs and kernel that run in float, and why.
        notes: What differs from the training form on purpose, by layer.
        metadata: What else is stored in the file: class names, preprocessing, paddings.
        verification: What `verify` found, as plain values; `None` if it did not run.
        quantization: What float parts in fewer bits cost, as plain values of a `QuantizationCost`;
            `None` where nothing was measured.
        latencies: One entry for each kernel that was measured.
        refusals: Kernels that were to be measured and cannot run the file, and why.
    """

    file: str
    file_bytes: int
    sha256: str
    sealed: bool
    model: str
    versions: dict[str, str]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    rows: tuple[OperatorRow, ...]
    binary_layers: tuple[str, ...] | None = None
    float_reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    verification: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    latencies: tuple[Latency, ...] = ()
    refusals: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def binary_macs(self) -> int:
        """Multiply-accumulates in LceBconv2d."""
        return sum(row.macs for row in self.rows if row.precision == "binary")

    @property
    def other_macs(self) -> int:
        """All other multiply-accumulates."""
        return sum(row.macs for row in self.rows if row.precision != "binary")

    @property
    def binary_share(self) -> float | None:
        """The binary part of all multiply-accumulates, `None` if there are none."""
        total = self.binary_macs + self.other_macs
        return self.binary_macs / total if total else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants; the rest of the file is its structure, names and metadata."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """The most bytes of activations needed at a time: a lower bound of the arena.

        The interpreter adds scratch buffers, alignment, and gaps where blocks do not fit.
        """
        return max((row.live_bytes for row in self.rows), default=0)

    @property
    def layers_in_float(self) -> tuple[str, ...]:
        """Layers built as binary of which nothing is multiplied in 1 bit."""
        return self._layers_where(binary=False)

    @property
    def layers_in_bits(self) -> tuple[str, ...]:
        """Layers built as binary of which all is multiplied in 1 bit."""
        return self._layers_where(binary=True, other=False)

    @property
    def layers_partly_in_bits(self) -> tuple[str, ...]:
        """Layers built as binary that are multiplied in 1 bit in part, such as separable ones."""
        return self._layers_where(binary=True, other=True)

    def _layers_where(self, binary: bool, other: bool | None = None) -> tuple[str, ...]:
        precisions: dict[str, set[bool]] = {}
        for row in self.rows:
            if row.precision:
                precisions.setdefault(row.layer, set()).add(row.precision == "binary")
        return tuple(
            layer
            for layer in self.binary_layers or ()
            if (True in precisions.get(layer, ())) is binary
            and (other is None or (False in precisions.get(layer, ())) is other)
        )

    def __str__(self) -> str:
        return text.report_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, with its totals."""
        totals = {
            name: getattr(self, name)
            for name in (
                "binary_macs",
                "other_macs",
                "binary_share",
                "weight_bytes",
                "activation_bytes",
                "layers_in_bits",
                "layers_partly_in_bits",
                "layers_in_float",
            )
        }
        values = {"format": _FORMAT, **dataclasses.asdict(self), "totals": totals}
        return json.loads(json.dumps(values))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the report, whole or not at all.

        Args:
            path: A name that ends in `.json`, for `Report.load`, or in `.html`, a page that needs
                neither network nor scripts.

        Raises:
            ValueError: If the name has another ending.
            OSError: If it cannot be written.
        """
        suffix = Path(path).suffix.lower()
        if suffix == ".json":
            content = json.dumps(self.to_dict(), indent=2) + "\n"
        elif suffix == ".html":
            content = page.report_page(self)
        else:
            raise ValueError(f"`path` must end in .json or .html. Received: {str(path)!r}")
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Report":
        """Reads what `save` wrote as JSON.

        Raises:
            ValueError: If the file is no report.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT!r}")
            del values["totals"]
            for name, entry in (
                ("inputs", TensorInfo),
                ("outputs", TensorInfo),
                ("rows", OperatorRow),
                ("latencies", Latency),
            ):
                values[name] = tuple(entry(**_with_tuples(item)) for item in values[name])
            if values["binary_layers"] is not None:
                values["binary_layers"] = tuple(values["binary_layers"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "`path` must name a report that `Report.save` wrote as JSON. "
                f"Received: {str(path)!r} ({error})"
            ) from error


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
