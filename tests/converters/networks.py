"""Small networks of the kinds that people deploy: keywords, point clouds, decoders."""

import keras
from keras import layers

from bnnkeras.layers import (
    ChannelAdaptiveBypass,
    EntropyMaximizingAggregation,
    QuantConv1D,
    QuantConv2D,
    QuantConv2DTranspose,
    QuantDense,
    RPReLU,
    SpatialShift,
)

BINARY = {
    "input_quantizer": "ste_sign",
    "kernel_quantizer": "magnitude_aware_sign",
    "kernel_constraint": "weight_clip",
    "use_bias": False,
}


def keyword_spotting(frames=49, coefficients=10, filters=64, classes=12) -> keras.Model:
    """Residual 1-D convolutions over the frames of a spectrogram; the first layer is float."""
    inputs = keras.Input((frames, coefficients), name="mfcc")
    x = layers.BatchNormalization()(layers.Conv1D(filters, 3, padding="same")(inputs))
    for strides, dilation_rate in ((1, 1), (2, 1), (1, 2), (1, 4)):
        y = QuantConv1D(
            filters, 3, strides=strides, dilation_rate=dilation_rate, padding="same", **BINARY
        )(x)
        y = layers.BatchNormalization()(y)
        x = layers.MaxPooling1D(strides, padding="same")(x) if strides > 1 else x
        x = RPReLU()(layers.Add()([x, y]))
    x = QuantConv1D(filters, 5, padding="causal", **BINARY)(x)
    x = layers.GlobalAveragePooling1D()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(classes)(x), name="keyword_spotting")


def point_cloud(points=128, classes=10) -> keras.Model:
    """Shared layers on points, and the entropy-maximizing maximum over them."""
    inputs = keras.Input((points, 3), name="points")
    x = layers.BatchNormalization()(layers.Dense(64)(inputs))
    for units in (64, 128):
        x = layers.BatchNormalization()(QuantDense(units, **BINARY)(x))
    x = EntropyMaximizingAggregation(name="pool")(x)
    for units in (64, 64):
        x = layers.BatchNormalization()(QuantDense(units, **BINARY)(x))
    return keras.Model(inputs, layers.Dense(classes)(x), name="point_cloud")


def decoder(size=4, channels=64) -> keras.Model:
    """Transposed convolutions from a small map to a picture; the last layer is float."""
    inputs = keras.Input((size, size, channels), name="features")
    signs = {**BINARY, "kernel_quantizer": "ste_sign"}
    x = inputs
    for filters, kernel_size in ((48, 2), (32, 4), (16, 3)):
        y = QuantConv2DTranspose(filters, kernel_size, strides=2, padding="same", **signs)(x)
        y = layers.BatchNormalization()(y)
        x = layers.Add()([y, ChannelAdaptiveBypass(filters)(layers.UpSampling2D(2)(x))])
        z = QuantConv2D(filters, 3, padding="same", **BINARY)(SpatialShift()(x))
        x = layers.Add()([x, layers.BatchNormalization()(z)])
    x = layers.Conv2D(3, 3, padding="same", activation="sigmoid")(x)
    return keras.Model(inputs, x, name="decoder")


def wide_dense(units=1024) -> keras.Model:
    """One binary dense layer."""
    inputs = keras.Input((units,), name="vector")
    return keras.Model(inputs, QuantDense(units, **BINARY)(inputs), name="wide_dense")
