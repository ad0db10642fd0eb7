"""The dyadic probe: the same architecture with weights for which no operation rounds.

All weights and inputs are small multiples of powers of two, so every order of summation gives the
same bits, and a file that computes the right function differs by exactly 0. Alignment, borders,
channel order, input and output order and fusing errors have nowhere to hide.

What cannot be exact does not end the probe. A quantizer that divides or takes an exponential of the
data is replaced by one with a threshold per channel, so that its layer is probed all the same; a
layer or operation that rounds (a softmax, a mean over 49 values) is cut out, and what follows it
gets dyadic inputs of its own. `Probe` names both.
"""

import dataclasses
import hashlib
import math

import keras
import numpy as np
from keras import layers

from bnnkeras import activations
from bnnkeras.converters import graph
from bnnkeras.converters.deployment import deploy
from bnnkeras.converters.lowering import Builder, is_binary
from bnnkeras.converters.lowering.standard import DROPPED
from bnnkeras.layers import (
    ChannelAdaptiveBypass,
    EntropyMaximizingAggregation,
    LearnableBias,
    MaxPooling2D,
    RPReLU,
    SpatialShift,
)
from bnnkeras.layers.base import QuantizedLayer
from bnnkeras.quantizers import (
    Binarizer,
    LearnedThreshold,
    MeanMagnitude,
    NoOp,
    PowerOfTwoMagnitude,
)

# 1 - 2^-17 + 2^-17 is exactly 1 in float32, so that BatchNorm does not round.
_EPSILON = 2.0**-17
_EXACT_ACTIVATIONS = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.hard_tanh,
    activations.hardtanh,
)
_FLOAT_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
_EXACT_LAYERS = (
    *_FLOAT_CONVOLUTIONS,
    layers.Add,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Dense,
    layers.Flatten,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.LeakyReLU,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.Maximum,
    layers.Minimum,
    layers.PReLU,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.Subtract,
    layers.UpSampling1D,
    layers.UpSampling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    LearnableBias,
    MaxPooling2D,
    RPReLU,
    SpatialShift,
)
# Operations of keras.ops, by the name of their class, that move values or add them.
_EXACT_OPERATIONS = frozenset(
    "Absolute Add Concatenate ExpandDims Flip GetItem Max Maximum Min Minimum Multiply Negative "
    "Pad Relu Relu6 Repeat Reshape Roll Split Squeeze Stack Subtract Swapaxes Tile "
    "Transpose".split()
)
# Those whose constants are replaced by dyadic ones.
_WITH_CONSTANTS = ("Add", "Subtract", "Multiply")
# Bits that an operation may add to the width of its inputs before they are cut: float32 has 24,
# and sums of signs with a dozen residual additions take eight of them.
_SPARE_BITS = 16
_BITS_OF_CONVOLUTION = 9


@dataclasses.dataclass(frozen=True)
class Probe:
    """A twin of the training form in which nothing rounds.

    Attributes:
        twin: The twin; an output for each tensor that goes into a cut. `None` where nothing is
            left: the model has no operation that can be exact.
        cuts: What was left out, and why, by the name of the layer or operation.
        replaced: What another quantizer stands for, by the name of the layer.
    """

    twin: keras.Model | None
    cuts: dict[str, str]
    replaced: dict[str, str]


def dyadic_twin(model: keras.Model, seed: int = 0) -> keras.Model | None:
    """The twin of `dyadic_probe`."""
    return dyadic_probe(model, seed).twin


def dyadic_probe(model: keras.Model, seed: int = 0) -> Probe:
    """A twin of the training form with dyadic weights, cut where an operation has to round.

    A cut operation is left out: its inputs become outputs of the twin, and its outputs inputs. The
    activation of a layer is left out alike.

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
    cuts: dict[str, str] = {}
    replaced: dict[str, str] = {}
    # Bits that float operations have added to a tensor, by its id.
    spent: dict[int, int] = {}

    def new_input(spec):
        inputs.append(
            keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=f"probe_{len(inputs)}")
        )
        return inputs[-1]

    def call(operation, *args, **kwargs):
        if type(operation) in DROPPED:
            return args[0]
        # As in the deploy form: outside training they change nothing.
        kwargs = {key: kwargs[key] for key in kwargs if key not in ("mask", "training")}
        tensors = [
            tensor
            for tensor in keras.tree.flatten((args, kwargs))
            if isinstance(tensor, keras.KerasTensor)
        ]
        reason = _obstacle(operation, args, kwargs)
        if reason:
            cuts[operation.name] = reason
            outputs.extend(tensors)
            return keras.tree.map_structure(
                new_input, operation.compute_output_spec(*args, **kwargs)
            )
        bits = _bits(operation, args)
        before = max((spent.get(id(tensor), 0) for tensor in tensors), default=0)
        if bits and before + bits > _SPARE_BITS:
            outputs.extend(tensors)
            args, kwargs = keras.tree.map_structure(
                lambda value: new_input(value) if isinstance(value, keras.KerasTensor) else value,
                (args, kwargs),
            )
            before = 0
        if not isinstance(operation, keras.layers.Layer):
            if type(operation).__name__ in _WITH_CONSTANTS:
                args, kwargs = _coarse_constants(generator, args, kwargs)
            results = copies.copy_operation(operation)(*args, **kwargs)
        else:
            if id(operation) not in twins:
                twins[id(operation)] = _twin(operation, generator, replaced)
            results = twins[id(operation)](*args, **kwargs)
        # Behind a sign the count starts anew.
        if not is_binary(operation):
            for tensor in keras.tree.flatten(results):
                spent[id(tensor)] = before + bits
        return results

    structure = keras.tree.pack_sequence_as(model.input, inputs[: len(original)])
    outputs += keras.tree.flatten(graph.replay(model, structure, call))
    # A cut operation at the very end leaves an output that is an input: nothing to compare.
    known = {id(tensor) for tensor in inputs}
    outputs = [tensor for tensor in outputs if id(tensor) not in known]
    used = _sources(outputs)
    inputs = [tensor for tensor in inputs if id(tensor) in used]
    twin = keras.Model(inputs, outputs, name=f"{model.name}_probe") if outputs else None
    return Probe(twin, cuts, replaced)


def compared(
    twin: keras.Model, inputs: dict[str, np.ndarray]
) -> tuple[list[np.ndarray], list[str]]:
    """The outputs of a twin, and a sentence naming the first layer whose deploy form is not
    exactly the same.

    Every layer is an output here: behind a sign most differences are hidden. They are compared by
    their hashes, because all of them are too much for the memory where maps are large.
    """
    arrays = [inputs[tensor.name] for tensor in twin.inputs]
    tapped = _with_all_outputs(twin)
    computed = {id(tensor): name for name, tensor in tapped.output.items()}
    outputs = {id(tensor) for tensor in twin.outputs}
    wanted, kept = {}, {}
    for tensor, value in graph.values(twin, arrays, [*tapped.output.values(), *twin.outputs]):
        array = keras.ops.convert_to_numpy(value)
        if id(tensor) in computed:
            wanted[computed[id(tensor)]] = _digest(array)
        if id(tensor) in outputs:
            kept[id(tensor)] = array
    deployed = deploy(tapped)
    found = {
        id(tensor): _digest(keras.ops.convert_to_numpy(value))
        for tensor, value in graph.values(deployed, arrays, deployed.outputs)
    }
    different = [
        name for name, tensor in deployed.output.items() if found[id(tensor)] != wanted[name]
    ]
    # The differences behind the first follow from it.
    problems = [
        f"probe: deploy and training form differ from {name.rpartition('_')[0]} on"
        for name in different[:1]
    ]
    return [kept[id(tensor)] for tensor in twin.outputs], problems


def _digest(array) -> tuple:
    """Equal for arrays of the same shape and values, which float32 has without rounding."""
    # (-0.0 + 0.0 is 0.0.)
    values = array.astype("float32", copy=False) + np.float32(0)
    return array.shape, hashlib.sha256(values.tobytes()).digest()


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


def _obstacle(operation, args, kwargs) -> str | None:
    """Why an operation rounds, or is not known not to; `None` if it is exact."""
    kind = type(operation).__name__
    unknown = f"{kind} rounds"
    if any(_is_boolean(value) for value in keras.tree.flatten((args, kwargs))):
        return f"{kind} reads a mask, which has no dyadic values"
    if isinstance(operation, QuantizedLayer):
        exact = all(isinstance(item, (Binarizer, NoOp)) for item in _quantizers(operation))
        return None if exact else f"a quantizer of {kind} has more than two values"
    count = _averaged(operation, args)
    if count is not None:
        return None if count & (count - 1) == 0 else f"{kind} takes a mean over {count} values"
    if isinstance(operation, layers.ReLU):
        limits = (operation.negative_slope, operation.threshold, operation.max_value or 0.0)
        return None if all(map(_is_coarse, limits)) else f"{kind} has limits that round"
    if isinstance(operation, layers.Activation):
        exact = operation.activation in _EXACT_ACTIVATIONS
        return None if exact else f"{_name_of(operation.activation)} rounds"
    if isinstance(operation, layers.UpSampling2D):
        return None if operation.interpolation == "nearest" else unknown
    if isinstance(operation, keras.layers.Layer):
        return None if type(operation) in _EXACT_LAYERS else unknown
    if kind not in _EXACT_OPERATIONS:
        return unknown
    values = keras.tree.flatten((args, kwargs))
    if kind == "Multiply" and all(isinstance(value, keras.KerasTensor) for value in values):
        return f"{kind} of two tensors doubles their bits"
    if kind in _WITH_CONSTANTS:
        return None
    constants = (value for value in values if not isinstance(value, keras.KerasTensor))
    return None if all(map(_is_coarse, constants)) else f"a constant of {kind} rounds"


def _averaged(operation, args) -> int | None:
    """Over how many values an operation takes means; the least common multiple of several."""
    shape: tuple = args[0].shape if args and isinstance(args[0], keras.KerasTensor) else ()
    if isinstance(operation, (layers.AveragePooling1D, layers.AveragePooling2D)):
        # At the border of "same" the count differs; inside it is the window's.
        return math.prod(operation.pool_size) if operation.padding == "valid" else 3
    if isinstance(operation, (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D)):
        return math.prod(shape[1:-1])
    if isinstance(operation, layers.Average):
        return len(args[0])
    if isinstance(operation, EntropyMaximizingAggregation):
        return shape[operation.axis] if operation.mode == "mean" else 1
    if isinstance(operation, ChannelAdaptiveBypass):
        merged = operation.filters % shape[-1]
        size = shape[-1] // merged if merged else 1
        return math.lcm(size, shape[-1] - size * (merged - 1)) if merged else 1
    if type(operation).__name__ == "Mean":
        axes = operation.axis
        axes = range(1, len(shape)) if axes is None else np.atleast_1d(axes)
        return math.prod(shape[axis] for axis in axes)
    return None


def _bits(operation, args) -> int:
    """Bits that a float operation adds to the width of its inputs."""
    count = _averaged(operation, args)
    if count is not None:
        return count.bit_length() - 1
    if isinstance(operation, _FLOAT_CONVOLUTIONS) and not is_binary(operation):
        # A 1x1 kernel has one 1 per output.
        return _BITS_OF_CONVOLUTION if math.prod(operation.kernel_size) > 1 else 0
    if isinstance(operation, layers.BatchNormalization):
        return 1
    return 2 if isinstance(operation, layers.LeakyReLU) or _is_product(operation) else 0


def _is_boolean(value) -> bool:
    return isinstance(value, keras.KerasTensor) and value.dtype == "bool"


def _is_product(operation) -> bool:
    return type(operation).__name__ == "Multiply"


def _coarse_constants(generator, args, kwargs):
    """Constants of a sum or product as multiples of 1/4: 0 and 1 would hide a wrong place."""

    def coarse(value):
        if value is None or isinstance(value, (keras.KerasTensor, int)):
            return value
        if isinstance(value, float):
            return value if _is_coarse(value) else math.copysign(0.75, value)
        return generator.choice([-1.0, -0.5, 0.5, 1.0], np.shape(value)).astype("float32")

    return keras.tree.map_structure(coarse, (args, kwargs))


def _name_of(function) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _quantizers(layer) -> list:
    """The quantizers of a quantized layer."""
    found = (getattr(layer, name) for name in layer.quantizer_names)
    return [quantizer for quantizer in found if quantizer is not None]


def _is_plain(quantizer, of_kernel: bool) -> bool:
    """Whether a quantizer of dyadic values is exact: a sign with a constant threshold and scale.

    Kernels have one magnitude per filter in the probe, of which a mean is exact; inputs have many.
    """
    if not isinstance(quantizer, Binarizer):
        return isinstance(quantizer, NoOp)
    threshold, scale = quantizer.threshold, quantizer.scale
    return (threshold is None or threshold.static) and (
        scale is None
        or scale.static
        or (of_kernel and type(scale) in (MeanMagnitude, PowerOfTwoMagnitude))
    )


def _is_coarse(value) -> bool:
    """Whether a constant adds no bits: multiples of 1/4, and all that is no number."""
    if isinstance(value, (int, float)):
        return float(value * 4).is_integer()
    return value in (None, Ellipsis) or isinstance(value, (str, slice))


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


def _twin(layer, generator, replaced):
    config = {**layer.get_config(), "dtype": "float32"}
    if isinstance(layer, EntropyMaximizingAggregation):
        # The offset is the median of a distribution, which has too many bits.
        config["offset"] = -0.75
    if isinstance(layer, layers.LeakyReLU):
        config["negative_slope"] = 0.25
    for name in layer.quantizer_names if isinstance(layer, QuantizedLayer) else ():
        quantizer = getattr(layer, name)
        of_kernel = "kernel" in name or "wise" in name
        if quantizer is not None and not _is_plain(quantizer, of_kernel):
            config[name] = Binarizer(threshold=None if of_kernel else LearnedThreshold())
            reason = f"its {name} {type(quantizer).__name__} rounds"
            known = replaced.get(layer.name)
            replaced[layer.name] = reason if known is None else f"{known}; {reason}"
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
    if name in ("alpha", "slope"):
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
