"""Quantized convolutions."""

import keras

from bnnkeras.layers.base import QuantizedConvolution
from bnnkeras.registration import register


@register
class QuantConv2D(QuantizedConvolution, keras.layers.Conv2D):
    """2-D convolution of a quantized input with a quantized kernel.

    y = activation(conv(pad(q_in(x)), q_kernel(W)) + b)

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer or pair, height and width of the kernel.
        strides: Integer or pair. Defaults to 1.
        padding: `"valid"` (default), `"same"` or `"symmetric"` ((k - 1) // 2 on both sides,
            PyTorch's alignment).
        pad_values: Float, what the *quantized* input is padded with. Defaults to 0; 1 makes a
            binary convolution that LCE can run on bits alone.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        kernel_quantizer: Quantizer of the kernel, likewise.
        **kwargs: As `keras.layers.Conv2D`.

    Call arguments:
        inputs: `(batch, height, width, channels)`, or channels first if `data_format` says so.

    Raises:
        ValueError: If `pad_values` is set without padding that uses it, or a quantizer's name is
            unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantConv2D
        >>> layer = QuantConv2D(
        ...     8, 3, strides=2, padding="symmetric",
        ...     input_quantizer="approx_sign", kernel_quantizer="magnitude_aware_sign",
        ... )
        >>> tuple(layer(np.ones((1, 6, 6, 4), "float32")).shape)
        (1, 3, 3, 8)

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016).
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        pad_values=0.0,
        data_format=None,
        dilation_rate=(1, 1),
        groups=1,
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
            padding=padding,
            pad_values=pad_values,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            **kwargs,
        )
