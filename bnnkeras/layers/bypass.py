"""BiDense's real-valued shortcut between any two numbers of channels."""

import keras
from keras import ops

from bnnkeras.quantizers import reductions
from bnnkeras.registration import register


@register
class ChannelAdaptiveBypass(keras.layers.Layer):
    """A shortcut without weights from I input channels to O = `filters` output channels.

    With q = O // I, r = O % I: y = concat(x, ... q times, merged(x)). `merged` has r channels, each
    the mean of a group of the I inputs: with G = I // r, group j < r - 1 is

        x[j + t (r - 1)], t = 0 ... G - 1   (`groups="strided"`, the official code's 2-D layer)
        x[j G + t],       t = 0 ... G - 1   (`groups="contiguous"`, its 1-D layer)

    and the last one is x[G (r - 1)] ... x[I - 1]. For r = 1, which the official code cannot run, it
    is the mean of all inputs. O = I is the identity.

    Args:
        filters: Positive integer, the number of output channels O.
        groups: `"strided"`, `"contiguous"` or `None` (default): contiguous for inputs of rank 3,
            else strided.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, ..., channels)`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import ChannelAdaptiveBypass
        >>> x = np.array([[[[1.0, 2.0, 3.0, 10.0]]]], "float32")
        >>> keras.ops.convert_to_numpy(ChannelAdaptiveBypass(6)(x))[0, 0, 0].tolist()
        [1.0, 2.0, 3.0, 10.0, 1.5, 6.5]

    Reference:
        Yin et al., BiDense (2024), channel-adaptive full-precision bypass.
    """

    def __init__(self, filters, groups=None, **kwargs):
        super().__init__(**kwargs)
        if isinstance(filters, bool) or not isinstance(filters, int) or filters < 1:
            raise ValueError(f"`filters` must be a positive integer. Received: filters={filters!r}")
        if groups not in (None, "strided", "contiguous"):
            raise ValueError(
                f'`groups` must be "strided", "contiguous" or None. Received: groups={groups!r}'
            )
        self.filters = filters
        self.groups = groups

    def call(self, inputs):
        channels = inputs.shape[-1]
        repeats, merged = divmod(self.filters, channels)
        parts = [inputs] * repeats
        if merged:
            parts += self._merged(inputs, channels, merged)
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    def _merged(self, x, channels: int, merged: int) -> list:
        """`merged` channels out of `channels`: the groups of equal size, and the last one."""
        size = channels // merged
        head, tail = x[..., : size * (merged - 1)], x[..., size * (merged - 1) :]
        last = ops.cast(reductions.mean(tail, (-1,)), x.dtype)
        if merged == 1:
            return [last]
        contiguous = self.groups == "contiguous" or (self.groups is None and len(x.shape) == 3)
        # (..., G (r - 1)) -> (..., r - 1, G) or (..., G, r - 1), then over the axis of size G.
        split, axis = ((merged - 1, size), -1) if contiguous else ((size, merged - 1), -2)
        leading = ops.shape(x)[:-1]
        means = reductions.mean(ops.reshape(head, (*leading, *split)), (axis,))
        return [ops.cast(ops.squeeze(means, axis), x.dtype), last]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters, "groups": self.groups}


CFB = ChannelAdaptiveBypass
