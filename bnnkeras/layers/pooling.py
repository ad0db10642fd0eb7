"""Max pooling with PyTorch's alignment."""

import math

import keras
from keras import ops

from bnnkeras.layers.padding import pad_widths, padded_shape, padding_name, symmetric_pads
from bnnkeras.registration import register


@register
class MaxPooling2D(keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` that also accepts `padding="symmetric"`.

    `"symmetric"` pads (pool_size - 1) // 2 on both sides of each axis with -inf, as PyTorch does,
    so that a window never reads anything but its inputs.

    Args:
        pool_size: Integer or pair. Defaults to 2.
        strides: Integer, pair or `None` for `pool_size`.
        padding: `"valid"` (default), `"same"` or `"symmetric"`.
        **kwargs: As `keras.layers.MaxPooling2D`.

    Call arguments:
        inputs: `(batch, height, width, channels)`, or channels first if `data_format` says so.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers import MaxPooling2D
        >>> layer = MaxPooling2D(3, strides=2, padding="symmetric")
        >>> tuple(layer(-np.ones((1, 8, 8, 1), "float32")).shape)
        (1, 4, 4, 1)
    """

    def __init__(self, pool_size=(2, 2), strides=None, padding="valid", **kwargs):
        padding = padding_name(padding)
        super().__init__(
            pool_size, strides, "valid" if padding == "symmetric" else padding, **kwargs
        )
        self.padding = padding

    def call(self, inputs):
        if self.padding != "symmetric":
            return super().call(inputs)
        return self._pool(ops.pad(inputs, self._widths(), constant_values=-math.inf))

    def compute_output_shape(self, input_shape):
        if self.padding != "symmetric":
            return super().compute_output_shape(input_shape)
        return self._pool(keras.KerasTensor(padded_shape(input_shape, self._widths()))).shape

    def _pool(self, padded):
        return ops.max_pool(padded, self.pool_size, self.strides, "valid", self.data_format)

    def _widths(self):
        return pad_widths([symmetric_pads(size) for size in self.pool_size], self.data_format)
