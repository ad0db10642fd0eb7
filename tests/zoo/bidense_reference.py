"""What the tests of BiDense's networks share: official parameters, gradients and statistics."""

import keras
import numpy as np
from keras import ops

from bnnkeras.converters import load_official


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def exact_gelu(x):
    """x Phi(x). Keras's own on TensorFlow rounds sqrt(2) to float32, whatever the dtype of x."""
    return 0.5 * x * (1 + ops.erf(x * ops.convert_to_tensor(0.5**0.5, dtype=x.dtype)))


def with_exact_gelu(model):
    """The model, its GELU as exact as the other layers."""
    for layer in model.layers:
        if getattr(layer, "activation", None) is keras.activations.gelu:
            layer.activation = exact_gelu
    return model


def filled(fill, shapes, salt=""):
    """The official parameters; a shared module stands three times in a state dict."""
    state = fill.fill_state(shapes, salt=salt)
    for name in state:
        first = name.replace("smooth_conv.1.", "smooth_conv.0.")
        state[name] = state[first.replace("smooth_conv.2.", "smooth_conv.0.")]
    return state


def load(model, state, name_map, prefix=""):
    """Loads an official state dict of the model, all of which must be there."""
    state = {prefix + name: value for name, value in state.items()}
    report = load_official(model, state, name_map=name_map)
    assert report.loaded and not report.kept
    return report


def official_gradients(result, names):
    """Gradients by their official names, in their official layouts."""
    return {
        name: names.to_official(name, result.variables[names.variable(name).path])
        for name in names
        if names.variable(name).path in result.variables
    }


def assert_gradient_norms(golden, case, result, names, noise):
    """Holds the gradients' norms against all of the file's.

    Norms of what batch normalization cancels are rounding, up to `noise`.
    """
    gradients = official_gradients(result, names)
    wanted = golden[f"{case}/train/grad_names"].tolist()
    assert set(wanted) == set(gradients)
    norms = np.array([np.linalg.norm(gradients[name]) for name in wanted])
    np.testing.assert_allclose(norms, golden[f"{case}/train/grad_l2"], rtol=1e-8, atol=noise)


def official_statistics(model, names, before, inputs):
    """The running statistics after one step from `before`, the variances PyTorch's."""
    found = {}
    for name in names:
        if name.endswith((".running_mean", ".running_var")):
            value = numpy(names.variable(name))
            if name.endswith(".running_var"):
                value = value + _unbiased(model, names.variable(name), before, inputs)
            found[name] = names.to_official(name, value)
    return found


def _unbiased(model, variable, before, inputs):
    """What PyTorch's running variance has more: 0.1 of each batch variance's n / (n - 1) - 1."""
    (layer,) = (layer for layer in model.layers if any(w is variable for w in layer.weights))
    count = len(keras.tree.flatten(inputs)[0])
    sizes = [
        count * int(np.prod(node.input_tensors[0].shape[1:-1])) for node in layer._inbound_nodes
    ]
    if len(sizes) == 1:
        batch = (numpy(variable) - 0.9 * before[variable.path]) / 0.1
        return 0.1 * batch / (sizes[0] - 1)
    # A shared layer is called several times: the variances are those of its own inputs.
    tapped = keras.Model(model.inputs, [node.input_tensors[0] for node in layer._inbound_nodes])
    maps = [numpy(x) for x in tapped(inputs, training=True)]
    total = 0.0
    for x, size in zip(maps, sizes, strict=True):
        total = 0.9 * total + 0.1 * x.var(axis=(0, 1, 2)) / (size - 1)
    return total


class Single(keras.layers.Layer):
    """A model of several inputs as a layer of several arguments."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.built = True

    def call(self, *inputs, training=None):
        return self.model(list(inputs), training=training)
