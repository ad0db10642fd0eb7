"""Walks over functional graphs."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import keras
import numpy as np


def as_functional(model: keras.Model) -> keras.Model:
    """`model` itself if it is functional, a Sequential model as its functional twin.

    Raises:
        ValueError: If the model is neither, or was never built.
        TypeError: If it is no Keras model at all.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                "A Sequential `model` needs a known input shape: add keras.Input first, or call "
                f"build(). Received: {model.name!r}, which is not built"
            )
        return keras.Model(model.inputs, model.outputs, name=model.name)
    if not isinstance(model, keras.src.models.Functional):
        raise ValueError(
            "`model` must be functional or Sequential; a subclassed model hides its graph. "
            f"Received: {model.name!r} of class {type(model).__name__}"
        )
    return model


def replay(model: keras.Model, inputs, call: Callable):
    """Runs `call(operation, *args, **kwargs)` for every operation of `model`, from the inputs on.

    Nested models are entered, so `call` sees plain layers and `keras.ops` operations only.

    Args:
        model: A functional or Sequential model.
        inputs: Symbolic tensors in the structure of the model's inputs.
        call: Returns the outputs of one operation.

    Returns:
        The outputs, in the structure of the model's outputs.
    """

    def enter(operation, *args, **kwargs):
        if isinstance(operation, keras.Model):
            return replay(operation, args[0], call)
        return call(operation, *args, **kwargs)

    # The same private method that keras.models.clone_model uses. clone_model itself cannot serve:
    # it raises on Sequential models and does not let a walk cut the graph or enter nested models.
    return as_functional(model)._run_through_graph(inputs, call_fn=enter)


def values(
    model: keras.Model, inputs: Iterable, tensors: Iterable[keras.KerasTensor]
) -> Iterator[tuple[keras.KerasTensor, object]]:
    """What a functional model computes, value by value, in the order in which it does.

    Each value is dropped when nothing else reads it. A call of the model would keep all of them to
    its end: gigabytes, where maps are large.

    Args:
        model: A functional model.
        inputs: One array for each of `model.inputs`.
        tensors: Symbolic tensors of the model.

    Yields:
        Each of `tensors` once, with its value.
    """
    wanted = {id(tensor) for tensor in tensors}
    nodes = [
        node
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True)
        for node in nodes
        if not node.is_input
    ]
    readers = Counter(key for node in nodes for key in {id(item) for item in node.input_tensors})
    known = {}

    def learn(tensor, value):
        if readers[id(tensor)]:
            known[id(tensor)] = value
        if id(tensor) in wanted:
            yield tensor, value

    for tensor, value in zip(model.inputs, inputs, strict=True):
        yield from learn(tensor, keras.ops.convert_to_tensor(value, tensor.dtype))
    for node in nodes:
        args, kwargs = node.arguments.fill_in(known)
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        del args, kwargs
        for key in {id(item) for item in node.input_tensors}:
            readers[key] -= 1
            if not readers[key]:
                del known[key]
        for tensor, value in zip(node.outputs, outputs, strict=True):
            yield from learn(tensor, value)
        del outputs


def outputs(model: keras.Model, inputs: Iterable) -> list[np.ndarray]:
    """The outputs of a functional model as arrays, by way of `values`."""
    found = {
        id(tensor): keras.ops.convert_to_numpy(value)
        for tensor, value in values(model, inputs, model.outputs)
    }
    return [found[id(tensor)] for tensor in model.outputs]


def producer(tensor: keras.KerasTensor):
    """The operation that made a symbolic tensor, and that operation's own inputs."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].input_tensors


def read_once(model: keras.Model) -> set[int]:
    """The ids of operations that are called once, and whose output one operation reads.

    What a nested model returns is not among them.
    """
    calls: dict[int, int] = {}
    readers: dict[int, int] = {}
    found: set[int] = set()
    for tensor in model.outputs:
        readers[id(producer(tensor)[0])] = 2
    for node in (node for nodes in model._nodes_by_depth.values() for node in nodes):
        operation = node.operation
        calls[id(operation)] = calls.get(id(operation), 0) + 1
        if isinstance(operation, keras.Model):
            found |= read_once(as_functional(operation))
        for tensor in node.input_tensors:
            source = id(producer(tensor)[0])
            readers[source] = readers.get(source, 0) + 1
    return found | {key for key, count in calls.items() if count == 1 and readers.get(key) == 1}


def input_name(tensor: keras.KerasTensor) -> str:
    """The name of a model's input: its layer's, because a saved model forgets the tensor's."""
    return producer(tensor)[0].name


def with_input_shapes(model: keras.Model, shapes: Mapping[str, tuple[int, ...]]) -> keras.Model:
    """The same model with the same weights, on inputs of other sizes.

    Args:
        model: A functional or Sequential model; nested models are inlined.
        shapes: Shapes without the batch axis, by input name.

    Raises:
        ValueError: If a layer does not take the sizes, or its weights depend on them.
    """
    model = as_functional(model)
    copies: dict[int, keras.Operation] = {}

    # Copies, because a call of the originals would grow the user's graph.
    def call(operation, *args, **kwargs):
        if id(operation) in copies:
            return copies[id(operation)](*args, **kwargs)
        twin = type(operation).from_config(operation.get_config())
        copies[id(operation)] = twin
        outputs = twin(*args, **kwargs)
        if isinstance(operation, keras.layers.Layer):
            twin.set_weights(operation.get_weights())
        return outputs

    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(
            shapes[input_name(tensor)], dtype=tensor.dtype, name=input_name(tensor)
        ),
        model.input,
    )
    return keras.Model(inputs, replay(model, inputs, call), name=model.name)
