"""BinaryNet, the CIFAR-10 network of Larq's documentation, ported to Keras 3.

    python examples/binarynet.py [--width 128] [--epochs 20]

For a Larq script the port is one line, `import bnnkeras as lq` in the place of `import larq as lq`.
The network here learns scanned digits of CIFAR-10's size, which need no download; the defaults are
narrower than the original (128), so that two cores learn them in about a minute.

Courbariaux et al., Binarized Neural Networks (2016), section 2.1.
"""

import argparse

import keras
import numpy as np

import bnnkeras as lq
from bnnkeras.datasets import digits


def binarynet(width: int = 128, momentum: float = 0.999):
    """Six convolutions and three dense layers; the first one's input alone is not binary.

    Args:
        width: Filters of the first convolution.
        momentum: Of the normalizations' moving statistics.
    """
    kernel = dict(kernel_quantizer="ste_sign", kernel_constraint="weight_clip", use_bias=False)
    binary = dict(input_quantizer="ste_sign", **kernel)

    def normalization():
        return keras.layers.BatchNormalization(momentum=momentum, scale=False)

    model = keras.Sequential(name="binarynet")
    model.add(keras.layers.InputLayer((32, 32, 3)))
    model.add(lq.layers.QuantConv2D(width, 3, **kernel))
    model.add(normalization())
    for filters, pools in [(1, True), (2, False), (2, True), (4, False), (4, True)]:
        model.add(lq.layers.QuantConv2D(filters * width, 3, padding="same", **binary))
        if pools:
            model.add(keras.layers.MaxPooling2D())
        model.add(normalization())
    model.add(keras.layers.Flatten())
    for units in (8 * width, 8 * width, 10):
        model.add(lq.layers.QuantDense(units, **binary))
        model.add(normalization())
    model.add(keras.layers.Activation("softmax"))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    # 0.999 fits the 100,000 steps of the original; a minute has a thousand.
    parser.add_argument("--momentum", type=float, default=0.99)
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = digits(size=32, channels=3)
    y_train, y_test = (np.eye(10, dtype="float32")[labels] for labels in (y_train, y_test))
    model = binarynet(options.width, options.momentum)
    lq.models.summary(model)
    model.compile(
        keras.optimizers.Adam(0.01), loss="categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x_train, y_train, batch_size=16, epochs=options.epochs, verbose=2)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"Test accuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
