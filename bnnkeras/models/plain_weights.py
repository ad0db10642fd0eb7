"""Weights of plain Keras models for their quantized twins."""

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator

import keras

from bnnkeras.layers.base import QuantizedLayer
from bnnkeras.quantizers import Quantizer


def load_plain_weights(model: keras.Model, path) -> None:
    """Loads weights that a model of plain Keras layers saved into its quantized twin.

    Keras finds a layer's weights in a file by its class: `dense`, `conv2d_1`. It so misses every
    quantized layer; this function looks for them under the class that they derive from. Variables
    of quantizers, such as learned thresholds, are in no such file and stay as they are.

    Args:
        model: A built model, which differs from the saved one only in that layers are quantized:
            `QuantConv2D` in the place of `keras.layers.Conv2D`.
        path: A file that the plain model's `save` or `save_weights` wrote: `.keras` or
            `.weights.h5`.

    Raises:
        ValueError: If weights are missing or have other shapes.

    Example:
        >>> import tempfile
        >>> import keras
        >>> from bnnkeras import layers, models
        >>> plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> twin = keras.Sequential(
        ...     [keras.Input((4,)), layers.QuantDense(2, input_quantizer="ste_sign")]
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plain.save_weights(f"{folder}/plain.weights.h5")
        ...     models.load_plain_weights(twin, f"{folder}/plain.weights.h5")
        >>> bool((twin.get_weights()[0] == plain.get_weights()[0]).all())
        True
    """
    if str(path).endswith(".keras"):
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
            load_plain_weights(model, archive.extract("model.weights.h5", folder))
        return
    quantized = [layer for layer in model._flatten_layers() if isinstance(layer, QuantizedLayer)]
    skipped = [quantizer for layer in quantized for quantizer in layer_quantizers(layer)]
    with _plain_class_names(quantized):
        model.load_weights(path, objects_to_skip=skipped)


def layer_quantizers(layer: QuantizedLayer) -> list[keras.layers.Layer]:
    """The quantizers of a layer that may own variables."""
    found = [getattr(layer, name) for name in layer.quantizer_names]
    if isinstance(layer.activation, Quantizer):
        found.append(layer.activation)
    return [quantizer for quantizer in found if isinstance(quantizer, keras.layers.Layer)]


@contextlib.contextmanager
def _plain_class_names(quantized: list[QuantizedLayer]) -> Iterator[None]:
    """Inside, the class of each layer has the name of the Keras class that it derives from."""
    classes = [type(layer) for layer in quantized]
    try:
        for layer, cls in zip(quantized, classes, strict=True):
            plain = next(base for base in cls.__mro__ if not issubclass(base, QuantizedLayer))
            # Not by plain assignment, which Keras and PyTorch would track.
            object.__setattr__(layer, "__class__", type(plain.__name__, (cls,), {}))
        yield
    finally:
        for layer, cls in zip(quantized, classes, strict=True):
            object.__setattr__(layer, "__class__", cls)
