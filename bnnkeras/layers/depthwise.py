"""Quantized depthwise convolutions."""

import keras
from keras import ops

from bnnkeras.layers.spatial import PaddedLayer
from bnnkeras.registration import register


class QuantizedDepthwiseConvolution(PaddedLayer):
    """Mixin of quantized depthwise convolutions; the arguments have Larq's order."""

    kernel_quantizers = {"kernel": "depthwise_quantizer"}

    def __init__(
        self,
        kernel_size,
        strides=1,
        padding="valid",
        pad_values=0.0,
        depth_multiplier=1,
        data_format=None,
        dilation_rate=1,
        activation=None,
        use_bias=True,
        input_quantizer=None,
        depthwise_quantizer=None,
        **kwargs,
    ):
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            pad_values=pad_values,
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            input_quantizer=input_quantizer,
            depthwise_quantizer=depthwise_quantizer,
            **kwargs,
        )

    def operation(self, inputs, kernel, padding: str):
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def output_channels(self, input_channels: int) -> int:
        return self.depth_multiplier * input_channels


@register
class QuantDepthwiseConv1D(QuantizedDepthwiseConvolution, keras.layers.DepthwiseConv1D):
    """1-D depthwise convolution of a quantized input with a quantized kernel.

    y[c m + j] = activation(conv(pad(q_in(x)[c]), q_depthwise(W)[c, j]) + b), m = `depth_multiplier`

    Args:
        kernel_size: Integer, the length of the kernels.
        strides: Integer. Defaults to 1.
        padding: `"valid"` (default), `"same"` or `"symmetric"` ((k - 1) // 2 on both sides,
            PyTorch's alignment).
        pad_values: Float, what the *quantized* input is padded with. Defaults to 0.
        depth_multiplier: Integer, outputs per input channel. Defaults to 1.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        depthwise_quantizer: Quantizer of the kernel `(k, channels, depth_multiplier)`, likewise.
        **kwargs: As `keras.layers.DepthwiseConv1D`.

    Call arguments:
        inputs: `(batch, steps, channels)`, or channels first if `data_format` says so.

    Raises:
        ValueError: If `pad_values` is set without padding that uses it, or a quantizer's name is
            unknown.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantDepthwiseConv1D
        >>> layer = QuantDepthwiseConv1D(
        ...     3, padding="same", input_quantizer="ste_sign", depthwise_initializer="ones"
        ... )
        >>> steps = np.array([[[0.5], [3.0], [-0.1]]], "float32")
        >>> keras.ops.convert_to_numpy(layer(steps))[0, :, 0].tolist()
        [2.0, 1.0, 0.0]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """


@register
class QuantDepthwiseConv2D(QuantizedDepthwiseConvolution, keras.layers.DepthwiseConv2D):
    """2-D depthwise convolution of a quantized input with a quantized kernel.

    y[c m + j] = activation(conv(pad(q_in(x)[c]), q_depthwise(W)[c, j]) + b), m = `depth_multiplier`

    Args:
        kernel_size: Integer or pair, height and width of the kernels.
        strides: Integer or pair. Defaults to 1.
        padding: `"valid"` (default), `"same"` or `"symmetric"` ((k - 1) // 2 on both sides,
            PyTorch's alignment).
        pad_values: Float, what the *quantized* input is padded with. Defaults to 0.
        depth_multiplier: Integer, outputs per input channel. Defaults to 1.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        depthwise_quantizer: Quantizer of the kernel `(height, width, channels, depth_multiplier)`,
            likewise.
        **kwargs: As `keras.layers.DepthwiseConv2D`.

    Call arguments:
        inputs: `(batch, height, width, channels)`, or channels first if `data_format` says so.

    Raises:
        ValueError: If `pad_values` is set without padding that uses it, or a quantizer's name is
            unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantDepthwiseConv2D
        >>> layer = QuantDepthwiseConv2D(
        ...     3, padding="same", pad_values=1.0, depth_multiplier=2, input_quantizer="ste_sign",
        ...     depthwise_quantizer="ste_sign", depthwise_constraint="weight_clip",
        ... )
        >>> tuple(layer(np.ones((1, 6, 6, 4), "float32")).shape)
        (1, 6, 6, 8)

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """
