"""`python -m bnnkeras.converters.worker.smoke`: whether deployment works here, in seconds."""

import keras
import numpy as np

from bnnkeras import converters, layers
from bnnkeras.converters.worker import get_worker


def main() -> None:
    """Converts a small binary network, verifies it on every kernel, runs it, prints versions.

    Raises:
        Exception: Whatever goes wrong.
    """
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 32))
    binary = layers.QuantConv2D(
        32, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer="ste_sign"
    )(inputs)
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(binary))
    model = keras.Model(inputs, outputs)
    conversion = converters.convert(model)
    values = np.random.default_rng(0).normal(size=(2, 6, 6, 32)).astype("float32")
    answers = np.asarray(converters.Interpreter(conversion.flatbuffer).predict(values))
    expected = keras.ops.convert_to_numpy(model(values))
    # One binary layer on equal inputs: no sign can differ, only rounding.
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-4)

    environment, _ = get_worker().request("environment")
    versions = ", ".join(f"{name} {value}" for name, value in environment["versions"].items())
    print(f"Python {environment['python']}, {versions}")


if __name__ == "__main__":
    main()
