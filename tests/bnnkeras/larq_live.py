"""What Larq on legacy Keras and bnnkeras on Keras 3 are both asked for, written once.

`python larq_live.py FILE` writes Larq's answers to an .npz file.
"""

import sys

import numpy as np

# Constructor calls, valid in both `quantizers` modules.
QUANTIZERS = {
    "ste_sign": ("SteSign", {}),
    "ste_sign_1.25": ("SteSign", {"clip_value": 1.25}),
    "ste_sign_unclipped": ("SteSign", {"clip_value": None}),
    "approx_sign": ("ApproxSign", {}),
    "ste_heaviside": ("SteHeaviside", {}),
    "ste_heaviside_0.5": ("SteHeaviside", {"clip_value": 0.5}),
    "swish_sign": ("SwishSign", {}),
    "swish_sign_10": ("SwishSign", {"beta": 10.0}),
    "magnitude_aware_sign": ("MagnitudeAwareSign", {}),
    "magnitude_aware_sign_0.5": ("MagnitudeAwareSign", {"clip_value": 0.5}),
    "ste_tern": ("SteTern", {}),
    "ste_tern_0.3": ("SteTern", {"threshold_value": 0.3}),
    "ste_tern_networks": ("SteTern", {"ternary_weight_networks": True}),
    "noop": ("NoOp", {"precision": 1}),
    "dorefa": ("DoReFa", {}),
    "dorefa_4": ("DoReFa", {"k_bit": 4}),
    "dorefa_weights": ("DoReFa", {"k_bit": 2, "mode": "weights"}),
    "dorefa_3_weights": ("DoReFa", {"k_bit": 3, "mode": "weights"}),
}
# The functions, which have no arguments to be set here.
FUNCTIONS = ("ste_sign", "approx_sign", "swish_sign", "ste_tern", "ste_heaviside")
OPTIMIZERS = ("SGD", "Adam")


def tensors() -> dict[str, np.ndarray]:
    """A kernel and activations, with the points at which formulas change, and what comes back."""
    generator = np.random.default_rng(0)
    kernel, activations = generator.uniform(-1.6, 1.6, (2, 3, 3, 4, 5)).astype("float32")
    activations.flat[:9] = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.25, -1.25, 30.0]
    upstream = generator.normal(size=kernel.shape).astype("float32")
    return {"kernel": kernel, "activations": activations, "upstream": upstream}


def network(keras, layers):
    """Convolutions with both paddings, normalizations, and dense layers; little in float."""
    clipped = {"kernel_constraint": "weight_clip", "use_bias": False}
    return keras.Sequential(
        [
            keras.layers.InputLayer((8, 8, 3)),
            layers.QuantConv2D(8, 3, kernel_quantizer="ste_sign", **clipped),
            keras.layers.BatchNormalization(momentum=0.9),
            layers.QuantConv2D(
                8,
                3,
                padding="same",
                pad_values=1.0,
                input_quantizer="approx_sign",
                kernel_quantizer="magnitude_aware_sign",
                **clipped,
            ),
            # Not the maximum: rounding would decide which of equal counts gets the gradient.
            keras.layers.AveragePooling2D(2),
            keras.layers.BatchNormalization(momentum=0.9, scale=False),
            keras.layers.Flatten(),
            layers.QuantDense(
                12, input_quantizer="ste_sign", kernel_quantizer="ste_sign", **clipped
            ),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


def train(keras, layers, optimizer: str) -> dict[str, np.ndarray]:
    """Three steps from weights that do not depend on the library."""
    model = network(keras, layers)
    generator = np.random.default_rng(1)
    model.set_weights(
        [generator.uniform(0.5 if w.ndim == 1 else -1, 1, w.shape) for w in model.get_weights()]
    )
    for layer in model.layers:
        if hasattr(layer, "fused"):
            # The fused kernel of legacy Keras averages n / (n - 1) times the variance; Keras 3 does
            # not. Training is the same.
            layer.fused = False
    # A large epsilon, so that a gradient that is 0 but for rounding stays one.
    options = {
        "SGD": {"learning_rate": 0.1, "momentum": 0.9},
        "Adam": {"learning_rate": 0.05, "epsilon": 1e-3},
    }
    chosen = getattr(keras.optimizers, optimizer)(**options[optimizer])
    model.compile(chosen, loss="categorical_crossentropy")
    found = {}
    for step in range(3):
        x = generator.uniform(-1, 1, (16, 8, 8, 3)).astype("float32")
        y = np.eye(4, dtype="float32")[generator.integers(0, 4, 16)]
        history = model.fit(x, y, batch_size=16, verbose=0)
        found[f"{optimizer}/{step}/loss"] = np.array(history.history["loss"])
        for index, weight in enumerate(model.get_weights()):
            found[f"{optimizer}/{step}/{index}"] = weight
    return found


def main() -> None:
    import larq
    import tensorflow as tf
    import tf_keras

    given, found = tensors(), {}
    functions = {
        **{name: getattr(larq.quantizers, cls)(**o) for name, (cls, o) in QUANTIZERS.items()},
        **{f"function/{name}": getattr(larq.quantizers, name) for name in FUNCTIONS},
    }
    for name, quantizer in functions.items():
        for kind in ("kernel", "activations"):
            x = tf.constant(given[kind])
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = quantizer(x)
            found[f"{name}/{kind}/value"] = y.numpy()
            found[f"{name}/{kind}/gradient"] = tape.gradient(y, x, given["upstream"]).numpy()
    for optimizer in OPTIMIZERS:
        found.update(train(tf_keras, larq.layers, optimizer))
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
