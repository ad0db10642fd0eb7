"""Walks over functional graphs: what they compute, and what they keep."""

import gc
import weakref

import keras
import numpy as np

from bnnkeras.converters import graph


def network():
    """A branch, a layer that is called twice, a nested model, and an input that is an output."""
    inputs = keras.Input((4,), name="inputs")
    shared = keras.layers.Dense(4, activation="relu")
    x = shared(inputs)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    y = keras.layers.Add()([inner(shared(x)), x])
    z = keras.ops.multiply(y, inputs)
    return keras.Model(inputs, [z, {"sum": y, "inputs": inputs, "again": z}])


def test_outputs_are_the_models():
    model = network()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    wanted = keras.tree.flatten(model(x))
    for found, value in zip(graph.outputs(model, [x]), wanted, strict=True):
        np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(value))


def test_inputs_are_in_the_models_dtype():
    model = keras.Model(inputs := keras.Input((2,), dtype="float32"), keras.ops.add(inputs, 1.0))
    (found,) = graph.outputs(model, [np.zeros((1, 2), "float64")])
    assert found.dtype == "float32"


def test_each_wanted_tensor_comes_once_and_in_order():
    model = network()
    product = model.outputs[0]
    total, _ = graph.producer(product)[1]
    tensors = [product, total, model.inputs[0], product]
    found = [tensor for tensor, _ in graph.values(model, [np.ones((1, 4))], tensors)]
    assert [id(tensor) for tensor in found] == [id(model.inputs[0]), id(total), id(product)]


def test_values_are_dropped_when_nothing_else_reads_them():
    x = inputs = keras.Input((8,))
    tensors = []
    for _ in range(5):
        x = keras.layers.Dense(8)(x)
        tensors.append(x)
    model = keras.Model(inputs, x)
    seen, alive = [], []
    for _, value in graph.values(model, [np.ones((2, 8), "float32")], tensors):
        seen.append(weakref.ref(value))
        del value
        gc.collect()
        alive.append(sum(reference() is not None for reference in seen))
    # The one at hand; when it has been read, the next.
    assert max(alive) == 1
