"""What each weight costs."""

import math
from dataclasses import dataclass

import keras

from bnnkeras.models.widths import dtype_bits, weight_bits


@dataclass(frozen=True)
class WeightProfile:
    """One weight.

    Attributes:
        name: Its name within the layer.
        shape: Its shape.
        bitwidth: Bits per value: what its quantizer returns, or else its dtype.
        trainable: Whether the optimizer updates it.
    """

    name: str
    shape: tuple[int, ...]
    bitwidth: int
    trainable: bool

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def memory(self) -> int:
        """Bits."""
        return self.bitwidth * self.count

    @property
    def int8_fp_weights_memory(self) -> int:
        """Bits, if everything wider than 8 bits were stored in 8."""
        return min(self.bitwidth, 8) * self.count

    @property
    def fp_equivalent_memory(self) -> int:
        """Bits, if it were stored in 32."""
        return 32 * self.count


def profile_weights(
    layer: keras.layers.Layer, seen: set[int]
) -> tuple[list[WeightProfile], list[WeightProfile]]:
    """The weights of a layer, and those of a BatchNormalization that deployment folds away.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta needs one factor and one offset per
    channel: gamma counts as part of the variance, beta as part of the mean. (Larq's rule.)

    Args:
        layer: A layer or model.
        seen: `id`s of variables that other profiles hold; the layer's are added.
    """
    bits = weight_bits(layer)
    trainable = {id(variable) for variable in layer.trainable_weights}
    folds = isinstance(layer, keras.layers.BatchNormalization)
    kept: list[WeightProfile] = []
    folded: list[WeightProfile] = []
    for variable in layer.weights:
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        profile = WeightProfile(
            variable.name,
            tuple(variable.shape),
            bits.get(id(variable), dtype_bits(variable.dtype)),
            id(variable) in trainable,
        )
        (folded if folds and variable.name in ("beta", "gamma") else kept).append(profile)
    return kept, folded
