"""The quantized fully connected layer."""

import keras
from keras import ops

from bnnkeras.layers.base import QuantizedLayer
from bnnkeras.registration import register


@register
class QuantDense(QuantizedLayer, keras.layers.Dense):
    """Fully connected layer with a quantized input and a quantized kernel.

    y = activation(q_in(x) q_kernel(W) + b)

    Args:
        units: Integer, the number of outputs.
        activation: As `keras.layers.Dense`.
        use_bias: As `keras.layers.Dense`.
        input_quantizer: Quantizer of the input: a name, an instance, any callable, or `None`.
        kernel_quantizer: Quantizer of the kernel, likewise.
        **kwargs: As `keras.layers.Dense`.

    Call arguments:
        inputs: `(batch, ..., features)`.

    Raises:
        ValueError: If a quantizer's name is unknown.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import QuantDense
        >>> layer = QuantDense(
        ...     1, input_quantizer="ste_sign", kernel_quantizer="ste_sign",
        ...     kernel_initializer="ones",
        ... )
        >>> keras.ops.convert_to_numpy(layer(np.array([[0.2, -5.0, 7.0]]))).tolist()
        [[1.0]]

    Reference:
        Hubara et al., Binarized Neural Networks (NIPS 2016).
    """

    scales_sums = True

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        input_quantizer=None,
        kernel_quantizer=None,
        **kwargs,
    ):
        super().__init__(
            units=units,
            activation=activation,
            use_bias=use_bias,
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            **kwargs,
        )

    def call(self, inputs, training=None):
        if self.input_quantizer is None and self.kernel_quantizer is None:
            return super().call(inputs, training=training)
        return self.finish(self.product(inputs, ops.matmul))
