"""The order of a file's operators: the one that needs less memory for what is between them.

The converter writes operators in an order of its own. Where a map feeds both a convolution and the
mean of its magnitudes, the convolution comes first, and the map, its positive part and the sums
are all in memory at once. Used in the deploy worker only.
"""

from collections.abc import Sequence

from bnnkeras.converters import cutting, flatbuffer


def scheduled(data: bytes) -> bytes:
    """The file with its operators in an order of lower peak memory, if one is found.

    The order is greedy: of the operators whose inputs are there, the one next that leaves the
    fewest bytes, and of equal ones the converter's first. Values do not depend on it.

    Args:
        data: Bytes of a file without metadata of ours, which lists the operators' layers.
    """
    file = flatbuffer.read(data)
    memory = _Memory(file)
    order = memory.greedy_order()
    as_written = range(len(file.operators))
    if max(memory.live_bytes(order), default=0) >= max(memory.live_bytes(as_written), default=0):
        return data
    model = flatbuffer.unpack(data)
    operators = model.subgraphs[0].operators
    model.subgraphs[0].operators = [operators[index] for index in order]
    return flatbuffer.pack(model)


def live_bytes(file: flatbuffer.FlatbufferModel) -> list[int]:
    """Bytes of activations that are needed while each operator runs, the operator's included."""
    return _Memory(file).live_bytes(range(len(file.operators)))


class _Memory:
    """Which operators need and make which activations."""

    def __init__(self, file):
        constant = set(cutting.constant_operators(file))
        held = {index for item in constant for index in file.operators[item].outputs}
        self._inputs = [set(item.inputs) for item in file.operators]
        self._outputs = [set(item.outputs) for item in file.operators]
        self._fed = set(file.inputs)
        self._readers = [0] * len(file.tensors)
        for inputs in self._inputs:
            for index in inputs - {-1}:
                self._readers[index] += 1
        # Something outside reads the outputs at the end.
        for index in file.outputs:
            self._readers[index] += 1
        # What is computed from constants alone is there for good, as they are.
        self._bytes = [
            0
            if tensor.value is not None or tensor.index in held
            else flatbuffer.activation_bytes(tensor)
            for tensor in file.tensors
        ]

    def live_bytes(self, order: Sequence[int]) -> list[int]:
        readers = list(self._readers)
        live = sum(self._bytes[index] for index in self._fed)
        sizes = []
        for item in order:
            live += sum(self._bytes[index] for index in self._outputs[item])
            sizes.append(live)
            live -= self._freed(item, readers)
            for index in self._inputs[item] - {-1}:
                readers[index] -= 1
        return sizes

    def greedy_order(self) -> list[int]:
        """Operators, each behind those that make its inputs."""
        readers = list(self._readers)
        made = set().union(*self._outputs)
        missing = [len(inputs & made) for inputs in self._inputs]
        waiting: dict[int, list[int]] = {index: [] for index in made}
        for item, inputs in enumerate(self._inputs):
            for index in inputs & made:
                waiting[index].append(item)
        ready = {item for item, count in enumerate(missing) if count == 0}
        order = []
        while ready:
            chosen = min(ready, key=lambda item: (self._growth(item, readers), item))
            ready.remove(chosen)
            order.append(chosen)
            for index in self._inputs[chosen] - {-1}:
                readers[index] -= 1
            for index in self._outputs[chosen]:
                for item in waiting[index]:
                    missing[item] -= 1
                    if missing[item] == 0:
                        ready.add(item)
        return order

    def _growth(self, item, readers) -> int:
        made = sum(self._bytes[index] for index in self._outputs[item])
        return made - self._freed(item, readers)

    def _freed(self, item, readers) -> int:
        """Bytes that nothing reads behind this operator."""
        read = sum(self._bytes[index] for index in self._inputs[item] - {-1} if readers[index] == 1)
        return read + sum(self._bytes[index] for index in self._outputs[item] if not readers[index])
