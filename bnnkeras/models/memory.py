"""Memory of activations."""

import math
from collections.abc import Iterator

from bnnkeras.models.tracing import Call, Trace, TracedTensor, children, functional_graph
from bnnkeras.models.widths import dtype_bits, input_precision, quantizer_precision
from bnnkeras.quantizers import Quantizer


def peak_activation_bits(trace: Trace) -> int | None:
    """The most bits that the activations of one sample take at any one time.

    Operations run one by one in Keras's order. Each writes new tensors (nothing in place, no
    workspace), and a tensor is freed after its last reader. A tensor has its dtype's width, except:

    - What a quantizer returns has the quantizer's precision.
    - A tensor of which all readers quantize their input is stored as they read it, at the widest of
      their precisions: between two binary layers it takes 1 bit per value. The model's inputs and
      outputs keep their own width.
    - A reader that quantizes a tensor stored wider makes a quantized copy for as long as it runs.

    Inside models that are not functional only layers are seen, not what the operations between them
    write; what those read is kept until the call around them ends.

    Returns:
        Bits, or `None` if a size is unknown or the model could not be traced.
    """
    calls = list(_computing_calls(trace))
    tensors = {x.number: x for call in calls for x in (*call.inputs, *call.outputs)}
    if not calls or any(None in x.shape for x in tensors.values()):
        return None

    born: dict[int, int] = {x.number: 0 for x in trace.inputs}
    dies: dict[int, int] = {}
    read_widths: dict[int, list[int]] = {number: [] for number in tensors}
    widths = {number: dtype_bits(x.dtype) for number, x in tensors.items()}
    read = {x.number for call in calls for x in call.inputs}
    unread: set[int] = set()
    for time, call in enumerate(calls):
        for x in (*call.inputs, *call.outputs):
            born.setdefault(x.number, time)
            dies[x.number] = time
        for x in call.outputs:
            widths[x.number] = min(widths[x.number], _output_precision(call) or widths[x.number])
        if children(call.operation):
            # What no layer reads is there for the code of the layer around it, which ends here.
            dies |= dict.fromkeys(unread, time)
            unread.clear()
        unread |= {x.number for x in call.outputs} - read
    for x in trace.outputs:
        dies[x.number] = len(calls)
    for x in (*trace.inputs, *trace.outputs):
        read_widths.setdefault(x.number, []).append(widths[x.number])
    for call in calls:
        for x in call.inputs:
            read_widths[x.number].append(input_precision(call.operation) or widths[x.number])

    stored = {
        number: _elements(x) * min(widths[number], max(read_widths[number], default=widths[number]))
        for number, x in tensors.items()
    }

    def bits_at(time: int, call: Call) -> int:
        alive = sum(bits for number, bits in stored.items() if born[number] <= time <= dies[number])
        precision = input_precision(call.operation)
        if precision is None:
            return alive
        copies = ((_elements(x) * precision, x) for x in call.inputs)
        return alive + sum(copy for copy, x in copies if copy < stored[x.number])

    return max(bits_at(time, call) for time, call in enumerate(calls))


def _elements(tensor: TracedTensor) -> int:
    return math.prod(size for size in tensor.shape if size is not None)


def _output_precision(call: Call) -> int | None:
    operation = call.operation
    quantizer = operation if isinstance(operation, Quantizer) else None
    return quantizer_precision(quantizer or getattr(operation, "activation", None))


def _computing_calls(trace: Trace) -> Iterator[Call]:
    """The calls of leaves, and of layers whose own code made their output from that of leaves."""
    made: set[int] = set()
    for call in trace.calls:
        outputs = {x.number for x in call.outputs}
        is_leaf = not children(call.operation)
        if is_leaf or (functional_graph(call.operation) is None and not outputs <= made):
            yield call
        made |= outputs
