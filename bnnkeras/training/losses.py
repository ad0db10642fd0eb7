"""Losses of published recipes."""

import keras
from keras import ops

from bnnkeras.registration import register


@register
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits and integer labels, with the targets smoothed.

    -sum_k q_k log p_k,  q = (1 - smoothing) onehot(label) + smoothing / classes

    Args:
        smoothing: Float in [0, 1). Defaults to 0.1.
        **kwargs: As `keras.losses.Loss`.

    Call arguments:
        y_true: `(batch,)` or `(batch, 1)`, integers.
        y_pred: `(batch, classes)`, logits.

    Raises:
        ValueError: If `smoothing` is out of range.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.training import SmoothedCrossentropy
        >>> round(float(SmoothedCrossentropy()(np.array([1]), np.array([[0.0, 2.0]]))), 4)
        0.2269

    Reference:
        Liu et al., Bi-Real Net, released training code.
    """

    def __init__(self, smoothing: float = 0.1, name="smoothed_crossentropy", **kwargs):
        if not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1). Received: smoothing={smoothing}")
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        targets = ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            targets, y_pred, from_logits=True, label_smoothing=self.smoothing
        )

    def get_config(self):
        return {**super().get_config(), "smoothing": self.smoothing}
