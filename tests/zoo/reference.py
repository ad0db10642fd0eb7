"""Zoo models held against the official networks' numbers."""

import keras
import numpy as np
from keras import ops

from bnnkeras.converters import load_official
from bnnkeras.converters.checkpoints.names import candidates, variables_by_path


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def nchw(array):
    """Feature maps as PyTorch has them; other arrays as they are."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def load(model, state, name_map, prefix=""):
    """Loads an official state dict, which must fill every variable of the model."""
    state = {prefix + name: value for name, value in state.items()}
    report = load_official(model, state, name_map=name_map)
    # More, where several arrays fill one variable.
    assert len(report.loaded) >= len(model.weights) and not report.kept
    return report


class Names:
    """What the official parameters of a model are called, and how they lie in memory.

    Args:
        model: The model.
        name_map: Name of its map.
        prefix: Of every official name, as of a block within a network.
    """

    def __init__(self, model, name_map, prefix=""):
        self.variables = variables_by_path(model)
        shapes = {path: tuple(variable.shape) for path, variable in self.variables.items()}
        ((_, entries),) = candidates(model, shapes, name_map)
        self._entries = {entry.name.removeprefix(prefix): entry for entry in entries}

    def __iter__(self):
        return iter(self._entries)

    def variable(self, name):
        return self.variables[self._entries[name].paths[0]]

    def to_keras(self, name, array):
        entry = self._entries[name]
        return entry.layout.to_keras(array, *entry.shapes)

    def to_official(self, name, array):
        """The part of a variable, or of its gradient, that has this name."""
        return self._entries[name].layout.to_official(array)

    def official_shape(self, name):
        entry = self._entries[name]
        return tuple(entry.layout.official_shape(*entry.shapes))

    def batch_norms(self):
        """Official names of the batch normalizations, with the layers' variables."""
        for name in self:
            if name.endswith(".running_var"):
                yield name.removesuffix(".running_var")


def unbiased(after, before, count):
    """The running variance as PyTorch keeps it: of the batch's variance n / (n - 1) times ours."""
    return 0.9 * before + (after - 0.9 * before) * count / (count - 1)


def sample_count(model, variable) -> int:
    """How many values of each channel, per image, a batch normalization averages."""
    (layer,) = (layer for layer in model.layers if any(w is variable for w in layer.weights))
    return int(np.prod(layer.input.shape[1:-1]))


def layer_outputs(model, names) -> keras.Model:
    """A model that returns the outputs of the layers in `names`, a dict, and its own."""
    outputs = {key: model.get_layer(name).output for key, name in names.items()}
    return keras.Model(model.input, {**outputs, "logits": model.output})
