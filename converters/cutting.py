"""Cuts operators out of `.tflite` files. For the deploy worker: it needs LCE's schema classes."""

import copy
import dataclasses
from collections.abc import Sequence

from bnnkeras.converters import flatbuffer

# They run other subgraphs, which a file of one operator does not have.
_CALLING = frozenset({"CALL", "CALL_ONCE", "IF", "WHILE", "STABLEHLO_COMPOSITE"})


@dataclasses.dataclass(frozen=True)
class Cut:
    """An operator in a file of its own.

    Attributes:
        data: The bytes of the file.
        inputs: Indices, in the file that it was cut from, of what its inputs are.
    """

    data: bytes
    inputs: tuple[int, ...]


class OperatorCutter:
    """Makes files of one operator.

    What only depends on constants (a FILL, the DEQUANTIZE of a kernel) is a constant here too: it
    is cut out together with the operators that read it.

    Args:
        data: Bytes of a file that has passed `flatbuffer.check`.
    """

    def __init__(self, data: bytes) -> None:
        self.model = flatbuffer.read(data)
        self._content = flatbuffer.unpack(data)
        self._made_of_constants = {
            output: position
            for position in constant_operators(self.model)
            for output in self.model.operators[position].outputs
        }

    def alone(self, index: int, copies: int = 1) -> Cut | None:
        """One operator with its constants, `copies` times side by side.

        All copies read the same inputs; the outputs of the first are the file's. TensorFlow Lite
        runs them all, whether or not their outputs are read.

        Args:
            index: The operator's position.
            copies: How often it stands in the new file.

        Returns:
            A `Cut`, or `None` for an operator that depends on constants only or calls a subgraph.
        """
        operator = self.model.operators[index]
        if operator.outputs[0] in self._made_of_constants or operator.kind in _CALLING:
            return None
        computed = dict.fromkeys(item for item in operator.inputs if self._is_computed(item))
        before = self._constants_behind(operator.inputs)
        content = copy.copy(self._content)
        graph = copy.copy(content.subgraphs[0])
        numbers: dict[int, int] = {}
        tensors: list = []

        def number(tensor: int) -> int:
            if tensor not in numbers:
                numbers[tensor] = len(tensors)
                tensors.append(graph.tensors[tensor])
            return numbers[tensor]

        operators: list = []
        for position in [*before, *[index] * copies]:
            item = copy.copy(graph.operators[position])
            source = self.model.operators[position]
            item.inputs = [number(tensor) if tensor >= 0 else -1 for tensor in source.inputs]
            if len(operators) > len(before):
                # A copy. Two operators that write one tensor would be no valid file.
                numbers = {key: at for key, at in numbers.items() if key not in source.outputs}
            item.outputs = [number(tensor) for tensor in source.outputs]
            operators.append(item)
            if len(operators) == len(before) + 1:
                graph_outputs = item.outputs
        inputs = [number(tensor) for tensor in computed]
        graph.tensors, graph.operators = tensors, operators
        graph.inputs, graph.outputs = inputs, graph_outputs
        content.subgraphs = [graph]
        content.signatureDefs, content.metadata = [], []
        content.buffers = _only({tensor.buffer for tensor in tensors}, content.buffers)
        return Cut(flatbuffer.pack(content), tuple(computed))

    def _is_computed(self, tensor: int) -> bool:
        """Whether a tensor depends on the model's inputs."""
        constant = self.model.tensors[tensor].value is not None
        return tensor >= 0 and not constant and tensor not in self._made_of_constants

    def _constants_behind(self, inputs: Sequence[int]) -> list[int]:
        """The operators on constants that some inputs need, in execution order."""
        found: set[int] = set()
        pending = [*inputs]
        while pending:
            position = self._made_of_constants.get(pending.pop())
            if position is not None and position not in found:
                found.add(position)
                pending += self.model.operators[position].inputs
        return sorted(found)


def constant_operators(model: flatbuffer.FlatbufferModel) -> list[int]:
    """Positions of the operators whose outputs depend on constants only, in execution order."""
    known = {tensor.index for tensor in model.tensors if tensor.value is not None} | {-1}
    positions = []
    for operator in model.operators:
        if known.issuperset(operator.inputs):
            known.update(operator.outputs)
            positions.append(operator.index)
    return positions


def _only(kept: set[int], buffers: Sequence) -> list:
    """The buffers at the same positions, emptied where no tensor needs them."""
    emptied = []
    for position, buffer in enumerate(buffers):
        if position not in kept:
            buffer = copy.copy(buffer)
            buffer.data = None
        emptied.append(buffer)
    return emptied
