"""Which values of a deploy form are int8 in the file, and the layers that tell the converter.

LCE's converter has no calibration: it quantizes an operator where a fake quantization, with its
range, stands behind each input and output. Where it does not, the operator stays in float32.
"""

import dataclasses

import keras
import numpy as np
from keras import layers, ops

from bnnkeras.converters import graph
from bnnkeras.converters.float_parts.kernels import (
    FUSED_ACTIVATIONS,
    consumers_of,
    has_float_kernel,
    rebuilt,
)
from bnnkeras.converters.layers import ConstantPadding, Flip
from bnnkeras.converters.lowering import Builder
from bnnkeras.converters.plan import BinaryUnit, binary_units
from bnnkeras.layers import MaxPooling2D
from bnnkeras.registration import register

_STEPS = 255
_POOLS = (layers.MaxPooling2D, MaxPooling2D)
# They only move values: int8 kernels take and give one scale.
_SAME_RANGE = (
    *_POOLS,
    ConstantPadding,
    layers.AveragePooling2D,
    layers.Cropping2D,
    layers.Flatten,
    layers.Reshape,
    layers.ZeroPadding2D,
    Flip,
)
_NEW_RANGE = (layers.Add, layers.GlobalAveragePooling2D)


@register
class FakeQuantization(layers.Layer):
    """Rounds to 256 values between two limits: y = scale * round(x / scale), as int8 would.

    The limits are moved so that 0 is one of the values.

    Args:
        minimum: Float, at most 0; `None` to pass values on, for observing them.
        maximum: Float, at least 0 and above `minimum`; `None` likewise.
        range_name: String. The name of the range, which several layers may share.

    Call arguments:
        inputs: Array of any shape.
    """

    def __init__(self, minimum=None, maximum=None, range_name=None, **kwargs):
        super().__init__(**kwargs)
        self.minimum = minimum
        self.maximum = maximum
        self.range_name = range_name

    def call(self, inputs):
        if self.minimum is None:
            return inputs
        if keras.backend.backend() == "tensorflow" and self.compute_dtype == "float32":
            import tensorflow

            # The form that the converter understands.
            return tensorflow.quantization.fake_quant_with_min_max_args(
                inputs, self.minimum, self.maximum
            )
        scale, lowest, highest = self.nudged()
        return ops.round((ops.clip(inputs, lowest, highest) - lowest) / scale) * scale + lowest

    def nudged(self) -> tuple[float, float, float]:
        """The scale and the limits, moved so that 0 is a value."""
        scale = (self.maximum - self.minimum) / _STEPS
        zero = float(np.clip(np.floor(-self.minimum / scale + 0.5), 0, _STEPS))
        return scale, -zero * scale, (_STEPS - zero) * scale

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {name: getattr(self, name) for name in ("minimum", "maximum", "range_name")}
        return {**super().get_config(), **own}


@dataclasses.dataclass(frozen=True)
class Int8Plan:
    """A deploy form with its fake quantizations.

    Attributes:
        model: The deploy form, each value that is int8 in the file behind a `FakeQuantization`.
        layers: Names of the float layers that run in int8.
        float_reasons: The other float layers, and why.
    """

    model: keras.Model
    layers: tuple[str, ...]
    float_reasons: dict[str, str]


def with_fake_quantization(
    deployed: keras.Model,
    ranges: dict[str, tuple[float, float]] | None = None,
    keep_float: frozenset[str] = frozenset(),
) -> Int8Plan:
    """Puts a `FakeQuantization` behind every value that can be int8.

    These are inputs and outputs of float layers, and all that additions and poolings make of int8
    values. Outputs of binary convolutions that pad with zeros are not: with int8 outputs they run
    under LCE's reference kernel only. Nor are those that nothing but signs reads: they are packed
    into bits as they come.

    Args:
        deployed: A deploy form with folded scales (`kernels.with_folded_scales`).
        ranges: Smallest and largest value by the names of the layers added. `None` adds layers
            that pass values on.
        keep_float: Names of float layers to leave in float32.
    """
    choice = _Choice(deployed, keep_float)
    builder = Builder()
    quantized: dict[int, keras.KerasTensor] = {}

    def quantize(x, name):
        minimum, maximum = (None, None) if ranges is None else ranges[name]
        layer = FakeQuantization(minimum, maximum, name, name=builder.name(f"{name}_int8"))
        return layer(x)

    def call(operation, *args, **kwargs):
        if operation.name in choice.before:
            (x,) = args
            if id(x) not in quantized:
                quantized[id(x)] = quantize(x, choice.before[operation.name])
            args = (quantized[id(x)],)
        if isinstance(operation, keras.layers.Layer):
            outputs = builder.copy(operation)(*args, **kwargs)
        else:
            outputs = builder.copy_operation(operation)(*args, **kwargs)
        name = choice.after.get(operation.name)
        return outputs if name is None else quantize(outputs, name)

    return Int8Plan(rebuilt(deployed, call), tuple(choice.layers), choice.float_reasons)


class _Choice:
    """Behind and before which operations to quantize, by their names: the name of the range."""

    def __init__(self, deployed, keep_float):
        self.layers: list[str] = []
        self.float_reasons: dict[str, str] = {}
        self.before: dict[str, str] = {}
        self.after: dict[str, str] = {}
        self._keep_float = keep_float
        self._consumers = consumers_of(deployed)
        self._unit_ends = {id(unit.epilogues[-1].output): unit for unit in binary_units(deployed)}
        self._int8: dict[int, str] = {}
        self._before_activation: set[int] = set()
        operations = deployed.operations
        for operation in operations:
            self._choose(operation)
        for operation in operations:
            self._reconsider(operation)

    def _choose(self, operation):
        if has_float_kernel(operation):
            reason = self._float_reason(operation)
            if reason is not None:
                self.float_reasons[operation.name] = reason
                return
            self.layers.append(operation.name)
            self._round_input(operation)
            self._finish(operation)
        elif len(operation._inbound_nodes) == 1 and isinstance(operation.output, keras.KerasTensor):
            self._choose_passive(operation)

    def _choose_passive(self, operation):
        """An operation without a float kernel: int8 if what it reads is."""
        inputs = operation._inbound_nodes[0].input_tensors
        unit = self._unit_ends.get(id(operation.output))
        if unit is not None:
            if _runs_with_int8_outputs(unit) and self._is_read_as_int8(operation.output):
                self._mark(operation, operation.name)
        elif any(id(tensor) in self._before_activation for tensor in inputs):
            self._mark(operation, operation.name)
        elif inputs and all(id(tensor) in self._int8 for tensor in inputs):
            if isinstance(operation, _SAME_RANGE):
                self._mark(operation, self._int8[id(inputs[0])])
            elif isinstance(operation, _NEW_RANGE) or is_relu(operation):
                self._mark(operation, operation.name)

    def _reconsider(self, operation):
        """Leaves what a binary convolution puts out in float32 if nothing reads it as int8."""
        if operation.name in self.after and id(operation.output) in self._unit_ends:
            readers = [x for x in self._consumers[id(operation.output)] if x is not None]
            if not any(x.name in self.after or x.name in self.layers for x in readers):
                del self.after[operation.name]

    def _round_input(self, operation) -> str:
        """Makes the input of an operation int8; returns its range.

        Through paddings and poolings, which work on int8 too: the converter would move the rounding
        in front of them by itself, with the range of their outputs, and clip their inputs.
        """
        if id(operation.input) not in self._int8:
            source, _ = graph.producer(operation.input)
            if not isinstance(source, _SAME_RANGE) or len(source._inbound_nodes) > 1:
                self.before[operation.name] = f"{source.name}_rounded"
                return self.before[operation.name]
            self._mark(source, self._round_input(source))
        return self._int8[id(operation.input)]

    def _finish(self, operation):
        """Quantizes behind a float layer, or behind the activation that is fused into it."""
        readers = self._consumers[id(operation.output)]
        if len(readers) == 1 and is_relu(readers[0]) and len(readers[0]._inbound_nodes) == 1:
            self._before_activation.add(id(operation.output))
        else:
            self._mark(operation, operation.name)

    def _mark(self, operation, range_name):
        self.after[operation.name] = range_name
        self._int8[id(operation.output)] = range_name

    def _is_read_as_int8(self, tensor) -> bool:
        return any(
            has_float_kernel(reader)
            or is_relu(reader)
            or isinstance(reader, _NEW_RANGE)
            or (isinstance(reader, _SAME_RANGE) and self._is_read_as_int8(reader.output))
            for reader in self._consumers[id(tensor)]
        )

    def _float_reason(self, layer) -> str | None:
        if layer.name in self._keep_float:
            return "kept in float on request"
        if len(layer._inbound_nodes) > 1:
            return "called more than once"
        return None


def is_relu(operation) -> bool:
    """Whether an operation is an activation that float layers have fused."""
    if isinstance(operation, layers.ReLU):
        limits = (operation.negative_slope, operation.threshold)
        return limits == (0, 0) and operation.max_value in (None, 6)
    return (
        isinstance(operation, layers.Activation) and operation.activation in FUSED_ACTIVATIONS[1:]
    )


def _runs_with_int8_outputs(unit: BinaryUnit) -> bool:
    """Whether every kernel of LCE can write int8: where nothing is padded with zeros."""
    if unit.layer.padding == "valid":
        return True
    return all(
        (-(-size // stride) - 1) * stride + (length - 1) * dilation + 1 <= size
        for size, stride, length, dilation in zip(
            unit.before_sign.shape[1:3],
            unit.layer.strides,
            unit.layer.kernel_size,
            unit.layer.dilation_rate,
            strict=True,
        )
    )
