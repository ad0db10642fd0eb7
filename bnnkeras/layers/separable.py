"""Quantized separable convolutions: a depthwise convolution, then a pointwise one."""

import keras
from keras import ops

from bnnkeras import quantizers
from bnnkeras.layers.base import QuantizedLayer
from bnnkeras.layers.spatial import PaddedLayer
from bnnkeras.registration import register


class QuantizedSeparableConvolution(PaddedLayer):
    """Mixin of quantized separable convolutions; the arguments have Larq's order."""

    kernel_quantizers = {
        "depthwise_kernel": "depthwise_quantizer",
        "pointwise_kernel": "pointwise_quantizer",
    }

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        pad_values=0.0,
        data_format=None,
        dilation_rate=1,
        depth_multiplier=1,
        activation=None,
        use_bias=True,
        input_quantizer=None,
        depthwise_quantizer=None,
        pointwise_quantizer=None,
        *,
        intermediate_quantizer=None,
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
            depth_multiplier=depth_multiplier,
            activation=activation,
            use_bias=use_bias,
            input_quantizer=input_quantizer,
            depthwise_quantizer=depthwise_quantizer,
            pointwise_quantizer=pointwise_quantizer,
            **kwargs,
        )
        self.intermediate_quantizer = quantizers.get(intermediate_quantizer)

    def call(self, inputs):
        native = self.padding != "symmetric" and not (self.pad_values or self._channels_first)
        if native and all(getattr(self, name) is None for name in self.quantizer_names):
            # Keras has one operation for both convolutions, which may round otherwise than two.
            return super(QuantizedLayer, self).call(inputs)
        return super().call(inputs)

    def operation(self, inputs, kernel, padding: str):
        x = ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        x = self.quantized(self.intermediate_quantizer, x)
        return ops.conv(x, self.quantized_kernel("pointwise_kernel"), data_format=self.data_format)

    def quantizer_shapes(self, input_shape):
        *sizes, _ = self.channels_last(self.compute_output_shape(input_shape))
        channels = self.depth_multiplier * self.channels_last(input_shape)[-1]
        return [
            *super().quantizer_shapes(input_shape),
            (self.intermediate_quantizer, (*sizes, channels)),
        ]

    @property
    def quantizer_names(self) -> list[str]:
        return [*super().quantizer_names, "intermediate_quantizer"]


@register
class QuantSeparableConv1D(QuantizedSeparableConvolution, keras.layers.SeparableConv1D):
    """1-D separable convolution of quantized inputs with quantized kernels.

    y = activation(pointwise(q_mid(depthwise(pad(q_in(x)), q_depthwise(D))), q_pointwise(P)) + b)

    Without an intermediate quantizer the pointwise convolution sees the integers that the depthwise
    one counted, as in Larq: it is no binary operation then.

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer, the length of the depthwise kernels.
        strides: Integer, of the depthwise convolution. Defaults to 1.
        padding: `"valid"` (default), `"same"` or `"symmetric"` ((k - 1) // 2 on both sides,
            PyTorch's alignment).
        pad_values: Float, what the *quantized* input is padded with. Defaults to 0.
        depth_multiplier: Integer, intermediate channels per input channel. Defaults to 1.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        depthwise_quantizer: Quantizer of the kernel `(k, channels, depth_multiplier)`, likewise.
        pointwise_quantizer: Quantizer of the kernel `(1, channels depth_multiplier, filters)`.
        intermediate_quantizer: Quantizer of the depthwise convolution's output. Defaults to `None`.
        **kwargs: As `keras.layers.SeparableConv1D`.

    Call arguments:
        inputs: `(batch, steps, channels)`, or channels first if `data_format` says so.

    Raises:
        ValueError: If `pad_values` is set without padding that uses it, or a quantizer's name is
            unknown.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantSeparableConv1D
        >>> layer = QuantSeparableConv1D(
        ...     1, 3, input_quantizer="ste_sign", intermediate_quantizer="ste_sign",
        ...     depthwise_initializer="ones", pointwise_initializer="ones",
        ... )
        >>> steps = np.full((1, 4, 2), 0.5, "float32")
        >>> keras.ops.convert_to_numpy(layer(steps))[0, :, 0].tolist()
        [2.0, 2.0]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """


@register
class QuantSeparableConv2D(QuantizedSeparableConvolution, keras.layers.SeparableConv2D):
    """2-D separable convolution of quantized inputs with quantized kernels.

    y = activation(pointwise(q_mid(depthwise(pad(q_in(x)), q_depthwise(D))), q_pointwise(P)) + b)

    Without an intermediate quantizer the pointwise convolution sees the integers that the depthwise
    one counted, as in Larq: it is no binary operation then.

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer or pair, height and width of the depthwise kernels.
        strides: Integer or pair, of the depthwise convolution. Defaults to 1.
        padding: `"valid"` (default), `"same"` or `"symmetric"` ((k - 1) // 2 on both sides,
            PyTorch's alignment).
        pad_values: Float, what the *quantized* input is padded with. Defaults to 0.
        depth_multiplier: Integer, intermediate channels per input channel. Defaults to 1.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        depthwise_quantizer: Quantizer of the kernel `(height, width, channels, depth_multiplier)`,
            likewise.
        pointwise_quantizer: Quantizer of the kernel `(1, 1, channels depth_multiplier, filters)`.
        intermediate_quantizer: Quantizer of the depthwise convolution's output. Defaults to `None`.
        **kwargs: As `keras.layers.SeparableConv2D`.

    Call arguments:
        inputs: `(batch, height, width, channels)`, or channels first if `data_format` says so.

    Raises:
        ValueError: If `pad_values` is set without padding that uses it, or a quantizer's name is
            unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantSeparableConv2D
        >>> layer = QuantSeparableConv2D(
        ...     8, 3, padding="symmetric", input_quantizer="ste_sign",
        ...     depthwise_quantizer="ste_sign", depthwise_constraint="weight_clip",
        ...     pointwise_quantizer="ste_sign", pointwise_constraint="weight_clip",
        ...     intermediate_quantizer="approx_sign",
        ... )
        >>> tuple(layer(np.ones((1, 6, 6, 4), "float32")).shape)
        (1, 6, 6, 8)

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.
    """
