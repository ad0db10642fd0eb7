"""Weight constraints. An optimizer applies them to a variable after each of its steps.

Layers of this package accept `kernel_constraint="weight_clip"`. Layers of Keras look names up in a
table of their own: give them an instance, `kernel_constraint=WeightClip()`.
"""

import keras
from keras import ops

from bnnkeras.registration import register


@register
class WeightClip(keras.constraints.Constraint):
    """w := min(max(w, -clip_value), clip_value).

    Latent weights beyond the range of a clipped gradient estimator get no gradient any more
    ("starved weights"); clipping keeps them where they can still flip.

    Args:
        clip_value: Positive number. Defaults to 1.

    Call arguments:
        w: A variable or tensor.

    Raises:
        ValueError: If `clip_value` is not positive.

    Example:
        >>> import keras
        >>> from bnnkeras.constraints import WeightClip
        >>> weights = keras.Variable([-3.0, 0.5, 2.5])
        >>> keras.ops.convert_to_numpy(WeightClip(2.0)(weights)).tolist()
        [-2.0, 0.5, 2.0]

    Reference:
        Courbariaux et al., BinaryConnect (NIPS 2015), section 2.4.
    """

    def __init__(self, clip_value: float = 1):
        if not clip_value > 0:
            raise ValueError(
                f"`clip_value` must be a positive number. Received: clip_value={clip_value}"
            )
        self.clip_value = clip_value

    def __call__(self, w):
        return ops.clip(w, -self.clip_value, self.clip_value)

    def get_config(self) -> dict:
        return {"clip_value": self.clip_value}


weight_clip = WeightClip

_NAMED = {"weight_clip": WeightClip, "WeightClip": WeightClip}


def get(identifier):
    """`keras.constraints.get` that also knows the names of this module and registered aliases.

    Args:
        identifier: `None`, a name (`"weight_clip"`, `"max_norm"`), a configuration or a constraint.

    Raises:
        ValueError: If there is no such constraint.

    Example:
        >>> from bnnkeras import constraints
        >>> constraints.get("weight_clip").clip_value
        1
    """
    if isinstance(identifier, str):
        named = _NAMED.get(identifier) or keras.saving.get_custom_objects().get(identifier)
        if named is not None:
            return named() if isinstance(named, type) else named
    return keras.constraints.get(identifier)
