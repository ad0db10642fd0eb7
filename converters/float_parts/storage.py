"""The deploy worker's edits of a `.tflite` file: float kernels stored in fewer bits.

LCE's converter writes every float weight as float32. What is stored in fewer bits here is either
dequantized by an operation in front of its float operator (once, when the file is loaded), or, for
`CONV_2D` and `FULLY_CONNECTED` with int8 weights, read by TFLite's hybrid kernels, which round
their inputs to 8 bits on the fly and multiply integers.
"""

import dataclasses

import keras
import numpy as np

from bnnkeras.converters import flatbuffer
from bnnkeras.converters.float_parts import kernels, rounding

# Position of the kernel among the inputs, its axis of filters, and the version of the operator
# that has a hybrid kernel with one scale for each filter.
_KERNEL_INPUT = 1
_FILTER_AXIS = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0, "DEPTHWISE_CONV_2D": 3}
_HYBRID_VERSION = {"CONV_2D": 5, "FULLY_CONNECTED": 9}
_DEQUANTIZE_VERSION = 5
# What a converter may change by multiplying in another order.
_ROUNDING = 2.0**-21


@dataclasses.dataclass(frozen=True)
class KernelOperator:
    """A float operator of a file, and the kernel that it reads.

    Attributes:
        operator: The operator.
        constant: Index of the tensor that stores the kernel.
        rows: (filters, weights of one) float64 values of the kernel.
        steps: (filters,) distance between two values that the file can hold; 0 for floats.
        per_filter: Whether the file has more than one step.
        dtype: `"float32"`, `"float16"` or `"int8"`: how it is stored.
        dequantized: Whether an operation in front of the operator turns it into float32.
    """

    operator: flatbuffer.Operator
    constant: int
    rows: np.ndarray
    steps: np.ndarray
    per_filter: bool
    dtype: str
    dequantized: bool

    @property
    def input(self) -> int:
        """The tensor that is multiplied by the kernel."""
        return self.operator.inputs[2 if self.operator.kind == "TRANSPOSE_CONV" else 0]

    def holds(self, layer: keras.layers.Layer, rounded_once: bool = True) -> bool:
        """Whether the kernel is that of a layer.

        Args:
            layer: A layer with a kernel.
            rounded_once: Whether the layer's weights are those that the file can hold; else each
                may be off by half a step.
        """
        rows = kernels.filters_first(layer, keras.ops.convert_to_numpy(layer.kernel))
        if rows.shape != self.rows.shape:
            return False
        allowed = _ROUNDING * np.abs(rows).max(axis=1, keepdims=True)
        if not rounded_once:
            allowed = allowed + 0.5 * self.steps[:, None]
        return bool((np.abs(rows - self.rows) <= allowed).all())


def kernel_operators(file: flatbuffer.FlatbufferModel) -> list[KernelOperator]:
    """The operators of a file that read a constant float kernel, in execution order."""
    found = []
    for operator in file.operators:
        axis = _FILTER_AXIS.get(operator.kind)
        if axis is None:
            continue
        constant, source = operator.inputs[_KERNEL_INPUT], None
        if file.tensors[constant].value is None:
            source = file.producer(constant)
            if source is None or source.kind != "DEQUANTIZE":
                continue
            constant = source.inputs[0]
        tensor = file.tensors[constant]
        if tensor.value is None or tensor.dtype not in ("float32", "float16", "int8"):
            continue
        rows = np.moveaxis(tensor.value, axis, 0)
        rows = rows.reshape(len(rows), -1).astype(np.float64)
        steps, per_filter = np.zeros(len(rows)), False
        if tensor.quantization is not None:
            per_filter = len(tensor.quantization.scale) > 1
            steps = np.broadcast_to(tensor.quantization.scale, len(rows)).astype(np.float64)
            zeros = np.broadcast_to(tensor.quantization.zero_point, len(rows))
            rows = steps[:, None] * (rows - zeros[:, None])
        found.append(
            KernelOperator(
                operator, constant, rows, steps, per_filter, tensor.dtype, source is not None
            )
        )
    return found


def stored(data: bytes, deployed: keras.Model, mode: str, keep_float: frozenset[str]) -> bytes:
    """The same file with the kernels of a rounded deploy form in fewer bits, without loss.

    Args:
        data: What LCE's converter made of the deploy form.
        deployed: The deploy form, its float kernels rounded to what `mode` can hold.
        mode: `"float16"` or `"int8-weights"`.
        keep_float: Names of layers whose kernels stay as they are.
    """
    file = flatbuffer.read(data)
    layers = [layer for layer in kernels.float_layers(deployed) if layer.name not in keep_float]
    editor = _Editor(data)
    for item in kernel_operators(file):
        layer = next((layer for layer in layers if item.holds(layer)), None)
        if layer is None or not rounding.pays(item.rows):
            continue
        # Equal weights are one number and a FILL already.
        if item.dtype != "float32" or file.producer(item.constant) is not None:
            continue
        rows = item.rows.astype(np.float32)
        if mode == "float16":
            halves = rounding.as_float16(rows)
            if halves is not None:
                editor.dequantize(item, halves, None)
            continue
        integers = rounding.as_int8(rows, kernels.has_scale_per_filter(layer))
        if item.operator.kind in _HYBRID_VERSION and _may_be_hybrid(item, layer, file):
            editor.make_hybrid(item, *integers)
        else:
            editor.dequantize(item, *integers)
    return editor.bytes()


def _may_be_hybrid(item, layer, file) -> bool:
    """Whether the inputs of an operator are samples of real values, to be rounded one by one."""
    source = file.producer(item.input)
    # Signs are exact in float, but not in 256 steps from -1 to +1 of which one is 0.
    of_signs = source is not None and source.kind == "LceDequantize"
    batch = file.tensors[next(iter(file.signature_inputs.values()))].shape[:1]
    # A layer that is called more than once cannot be told apart in the file.
    shared = len(layer._inbound_nodes) > 1
    return not of_signs and not shared and file.tensors[item.input].shape[:1] == batch


class _Editor:
    """A file whose constants are replaced."""

    def __init__(self, data: bytes) -> None:
        self._schema = flatbuffer.tflite_schema()
        self._model = flatbuffer.unpack(data)
        self._graph = self._model.subgraphs[0]
        self._operators = list(self._graph.operators)
        self._dequantized: set[int] = set()

    def make_hybrid(self, item: KernelOperator, rows: np.ndarray, scales: np.ndarray) -> None:
        """Lets an operator read int8 weights itself."""
        code = self._model.operatorCodes[self._operators[item.operator.index].opcodeIndex]
        code.version = max(code.version, _HYBRID_VERSION[item.operator.kind])
        inputs = list(self._operators[item.operator.index].inputs)
        inputs[_KERNEL_INPUT] = self._constant(item, rows, scales)
        self._operators[item.operator.index].inputs = inputs

    def dequantize(self, item: KernelOperator, rows: np.ndarray, scales: np.ndarray | None) -> None:
        """Puts a DEQUANTIZE in front of an operator, once for operators that share a kernel."""
        if item.constant in self._dequantized:
            return
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._dequantize_code()
        operator.inputs = [self._constant(item, rows, scales)]
        operator.outputs = [item.constant]
        operator.builtinOptionsType = self._schema.BuiltinOptions.DequantizeOptions
        operator.builtinOptions = self._schema.DequantizeOptionsT()
        self._dequantized.add(item.constant)
        self._graph.operators = [operator, *self._graph.operators]
        # The float32 tensor is computed now.
        self._graph.tensors[item.constant].buffer = 0

    def bytes(self) -> bytes:
        """The edited file, without what no tensor refers to any more."""
        read = {int(index) for operator in self._graph.operators for index in operator.inputs}
        used = {self._graph.tensors[index].buffer for index in read if index >= 0}
        used |= {entry.buffer for entry in self._model.metadata or []}
        for number, buffer in enumerate(self._model.buffers):
            if number not in used:
                buffer.data = None
        for tensor in self._graph.tensors:
            if tensor.buffer not in used:
                tensor.buffer = 0
        return flatbuffer.pack(self._model)

    def _constant(self, item, rows, scales) -> int:
        schema, old = self._schema, self._graph.tensors[item.constant]
        axis = _FILTER_AXIS[item.operator.kind]
        shape = list(old.shape)
        first = [shape[axis], *shape[:axis], *shape[axis + 1 :]]
        values = np.moveaxis(rows.reshape(first), 0, axis)
        buffer = schema.BufferT()
        buffer.data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._model.buffers = [*self._model.buffers, buffer]
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = old.name, shape, len(self._model.buffers) - 1
        tensor.type = schema.TensorType.FLOAT16
        if scales is not None:
            tensor.type = schema.TensorType.INT8
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
            tensor.quantization.quantizedDimension = axis
        self._graph.tensors = [*self._graph.tensors, tensor]
        return len(self._graph.tensors) - 1

    def _dequantize_code(self) -> int:
        number = self._schema.BuiltinOperator.DEQUANTIZE
        for index, code in enumerate(self._model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
                code.version = max(code.version, _DEQUANTIZE_VERSION)
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = _DEQUANTIZE_VERSION
        self._model.operatorCodes = [*self._model.operatorCodes, code]
        return len(self._model.operatorCodes) - 1
