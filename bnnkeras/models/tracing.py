"""Which operations a model calls, and with which tensors: shapes only, nothing is computed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import keras
from keras.src import backend
from keras.src.models.functional import Functional

from bnnkeras.models.macs import has_rule
from bnnkeras.quantizers import Quantizer

# These run a layer in a loop over time whose body is traced once: what is inside can't be counted.
_LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)


class TracedTensor(NamedTuple):
    """A tensor of a trace. Equal numbers mean the same tensor; unknown sizes are `None`."""

    number: int
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Call:
    """One call of an operation (a layer, a nested model or a `keras.ops` operation)."""

    operation: keras.Operation
    inputs: tuple[TracedTensor, ...]
    outputs: tuple[TracedTensor, ...]


@dataclass(frozen=True)
class Trace:
    """The calls of a model on one sample, in the order in which they end.

    Attributes:
        calls: A nested model or composite layer comes after the calls inside it.
        inputs: The model's inputs.
        outputs: The model's outputs.
        batch_size: What stands for the first axis in reports; the trace itself has batch 1.
        complete: Whether every model and composite layer was looked into, so that a layer without
            calls is really not called.
        error: Why there are no calls, or `None`.
    """

    calls: tuple[Call, ...] = ()
    inputs: tuple[TracedTensor, ...] = ()
    outputs: tuple[TracedTensor, ...] = ()
    batch_size: int | None = None
    complete: bool = False
    error: str | None = None

    def calls_of(self, operation: keras.Operation) -> list[Call]:
        """The calls of one operation; empty if it was not reached."""
        return [call for call in self.calls if call.operation is operation]


def functional_graph(operation: keras.Operation) -> Functional | None:
    """The graph that a functional or Sequential model runs; `None` where Python code decides."""
    if isinstance(operation, keras.Sequential):
        return operation._functional if type(operation).call is keras.Sequential.call else None
    if isinstance(operation, Functional) and type(operation).call is Functional.call:
        return operation
    return None


def children(operation: keras.Operation) -> list[keras.Operation]:
    """The operations directly inside a model or composite layer; empty for a leaf.

    Quantizers belong to the layer that holds them, and a layer with a rule of its own is a leaf.
    """
    graph = functional_graph(operation)
    if graph is not None:
        inside = graph.operations
    elif (
        not isinstance(operation, keras.layers.Layer)
        or isinstance(operation, (Quantizer, *_LOOPS))
        or has_rule(operation)
    ):
        return []
    else:
        inside = list(operation._flatten_layers(include_self=False, recursive=False))
    return [x for x in inside if not isinstance(x, (Quantizer, keras.layers.InputLayer))]


def trace(model: keras.Model, input_shape=None) -> Trace:
    """Follows one sample through `model`.

    Functional and Sequential models are followed along their graph, where sizes may be unknown.
    Other models and composite layers are called on abstract tensors of their backend, as Keras does
    to find output shapes; that needs known sizes.

    Args:
        model: A built model.
        input_shape: Its input shape with the batch axis, or a structure of shapes as `call` takes
            it. `None` for the shape that the model was built with.

    Raises:
        ValueError: If `input_shape` is given and does not fit the model.
    """
    recorder = _Recorder()
    try:
        inputs, batch_size = _inputs(model, input_shape)
        traced_inputs = recorder.tensors(inputs)
        graph = functional_graph(model)
        if graph is not None:
            for reference, tensor in zip(graph.inputs, traced_inputs, strict=True):
                layer = reference._keras_history.operation
                recorder.calls.append(Call(layer, (), (tensor,)))
        recorder.visit(model, (inputs,), {})
    except Exception as error:  # Whatever the user's own `call` raises.
        if input_shape is not None:
            raise ValueError(
                f"`input_shape` does not fit the model {model.name!r}. "
                f"Received: input_shape={input_shape}"
            ) from error
        return Trace(error=f"{type(error).__name__}: {_message(error)}")
    return Trace(
        tuple(recorder.calls),
        traced_inputs,
        recorder.calls[-1].outputs,
        batch_size,
        recorder.complete,
    )


def _inputs(model, input_shape):
    """Symbolic inputs for one sample, and the batch size that the model was built for."""
    graph = functional_graph(model)
    if input_shape is not None:
        shapes = input_shape
    elif graph is not None:
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), graph._inputs_struct)
    else:
        shapes = (model.get_build_config() or {}).get("input_shape")
        if shapes is None:
            raise ValueError("the model does not know the shape of its input")
    # A model that is not functional remembers the batch of its first call, which means nothing.
    batch_size = None if graph is None else graph.inputs[0].shape[0]
    dtypes = iter([] if graph is None else [x.dtype for x in graph.inputs])

    def sample(shape):
        return keras.KerasTensor((1, *shape[1:]), dtype=next(dtypes, None) or keras.config.floatx())

    return keras.tree.map_shape_structure(sample, _untracked(shapes)), batch_size


def _untracked(shapes):
    """`shapes` in plain containers: Keras keeps lists of shapes in one that JAX does not know."""
    if isinstance(shapes, dict):
        return {key: _untracked(value) for key, value in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        plain = [_untracked(value) for value in shapes]
        return plain if isinstance(shapes, list) else tuple(plain)
    return shapes


def _message(error: Exception) -> str:
    """The first line of an error, out of what Keras prints around it (in bold) at each layer."""
    innermost = str(error).split("\x1b[1m")[-1].split("\x1b[0m")[0]
    return innermost.strip().partition("\n")[0]


class _Recorder:
    def __init__(self):
        self.calls: list[Call] = []
        self.complete = True
        self._numbers: dict[int, int] = {}
        self._kept = []

    def visit(self, operation, args, kwargs):
        """Symbolic outputs of one operation, with a record of it and of all calls inside."""
        graph = functional_graph(operation)
        if graph is not None:
            # The private method that clone_model uses; it leaves no nodes in the user's graph.
            outputs = graph._run_through_graph(
                args[0] if args else kwargs["inputs"],
                operation_fn=lambda inner: inner,
                call_fn=lambda inner, *args, **kwargs: self.visit(inner, args, kwargs),
            )
        elif children(operation) and not _has_unknown_sizes((args, kwargs)):
            outputs = self._call_abstractly(operation, args, kwargs)
        else:
            self.complete &= not children(operation)
            if isinstance(operation, keras.layers.Layer) and args:
                # Only a real call would look at it: the channels that the kernel was built for.
                operation._assert_input_compatibility(args[0])
            outputs = operation.compute_output_spec(*args, **kwargs)
        self.record(operation, (args, kwargs), outputs)
        return outputs

    def record(self, operation, inputs, outputs):
        call = Call(operation, self.tensors(inputs), self.tensors(outputs))
        self.calls.append(call)

    def tensors(self, structure) -> tuple[TracedTensor, ...]:
        return tuple(self._tensor(x) for x in keras.tree.flatten(structure) if _is_tensor(x))

    def _tensor(self, tensor) -> TracedTensor:
        self._kept.append(tensor)  # Keeps its id() from being used again.
        number = self._numbers.setdefault(id(tensor), len(self._numbers))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        return TracedTensor(number, tuple(tensor.shape), dtype)

    def _same(self, tensors, others) -> None:
        """Gives `others` the numbers of `tensors`: two views of the same values."""
        flat = (filter(_is_tensor, keras.tree.flatten(x)) for x in (tensors, others))
        for tensor, other in zip(*flat, strict=True):
            self._kept.append(other)
            self._numbers[id(other)] = self._tensor(tensor).number

    def _call_abstractly(self, layer, args, kwargs):
        """Calls `layer` itself under `compute_output_spec`, with a record of all calls inside."""
        start = len(self.calls)
        abstract_outputs = None

        def call(*abstract_args, **abstract_kwargs):
            nonlocal abstract_outputs
            del self.calls[start:]  # PyTorch tries a second device if the first one fails.
            self._same((args, kwargs), (abstract_args, abstract_kwargs))
            abstract_outputs = layer(*abstract_args, **abstract_kwargs)
            return abstract_outputs

        with _reported_calls(_descendants(layer), self.record):
            outputs = backend.compute_output_spec(call, *args, **kwargs)
        self._same(abstract_outputs, outputs)
        return outputs


def _is_tensor(value) -> bool:
    return isinstance(value, keras.KerasTensor) or (
        keras.ops.is_tensor(value) and not isinstance(value, keras.Variable)
    )


def _has_unknown_sizes(structure) -> bool:
    return any(None in x.shape for x in keras.tree.flatten(structure) if _is_tensor(x))


def _descendants(operation) -> list[keras.Operation]:
    found: dict[int, keras.Operation] = {}
    pending = children(operation)
    while pending:
        inner = pending.pop()
        if id(inner) not in found:
            found[id(inner)] = inner
            pending += children(inner)
    return list(found.values())


@contextlib.contextmanager
def _reported_calls(operations, report) -> Iterator[None]:
    """Within the context each call of these operations is passed to `report` when it ends."""

    def reported(operation, function):
        def call(*args, **kwargs):
            outputs = function(*args, **kwargs)
            report(operation, (args, kwargs), outputs)
            return outputs

        return call

    patched = []
    try:
        for operation in operations:
            quantized = getattr(operation, "quantization_mode", None) is not None
            name = "quantized_call" if quantized else "call"
            patched.append((operation, name, vars(operation).get(name)))
            # Past Keras's tracking of attributes, which would store the function as a part.
            object.__setattr__(operation, name, reported(operation, getattr(operation, name)))
        yield
    finally:
        for operation, name, original in patched:
            if original is None:
                object.__delattr__(operation, name)
            else:
                object.__setattr__(operation, name, original)
