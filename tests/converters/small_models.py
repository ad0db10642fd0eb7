"""Converts the small models that the tests of `.tflite` files run; `small_models.py FOLDER`.

A process of its own: conversion needs TensorFlow as Keras's backend, and may crash.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras  # noqa: E402
import larq_compute_engine as lce  # noqa: E402
import numpy as np  # noqa: E402

RANDOM = np.random.default_rng(0)


class Sign(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.where(inputs >= 0, 1.0, -1.0)


class Scale(keras.layers.Layer):
    """Scales and shifts: without the shift, sums of 0 leave the next sign to rounding."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=input_shape[-1:], initializer="ones")
        self.shift = self.add_weight(shape=input_shape[-1:], initializer="zeros")

    def call(self, inputs):
        return inputs * self.scale + self.shift


def binary_convolution(inputs, filters, kernel_size, saved, name, **options):
    convolution = keras.layers.Conv2D(filters, kernel_size, use_bias=False, **options)
    scale = Scale()
    outputs = scale(convolution(Sign()(inputs)))
    convolution.kernel.assign(RANDOM.choice([-1.0, 1.0], convolution.kernel.shape))
    scale.scale.assign(RANDOM.uniform(0.5, 2.0, filters))
    scale.shift.assign(RANDOM.uniform(0.1, 0.4, filters))
    saved[f"{name}_kernel"] = np.asarray(convolution.kernel)
    saved[f"{name}_scale"] = np.asarray(scale.scale)
    saved[f"{name}_shift"] = np.asarray(scale.shift)
    return outputs


def convert(model, path, batch_size=1):
    signature = [
        keras.InputSpec(shape=(batch_size, *item.shape[1:]), dtype="float32", name=item.name)
        for item in model.inputs
    ]
    with tempfile.TemporaryDirectory() as folder:
        # The list is one of arguments: several inputs are one argument.
        signature = [signature] if len(signature) > 1 else signature
        model.export(folder, verbose=False, input_signature=signature)
        path.write_bytes(lce.convert_saved_model(folder))


def main(folder: Path) -> None:
    saved: dict[str, np.ndarray] = {}

    # Two inputs and outputs whose order in the file is neither Keras's nor the alphabet's.
    zeta = keras.Input((8, 8, 40), name="zeta")
    alpha = keras.Input((6, 8, 40), name="alpha")
    first = binary_convolution(zeta, 7, 3, saved, "first", padding="same")
    second = binary_convolution(alpha, 5, (1, 3), saved, "second", strides=(2, 1))
    second = keras.layers.GlobalAveragePooling2D()(second)
    pair = keras.Model([zeta, alpha], {"first": first, "second": second})
    convert(pair, folder / "pair.tflite")

    image = keras.Input((8, 8, 64), name="image")
    hidden = binary_convolution(image, 48, 3, saved, "hidden", padding="same")
    output = binary_convolution(hidden, 4, 1, saved, "output")
    chain = keras.Model(image, output)
    convert(chain, folder / "chain.tflite")
    convert(chain, folder / "chain_of_four.tflite", batch_size=4)

    grouped = binary_convolution(image, 6, 3, saved, "grouped", groups=2)
    convert(keras.Model(image, grouped), folder / "grouped.tflite")

    ones = keras.ops.pad(Sign()(image), [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=1.0)
    convolution = keras.layers.Conv2D(40, 3, use_bias=False)
    normalization = keras.layers.BatchNormalization()
    bits = binary_convolution(normalization(convolution(ones)), 3, 1, saved, "after_bits")
    convolution.kernel.assign(RANDOM.choice([-1.0, 1.0], convolution.kernel.shape))
    normalization.moving_mean.assign(RANDOM.normal(size=40) * 10)
    saved["bits_kernel"] = np.asarray(convolution.kernel)
    convert(keras.Model(image, bits), folder / "bits.tflite")

    real = keras.layers.Conv2D(8, 3, activation="relu")(image)
    convert(keras.Model(image, real), folder / "float.tflite")

    arrays = {
        "zeta": RANDOM.normal(size=(5, 8, 8, 40)).astype(np.float32),
        "alpha": RANDOM.normal(size=(5, 6, 8, 40)).astype(np.float32),
        "image": RANDOM.normal(size=(10, 8, 8, 64)).astype(np.float32),
    }
    outputs = pair([arrays["zeta"], arrays["alpha"]])
    arrays["first"], arrays["second"] = np.asarray(outputs["first"]), np.asarray(outputs["second"])
    arrays["chain"] = np.asarray(chain(arrays["image"]))
    arrays["chain_hidden"] = np.asarray(keras.Model(image, hidden)(arrays["image"]))
    arrays["grouped"] = np.asarray(keras.Model(image, grouped)(arrays["image"]))
    arrays["bits"] = np.asarray(keras.Model(image, bits)(arrays["image"]))
    np.savez(folder / "arrays.npz", **saved, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
