"""Rules of normalizations by constants: one scale and one bias per channel, or per position."""

import keras
import numpy as np
from keras import layers

from bnnkeras.converters.lowering.registry import lowering_rule


@lowering_rule(layers.BatchNormalization)
def fold_batch_normalization(builder, layer, inputs):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta, as one scale and one bias."""
    mean, variance, gamma, beta = (
        default if variable is None else _numbers(variable)
        for variable, default in (
            (layer.moving_mean, None),
            (layer.moving_variance, None),
            (layer.gamma, 1.0),
            (layer.beta, 0.0),
        )
    )
    scale = gamma / np.sqrt(variance + layer.epsilon)
    bias = beta - mean * scale
    axis = layer.axis % len(inputs.shape)
    if axis == len(inputs.shape) - 1:
        return builder.affine(inputs, scale, bias, layer.name)
    shape = (-1,) + (1,) * (len(inputs.shape) - 1 - axis)
    return builder.affine_by_position(inputs, scale.reshape(shape), bias.reshape(shape), layer.name)


@lowering_rule(layers.Normalization)
def fold_normalization(builder, layer, inputs):
    """y = (x - mean) / max(sqrt(variance), epsilon), or its inverse, of statistics at hand."""
    mean = _numbers(layer.mean)
    deviation = np.maximum(np.sqrt(_numbers(layer.variance)), keras.config.epsilon())
    if layer.invert:
        scale, bias = deviation, mean
    else:
        scale, bias = 1 / deviation, -mean / deviation
    return builder.affine_by_position(inputs, *_without_batch(scale, bias), layer.name)


@lowering_rule(layers.Rescaling)
def fold_rescaling(builder, layer, inputs):
    """y = scale x + offset."""
    scale, bias = (np.asarray(value, "float64") for value in (layer.scale, layer.offset))
    return builder.affine_by_position(inputs, *_without_batch(scale, bias), layer.name)


def _without_batch(scale, bias):
    """Parameters (1, ...) as (...)."""
    scale, bias = np.broadcast_arrays(scale, bias)
    return (part[0] if part.ndim > 1 else part for part in (scale, bias))


def _numbers(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")
