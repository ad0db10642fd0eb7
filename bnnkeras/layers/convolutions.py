"""Quantized convolutions."""

import keras
from keras import ops

from bnnkeras.layers.padding import PADDINGS
from bnnkeras.layers.spatial import PaddedLayer
from bnnkeras.registration import register


class QuantizedConvolution(PaddedLayer):
    """Mixin of quantized convolutions; the arguments have Larq's order."""

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        pad_values=0.0,
        data_format=None,
        dilation_rate=1,
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

    def operation(self, inputs, kernel, padding: str):
        return ops.conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


@register
class QuantConv1D(QuantizedConvolution, keras.layers.Conv1D):
    """1-D convolution of a quantized input with a quantized kernel.

    y = activation(conv(pad(q_in(x)), q_kernel(W)) + b)

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer, the length of the kernel.
        strides: Integer. Defaults to 1.
        padding: `"valid"` (default), `"same"`, `"causal"` (output t sees inputs up to t only) or
            `"symmetric"` ((k - 1) // 2 on both sides, PyTorch's alignment).
        pad_values: Float, what the *quantized* input is padded with. Defaults to 0, the only value
            that `"causal"` allows.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        kernel_quantizer: Quantizer of the kernel `(k, channels // groups, filters)`, likewise.
        **kwargs: As `keras.layers.Conv1D`.

    Call arguments:
        inputs: `(batch, steps, channels)`, or channels first if `data_format` says so.

    Raises:
        ValueError: If `pad_values` is set without padding that uses it, or a quantizer's name is
            unknown.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantConv1D
        >>> layer = QuantConv1D(
        ...     1, 2, padding="causal", input_quantizer="ste_sign", kernel_initializer="ones"
        ... )
        >>> steps = np.array([[[0.5], [3.0], [-0.1]]], "float32")
        >>> keras.ops.convert_to_numpy(layer(steps))[0, :, 0].tolist()
        [1.0, 2.0, 0.0]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """

    paddings = (*PADDINGS, "causal")


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
        kernel_quantizer: Quantizer of the kernel `(height, width, channels // groups, filters)`,
            likewise.
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
        ...     kernel_constraint="weight_clip",
        ... )
        >>> tuple(layer(np.ones((1, 6, 6, 4), "float32")).shape)
        (1, 3, 3, 8)

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """


@register
class QuantConv3D(QuantizedConvolution, keras.layers.Conv3D):
    """3-D convolution of a quantized input with a quantized kernel.

    y = activation(conv(pad(q_in(x)), q_kernel(W)) + b)

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer or triple: depth, height and width of the kernel.
        strides: Integer or triple. Defaults to 1.
        padding: `"valid"` (default), `"same"` or `"symmetric"` ((k - 1) // 2 on both sides,
            PyTorch's alignment).
        pad_values: Float, what the *quantized* input is padded with. Defaults to 0.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        kernel_quantizer: Quantizer of the kernel
            `(depth, height, width, channels // groups, filters)`, likewise.
        **kwargs: As `keras.layers.Conv3D`.

    Call arguments:
        inputs: `(batch, depth, height, width, channels)`, or channels first if `data_format` says
            so.

    Raises:
        ValueError: If `pad_values` is set without padding that uses it, or a quantizer's name is
            unknown.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantConv3D
        >>> layer = QuantConv3D(
        ...     1, 3, padding="same", pad_values=1.0, input_quantizer="ste_sign",
        ...     kernel_initializer="ones",
        ... )
        >>> y = layer(np.full((1, 2, 2, 2, 1), -0.5, "float32"))  # 8 inputs of -1, 19 pads of 1
        >>> keras.ops.convert_to_numpy(y)[0, 0, 0, 0].tolist()
        [11.0]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """
