"""A trained factor per channel at the end of a residual branch."""

import keras
from keras import ops

from bnnkeras.registration import register


@register
class LayerScale(keras.layers.Layer):
    """y = gamma x, with one trained gamma per channel (last axis).

    Args:
        initial_value: Float, what gamma starts at. Defaults to 1e-6.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, ..., channels)`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import LayerScale
        >>> keras.ops.convert_to_numpy(LayerScale(0.5)(np.ones((1, 2), "float32"))).tolist()
        [[0.5, 0.5]]

    Reference:
        Touvron et al., Going Deeper with Image Transformers (ICCV 2021).
    """

    def __init__(self, initial_value: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_value),
        )

    def call(self, inputs):
        return ops.multiply(inputs, self.gamma)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "initial_value": self.initial_value}
