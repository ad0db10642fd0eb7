"""The float kernels of a deploy form: which layers have them, and how they lie in memory."""

from typing import Any

import keras
import numpy as np
from keras import layers

from bnnkeras.converters import graph
from bnnkeras.converters.layers import Affine
from bnnkeras.converters.lowering import Builder

_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)
# The activations that float operators compute themselves, whatever their types.
FUSED_ACTIVATIONS = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)
_LAYERS = (layers.Conv1D, layers.Conv2D, layers.Dense, *_DEPTHWISE, *_TRANSPOSED)


def has_float_kernel(layer) -> bool:
    """Whether a layer of a deploy form multiplies by a kernel that is not one of -1 and +1."""
    if not isinstance(layer, _LAYERS) or not layer.built:
        return False
    return not bool(np.all(np.abs(keras.ops.convert_to_numpy(layer.kernel)) == 1))


def float_layers(deployed: keras.Model) -> list[keras.layers.Layer]:
    """The layers with a float kernel, in the order of the graph."""
    return [layer for layer in deployed.layers if has_float_kernel(layer)]


def has_scale_per_filter(layer) -> bool:
    """Whether int8 weights of a layer have one scale per filter, or one in all.

    A dense layer has one, as TFLite's own tools wrote for years: scales and zero points of a
    thousand classes take 12 KB, and behind its outputs there is no sign.
    """
    return not isinstance(layer, layers.Dense)


def filters_first(layer, kernel: np.ndarray) -> np.ndarray:
    """A kernel as (filters, weights of one), the weights in the order of `.tflite` files."""
    if isinstance(layer, _DEPTHWISE):
        # (..., channels, multiplier) -> (channels x multiplier, ...)
        kernel = kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]).T
    elif isinstance(layer, _TRANSPOSED):
        # (..., filters, channels) -> (filters, ..., channels)
        kernel = np.moveaxis(kernel, -2, 0)
    else:
        # (..., channels, filters) -> (filters, ..., channels)
        kernel = np.moveaxis(kernel, -1, 0)
    return kernel.reshape(len(kernel), -1)


def filters_in_place(layer, rows: np.ndarray) -> np.ndarray:
    """The inverse of `filters_first`: a kernel in the shape of the layer's variable."""
    shape = tuple(layer.kernel.shape)
    if isinstance(layer, _DEPTHWISE):
        return rows.T.reshape(shape)
    axis = len(shape) - (2 if isinstance(layer, _TRANSPOSED) else 1)
    first = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.moveaxis(rows.reshape(first), 0, axis)


def with_folded_scales(deployed: keras.Model, change_kernel=None) -> keras.Model:
    """A copy of a deploy form whose float layers are those of the file, one operator each.

    Each `Affine` behind a float layer is folded into its kernel, as LCE's converter does, and an
    activation that no float operator computes becomes a layer of its own, `<layer>_activation`.

    Args:
        deployed: The deploy form.
        change_kernel: `change_kernel(layer, kernel)` returns another kernel for a float layer.
            `None` changes nothing.
    """
    return rebuilt(deployed, _Folding(deployed, change_kernel))


def rebuilt(deployed: keras.Model, call) -> keras.Model:
    """`graph.replay` of a deploy form on inputs of its own, as a model of the same name."""
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name),
        deployed.input,
    )
    outputs = graph.replay(deployed, inputs, call)
    return keras.Model(inputs, outputs, name=deployed.name)


def consumers_of(deployed: keras.Model) -> dict[int, list[Any]]:
    """The operations that read a symbolic tensor, by its id; an output of the model has `None`."""
    consumers: dict[int, list[Any]] = {}
    for operation in deployed.operations:
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                consumers.setdefault(id(tensor), []).append(operation)
    for tensor in deployed.outputs:
        consumers.setdefault(id(tensor), []).append(None)
    return consumers


def _foldable(deployed) -> set[str]:
    """Names of the `Affine` layers that alone read a float layer without an activation."""
    consumers = consumers_of(deployed)
    found = set()
    for affine in deployed.layers:
        if not isinstance(affine, Affine):
            continue
        source, _ = graph.producer(affine.input)
        linear = getattr(source, "activation", None) is keras.activations.linear
        if linear and has_float_kernel(source) and len(consumers[id(affine.input)]) == 1:
            found.add(affine.name)
    return found


class _Folding:
    """What `with_folded_scales` makes of one operation."""

    def __init__(self, deployed, change_kernel):
        self._builder = Builder()
        self._foldable = _foldable(deployed)
        self._change_kernel = change_kernel or (lambda layer, kernel: kernel)
        # The layers of the deploy form by the ids of their copies, whose kernels are changed.
        self._originals: dict[int, keras.layers.Layer] = {}
        self._folded: set[str] = set()

    def __call__(self, operation, *args, **kwargs):
        if not isinstance(operation, keras.layers.Layer):
            return self._builder.copy_operation(operation)(*args, **kwargs)
        if operation.name in self._foldable:
            layer, inputs = graph.producer(args[0])
            return self._merged(self._originals[id(layer)], operation)(inputs[0])
        layer = self._builder.copy(operation)
        if not has_float_kernel(operation):
            return layer(*args, **kwargs)
        self._originals[id(layer)] = operation
        kernel = keras.ops.convert_to_numpy(operation.kernel)
        layer.kernel.assign(self._change_kernel(operation, kernel))
        if operation.activation in FUSED_ACTIVATIONS:
            return layer(*args, **kwargs)
        layer.activation = keras.activations.linear
        outputs = layer(*args, **kwargs)
        return self._builder.activation(outputs, operation.activation, operation.name)

    def _merged(self, layer, affine):
        """A float layer with a scale and bias per filter in it; one for each call of a layer."""
        # The copy without them is no part of the new model: the first may have its name.
        name = self._builder.name(layer.name) if layer.name in self._folded else layer.name
        self._folded.add(layer.name)
        twin = type(layer).from_config({**layer.get_config(), "use_bias": True, "name": name})
        twin.build_from_config(layer.get_build_config())
        *scales, shift = (keras.ops.convert_to_numpy(weight) for weight in affine.weights)
        scale = scales[0] if scales else np.ones_like(shift)
        rows = filters_first(layer, keras.ops.convert_to_numpy(layer.kernel)) * scale[:, None]
        kernel = self._change_kernel(layer, filters_in_place(layer, rows))
        bias = keras.ops.convert_to_numpy(layer.bias) if layer.use_bias else np.zeros_like(shift)
        twin.set_weights([kernel, bias * scale + shift])
        return twin
