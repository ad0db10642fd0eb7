"""The dyadic probe: the same architecture with weights for which no operation rounds.

All weights and inputs are small multiples of powers of two, so every order of summation gives the
same bits, and a file that computes the right function differs by exactly 0. Alignment, borders,
channel order, input and output order and fusing errors have nowhere to hide.
"""

import math

import keras
import numpy as np
from keras import layers

from bnnkeras.converters import graph

# 1 - 2^-17 + 2^-17 is exactly 1 in float32, so that BatchNorm does not round.
_EPSILON = 2.0**-17
_EXACT_ACTIVATIONS = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)


def dyadic_twin(model: keras.Model, seed: int = 0) -> keras.Model:
    """A twin of the training form with dyadic weights, cut where an operation has to round.

    A cut operation (a mean over 49 values, a softmax) is left out: its input becomes an output of
    the twin, and its output an input. The activation of a layer is left out alike.

    Args:
        model: A functional or Sequential model.
        seed: Seed of the weights.
    """
    generator = np.random.default_rng(seed)
    twins: dict[int, keras.layers.Layer] = {}
    original = keras.tree.flatten(model.input)
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in original
    ]
    outputs = []

    def call(operation, *args, **kwargs):
        if not isinstance(operation, keras.layers.Layer):
            return operation(*args, **kwargs)
        if _rounds(operation, args[0]):
            outputs.append(args[0])
            shape = operation.compute_output_shape(args[0].shape)
            inputs.append(keras.Input(batch_shape=shape, name=f"probe_{operation.name}"))
            return inputs[-1]
        if id(operation) not in twins:
            twins[id(operation)] = _twin(operation, generator)
        return twins[id(operation)](*args, **kwargs)

    structure = keras.tree.pack_sequence_as(model.input, inputs[: len(original)])
    outputs += keras.tree.flatten(graph.replay(model, structure, call))
    # A cut operation at the very end leaves an output that is an input: nothing to compare.
    outputs = [tensor for tensor in outputs if all(tensor is not other for other in inputs)]
    return keras.Model(inputs, outputs, name=f"{model.name}_probe")


def dyadic_inputs(model: keras.Model, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs in multiples of 1/4 within [-2, 2], by name."""
    generator = np.random.default_rng(seed)
    return {
        tensor.name: generator.integers(-8, 9, (samples, *tensor.shape[1:])).astype("float32") / 4
        for tensor in model.inputs
    }


def _rounds(layer, inputs) -> bool:
    """Whether a layer divides by what is no power of two, or computes no polynomial at all."""
    count = 1
    if isinstance(layer, layers.GlobalAveragePooling2D):
        count = math.prod(inputs.shape[1:3])
    elif isinstance(layer, layers.AveragePooling2D):
        # At the border of "same" the count differs; inside it is the window's.
        count = math.prod(layer.pool_size) if layer.padding == "valid" else 3
    elif isinstance(layer, layers.Activation):
        return layer.activation not in _EXACT_ACTIVATIONS
    return count & (count - 1) != 0 or isinstance(layer, layers.Softmax)


def _twin(layer, generator):
    config = {**layer.get_config(), "dtype": "float32"}
    if isinstance(layer, layers.BatchNormalization):
        config["epsilon"] = _EPSILON
    if getattr(layer, "activation", keras.activations.linear) not in _EXACT_ACTIVATIONS:
        config["activation"] = None
    twin = type(layer).from_config(config)
    if layer.built and layer.weights:
        twin.build_from_config(layer.get_build_config())
        for variable in twin.variables:
            variable.assign(_values(twin, variable, generator))
    for quantizer in (getattr(twin, f"{place}_quantizer", None) for place in ("input", "kernel")):
        if quantizer is not None and getattr(quantizer, "sign_of_zero", 1) != 1:
            quantizer.sign_of_zero = 1
    return twin


def _values(layer, variable, generator):
    shape = tuple(variable.shape)
    name = variable.path.rpartition("/")[2]
    if name == "moving_variance":
        return np.full(shape, 1 - layer.epsilon)
    if name == "gamma":
        return generator.choice([-1.0, -0.5, 0.5, 1.0], shape)
    if name == "kernel" and getattr(layer, "kernel_quantizer", None) is not None:
        return generator.choice([-1.0, 1.0], shape) / 64
    if name == "kernel" and math.prod(shape[:-2]) == 1:
        return _one_hot(shape, generator)
    if name == "kernel":
        return generator.integers(-1, 2, shape) / 8
    return generator.integers(-4, 5, shape) / 4


def _one_hot(shape, generator):
    """Each output takes one input, as it is or negated: no sum, so the stream gains no bits."""
    *rest, channels, filters = shape
    kernel = np.zeros((channels, filters))
    kernel[generator.integers(0, channels, filters), np.arange(filters)] = generator.choice(
        [-1.0, 1.0], filters
    )
    return kernel.reshape(shape)
