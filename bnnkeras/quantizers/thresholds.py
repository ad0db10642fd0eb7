"""Thresholds: the value that a `Binarizer` compares its input with."""

import keras
from keras import ops

from bnnkeras.quantizers.parts import Part
from bnnkeras.registration import register


class Threshold(Part):
    """Base class: calling it on `x` computes t(x), which broadcasts against `x`."""

    def __call__(self, x):
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(x)`.")


@register
class LearnedThreshold(Threshold):
    """One trained threshold per channel (last axis).

    Args:
        initializer: A Keras initializer or its name. Defaults to `"zeros"`.

    Reference:
        Liu et al., ReActNet (ECCV 2020), section 4.2 (RSign).
    """

    def __init__(self, initializer="zeros"):
        self.initializer = keras.initializers.get(initializer)

    def build(self, binarizer, input_shape) -> None:
        self.value = binarizer.add_weight(
            name="threshold", shape=(input_shape[-1],), initializer=self.initializer
        )

    def __call__(self, x):
        return ops.cast(self.value, x.dtype)

    def get_config(self) -> dict:
        return {"initializer": keras.initializers.serialize(self.initializer)}
