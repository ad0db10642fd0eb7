"""The mixin that turns a Keras layer into a quantized one.

A quantized layer computes op(q_in(x), q_kernel(W)) and is otherwise the Keras layer it derives
from: same arguments, same weights, `isinstance` holds. With all quantizers `None` it *is* that
layer.
"""

from typing import TypeGuard

import keras
from keras import ops

from bnnkeras import activations, constraints, context, quantizers
from bnnkeras.layers.latent import (
    LatentStore,
    mark_latent,
    starved_weights_known,
    warn_of_starved_weights,
)


def _with_own_names(arguments: dict) -> dict:
    """A Keras layer's arguments with this package's names resolved, which Keras does not know."""

    def resolved(name, value):
        if not isinstance(value, str):
            return value
        if name == "activation":
            return activations.get(value)
        return constraints.get(value) if name.endswith("_constraint") else value

    return {name: resolved(name, value) for name, value in arguments.items()}


def build_quantizer(quantizer, shape) -> None:
    """Creates the variables of a quantizer for tensors of `shape`, and those of its metrics."""
    if isinstance(quantizer, keras.layers.Layer) and not quantizer.built:
        quantizer.build(shape)
    if isinstance(quantizer, quantizers.Quantizer):
        quantizer.build_metrics(shape)


def _has_scale(quantizer) -> TypeGuard[quantizers.Binarizer]:
    return isinstance(quantizer, quantizers.Binarizer) and quantizer.scale is not None


def _is_one_per_position(scale, x) -> bool:
    """Whether a scale of x is the same for all channels, so that it can follow their sum."""
    return all(size == 1 for size in scale.shape[-1:]) and len(scale.shape) in (0, len(x.shape))


def _is_one_per_output(scale) -> bool:
    return all(size == 1 for size in scale.shape[:-1])


def _keep_or_multiply(signs, scale, kept: list, keep: bool):
    """The signs, their scale put into `kept`; or their product."""
    if not keep:
        return signs * scale
    kept.append(scale)
    return signs


def _scaled(sums, scales):
    for scale in scales:
        sums = sums * ops.cast(scale, sums.dtype)
    return sums


class QuantizedLayer(keras.layers.Layer):
    """Mixin of layers with an input quantizer and a quantizer for each kernel.

    Attributes:
        input_quantizer: The quantizer of the input, or `None`.
        kernel_quantizer: The quantizer of the kernel, or `None`. The layer's `kernel` stays the
            latent real-valued variable that the optimizer trains.
    """

    # Each kernel, by its name in Keras, and the argument and attribute with its quantizer.
    kernel_quantizers = {"kernel": "kernel_quantizer"}
    # Whether sums of signs are multiplied by the scales, instead of the signs themselves.
    scales_sums = False

    def __init__(self, *args, input_quantizer=None, **kwargs):
        arguments = self.kernel_quantizers.values()
        identifiers = {argument: kwargs.pop(argument, None) for argument in arguments}
        super().__init__(*args, **_with_own_names(kwargs))
        self.input_quantizer = quantizers.get(input_quantizer)
        for argument, identifier in identifiers.items():
            quantizer = quantizers.get_kernel_quantizer(identifier)
            setattr(self, argument, quantizer)
            weight = argument.removesuffix("_quantizer")
            warn_of_starved_weights(quantizer, getattr(self, f"{weight}_constraint"), weight)

    def add_weight(self, *args, name=None, **kwargs):
        quantizer = self._kernel_quantizer(name)
        if quantizer is None:
            return super().add_weight(*args, name=name, **kwargs)
        # Under mixed precision a kernel is quantized from its float32 value: in float16 a tiny
        # negative weight would become 0 and change its sign.
        kernel = super().add_weight(*args, name=name, **{**kwargs, "autocast": False})
        mark_latent(kernel, quantizer)
        return kernel

    def build(self, input_shape):
        super().build(input_shape)
        self._check_embedding(self.channels_last(self.compute_output_shape(input_shape))[-1])
        # The layer owns its quantizers' variables, so they must exist once it is built.
        for quantizer, shape in self.quantizer_shapes(input_shape):
            build_quantizer(quantizer, shape)

    def _check_embedding(self, channels):
        threshold = getattr(self.input_quantizer, "threshold", None)
        embedding = getattr(threshold, "embedding", None)
        if embedding not in (None, channels):
            raise ValueError(
                "`embedding` of the input quantizer must be the layer's number of output channels, "
                f"{channels}. Received: embedding={embedding} in {self.name!r}"
            )

    def quantizer_shapes(self, input_shape) -> list[tuple]:
        """The quantizers, or `None` in their place, with the shapes of what they quantize."""
        return [
            (self.input_quantizer, self.channels_last(input_shape)),
            *(
                (getattr(self, argument), tuple(getattr(self, kernel).shape))
                for kernel, argument in self.kernel_quantizers.items()
            ),
            (self.activation, self.compute_output_shape(input_shape)),
        ]

    def save_own_variables(self, store):
        if not context.should_quantize():
            super().save_own_variables(store)
            return
        saved = LatentStore()
        super().save_own_variables(saved)
        saved.write(store)

    def load_own_variables(self, store):
        if self.built and self.weights and not store.keys():
            # Keras looks for a layer under the name of its class.
            raise ValueError(
                f"The file holds no weights of a {type(self).__name__} for the layer "
                f"{self.name!r}. Weights that plain Keras layers saved are loaded by "
                "bnnkeras.models.load_plain_weights(model, path), those of quantized layers by "
                "model.load_weights(path)."
            )
        super().load_own_variables(store)

    @classmethod
    def from_config(cls, config):
        with starved_weights_known():
            return super().from_config(config)

    def quantized_input(self, inputs):
        """q_in(x) in the compute dtype, or x without an input quantizer."""
        # Keras casts the inputs of a layer, but not those of its `stateless_call`.
        return self.quantized(self.input_quantizer, ops.cast(inputs, self.compute_dtype))

    def quantized(self, quantizer, x):
        """quantizer(x) for activations of this layer; quantizers take them channels last."""
        if quantizer is None:
            return x
        if not self._channels_first:
            return quantizer(x)
        return ops.moveaxis(quantizer(ops.moveaxis(x, 1, -1)), -1, 1)

    def channels_last(self, shape) -> tuple:
        """The shape of activations of this layer as quantizers see it."""
        return (shape[0], *shape[2:], shape[1]) if self._channels_first else tuple(shape)

    @property
    def _channels_first(self) -> bool:
        return getattr(self, "data_format", None) == "channels_first"

    def quantized_kernel(self, name: str = "kernel"):
        """q_kernel(W) in the compute dtype, or W without a kernel quantizer.

        Args:
            name: Which kernel, for layers with several; its name in Keras.
        """
        kernel, quantizer = getattr(self, name), self._kernel_quantizer(name)
        if quantizer is not None:
            kernel = quantizer(ops.cast(kernel, self.variable_dtype))
        return ops.cast(kernel, self.compute_dtype)

    def product(self, inputs, multiply):
        """multiply(q_in(x), q_kernel(W)), plus an embedding if the input quantizer has one.

        The kernel is the first one, for layers with several. Where the layer `scales_sums`, signs
        are multiplied first and their integer sums are scaled: equal sums stay equal, and 0 is 0.

        Args:
            inputs: x.
            multiply: The layer's product, a function of a tensor and a kernel.
        """
        (name, *others) = self.kernel_quantizers
        scales: list = []
        if self.scales_sums and _has_scale(self.input_quantizer):
            x, scale = self.input_quantizer(ops.cast(inputs, self.compute_dtype), apart=True)
            x = _keep_or_multiply(x, scale, scales, _is_one_per_position(scale, x))
        else:
            x = self.quantized_input(inputs)
        quantizer = self._kernel_quantizer(name)
        starts = not others and getattr(quantizer, "uses_products", False)
        if _has_scale(quantizer) and (self.scales_sums or starts):
            arguments = {"products": self._products(inputs, x, scales, multiply)} if starts else {}
            latent = ops.cast(getattr(self, name), self.variable_dtype)
            kernel, scale = quantizer(latent, apart=True, **arguments)
            kernel = _keep_or_multiply(kernel, scale, scales, _is_one_per_output(scale))
            kernel = ops.cast(kernel, self.compute_dtype)
        else:
            kernel = self.quantized_kernel(name)
        return self._embedded(inputs, _scaled(multiply(x, kernel), scales))

    def _products(self, inputs, signs, scales, multiply):
        # In float32 also under mixed precision: a start is computed once.
        def with_(x, scales=()):
            x = ops.cast(ops.stop_gradient(x), self.variable_dtype)
            return lambda kernel: _scaled(multiply(x, kernel), scales)

        return quantizers.Products(with_(inputs), with_(signs, tuple(scales)))

    def _embedded(self, inputs, outputs):
        """The products of the inputs, plus what the input quantizer embeds in them."""
        if not isinstance(self.input_quantizer, quantizers.Binarizer):
            return outputs
        inputs = ops.cast(inputs, self.compute_dtype)
        if self._channels_first:
            inputs = ops.moveaxis(inputs, 1, -1)
        embedding = self.input_quantizer.embed(inputs)
        if embedding is None:
            return outputs
        return outputs + (ops.moveaxis(embedding, -1, 1) if self._channels_first else embedding)

    def finish(self, outputs):
        """activation(outputs + b), as every layer here ends."""
        outputs = self._biased(outputs)
        return outputs if self.activation is None else self.activation(outputs)

    def _biased(self, outputs):
        if self.bias is None:
            return outputs
        if not self._channels_first:
            return ops.add(outputs, self.bias)
        # Not `ops.add`: on TensorFlow it adds along the width where that equals the channels.
        return outputs + ops.reshape(self.bias, (-1, *[1] * self.rank))

    def _kernel_quantizer(self, name):
        argument = self.kernel_quantizers.get(name)
        return None if argument is None else getattr(self, argument)

    @property
    def quantizer_names(self) -> list[str]:
        """The arguments, and attributes, with quantizers."""
        return ["input_quantizer", *self.kernel_quantizers.values()]

    def get_config(self) -> dict:
        serialized = {
            name: quantizers.serialize(getattr(self, name)) for name in self.quantizer_names
        }
        return {**super().get_config(), **serialized}
