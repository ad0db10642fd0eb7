"""Each layer's deploy form against the layer itself, with its real weights.

The dyadic probe compares whole networks, but with weights and activations of its own; here every
weight and every activation of the user's model counts, one layer at a time, so that no sign near
zero can hide an error or fake one.
"""

import keras
import numpy as np

from bnnkeras.converters import graph
from bnnkeras.converters.lowering import Builder, lower
from bnnkeras.converters.lowering.standard import DROPPED
from bnnkeras.layers.base import QuantizedLayer

# Both compute in float32, and the training form folds the scale into the kernel: where a few
# thousand equal weights are summed, their roundings add up to some 1e-5.
_TOLERANCE = 1e-4
_ROUNDING = 2.0**-20


def differences(model: keras.Model) -> list[str]:
    """A sentence for each layer whose deploy form computes something else.

    Args:
        model: A functional or Sequential model. It is only read: what runs are copies in float32
            on the CPU, because half floats and accelerators have too few bits to compare.
    """
    found: list[str] = []
    seen: set[tuple] = set()

    def call(operation, *args, **kwargs):
        if isinstance(operation, keras.layers.Layer):
            shapes = [getattr(value, "shape", None) for value in keras.tree.flatten((args, kwargs))]
            key = (id(operation), str(shapes))
            if key not in seen:
                seen.add(key)
                found.extend(_difference(operation, args, kwargs))
        return operation.compute_output_spec(*args, **kwargs)

    model = graph.as_functional(model)
    with keras.device("cpu"):
        graph.replay(model, model.input, call)
    return found


def _difference(layer, args, kwargs):
    generator = np.random.default_rng(0)
    inputs, values = [], []

    def sample(value):
        if not isinstance(value, keras.KerasTensor):
            return value
        dtype = "bool" if keras.backend.standardize_dtype(value.dtype) == "bool" else "float32"
        inputs.append(keras.Input(batch_shape=(1, *value.shape[1:]), dtype=dtype))
        sampled = generator.normal(size=inputs[-1].shape)
        values.append(sampled > 0 if dtype == "bool" else sampled.astype("float32"))
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(sample, (args, kwargs))
    builder = Builder()
    lowered = lower(builder, layer, *args, **kwargs)
    # What differs on purpose is in the report.
    if layer.name in builder.notes or type(layer) in DROPPED:
        return
    twin = Builder().copy(layer)
    wanted = keras.Model(inputs, twin(*args, **kwargs))(values)
    found = keras.Model(inputs, lowered)(values)
    for one, other in zip(keras.tree.flatten(wanted), keras.tree.flatten(found), strict=True):
        one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        if one.shape != other.shape:
            yield f"{layer.name}: its deploy form has outputs of shape {other.shape}"
            continue
        # (Masks have no difference.)
        one, other = (np.asarray(value, "float64") for value in (one, other))
        error, largest = np.abs(one - other).max(), np.abs(one).max()
        if not error <= _TOLERANCE * largest + _ROUNDING * _summands(twin):
            yield f"{layer.name}: its deploy form differs by {error:.3g} of {largest:.3g}"


def _summands(layer) -> float:
    """The largest sum that a quantized kernel can make, which may cancel to nothing."""
    if not isinstance(layer, QuantizedLayer):
        return 0.0
    kernels = (
        np.abs(keras.ops.convert_to_numpy(layer.quantized_kernel(name)))
        for name in layer.kernel_quantizers
    )
    return max(float(kernel.sum(axis=tuple(range(kernel.ndim - 1))).max()) for kernel in kernels)
