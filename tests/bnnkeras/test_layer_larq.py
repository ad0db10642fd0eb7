"""Live comparison with the layers of Larq 0.14, which a child process runs on legacy tf-keras."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from bnnkeras import layers

KERNEL = {"kernel_quantizer": "magnitude_aware_sign", "input_quantizer": "approx_sign"}
SIGNS = {"kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign"}
DEPTHWISE = {"depthwise_quantizer": "ste_sign", "input_quantizer": "approx_sign"}
SEPARABLE = {**DEPTHWISE, "pointwise_quantizer": "magnitude_aware_sign"}
PADDED = {"padding": "same", "pad_values": 1.0}
STEPS, MAP, VOLUME = (2, 9, 4), (2, 7, 6, 4), (1, 5, 4, 6, 2)
# Layer, arguments, input shape. All of Larq's layers, without those that Keras 3 has no base for.
CASES = {
    "dense": ("QuantDense", {"units": 5, **KERNEL}, (3, 6)),
    "dense_relu": ("QuantDense", {"units": 5, "activation": "relu", **SIGNS}, (3, 6)),
    "conv1d": ("QuantConv1D", {"filters": 3, "kernel_size": 3, **PADDED, **KERNEL}, STEPS),
    "conv1d_causal": (
        "QuantConv1D",
        {"filters": 3, "kernel_size": 3, "padding": "causal", "dilation_rate": 2, **SIGNS},
        STEPS,
    ),
    "conv2d": (
        "QuantConv2D",
        {"filters": 3, "kernel_size": 3, "strides": 2, **PADDED, **KERNEL},
        MAP,
    ),
    "conv2d_uneven": (
        "QuantConv2D",
        {"filters": 3, "kernel_size": [2, 4], "strides": 3, **PADDED, **SIGNS},
        MAP,
    ),
    "conv3d": (
        "QuantConv3D",
        {"filters": 3, "kernel_size": 3, "strides": [2, 1, 2], **PADDED, **KERNEL},
        VOLUME,
    ),
    "depthwise2d": (
        "QuantDepthwiseConv2D",
        {"kernel_size": 3, "strides": 2, "depth_multiplier": 2, **PADDED, **DEPTHWISE},
        MAP,
    ),
    "separable1d": (
        "QuantSeparableConv1D",
        {"filters": 3, "kernel_size": 3, "depth_multiplier": 2, **PADDED, **SEPARABLE},
        STEPS,
    ),
    "separable2d": (
        "QuantSeparableConv2D",
        {"filters": 3, "kernel_size": 3, "strides": 2, **PADDED, **SEPARABLE},
        MAP,
    ),
    "conv2d_transpose": (
        "QuantConv2DTranspose",
        {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same", **KERNEL},
        MAP,
    ),
    "conv2d_transpose_valid": (
        "QuantConv2DTranspose",
        {"filters": 3, "kernel_size": 2, "strides": 3, "output_padding": 1, **SIGNS},
        MAP,
    ),
    "conv3d_transpose": (
        "QuantConv3DTranspose",
        {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same", **SIGNS},
        VOLUME,
    ),
}

# Larq's own quantities, written out for each case: inputs, weights, upstream, output, gradients.
PROGRAM = """
import logging, sys
import larq, numpy as np, tensorflow as tf
logging.disable(logging.WARNING)
cases, path = eval(sys.argv[1]), sys.argv[2]
results = {}
for number, (case, (name, arguments, shape)) in enumerate(cases.items()):
    generator = np.random.default_rng(number)
    def draw(shape):
        return generator.uniform(-1.5, 1.5, shape).astype("float32")
    layer = getattr(larq.layers, name)(**arguments)
    x = tf.constant(draw(shape))
    layer.build(shape)
    layer.set_weights([draw(weight.shape) for weight in layer.get_weights()])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        upstream = draw(y.shape)
        loss = tf.reduce_sum(y * upstream)
    gradients = tape.gradient(loss, [x, *layer.trainable_variables])
    found = {"x": x, "y": y, "upstream": upstream, "dx": gradients[0]}
    for index, (weight, gradient) in enumerate(zip(layer.get_weights(), gradients[1:])):
        found |= {f"w{index}": weight, f"dw{index}": gradient}
    results |= {f"{case}/{key}": np.asarray(value) for key, value in found.items()}
np.savez(path, **results)
"""


@pytest.fixture(scope="module")
def larq(tmp_path_factory):
    if importlib.util.find_spec("larq") is None:  # Importing it here would fail on Keras 3.
        pytest.skip("Larq is the oracle; the extra [test] installs it")
    path = tmp_path_factory.mktemp("larq") / "results.npz"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, repr(CASES), str(path)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
    )
    with np.load(path) as results:
        return dict(results)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_larqs(case, larq, numerics):
    name, arguments, shape = CASES[case]
    layer = getattr(layers, name)(**arguments)
    layer.build(shape)
    names = [f"w{index}" for index in range(len(layer.weights))]
    layer.set_weights([larq[f"{case}/{name}"] for name in names])
    result = numerics.gradients(layer, [larq[f"{case}/x"]], larq[f"{case}/upstream"])
    # Sums in another order: some units in the last place of float32.
    numerics.assert_close(result.value, larq[f"{case}/y"], 1e-6)
    numerics.assert_close(result.inputs[0], larq[f"{case}/dx"], 1e-6)
    for name, variable in zip(names, layer.weights, strict=True):
        expected = larq[f"{case}/d{name}"]
        assert expected.any()
        numerics.assert_close(result.variables[variable.path], expected, 1e-6, label=name)
