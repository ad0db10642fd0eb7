"""Operators that compute with 8 bits, checked one by one on the file's own inputs.

A hybrid operator rounds its inputs in a known way (`hybrid`), an int8 operator has inputs of 256
values: on the same inputs, the float layer tells what either has to put out.
"""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from bnnkeras.converters import graph
from bnnkeras.converters.flatbuffer import FlatbufferModel
from bnnkeras.converters.float_parts import hybrid, kernels, storage
from bnnkeras.converters.float_parts.fake_quantization import FakeQuantization, is_relu

# Float operations in one order or another; their error relative to the largest value.
FLOAT_TOLERANCE = 1e-5
# The converter computes scales in float32 from float32 limits.
_SCALE_TOLERANCE = 1e-6
# Outputs of int8 tanh, and of sigmoid and softmax.
_FIXED_SCALES = ((1 / 128, 0), (1 / 256, -128))


@dataclasses.dataclass(frozen=True)
class Match:
    """An operator with int8 weights, and the layer that it has to be.

    Attributes:
        item: The operator and its kernel.
        layer: The layer; its kernel is that of the file, which is within half a step of it.
        input: Symbolic tensor of the deploy form that the operator reads.
        output: Symbolic tensor that it computes.
        is_hybrid: Whether the operator takes float32 and rounds it itself.
    """

    item: storage.KernelOperator
    layer: keras.layers.Layer
    input: keras.KerasTensor
    output: keras.KerasTensor
    is_hybrid: bool

    def rounded_inputs(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the operator makes of its inputs, and how far its outputs may be off for that."""
        shaped = values.reshape(-1, *self.input.shape[1:])
        if not self.is_hybrid:
            return shaped, np.zeros(())
        rounded, undecided = hybrid.rounded_inputs(
            self.item.operator.kind, shaped, self.item.per_filter
        )
        if not undecided.any():
            return rounded, np.zeros(())
        changes = {"activation": None, "use_bias": False}
        twin = type(self.layer).from_config({**self.layer.get_config(), **changes})
        twin.build(undecided.shape)
        twin.kernel.assign(np.abs(keras.ops.convert_to_numpy(self.layer.kernel)))
        return rounded, keras.ops.convert_to_numpy(twin(undecided))


def matches(file: FlatbufferModel, deployed: keras.Model) -> tuple[list[Match], list[str]]:
    """Pairs the kernels of a file that are in fewer bits with the layers that they belong to.

    Returns:
        The operators that compute with 8 bits, and a sentence for each kernel that is no layer's.
    """
    found: list[Match] = []
    problems: list[str] = []
    consumers = kernels.consumers_of(deployed)
    left = kernels.float_layers(deployed)
    for item in storage.kernel_operators(file):
        if item.dtype == "float32":
            continue
        # LCE's converter rounds the weights of an int8 operator itself.
        on_int8 = file.tensors[item.input].dtype == "int8"
        holding = [layer for layer in left if item.holds(layer, rounded_once=not on_int8)]
        if not holding:
            problems.append(
                f"operator {item.operator.index} is a {item.operator.kind} whose {item.dtype} "
                "kernel is no layer's"
            )
            continue
        # Layers with the same weights: the name decides.
        stored_name = file.tensors[item.constant].name
        layer = next((x for x in holding if stored_name == f"{x.name}/kernel"), holding[0])
        if item.dequantized or len(layer._inbound_nodes) > 1:
            continue
        left = [other for other in left if other is not layer]
        match = Match(
            item,
            layer,
            _input(file, item, layer),
            _output(file, item, layer, consumers),
            is_hybrid=not on_int8,
        )
        sizes = [_size(file.tensors[index]) for index in (item.input, item.operator.outputs[0])]
        if sizes == [_size(match.input), _size(match.output)]:
            found.append(match)
        else:
            problems.append(
                f"{layer.name}: {sizes[0]} values become {sizes[1]} in the file, "
                f"{_size(match.input)} become {_size(match.output)} in the model"
            )
    for match in found:
        rows = match.item.rows.astype(np.float32)
        match.layer.kernel.assign(kernels.filters_in_place(match.layer, rows))
    return found, problems


def foreign_scales(file: FlatbufferModel, deployed: keras.Model) -> list[str]:
    """A sentence for each int8 value of a file whose scale or zero point is not one of the model's.

    A wrong one shifts or clips values, which samples show only if they reach the limits.
    """
    known: set[tuple[float, int]] = {*_FIXED_SCALES}
    for layer in deployed.layers:
        if isinstance(layer, FakeQuantization):
            scale, lowest, _ = layer.nudged()
            known.add((scale, -128 - round(lowest / scale)))
    problems = []
    for tensor in file.tensors:
        if tensor.dtype != "int8" or tensor.value is not None or tensor.quantization is None:
            continue
        scale = float(tensor.quantization.scale[0])
        zero_point = int(tensor.quantization.zero_point[0])
        if not any(
            zero_point == other_zero and abs(scale - other_scale) <= _SCALE_TOLERANCE * scale
            for other_scale, other_zero in known
        ):
            problems.append(
                f"{tensor.name} has the scale {scale:.6g} and the zero point {zero_point} in the "
                "file, which no value of the model has"
            )
    return problems


def errors_over_bound(
    file: FlatbufferModel,
    match: Match,
    values: dict[int, np.ndarray],
    wanted: np.ndarray,
    allowance: np.ndarray,
) -> float:
    """The largest error of an operator, in units of what it may be off by; right if at most 1.

    A hybrid operator multiplies integers and rounds as float32 does: 1e-5 of the largest value,
    and where the last bit decides how an input is rounded, what a step of it makes. An
    int8 operator rounds its bias to steps of input times weight, and its output, in fixed-point
    arithmetic, to one step or the next.

    Args:
        file: The file.
        match: The operator.
        values: Real values of the file's tensors, by index.
        wanted: What the layer makes of the inputs of `match.rounded_inputs`.
        allowance: What that returns beside them.
    """
    operator = match.item.operator
    found = values[operator.outputs[0]].reshape(-1, *match.output.shape[1:])
    bound = FLOAT_TOLERANCE * max(float(np.abs(wanted).max()), 1e-30)
    step = step_of(file, operator.outputs[0])
    if step:
        lowest, highest = limits_of(file, operator.outputs[0])
        wanted = np.clip(wanted, lowest, highest)
        bound += step + 0.5 * step_of(file, match.item.input) * float(match.item.steps.max())
    return float((np.abs(found - wanted) / (bound + allowance)).max())


def step_of(file: FlatbufferModel, tensor: int) -> float:
    """The distance between two values of an int8 tensor; 0 for floats and packed bits."""
    stored = file.tensors[tensor]
    if stored.dtype != "int8" or stored.quantization is None:
        return 0.0
    return float(stored.quantization.scale.max())


def limits_of(file: FlatbufferModel, tensor: int) -> tuple[float, float]:
    """The smallest and the largest real value of an int8 tensor."""
    stored = file.tensors[tensor].quantization
    if stored is None:
        return -np.inf, np.inf
    lowest, highest = (stored.scale[0] * (limit - stored.zero_point[0]) for limit in (-128, 127))
    return float(lowest), float(highest)


def as_real(file: FlatbufferModel, tensor: int, values: np.ndarray) -> np.ndarray:
    """Values as they are meant: int8 by its scale and zero point, others as they are."""
    stored = file.tensors[tensor].quantization
    if values.dtype != np.int8 or stored is None:
        return values
    centred = values.astype(np.int32) - int(stored.zero_point[0])
    return centred.astype(np.float32) * stored.scale[0].astype(np.float32)


def rounding_allowances(
    file: FlatbufferModel, tensors: Sequence[int], taps: set[int]
) -> list[float]:
    """How far int8 operators between taps may be off at tensors.

    Each may round to the value next to the right one, and passes on what it received: sums and
    averages as it is, products and float convolutions times their largest gain.

    Args:
        file: The file.
        tensors: Indices of the tensors.
        taps: Tensors whose values are known.
    """
    allowances = _Allowances(file, taps)
    return [allowances.at(tensor) for tensor in tensors]


class _Allowances:
    def __init__(self, file, taps):
        self._file, self._taps = file, taps
        self._producers = {index: item for item in file.operators for index in item.outputs}
        self._gains = {
            item.operator.index: float(np.abs(item.rows).sum(axis=1).max())
            for item in storage.kernel_operators(file)
        }
        self._known: dict[int, float] = {}

    def at(self, tensor) -> float:
        producer = self._producers.get(tensor)
        if producer is None or tensor in self._taps:
            return 0.0
        if tensor not in self._known:
            incoming = sum(self.at(index) for index in producer.inputs if index >= 0)
            gain = self._gain(producer) if incoming else 1.0
            self._known[tensor] = step_of(self._file, tensor) + gain * incoming
        return self._known[tensor]

    def _gain(self, operator) -> float:
        if operator.kind in ("MUL", "PRELU"):
            factors = [self._file.tensors[index].value for index in operator.inputs]
            largest = [float(np.abs(value).max()) for value in factors if value is not None]
            return max([1.0, *largest])
        return self._gains.get(operator.index, 1.0)


def _size(tensor) -> int:
    """Values of one sample."""
    return math.prod(tensor.shape[1:])


def _input(file, item, layer):
    """What the operator reads: the layer's input, or what was padded or rounded to become it."""
    tensor = layer.input
    size = _size(file.tensors[item.input])
    while _size(tensor) != size:
        source, inputs = graph.producer(tensor)
        if not isinstance(source, (layers.ZeroPadding2D, FakeQuantization)):
            break
        (tensor,) = inputs
    return tensor


def _output(file, item, layer, consumers):
    """What the operator computes: the layer's output, or that of an activation fused behind it."""
    (first, *others) = consumers[id(layer.output)]
    following = file.consumers(item.operator.outputs[0])
    apart = any(operator.kind in ("RELU", "RELU6") for operator in following)
    return first.output if not others and is_relu(first) and not apart else layer.output
