"""Learned shifts of value, and fixed shifts of place, around binary activations."""

import keras
from keras import ops

from bnnkeras.registration import register


@register
class LearnableBias(keras.layers.Layer):
    """y = x + b, with one trained b per channel (last axis).

    In front of a sign it learns the threshold -b.

    Args:
        initializer: Of b. Defaults to `"zeros"`.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, ..., channels)`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import LearnableBias
        >>> y = LearnableBias(initializer="ones")(np.array([[0.5, -2.0]], "float32"))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [[1.5, -1.0]]

    Reference:
        Liu et al., ReActNet (ECCV 2020), section 4.2; official code of BCDNet and BiDense.
    """

    def __init__(self, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        self.bias = self.add_weight(
            name="bias", shape=(input_shape[-1],), initializer=self.initializer
        )

    def call(self, inputs):
        return ops.add(inputs, self.bias)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "initializer": keras.initializers.serialize(self.initializer),
        }


@register
class RPReLU(keras.layers.Layer):
    """y = z + b2 if z > 0 else a z + b2, z = x + b1; b1, a and b2 trained per channel (last axis).

    dy/dx = 1 if z > 0 else a: a kink that can move, and PyTorch's choice at z = 0.

    Args:
        bias_initializer: Of b1 and b2. Defaults to `"zeros"`.
        slope_initializer: Of a. Defaults to the constant 0.25.
        **kwargs: As `keras.layers.Layer`.

    Attributes:
        bias_before: The variable b1, `(channels,)`.
        slope: The variable a, `(channels,)`.
        bias_after: The variable b2, `(channels,)`.

    Call arguments:
        inputs: `(batch, ..., channels)`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import RPReLU
        >>> y = RPReLU()(np.array([[2.0, -2.0]], "float32"))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [[2.0, -0.5]]

    Reference:
        Liu et al., ReActNet (ECCV 2020), section 4.2.
    """

    def __init__(self, bias_initializer="zeros", slope_initializer=0.25, **kwargs):
        super().__init__(**kwargs)
        if isinstance(slope_initializer, (int, float)):
            slope_initializer = keras.initializers.Constant(slope_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.slope_initializer = keras.initializers.get(slope_initializer)

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.bias_before = self.add_weight(
            name="bias_before", shape=shape, initializer=self.bias_initializer
        )
        self.slope = self.add_weight(name="slope", shape=shape, initializer=self.slope_initializer)
        self.bias_after = self.add_weight(
            name="bias_after", shape=shape, initializer=self.bias_initializer
        )

    def call(self, inputs):
        shifted = ops.add(inputs, self.bias_before)
        return ops.add(
            ops.where(shifted > 0, shifted, ops.multiply(self.slope, shifted)), self.bias_after
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "slope_initializer": keras.initializers.serialize(self.slope_initializer),
        }


@register
class SpatialShift(keras.layers.Layer):
    """Each quarter of the channels moves along one direction, around the edges.

    With d the distance, y at (i, j) is x at (i - d, j), (i + d, j), (i, j - d) and (i, j + d) in
    the first, second, third and last quarter, indices modulo height and width. The gradient moves
    back.

    Args:
        distance: Integer d, or `"half"` for height // 2 and width // 2. Defaults to 1, BCDNet's
            short range; its long range is 3 in the official code at any size, and `"half"` in the
            paper, which is the same for maps of 7 by 7.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, height, width, channels)`, channels a multiple of 4.

    Raises:
        ValueError: If `distance` is out of its range or the inputs do not fit.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import SpatialShift
        >>> x = np.arange(3.0).reshape(1, 1, 3, 1).repeat(4, axis=-1)
        >>> keras.ops.convert_to_numpy(SpatialShift()(x))[0, 0, :, 2:].T.tolist()
        [[2.0, 0.0, 1.0], [1.0, 2.0, 0.0]]

    Reference:
        Xing et al., BCDNet (ECCV 2022), figure 1(c).
    """

    def __init__(self, distance=1, **kwargs):
        super().__init__(**kwargs)
        integer = isinstance(distance, int) and not isinstance(distance, bool)
        if not integer and distance != "half":
            raise ValueError(
                f'`distance` must be an integer or "half". Received: distance={distance!r}'
            )
        self.distance = distance

    def build(self, input_shape):
        if len(input_shape) != 4 or input_shape[-1] % 4:
            raise ValueError(
                "The inputs must be (batch, height, width, channels) with a multiple of 4 "
                f"channels. Received: input_shape={tuple(input_shape)}"
            )

    def call(self, inputs):
        moves = [(1, 1), (1, -1), (2, 1), (2, -1)]
        quarters = ops.split(inputs, 4, axis=-1)
        moved = [
            ops.roll(quarter, direction * self._distance(inputs, axis), axis=axis)
            for quarter, (axis, direction) in zip(quarters, moves, strict=True)
        ]
        return ops.concatenate(moved, axis=-1)

    def _distance(self, inputs, axis: int):
        return ops.shape(inputs)[axis] // 2 if self.distance == "half" else self.distance

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "distance": self.distance}
