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
from bnnkeras.converters.deployment import deploy
from bnnkeras.converters.lowering import Builder, is_binary
from bnnkeras.layers import MaxPooling2D
from bnnkeras.layers.base import QuantizedLayer
from bnnkeras.quantizers import Binarizer, MeanMagnitude, NoOp, PowerOfTwoMagnitude

# 1 - 2^-17 + 2^-17 is exactly 1 in float32, so that BatchNorm does not round.
_EPSILON = 2.0**-17
_EXACT_ACTIVATIONS = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.hard_tanh,
)
_EXACT_LAYERS = (
    layers.Add,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.Conv2D,
    layers.Dense,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianNoise,
    layers.GlobalMaxPooling2D,
    layers.MaxPooling2D,
    layers.PReLU,
    layers.Reshape,
    layers.SpatialDropout2D,
    MaxPooling2D,
)
# Operations of keras.ops, by the name of their class, that move values or add them.
_EXACT_OPERATIONS = frozenset(
    "Absolute Add Concatenate ExpandDims Flip GetItem Max Maximum Min Minimum Negative Pad Relu "
    "Relu6 Repeat Reshape Roll Split Squeeze Stack Subtract Swapaxes Transpose".split()
)


def dyadic_twin(model: keras.Model, seed: int = 0) -> keras.Model | None:
    """A twin of the training form with dyadic weights, cut where an operation has to round.

    A cut operation (a mean over 49 values, a softmax) is left out: its inputs become outputs of
    the twin, and its outputs inputs. The activation of a layer is left out alike.

    Args:
        model: A functional or Sequential model.
        seed: Seed of the weights.
    """
    model = graph.as_functional(model)
    generator = np.random.default_rng(seed)
    twins: dict[int, keras.layers.Layer] = {}
    copies = Builder()
    original = keras.tree.flatten(model.input)
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in original
    ]
    outputs: list[keras.KerasTensor] = []
    # Outputs of float convolutions and what they flow into: each convolution adds bits, and two in
    # a row may need more than float32 has.
    wide: set[int] = set()

    def cut(spec):
        inputs.append(
            keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=f"probe_{len(inputs)}")
        )
        return inputs[-1]

    def call(operation, *args, **kwargs):
        tensors = [
            tensor
            for tensor in keras.tree.flatten((args, kwargs))
            if isinstance(tensor, keras.KerasTensor)
        ]
        if not _is_exact(operation, args, kwargs):
            outputs.extend(tensors)
            return keras.tree.map_structure(cut, operation.compute_output_spec(*args, **kwargs))
        widens = _widens(operation)
        if widens and id(tensors[0]) in wide:
            outputs.append(tensors[0])
            args = (cut(tensors[0]), *args[1:])
        if not isinstance(operation, keras.layers.Layer):
            results = copies.copy_operation(operation)(*args, **kwargs)
        else:
            if id(operation) not in twins:
                twins[id(operation)] = _twin(operation, generator)
            results = twins[id(operation)](*args, **kwargs)
        if widens or (not is_binary(operation) and any(id(tensor) in wide for tensor in tensors)):
            wide.update(id(tensor) for tensor in keras.tree.flatten(results))
        return results

    structure = keras.tree.pack_sequence_as(model.input, inputs[: len(original)])
    outputs += keras.tree.flatten(graph.replay(model, structure, call))
    # A cut operation at the very end leaves an output that is an input: nothing to compare.
    known = {id(tensor) for tensor in inputs}
    outputs = [tensor for tensor in outputs if id(tensor) not in known]
    used = _sources(outputs)
    inputs = [tensor for tensor in inputs if id(tensor) in used]
    if not outputs:
        return None
    return keras.Model(inputs, outputs, name=f"{model.name}_probe")


def differences(twin: keras.Model, inputs: dict[str, np.ndarray]) -> list[str]:
    """A sentence naming the first layer of a twin whose deploy form is not exactly the same.

    Every layer is an output here: behind a sign most differences are hidden.
    """
    tapped = _with_all_outputs(twin)
    values = [inputs[tensor.name] for tensor in tapped.inputs]
    wanted, found = tapped(values), deploy(tapped)(values)
    for name in tapped.output:
        one, other = (keras.ops.convert_to_numpy(outputs[name]) for outputs in (wanted, found))
        if one.shape != other.shape or not (one == other).all():
            # The differences behind it follow from this one.
            return [f"probe: deploy and training form differ from {name.rpartition('_')[0]} on"]
    return []


def _with_all_outputs(twin):
    known = {id(tensor) for tensor in twin.inputs}
    outputs: dict[str, keras.KerasTensor] = {}
    for operation in twin.operations:
        for node in operation._inbound_nodes:
            for tensor in node.outputs:
                if id(tensor) not in known:
                    outputs[f"{operation.name}_{len(outputs)}"] = tensor
    return keras.Model(twin.inputs, outputs, name=twin.name)


def dyadic_inputs(model: keras.Model, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs in multiples of 1/4 within [-2, 2], by name."""
    generator = np.random.default_rng(seed)
    return {
        tensor.name: generator.integers(-8, 9, (samples, *tensor.shape[1:])).astype("float32") / 4
        for tensor in model.inputs
    }


def _is_exact(operation, args, kwargs) -> bool:
    """Whether an operation neither rounds nor is unknown: everything else is cut."""
    if isinstance(operation, QuantizedLayer):
        return all(_is_plain(quantizer) for quantizer in _quantizers(operation))
    if isinstance(operation, (layers.GlobalAveragePooling2D, layers.AveragePooling2D)):
        if isinstance(operation, layers.GlobalAveragePooling2D):
            count = math.prod(args[0].shape[1:3])
        else:
            # At the border of "same" the count differs; inside it is the window's.
            count = math.prod(operation.pool_size) if operation.padding == "valid" else 3
        return count & (count - 1) == 0
    if isinstance(operation, layers.ReLU):
        limits = (operation.negative_slope, operation.threshold, operation.max_value or 0.0)
        return all(_is_coarse(limit) for limit in limits)
    if isinstance(operation, layers.Activation):
        return operation.activation in _EXACT_ACTIVATIONS
    if isinstance(operation, keras.layers.Layer):
        return type(operation) in _EXACT_LAYERS
    constants = [
        value
        for value in keras.tree.flatten((args, kwargs))
        if not isinstance(value, keras.KerasTensor)
    ]
    return type(operation).__name__ in _EXACT_OPERATIONS and all(map(_is_coarse, constants))


def _quantizers(layer) -> list:
    """The quantizers of a quantized layer."""
    found = (getattr(layer, name) for name in layer.quantizer_names)
    return [quantizer for quantizer in found if quantizer is not None]


def _is_plain(quantizer) -> bool:
    """Whether a quantizer of dyadic values is exact: a sign with a constant threshold and scale.

    Kernels have one magnitude per filter in the probe, of which a mean is exact.
    """
    if not isinstance(quantizer, Binarizer):
        return isinstance(quantizer, NoOp)
    threshold, scale = quantizer.threshold, quantizer.scale
    return (threshold is None or threshold.static) and (
        scale is None or scale.static or type(scale) in (MeanMagnitude, PowerOfTwoMagnitude)
    )


def _is_coarse(value) -> bool:
    """Whether a constant adds no bits: multiples of 1/4, and all that is no number."""
    if isinstance(value, (int, float)):
        return float(value * 4).is_integer()
    return value is None or isinstance(value, (str, slice))


def _widens(operation) -> bool:
    """Whether a float convolution sums over a neighbourhood."""
    return (
        isinstance(operation, layers.Conv2D)
        and not is_binary(operation)
        and math.prod(operation.kernel_size) > 1
    )


def _sources(outputs) -> set[int]:
    """What the outputs are computed from: ids of symbolic tensors."""
    found: set[int] = set()
    todo = list(outputs)
    while todo:
        tensor = todo.pop()
        if id(tensor) not in found:
            found.add(id(tensor))
            todo += graph.producer(tensor)[1]
    return found


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
    for quantizer in _quantizers(twin) if isinstance(twin, QuantizedLayer) else ():
        if getattr(quantizer, "sign_of_zero", 1) != 1:
            quantizer.sign_of_zero = 1
    return twin


def _values(layer, variable, generator):
    shape = tuple(variable.shape)
    name = variable.path.rpartition("/")[2]
    if name == "moving_variance":
        return np.full(shape, 1 - layer.epsilon)
    if name == "gamma":
        return generator.choice([-1.0, -0.5, 0.5, 1.0], shape)
    argument = getattr(layer, "kernel_quantizers", {}).get(name)
    if argument is not None and isinstance(getattr(layer, argument), NoOp):
        return generator.choice([-1.0, 1.0], shape)
    if argument is not None and getattr(layer, argument) is not None:
        # One magnitude per filter, or a scale of the wrong filter would look right.
        magnitudes = generator.choice([1 / 32, 1 / 64], shape[-1:])
        return generator.choice([-1.0, 1.0], shape) * magnitudes
    if name.endswith("kernel") and math.prod(shape[:-2]) == 1:
        return _one_hot(shape, generator)
    if name.endswith("kernel"):
        return generator.integers(-1, 2, shape) / 8
    if name == "alpha":
        return generator.integers(-1, 2, shape)
    if name == "scale":
        return generator.choice([0.25, 0.5, 1.0], shape)
    return generator.integers(-4, 5, shape) / 4


def _one_hot(shape, generator):
    """Each output takes one input, as it is or negated: no sum, so the stream gains no bits."""
    *rest, channels, filters = shape
    kernel = np.zeros((channels, filters))
    kernel[generator.integers(0, channels, filters), np.arange(filters)] = generator.choice(
        [-1.0, 1.0], filters
    )
    return kernel.reshape(shape)
