"""Small networks, written once for Larq on legacy Keras and for bnnkeras on Keras 3.

`python larq_networks.py FOLDER` saves Larq's: weights, and an input with its output.
"""

import sys
from pathlib import Path

import numpy as np


def sequential(keras, layers):
    """Every layer class of Larq that Keras 3 has, with biases and BatchNorms of all kinds."""
    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 3)),
            layers.QuantConv2D(6, 3, kernel_quantizer="ste_sign"),
            keras.layers.BatchNormalization(scale=False),
            layers.QuantDepthwiseConv2D(
                3, input_quantizer="ste_sign", depthwise_quantizer="ste_sign", use_bias=False
            ),
            keras.layers.BatchNormalization(center=False),
            layers.QuantSeparableConv2D(
                6,
                3,
                depthwise_quantizer="ste_sign",
                pointwise_quantizer="magnitude_aware_sign",
                input_quantizer="approx_sign",
            ),
            keras.layers.Flatten(),
            layers.QuantDense(6, **binary),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(4),
        ]
    )


def _residual_block(keras, layers, x, filters):
    """Larq Zoo's: downsampling only where the channels change."""
    shortcut, strides = x, 1
    if x.shape[-1] != filters:
        strides = 2
        shortcut = keras.layers.AveragePooling2D(2, 2, padding="same")(shortcut)
        shortcut = keras.layers.Conv2D(filters, 1, use_bias=False)(shortcut)
        shortcut = keras.layers.BatchNormalization(momentum=0.8)(shortcut)
    x = layers.QuantConv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        input_quantizer="approx_sign",
        kernel_quantizer="magnitude_aware_sign",
        kernel_constraint="weight_clip",
        use_bias=False,
    )(x)
    x = keras.layers.BatchNormalization(momentum=0.8)(x)
    return keras.layers.add([x, shortcut])


def birealnet(keras, layers):
    """The start of Larq Zoo's BiRealNet, narrower, with its end."""
    inputs = keras.layers.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 7, strides=2, padding="same", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.8)(x)
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for filters in (8, 8, 16, 16):
        x = _residual_block(keras, layers, x, filters)
    x = keras.layers.AveragePooling2D(int(x.shape[1]))(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))


def nested(keras, layers):
    """A model within a model, which Keras 2 saves as one layer."""
    inputs = keras.layers.Input((8, 8, 3))
    x = layers.QuantConv2D(4, 3, kernel_quantizer="ste_sign")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = layers.QuantConv2D(4, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign")(x)
    inner = keras.Model(inputs, keras.layers.BatchNormalization()(x))
    outer = keras.layers.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(outer))
    return keras.Model(outer, keras.layers.Dense(2)(x))


NETWORKS = (sequential, birealnet, nested)


def values(shapes):
    """Weights under which every layer matters, and none saturates."""
    generator = np.random.default_rng(3)
    return [generator.uniform(0.5 if len(s) == 1 else -1, 1.0, s) for s in shapes]


def main() -> None:
    import larq
    import tf_keras

    folder = Path(sys.argv[1])
    for build in NETWORKS:
        model = build(tf_keras, larq.layers)
        model.set_weights(values([weight.shape for weight in model.get_weights()]))
        model.save_weights(folder / f"{build.__name__}.h5")
        model.save(folder / f"{build.__name__}_whole.h5")
        images = np.random.default_rng(4).uniform(-2, 2, (4, *model.input_shape[1:]))
        outputs = model(images.astype("float32"), training=False).numpy()
        np.savez(folder / f"{build.__name__}.npz", images=images, outputs=outputs)
    # What ends the names of Keras 3's format, in which newer versions of tf_keras save.
    model.save_weights(folder / "new.weights.h5")


if __name__ == "__main__":
    main()
