"""Puts deploy layers together, with concrete weights, and merges neighbours as it goes."""

import dataclasses

import keras
import numpy as np

from bnnkeras.converters.graph import producer
from bnnkeras.converters.layers import (
    Affine,
    ConstantPadding,
    Convolution,
    Flip,
    Mean,
    PositionAffine,
    Sign,
    SubtractFrom,
)


@dataclasses.dataclass
class Call:
    """What became of one call of a layer of the training form.

    Attributes:
        layer: Name of the layer.
        binary: Whether the user built it as binary.
        convolutions: Names of the convolutions that it consists of in the deploy form.
        float_reason: Why it runs in float although its inputs and kernel are 1-bit, or `None`.
    """

    layer: str
    binary: bool
    convolutions: list[str] = dataclasses.field(default_factory=list)
    float_reason: str | None = None


class Builder:
    """Makes the layers of one deploy form: unique names, one dtype, weights in place.

    Its constructors look at what made their input, so that rules stay local: an affine map meets
    the convolution before it even across a flip or a crop, and two flips cancel.

    Attributes:
        dtype: The dtype of all layers: float32, or float64 to compare forms exactly.
        exact_zeros: Whether a layer built with `sign_of_zero=0` takes two binary convolutions, so
            that inputs of exactly 0 count as 0.
        calls: One record for each call of a layer, in the order of the graph.
        notes: Sentences for the report, by layer name.
    """

    def __init__(self, dtype: str = "float32", exact_zeros: bool = False):
        self.dtype = dtype
        self.exact_zeros = exact_zeros
        self.calls: list[Call] = []
        self.notes: dict[str, str] = {}
        self._names: set[str] = set()
        self._copies: dict[int, keras.layers.Layer] = {}
        # By the id of a symbolic tensor, with the tensor, so that no other one gets the id.
        self._carried: dict[int, tuple] = {}
        self._means: dict[tuple, tuple] = {}
        self._laid: dict = {}
        self._owned: dict[int, keras.KerasTensor] = {}

    def name(self, wanted: str) -> str:
        """`wanted`, with a number behind it if it is taken."""
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name

    def once(self, key, lay):
        """`lay()`, or what it returned for the same key before."""
        if key not in self._laid:
            self._laid[key] = lay()
        return self._laid[key]

    def begin(self, layer: str, binary: bool):
        """Opens the record of the next call."""
        self.calls.append(Call(layer, binary))

    def run_in_float(self, layer, reason: str):
        """Records that a layer of 1-bit inputs and kernel runs in float, and why."""
        self.calls[-1].float_reason = reason

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
        self,
        layer: keras.layers.Layer,
        kind: type[keras.layers.Layer] | None = None,
        **arguments,
    ) -> keras.layers.Layer:
        """The same layer in the deploy dtype, with its weights; one copy for a shared layer.

        Args:
            layer: The layer.
            kind: A class of the deploy form with the same arguments; `None` for the layer's own.
            **arguments: Arguments of the layer to replace.
        """
        if id(layer) not in self._copies:
            self._copies[id(layer)] = self._new_copy(layer, kind, **arguments)
        return self._copies[id(layer)]

    def _new_copy(self, layer, kind=None, **arguments):
        config = {**layer.get_config(), "dtype": self.dtype, "name": self.name(layer.name)}
        config.update(arguments)
        twin = (kind or type(layer)).from_config(config)
        if layer.built and layer.weights:
            _check_finite(layer, layer.get_weights())
            twin.build_from_config(layer.get_build_config())
            twin.set_weights(layer.get_weights())
        return twin

    def copy_operation(self, operation):
        """An operation of keras.ops anew: a call of the original would grow the user's graph."""
        config = {**operation.get_config(), "name": self.name(operation.name)}
        return type(operation).from_config(config)

    def sign(self, x, name):
        return Sign(name=self.name(f"{name}_sign"), dtype=self.dtype)(x)

    def offset(self, x, bias, name):
        """x + bias, one value per channel; before a max pool of an affine map, which then feeds its
        sign directly: LCE pools bits only there."""
        tensor, constant = self.carried(x)
        if constant is not None:
            return self.offset(tensor, constant + bias, name)
        source, inputs = producer(x)
        if _is_pooled_affine(x):
            inner = self.offset(inputs[0], bias, name)
            if isinstance(source, keras.layers.Reshape):
                return self.reshape(inner, x.shape[1:], f"{name}_reshape")
            return self._pooled_like(source, inner, name)
        layer = Affine(use_scale=False, name=self.name(f"{name}_offset"), dtype=self.dtype)
        return self.place(layer, x, [bias])

    def carry(self, x, constant, name):
        """x + constant, one value per channel, which what follows may take apart again."""
        total = self.offset(x, constant, name)
        self._carried[id(total)] = (total, x, constant)
        return total

    def carried(self, x):
        """(p, c) where x = p + c was laid by `carry`, else (x, None)."""
        _, tensor, constant = self._carried.get(id(x), (x, x, None))
        return tensor, constant

    def own(self, x):
        """Notes that x feeds one operation only, so that it may be rewritten into another."""
        self._owned[id(x)] = x
        return x

    def is_owned(self, x) -> bool:
        """Whether nothing but the operation that is being lowered reads x."""
        return id(x) in self._owned

    def absorbed_by_any(self, tensors, bias, name):
        """The tensors with `bias` in the first that can take it; `None` if none can."""
        for index, tensor in enumerate(tensors):
            absorbed = self._absorbed(tensor, bias, name)
            if absorbed is not None:
                return [*tensors[:index], absorbed, *tensors[index + 1 :]]
        return None

    def _absorbed(self, x, bias, name):
        """x + bias by way of the bias of a binary convolution in x, or `None`."""
        if not self.is_owned(x):
            return None
        source, inputs = producer(x)
        is_offset = isinstance(source, Affine) and self._is_multiple(inputs[0])
        if _is_affine_or_moved(x) or is_offset:
            return self.own(self.affine(x, np.ones_like(bias), bias, name))
        if type(source) is not keras.layers.Add:
            return None
        absorbed = self.absorbed_by_any(inputs, bias, name)
        return None if absorbed is None else self.own(self.sum(absorbed, source.name))

    def pad(self, x, pads, name, value=0.0):
        """A constant around a map: `pads` has a pair (before, after) for each spatial axis."""
        if not any(amount for pair in pads for amount in pair):
            return x
        name = self.name(f"{name}_pad")
        if value:
            return ConstantPadding(pads, value, name=name, dtype=self.dtype)(x)
        kind = getattr(keras.layers, f"ZeroPadding{len(pads)}D")
        pads = tuple(pads) if len(pads) > 1 else pads[0]
        return kind(pads, name=name, dtype=self.dtype)(x)

    def crop(self, x, rows, columns, name):
        """Cuts rows and columns off: pairs (at the start, at the end)."""
        if not any((*rows, *columns)):
            return x
        return keras.layers.Cropping2D(
            (rows, columns), name=self.name(f"{name}_crop"), dtype=self.dtype
        )(x)

    def reshape(self, x, shape, name):
        """Another shape behind the batch axis, with the same order in memory."""
        if tuple(x.shape[1:]) == tuple(shape):
            return x
        source, inputs = producer(x)
        if isinstance(source, keras.layers.Reshape):
            return self.reshape(inputs[0], shape, name)
        return keras.layers.Reshape(shape, name=self.name(name), dtype=self.dtype)(x)

    def split(self, x, groups):
        """Equal groups of channels."""
        return [x] if groups == 1 else keras.ops.split(x, groups, axis=-1)

    def concatenate(self, tensors, axis, name):
        if len(tensors) == 1:
            return tensors[0]
        return keras.layers.Concatenate(
            axis=axis, name=self.name(f"{name}_concatenate"), dtype=self.dtype
        )(tensors)

    def add(self, x, y, name):
        return self.sum([x, y], f"{name}_add")

    def sum(self, tensors, name):
        return keras.layers.Add(name=self.name(name), dtype=self.dtype)(list(tensors))

    def multiply(self, x, factor, name):
        """x times a factor that broadcasts against it."""
        return keras.layers.Multiply(name=self.name(f"{name}_multiply"), dtype=self.dtype)(
            [x, factor]
        )

    def negate(self, x):
        return keras.ops.negative(x)

    def mean(self, x, axes, name):
        """The mean over axes, which are kept with size 1; laid once for a tensor."""
        key = id(x), tuple(axes)
        if key not in self._means:
            self.know_mean(x, axes, Mean(axes, name=self.name(f"{name}_mean"), dtype=self.dtype)(x))
        return self._means[key][1]

    def know_mean(self, x, axes, value):
        """Notes that `value` is the mean of x over axes: it spares `mean` a pass over the map."""
        self._means[id(x), tuple(axes)] = x, value

    def matrix(self, x, kernel, name):
        """x @ kernel over the last axis."""
        layer = keras.layers.Dense(
            kernel.shape[-1], use_bias=False, name=self.name(name), dtype=self.dtype
        )
        return self.place(layer, x, [kernel])

    def max_pool(self, x, pool_size, name):
        """Maxima over windows side by side."""
        return keras.layers.MaxPooling2D(
            pool_size, name=self.name(f"{name}_pool"), dtype=self.dtype
        )(x)

    def again(self, layer, x, name):
        """A layer without weights of the deploy form, on another input."""
        kind = type(layer).__name__.lower()
        config = {**layer.get_config(), "name": self.name(f"{name}_{kind}"), "dtype": self.dtype}
        return type(layer).from_config(config)(x)

    def _pooled_like(self, pool, x, name):
        config = {**pool.get_config(), "name": self.name(f"{name}_pool"), "dtype": self.dtype}
        return type(pool).from_config(config)(x)

    def activation(self, x, activation, name):
        return keras.layers.Activation(
            activation, name=self.name(f"{name}_activation"), dtype=self.dtype
        )(x)

    def prelu(self, x, slope, name):
        """x if x > 0 else slope * x, one slope per channel."""
        layer = keras.layers.PReLU(
            shared_axes=list(range(1, len(x.shape) - 1)),
            name=self.name(f"{name}_prelu"),
            dtype=self.dtype,
        )
        slope = slope.reshape((1,) * (len(x.shape) - 2) + slope.shape)
        return self.place(layer, x, [slope])

    def with_quantizer(self, kind, quantizer, x, name):
        """A layer of the deploy form that computes a part of a quantizer from the data."""
        # A copy for each: Keras saves the variables of a shared part with one of its owners only.
        return kind(self._new_copy(quantizer), name=self.name(name), dtype=self.dtype)(x)

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
        self.calls[-1].convolutions.append(layer.name)
        return self.place(layer, x, [kernel])

    def flip(self, x, axes, name):
        """Reverses axes; a flip of the same flip is nothing."""
        if not axes:
            return x
        source, inputs = producer(x)
        if isinstance(source, Flip) and source.axes == tuple(axes):
            return inputs[0]
        return Flip(axes, name=self.name(f"{name}_flip"), dtype=self.dtype)(x)

    def shift(self, x, bias, name):
        """x + bias, one value per channel, merged into an affine map if there is one."""
        if _is_affine_or_moved(x):
            return self.affine(x, np.ones_like(bias), bias, name)
        absorbed = self._absorbed(x, bias, name)
        return self.offset(x, bias, name) if absorbed is None else absorbed

    def affine(self, x, scale, bias, name):
        """scale * x + bias per channel, merged into an affine map, or moved before a flip or crop.

        LCE fuses scale and bias into a binary convolution only directly behind it, and pools bits
        only where the pool is directly before the sign.
        """
        tensor, constant = self.carried(x)
        if constant is not None:
            return self.affine(tensor, scale, scale * constant + bias, name)
        source, inputs = producer(x)
        if type(source) is keras.layers.Add and self.is_owned(x) and self._can_scale(inputs):
            return self._affine_of_sum(inputs, scale, bias, source.name, name)
        if self._is_multiple(x):
            return self._affine_of_multiple(x, scale, bias, name)
        if _is_pool(source) and _is_affine_or_moved(inputs[0]) and np.all(scale > 0):
            return self._pooled_like(source, self.affine(inputs[0], scale, bias, name), name)
        if isinstance(source, Affine):
            *scales, inner_bias = (keras.ops.convert_to_numpy(v) for v in source.weights)
            inner_scale = scales[0] if scales else 1.0
            return self.affine(inputs[0], scale * inner_scale, scale * inner_bias + bias, name)
        if isinstance(source, Flip):
            return self.flip(self.affine(inputs[0], scale, bias, name), source.axes, name)
        if isinstance(source, keras.layers.Cropping2D):
            rows, columns = source.cropping
            return self.crop(self.affine(inputs[0], scale, bias, name), rows, columns, name)
        if _only_moves(x):
            return self._affine_before_moves(x, scale, bias, name)
        if isinstance(source, SubtractFrom):
            constant = keras.ops.convert_to_numpy(source.constant)
            inner = self.affine(inputs[0], scale, np.zeros_like(bias), name)
            return self.subtract_from(scale * constant + bias, inner, name)
        layer = Affine(name=self.name(f"{name}_scale"), dtype=self.dtype)
        return self.place(layer, x, [scale, bias])

    def _can_scale(self, tensors) -> bool:
        """Whether each summand is a binary convolution's, or a matrix product of this builder."""
        return all(
            self.is_owned(tensor) and (_is_affine_or_moved(tensor) or _is_matrix(tensor))
            for tensor in tensors
        ) and any(map(_is_affine_or_moved, tensors))

    def _affine_of_sum(self, tensors, scale, bias, sum_name, name):
        """`affine` on each summand: the bias goes to the first convolution alone."""
        parts = []
        for tensor in tensors:
            if _is_matrix(tensor):
                dense, inputs = producer(tensor)
                kernel = keras.ops.convert_to_numpy(dense.kernel) * scale
                part = self.matrix(inputs[0], kernel, dense.name)
            else:
                part = self.affine(tensor, scale, bias, name)
                bias = np.zeros_like(bias)
            parts.append(self.own(part))
        return self.sum(parts, sum_name)

    def _is_multiple(self, x) -> bool:
        """Whether x is a binary convolution times a factor that is computed from the data."""
        source, inputs = producer(x)
        return (
            type(source) is keras.layers.Multiply
            and len(inputs) == 2
            and all(map(self.is_owned, (x, inputs[0])))
            and _is_affine_or_moved(inputs[0])
        )

    def _affine_of_multiple(self, x, scale, bias, name):
        """f (scale y) + bias for x = f y: the scale joins the convolution."""
        source, (value, factor) = producer(x)
        if np.any(scale != 1):
            value = self.own(self.affine(value, scale, np.zeros_like(bias), name))
            x = self.own(self.multiply(value, factor, source.name))
        return self.offset(x, bias, name) if np.any(bias) else x

    def _affine_before_moves(self, x, scale, bias, name):
        """`affine` on what a concatenation or reshape of affine maps was made of."""
        source, inputs = producer(x)
        if isinstance(source, keras.layers.Reshape):
            # (..., m F) -> (..., F): the same F channels m times.
            times = inputs[0].shape[-1] // x.shape[-1]
            inner = self.affine(inputs[0], np.tile(scale, times), np.tile(bias, times), name)
            return self.reshape(inner, x.shape[1:], f"{name}_reshape")
        parts = [(scale, bias)] * len(inputs)
        if source.axis in (-1, len(x.shape) - 1):
            ends = np.cumsum([tensor.shape[-1] for tensor in inputs])[:-1]
            parts = list(zip(np.split(scale, ends), np.split(bias, ends), strict=True))
        pieces = [
            self.affine(tensor, *part, name) for tensor, part in zip(inputs, parts, strict=True)
        ]
        return self.concatenate(pieces, source.axis, name)

    def affine_by_position(self, x, scale, bias, name):
        """scale * x + bias with parameters of any shape that broadcasts against (..., channels).

        Right behind a binary convolution LCE fuses a constant of rank above 1 into a file that does
        not load or is wrong; it does not look through a negation.
        """
        shape = np.broadcast_shapes(np.shape(scale), np.shape(bias))
        scale, bias = np.broadcast_to(scale, shape), np.broadcast_to(bias, shape)
        channels = x.shape[-1]
        if shape in ((), (1,)) or (shape[-1] == channels and all(size == 1 for size in shape[:-1])):
            scale, bias = (np.broadcast_to(part.reshape(-1), channels) for part in (scale, bias))
            return self.affine(x, scale, bias, name)
        x = self.affine(x, -np.ones(channels), np.zeros(channels), name)
        layer = PositionAffine(shape, name=self.name(f"{name}_position"), dtype=self.dtype)
        return self.place(layer, x, [scale, bias])

    def subtract_from(self, constant, x, name):
        """constant - x, one value per position and channel."""
        layer = SubtractFrom(name=self.name(f"{name}_border"), dtype=self.dtype)
        return self.place(layer, x, [constant])


def _only_moves(x) -> bool:
    """Whether a tensor is affine maps that were concatenated and reshaped, and nothing else."""
    source, inputs = producer(x)
    if isinstance(source, keras.layers.Reshape):
        fits = inputs[0].shape[-1] % x.shape[-1] == 0
        return fits and _is_affine_or_moved(inputs[0])
    return isinstance(source, keras.layers.Concatenate) and all(map(_is_affine_or_moved, inputs))


def _is_affine_or_moved(x) -> bool:
    source, inputs = producer(x)
    if isinstance(source, (Flip, keras.layers.Cropping2D)):
        return _is_affine_or_moved(inputs[0])
    if isinstance(source, Affine):
        return source.use_scale
    return isinstance(source, SubtractFrom) or _only_moves(x)


def _is_matrix(x) -> bool:
    source, _ = producer(x)
    return type(source) is keras.layers.Dense and source.bias is None


def _is_pool(layer) -> bool:
    return isinstance(layer, keras.layers.MaxPooling2D)


def _is_pooled_affine(x) -> bool:
    """Whether a tensor is the max pool of an affine map, reshaped or not."""
    source, inputs = producer(x)
    if isinstance(source, keras.layers.Reshape):
        return inputs[0].shape[-1] == x.shape[-1] and _is_pooled_affine(inputs[0])
    return _is_pool(source) and _is_affine_or_moved(inputs[0])


def _check_finite(layer, weights):
    for weight in weights:
        if not np.isfinite(weight).all():
            raise ValueError(
                "`model` must have finite weights. "
                f"Received: NaN or infinity in what becomes layer {layer.name!r}"
            )
