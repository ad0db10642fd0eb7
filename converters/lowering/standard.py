"""Rules of the Keras layers that networks use beside the quantized ones."""

import keras
import numpy as np
from keras import layers

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.graph import producer
from bnnkeras.converters.layers import Convolution
from bnnkeras.converters.lowering.geometry import Axis
from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.layers import MaxPooling2D


@lowering_rule(
    layers.Activation,
    layers.Add,
    layers.AveragePooling2D,
    layers.Concatenate,
    layers.Dense,
    layers.Flatten,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.MaxPooling2D,
    layers.PReLU,
    layers.ReLU,
    layers.Reshape,
    layers.Softmax,
    layers.ZeroPadding2D,
    MaxPooling2D,
)
def keep(builder, layer, *args, **kwargs):
    """LCE runs the layer as it is."""
    return builder.copy(layer)(*args, **kwargs)


@lowering_rule(layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise)
def drop(builder, layer, inputs):
    """Nothing happens here outside training."""
    return inputs


@lowering_rule(layers.Conv2D)
def keep_convolution(builder, layer, inputs):
    if layer.data_format != "channels_last":
        raise UnsupportedLayerError(layer, 'only data_format="channels_last" runs on LCE')
    return builder.copy(layer, Convolution)(_trimmed(builder, layer, inputs))


def _trimmed(builder, layer, x):
    """x without the far padding that no window of a strided convolution reads.

    LCE's converter takes pads such as (1, 1) before a VALID convolution of stride 2 for SAME's
    (0, 1), and the file is wrong without a word.
    """
    source, inputs = producer(x)
    if not isinstance(source, layers.ZeroPadding2D) or layer.padding != "valid":
        return x
    axes = [
        Axis(size, (kernel - 1) * dilation + 1, stride, *pads)
        for size, kernel, dilation, stride, pads in zip(
            inputs[0].shape[1:3],
            layer.kernel_size,
            layer.dilation_rate,
            layer.strides,
            source.padding,
            strict=True,
        )
    ]
    return builder.pad(inputs[0], [axis.explicit for axis in axes], layer.name)


@lowering_rule(layers.BatchNormalization)
def fold_batch_normalization(builder, layer, inputs):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta, as one scale and one bias."""
    if layer.axis not in (-1, len(inputs.shape) - 1):
        raise UnsupportedLayerError(layer, f"axis={layer.axis} is not the channel axis")
    mean, variance, gamma, beta = (
        default if variable is None else keras.ops.convert_to_numpy(variable).astype("float64")
        for variable, default in (
            (layer.moving_mean, None),
            (layer.moving_variance, None),
            (layer.gamma, 1.0),
            (layer.beta, 0.0),
        )
    )
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return builder.affine(inputs, scale, beta - mean * scale, layer.name)
