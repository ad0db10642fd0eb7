"""The mixins that turn a Keras layer into a quantized one.

A quantized layer computes op(q_in(x), q_kernel(W)) and is otherwise the Keras layer it derives
from: same arguments, same weights, `isinstance` holds. With all quantizers `None` it *is* that
layer.
"""

import keras
from keras import ops

from bnnkeras import quantizers
from bnnkeras.layers.padding import (
    pad_widths,
    padded_shape,
    padding_name,
    same_pads,
    symmetric_pads,
)


class QuantizedLayer(keras.layers.Layer):
    """Mixin of layers with an input quantizer and a kernel quantizer.

    Attributes:
        input_quantizer: The quantizer of the input, or `None`.
        kernel_quantizer: The quantizer of the kernel, or `None`. The layer's `kernel` stays the
            latent real-valued variable that the optimizer trains.
    """

    def __init__(self, *args, input_quantizer=None, kernel_quantizer=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.input_quantizer = quantizers.get(input_quantizer)
        self.kernel_quantizer = quantizers.get(kernel_quantizer)

    def add_weight(self, *args, name=None, **kwargs):
        # Under mixed precision a kernel is quantized from its float32 value: in float16 a tiny
        # negative weight would become 0 and change its sign.
        if name == "kernel" and self.kernel_quantizer is not None:
            kwargs["autocast"] = False
        return super().add_weight(*args, name=name, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        # The layer owns its quantizers' variables, so they must exist once it is built.
        for quantizer, shape in (
            (self.input_quantizer, input_shape),
            (self.kernel_quantizer, tuple(self._kernel.shape)),
        ):
            if isinstance(quantizer, keras.layers.Layer) and not quantizer.built:
                quantizer.build(shape)

    def quantized_input(self, inputs):
        """q_in(x), or x without an input quantizer."""
        return inputs if self.input_quantizer is None else self.input_quantizer(inputs)

    def quantized_kernel(self, kernel=None):
        """q_kernel(W) in the compute dtype, or W without a kernel quantizer."""
        kernel = self.kernel if kernel is None else kernel
        if self.kernel_quantizer is not None:
            kernel = self.kernel_quantizer(ops.cast(kernel, self.variable_dtype))
        return ops.cast(kernel, self.compute_dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "input_quantizer": quantizers.serialize(self.input_quantizer),
            "kernel_quantizer": quantizers.serialize(self.kernel_quantizer),
        }


class QuantizedConvolution(QuantizedLayer):
    """Mixin of quantized convolutions: adds `pad_values` and `padding="symmetric"`.

    Padding is applied to the *quantized* input. With `padding="symmetric"` each axis is padded by
    (k - 1) // 2 on both sides, k the kernel's extent with its dilation: PyTorch's alignment, which
    differs from `"same"` by one pixel where a stride meets an even size.
    """

    def __init__(self, *args, padding="valid", pad_values=0.0, **kwargs):
        padding = padding_name(padding)
        super().__init__(*args, padding="valid" if padding == "symmetric" else padding, **kwargs)
        self.padding = padding
        self.pad_values = pad_values
        if pad_values and self.padding not in ("same", "symmetric"):
            raise ValueError(
                '`pad_values` other than 0 needs padding="same" or "symmetric". '
                f"Received: pad_values={pad_values}, padding={padding!r}"
            )

    def convolution_op(self, inputs, kernel):
        inputs, padding = self._padded(self.quantized_input(inputs))
        return ops.conv(
            inputs,
            self.quantized_kernel(kernel),
            strides=self.strides,
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )

    def _padded(self, inputs):
        """The inputs with explicit padding where needed, and the padding left to the operation."""
        extents = self._kernel_extents()
        # At stride 1 an odd kernel is padded alike on both sides, which "same" does for free.
        same_is_symmetric = max(self.strides) == 1 and all(extent % 2 for extent in extents)
        if self.padding == "symmetric" and not (same_is_symmetric and not self.pad_values):
            pads = [symmetric_pads(extent) for extent in extents]
        elif self.padding == "same" and self.pad_values:
            pads = [
                same_pads(size, extent, stride)
                for size, extent, stride in zip(
                    self._spatial(inputs.shape), extents, self.strides, strict=True
                )
            ]
        else:
            return inputs, "same" if self.padding == "symmetric" else self.padding
        widths = pad_widths(pads, self.data_format)
        return ops.pad(inputs, widths, constant_values=self.pad_values), "valid"

    def compute_output_shape(self, input_shape):
        if self.padding != "symmetric":
            return super().compute_output_shape(input_shape)
        pads = [symmetric_pads(extent) for extent in self._kernel_extents()]
        padded = padded_shape(input_shape, pad_widths(pads, self.data_format))
        channels = input_shape[-1 if self.data_format == "channels_last" else 1]
        kernel_shape = (*self.kernel_size, channels // self.groups, self.filters)
        return ops.conv(
            keras.KerasTensor(padded),
            keras.KerasTensor(kernel_shape),
            strides=self.strides,
            padding="valid",
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        ).shape

    def _kernel_extents(self):
        return [
            (size - 1) * dilation + 1
            for size, dilation in zip(self.kernel_size, self.dilation_rate, strict=True)
        ]

    def _spatial(self, shape):
        return shape[1:-1] if self.data_format == "channels_last" else shape[2:]

    def get_config(self) -> dict:
        return {**super().get_config(), "pad_values": self.pad_values}
