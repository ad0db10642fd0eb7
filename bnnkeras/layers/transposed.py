"""Quantized transposed convolutions."""

import keras
from keras import ops

from bnnkeras.layers.base import QuantizedLayer
from bnnkeras.layers.padding import padding_name
from bnnkeras.registration import register


class QuantizedTransposedConvolution(QuantizedLayer):
    """Mixin of quantized transposed convolutions; the arguments have Larq's order.

    `padding` says how the *output* is cropped; the input is never padded. That is why there are no
    `pad_values`, and no `"symmetric"`: PyTorch's crop of p on both sides is the Keras layer with
    `padding="valid"` and a `Cropping` layer after it.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        output_padding=None,
        data_format=None,
        dilation_rate=1,
        activation=None,
        use_bias=True,
        input_quantizer=None,
        kernel_quantizer=None,
        **kwargs,
    ):
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding_name(padding, ("valid", "same")),
            output_padding=output_padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            **kwargs,
        )

    def call(self, inputs):
        return self.finish(self.product(inputs, self._convolve))

    def _convolve(self, inputs, kernel):
        return ops.conv_transpose(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


@register
class QuantConv1DTranspose(QuantizedTransposedConvolution, keras.layers.Conv1DTranspose):
    """1-D transposed convolution of a quantized input with a quantized kernel.

    y = activation(crop(conv_transpose(q_in(x), q_kernel(W))) + b)

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer, the length of the kernel.
        strides: Integer, by how much the map grows. Defaults to 1.
        padding: `"valid"` (default) or `"same"`, which crops the output to `strides` times the
            input. The input is not padded.
        output_padding: Integer below `strides`, extra length at the output's end, or `None`.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        kernel_quantizer: Quantizer of the kernel `(k, filters, channels)`, likewise. Its last axis
            is the *input* channels: a scale per last axis is one per input channel.
        **kwargs: As `keras.layers.Conv1DTranspose`.

    Call arguments:
        inputs: `(batch, steps, channels)`, or channels first if `data_format` says so.

    Raises:
        ValueError: If `padding` is neither `"valid"` nor `"same"`, or a quantizer's name is
            unknown.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantConv1DTranspose
        >>> layer = QuantConv1DTranspose(
        ...     1, 2, strides=2, input_quantizer="ste_sign", kernel_initializer="ones"
        ... )
        >>> steps = np.array([[[0.5], [-3.0]]], "float32")
        >>> keras.ops.convert_to_numpy(layer(steps))[0, :, 0].tolist()
        [1.0, 1.0, -1.0, -1.0]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """


@register
class QuantConv2DTranspose(QuantizedTransposedConvolution, keras.layers.Conv2DTranspose):
    """2-D transposed convolution of a quantized input with a quantized kernel.

    y = activation(crop(conv_transpose(q_in(x), q_kernel(W))) + b)

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer or pair, height and width of the kernel.
        strides: Integer or pair, by how much the map grows. Defaults to 1.
        padding: `"valid"` (default) or `"same"`, which crops the output to `strides` times the
            input. The input is not padded.
        output_padding: Integer or pair below `strides`, extra rows and columns at the output's
            end, or `None`.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        kernel_quantizer: Quantizer of the kernel `(height, width, filters, channels)`, likewise.
            Its last axis is the *input* channels: a scale per last axis is one per input channel
            (BiDense has it so).
        **kwargs: As `keras.layers.Conv2DTranspose`.

    Call arguments:
        inputs: `(batch, height, width, channels)`, or channels first if `data_format` says so.

    Raises:
        ValueError: If `padding` is neither `"valid"` nor `"same"`, or a quantizer's name is
            unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantConv2DTranspose
        >>> layer = QuantConv2DTranspose(
        ...     8, 3, strides=2, padding="same",
        ...     input_quantizer="ste_sign", kernel_quantizer="ste_sign",
        ...     kernel_constraint="weight_clip",
        ... )
        >>> tuple(layer(np.ones((1, 3, 5, 4), "float32")).shape)
        (1, 6, 10, 8)

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """


@register
class QuantConv3DTranspose(QuantizedTransposedConvolution, keras.layers.Conv3DTranspose):
    """3-D transposed convolution of a quantized input with a quantized kernel.

    y = activation(crop(conv_transpose(q_in(x), q_kernel(W))) + b)

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer or triple: depth, height and width of the kernel.
        strides: Integer or triple, by how much the map grows. Defaults to 1.
        padding: `"valid"` (default) or `"same"`, which crops the output to `strides` times the
            input. The input is not padded.
        output_padding: Integer or triple below `strides`, extra size at the output's end, or
            `None`.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        kernel_quantizer: Quantizer of the kernel `(depth, height, width, filters, channels)`,
            likewise. Its last axis is the *input* channels: a scale per last axis is one per input
            channel.
        **kwargs: As `keras.layers.Conv3DTranspose`.

    Call arguments:
        inputs: `(batch, depth, height, width, channels)`, or channels first if `data_format` says
            so.

    Raises:
        ValueError: If `padding` is neither `"valid"` nor `"same"`, or a quantizer's name is
            unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantConv3DTranspose
        >>> layer = QuantConv3DTranspose(
        ...     2, 2, strides=2, input_quantizer="ste_sign", kernel_quantizer="ste_sign",
        ...     kernel_constraint="weight_clip",
        ... )
        >>> tuple(layer(np.ones((1, 2, 3, 4, 5), "float32")).shape)
        (1, 4, 6, 8, 2)

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """
