"""Puts deploy layers together, with concrete weights, and merges neighbours as it goes."""

import keras
import numpy as np

from bnnkeras.converters.graph import producer
from bnnkeras.converters.layers import Affine, Convolution, Flip, Sign, SubtractFrom


class Builder:
    """Makes the layers of one deploy form: unique names, one dtype, weights in place.

    Its constructors look at what made their input, so that rules stay local: an affine map meets
    the convolution before it even across a flip or a crop, and two flips cancel.

    Attributes:
        dtype: The dtype of all layers: float32, or float64 to compare forms exactly.
        notes: Sentences for the report, by layer name.
    """

    def __init__(self, dtype: str = "float32"):
        self.dtype = dtype
        self.notes: dict[str, str] = {}
        self._names: set[str] = set()
        self._copies: dict[int, keras.layers.Layer] = {}

    def name(self, wanted: str) -> str:
        """`wanted`, with a number behind it if it is taken."""
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name

    def note(self, layer, sentence: str):
        """Adds a sentence about a layer to the report; a shared layer says it once."""
        known = self.notes.get(layer.name)
        if known is None:
            self.notes[layer.name] = sentence
        elif sentence not in known:
            self.notes[layer.name] = f"{known}; {sentence}"

    def place(self, layer, x, weights=()):
        """`layer(x)`, its weights set."""
        _check_finite(layer, weights)
        outputs = layer(x)
        layer.set_weights([np.asarray(weight) for weight in weights])
        return outputs

    def copy(
        self, layer: keras.layers.Layer, kind: type[keras.layers.Layer] | None = None
    ) -> keras.layers.Layer:
        """The same layer in the deploy dtype, with its weights; one copy for a shared layer.

        Args:
            layer: The layer.
            kind: A class of the deploy form with the same arguments; `None` for the layer's own.
        """
        if id(layer) not in self._copies:
            config = {**layer.get_config(), "dtype": self.dtype, "name": self.name(layer.name)}
            twin = (kind or type(layer)).from_config(config)
            if layer.built and layer.weights:
                _check_finite(layer, layer.get_weights())
                twin.build_from_config(layer.get_build_config())
                twin.set_weights(layer.get_weights())
            self._copies[id(layer)] = twin
        return self._copies[id(layer)]

    def copy_operation(self, operation):
        """An operation of keras.ops anew: a call of the original would grow the user's graph."""
        config = {**operation.get_config(), "name": self.name(operation.name)}
        return type(operation).from_config(config)

    def sign(self, x, name):
        return Sign(name=self.name(f"{name}_sign"), dtype=self.dtype)(x)

    def offset(self, x, bias, name):
        """x + bias, one value per channel."""
        layer = Affine(use_scale=False, name=self.name(f"{name}_offset"), dtype=self.dtype)
        return self.place(layer, x, [bias])

    def pad(self, x, rows, columns, name):
        """Zeros around a feature map: `rows` and `columns` are (before, after)."""
        if not any((*rows, *columns)):
            return x
        return keras.layers.ZeroPadding2D(
            (rows, columns), name=self.name(f"{name}_pad"), dtype=self.dtype
        )(x)

    def crop(self, x, rows, columns, name):
        """Cuts rows and columns off the end."""
        if not (rows or columns):
            return x
        return keras.layers.Cropping2D(
            ((0, rows), (0, columns)), name=self.name(f"{name}_crop"), dtype=self.dtype
        )(x)

    def convolution(self, x, kernel, strides, padding, dilation_rate, name):
        layer = Convolution(
            kernel.shape[-1],
            kernel.shape[:2],
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            use_bias=False,
            name=self.name(name),
            dtype=self.dtype,
        )
        return self.place(layer, x, [kernel])

    def flip(self, x, axes, name):
        """Reverses axes; a flip of the same flip is nothing."""
        if not axes:
            return x
        source, inputs = producer(x)
        if isinstance(source, Flip) and source.axes == tuple(axes):
            return inputs[0]
        return Flip(axes, name=self.name(f"{name}_flip"), dtype=self.dtype)(x)

    def affine(self, x, scale, bias, name):
        """scale * x + bias per channel, merged into an affine map, or moved before a flip or crop.

        LCE fuses scale and bias into a binary convolution only directly behind it.
        """
        source, inputs = producer(x)
        if isinstance(source, Affine) and source.use_scale:
            inner_scale, inner_bias = (keras.ops.convert_to_numpy(v) for v in source.weights)
            return self.affine(inputs[0], scale * inner_scale, scale * inner_bias + bias, name)
        if isinstance(source, Flip):
            return self.flip(self.affine(inputs[0], scale, bias, name), source.axes, name)
        if isinstance(source, keras.layers.Cropping2D) and _crops_ends(source):
            inner = self.affine(inputs[0], scale, bias, name)
            (_, rows), (_, columns) = source.cropping
            return self.crop(inner, rows, columns, name)
        if isinstance(source, SubtractFrom):
            constant = keras.ops.convert_to_numpy(source.constant)
            inner = self.affine(inputs[0], scale, np.zeros_like(bias), name)
            return self.subtract_from(scale * constant + bias, inner, name)
        layer = Affine(name=self.name(f"{name}_scale"), dtype=self.dtype)
        return self.place(layer, x, [scale, bias])

    def subtract_from(self, constant, x, name):
        """constant - x, one value per position and channel."""
        layer = SubtractFrom(name=self.name(f"{name}_border"), dtype=self.dtype)
        return self.place(layer, x, [constant])


def _crops_ends(layer) -> bool:
    return all(start == 0 for start, _ in layer.cropping)


def _check_finite(layer, weights):
    for weight in weights:
        if not np.isfinite(weight).all():
            raise ValueError(
                "`model` must have finite weights. "
                f"Received: NaN or infinity in what becomes layer {layer.name!r}"
            )
