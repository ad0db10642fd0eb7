"""Rules of the papers' own layers."""

import keras

from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.layers import ChannelAdaptiveBypass, LearnableBias, RPReLU, SpatialShift


@lowering_rule(LearnableBias)
def lower_bias(builder, layer, inputs):
    return builder.shift(inputs, _numbers(layer.bias), layer.name)


@lowering_rule(RPReLU)
def lower_rprelu(builder, layer, inputs):
    """Bias, PReLU, bias: LCE has an operation for the second, and merges the first."""
    x = builder.shift(inputs, _numbers(layer.bias_before), layer.name)
    x = builder.prelu(x, _numbers(layer.slope), layer.name)
    return builder.carry(x, _numbers(layer.bias_after), layer.name)


@lowering_rule(SpatialShift)
def lower_shift(builder, layer, inputs):
    """Each quarter in two pieces that change places: slices and concatenations before the sign."""
    quarters = keras.ops.split(inputs, 4, axis=-1)
    moves = ((1, 1), (1, -1), (2, 1), (2, -1))
    moved = []
    for quarter, (axis, direction) in zip(quarters, moves, strict=True):
        size = inputs.shape[axis]
        distance = size // 2 if layer.distance == "half" else layer.distance
        # What comes from the far end goes to the front.
        cut = -direction * distance % size
        moved.append(_rolled(builder, quarter, axis, cut, layer.name))
    return builder.concatenate(moved, -1, layer.name)


def _rolled(builder, x, axis, cut, name):
    """x from index `cut` on, and behind it what was before."""
    if not cut:
        return x
    front, back = ((slice(None),) * axis + (part,) for part in (slice(cut, None), slice(cut)))
    return builder.concatenate([x[front], x[back]], axis, name)


@lowering_rule(ChannelAdaptiveBypass)
def lower_bypass(builder, layer, inputs):
    """Slices of the channels and their sums: a constant matrix would hold mostly zeros."""
    channels = inputs.shape[-1]
    repeats, merged = divmod(layer.filters, channels)
    parts = [inputs] * repeats
    if merged:
        size = channels // merged
        # Groups of equal size, and the last one, which takes what is left.
        head = size * (merged - 1)
        if merged > 1:
            contiguous = layer.groups == "contiguous" or (
                layer.groups is None and len(inputs.shape) == 3
            )
            steps = (
                [slice(t, head, size) for t in range(size)]
                if contiguous
                else [slice(t * (merged - 1), (t + 1) * (merged - 1)) for t in range(size)]
            )
            parts.append(_mean_of(builder, [inputs[..., step] for step in steps], layer.name))
        parts.append(builder.mean(inputs[..., head:], (len(inputs.shape) - 1,), layer.name))
    return builder.concatenate(parts, -1, layer.name)


def _mean_of(builder, tensors, name):
    if len(tensors) == 1:
        return tensors[0]
    total = tensors[0]
    for tensor in tensors[1:]:
        total = builder.add(total, tensor, name)
    return keras.ops.multiply(total, 1 / len(tensors))


def _numbers(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")
