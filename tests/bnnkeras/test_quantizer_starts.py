"""Values that start from the first training batch: LSR's scale, BiViT's scales, LSQ's step."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import quantizers
from bnnkeras.layers import QuantConv1D, QuantConv2D, QuantDense


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def alpha(layer) -> float:
    value = layer.kernel_quantizer.scale.value
    return float(numpy(value.start)) + float(numpy(value.offset))


def spread(x, kernel, inputs="ste_sign") -> float:
    """std(x V) / std(sign(x) sign(V)) in NumPy, of a dense layer."""
    centred = np.asarray(kernel, "float64") - np.mean(kernel, dtype="float64")
    signs = np.where(centred >= 0, 1.0, -1.0)
    quantized = np.where(x >= 0, 1.0, -1.0) if inputs else x
    return np.std(x @ centred) / np.std(quantized @ signs)


def lsr_dense(units=16, inputs="ste_sign", name=None):
    return QuantDense(
        units, use_bias=False, input_quantizer=inputs, kernel_quantizer="lsr_kernel", name=name
    )


# --- The released code -----------------------------------------------------------------------


@pytest.mark.parametrize("case", ["generic", "zeros"])
def test_official_start(case, float64, goldens, fill, numerics):
    golden = goldens("bipointnet", "layers")
    layer = QuantDense(
        16,
        use_bias=False,
        input_quantizer=quantizers.SteSign(sign_of_zero=0),
        kernel_quantizer=quantizers.LSRKernel(sign_of_zero=0),
    )
    x = fill.fill_input("linear", (10, 24), -1.5, 1.5)
    x = x if case == "generic" else np.zeros_like(x)
    layer.build(x.shape)
    layer.kernel.assign(fill.fill_param("lin.weight", (16, 24)).T)
    output = numpy(layer(x, training=True))
    # The released code stores the scale in float32.
    np.testing.assert_allclose(alpha(layer), golden[f"lsr_init/{case}/scale"], rtol=1e-7)
    # The sums of scaled signs differ from scaled sums by rounding.
    numerics.assert_close(output, golden[f"lsr_init/{case}/out"], 1e-7)


@pytest.mark.parametrize(
    "case, filters, size, groups, length",
    [("depthwise", 12, 8, 6, 8), ("dense", 10, 3, 1, 9)],
)
def test_official_start_of_convolutions(
    case, filters, size, groups, length, float64, goldens, fill, backend
):
    golden, prefix = goldens("bipointnet", "layers"), f"BiConv1dLSR/{case}"
    layer = QuantConv1D(
        filters,
        size,
        groups=groups,
        use_bias=False,
        input_quantizer=quantizers.SteSign(sign_of_zero=0),
        kernel_quantizer=quantizers.LSRKernel(sign_of_zero=0),
    )
    # (batch, channels, length) -> (batch, length, channels)
    x = fill.fill_input(f"biconv1d:{case}", (4, 6, length), -1.5, 1.5).transpose(0, 2, 1)
    layer.build(x.shape)
    kernel = fill.fill_param("conv.weight", (filters, 6 // groups, size))
    layer.kernel.assign(kernel.transpose(2, 1, 0))
    output = numpy(layer(x, training=True)).transpose(0, 2, 1)
    np.testing.assert_allclose(alpha(layer), golden[f"{prefix}/init_scale"], rtol=1e-7)
    expected = golden[f"{prefix}/init_out"]
    np.testing.assert_allclose(output, expected, rtol=1e-7, atol=1e-9)


# --- Inside fit ------------------------------------------------------------------------------


def two_layers():
    inputs = keras.Input((25,))
    x = lsr_dense(name="first")(inputs)
    x = keras.layers.Activation("tanh")(x)
    return keras.Model(inputs, lsr_dense(4, name="second")(x))


def data(rows=64):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(rows, 25)), generator.normal(size=(rows, 4))
    return x.astype("float32"), y.astype("float32")


def compile_options(mode, backend):
    # PyTorch's compiler needs a C++ toolchain and a minute; its default is not to compile.
    jit = mode == "compiled" and backend != "torch"
    return {"run_eagerly": mode == "eager", "jit_compile": jit}


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_fit_starts_every_layer_from_the_first_batch(mode, backend):
    model, (x, y) = two_layers(), data()
    first, second = model.get_layer("first"), model.get_layer("second")
    kernels = [numpy(layer.kernel) for layer in (first, second)]
    # With a learning rate of 0 what the first step set stays visible.
    model.compile(keras.optimizers.SGD(0.0), "mse", **compile_options(mode, backend))
    model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    expected = spread(x[:32], kernels[0])
    np.testing.assert_allclose(alpha(first), expected, rtol=1e-5)
    # The second sees what the started first layer gives it.
    signs = np.where(kernels[0] >= kernels[0].mean(), 1.0, -1.0)
    hidden = np.tanh(expected * np.where(x[:32] >= 0, 1.0, -1.0) @ signs)
    np.testing.assert_allclose(alpha(second), spread(hidden, kernels[1]), rtol=1e-4)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_the_started_value_trains_as_one(mode, backend):
    """start + offset moves by the optimizer's step for the scale itself."""
    layer, (x, y) = lsr_dense(4), data()
    model = keras.Sequential([keras.Input((25,)), layer])
    model.compile(keras.optimizers.SGD(0.01), "mse", **compile_options(mode, backend))
    kernel = numpy(layer.kernel)
    start = spread(x, kernel)
    model.train_on_batch(x, y)
    signs = np.where(kernel >= kernel.mean(), 1.0, -1.0)
    products = np.where(x >= 0, 1.0, -1.0) @ signs
    gradient = np.mean(2 * (start * products - y) * products)
    np.testing.assert_allclose(alpha(layer), start - 0.01 * gradient, rtol=1e-4)
    np.testing.assert_allclose(float(numpy(layer.kernel_quantizer.scale.value.start)), start, 1e-5)


def test_inference_does_not_start(backend):
    layer, (x, _) = lsr_dense(4), data()
    model = keras.Sequential([keras.Input((25,)), layer])
    before = model.predict(x, verbose=0)
    value = layer.kernel_quantizer.scale.value
    assert not numpy(value.started) and float(numpy(value.start)) == 0
    kernel = numpy(layer.kernel)
    scale = np.std(kernel) / np.std(np.where(kernel >= kernel.mean(), 1.0, -1.0))
    np.testing.assert_allclose(np.abs(before).max() / scale % 1, 0, atol=1e-4)


def test_real_inputs_and_constant_products():
    x, _ = data()
    layer = lsr_dense(4, inputs=None)
    layer(x, training=True)
    np.testing.assert_allclose(alpha(layer), spread(x, numpy(layer.kernel), None), rtol=1e-5)
    # sign(0) = 1 makes all products of the binary layer sums of its kernel: no spread to match.
    layer = lsr_dense(1)
    layer(np.zeros((8, 25), "float32"), training=True)
    kernel = numpy(layer.kernel)
    expected = np.std(kernel) / np.std(np.where(kernel >= kernel.mean(), 1.0, -1.0))
    np.testing.assert_allclose(alpha(layer), expected, rtol=1e-5)
    layer = lsr_dense(1)
    layer.build((None, 25))
    layer.kernel.assign(np.full((25, 1), 0.5))
    assert np.isfinite(numpy(layer(x, training=True))).all() and alpha(layer) == 1


def test_save_and_load_keep_the_scale(tmp_path):
    model, (x, y) = two_layers(), data()
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    expected, scale = model.predict(x, verbose=0), alpha(model.layers[1])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    loaded.compile(keras.optimizers.SGD(0.0), "mse")
    loaded.fit(10 * x, y, verbose=0)  # Another spread, that a second start would show.
    assert alpha(loaded.layers[1]) == scale


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_checkpoint_that_holds_scales_is_not_started(mode, backend):
    model, (x, y) = two_layers(), data()
    model.get_layer("first").kernel_quantizer.scale.assign(0.375)
    model.get_layer("second").kernel_quantizer.scale.assign(0.0)  # The release: not set yet.
    model.compile(keras.optimizers.SGD(0.0), "mse", **compile_options(mode, backend))
    model.fit(x, y, batch_size=64, verbose=0)
    assert alpha(model.get_layer("first")) == 0.375
    assert alpha(model.get_layer("second")) not in (0.0, 1.0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_start_in_mixed_precision(policy):
    x = data()[0] * 300  # Its squares have no float16.
    layer = QuantDense(
        4,
        use_bias=False,
        input_quantizer="ste_sign",
        kernel_quantizer="lsr_kernel",
        dtype=policy,
    )
    output = layer(x, training=True)
    assert np.isfinite(numpy(ops.cast(output, "float32"))).all()
    np.testing.assert_allclose(alpha(layer), spread(x, numpy(layer.kernel)), rtol=1e-2)


def test_convolution_with_padding_starts():
    layer = QuantConv2D(
        4,
        3,
        padding="symmetric",
        strides=2,
        use_bias=False,
        input_quantizer="ste_sign",
        kernel_quantizer="lsr_kernel",
    )
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    outputs = numpy(layer(x, training=True))
    plain = keras.layers.Conv2D(4, 3, strides=2, use_bias=False)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    plain.build(padded.shape)
    plain.kernel.assign(layer.kernel - ops.mean(layer.kernel))
    # What a start gives back: the spread of the real products.
    np.testing.assert_allclose(np.std(outputs), np.std(numpy(plain(padded))), rtol=1e-5)


def test_lsq_step_starts_from_the_first_batch():
    x, y = data()
    quantizer = quantizers.LSQ(bits=3, signed=True)
    model = keras.Sequential([keras.Input((25,)), quantizer, keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    expected = 2 * np.mean(np.abs(x[:32])) / 3**0.5
    np.testing.assert_allclose(numpy(quantizer.step.start), expected, rtol=1e-5)


# --- Replicas --------------------------------------------------------------------------------

TWO_REPLICAS = {
    "tensorflow": """
import tensorflow as tf
devices = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(devices[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model = build()
report(model)
""",
    "jax": """
import jax
assert len(jax.devices()) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel())
report(build())
""",
    "torch": """
import torch
def process(rank, folder):
    from bnnkeras.quantizers.starts import deviation, moments, sum_over_replicas
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2
    )
    half = torch.tensor(x[rank::2])
    total = deviation(sum_over_replicas(moments(half)))
    if rank == 0:
        print(json.dumps({"alpha": float(total), "expected": float(np.std(x))}))
    layer = build().layers[-1]
    layer.kernel.assign(kernel)
    layer(half, training=True)
    value = layer.kernel_quantizer.scale.value
    with open(f"{folder}/{rank}", "w") as file:
        file.write(str(float(value.start)))
    torch.distributed.destroy_process_group()
import multiprocessing, tempfile
folder = tempfile.mkdtemp()
children = [multiprocessing.get_context("fork").Process(target=process, args=(rank, folder))
            for rank in range(2)]
for child in children: child.start()
for child in children: child.join()
found = [float(open(f"{folder}/{rank}").read()) for rank in range(2)]
assert found[0] == found[1], found
print(json.dumps({"alpha": found[0], "expected": spread(x, kernel)}))
""",
}
PREAMBLE = """
import json
import keras
import numpy as np
from bnnkeras.layers import QuantDense
# Both halves of the batch differ in mean and spread.
x = np.random.default_rng(0).normal(size=(64, 25)).astype("float32")
x = x * np.linspace(0.5, 3, 64)[:, None].astype("float32") + (np.arange(64)[:, None] % 3 == 0)
x = x.astype("float32")
y = np.zeros((64, 4), "float32")
kernel = np.random.default_rng(1).normal(size=(25, 4)).astype("float32")
def spread(x, kernel):
    centred = kernel - kernel.mean()
    signs = np.where(centred >= 0, 1.0, -1.0)
    return float(np.std(x @ centred) / np.std(np.where(x >= 0, 1.0, -1.0) @ signs))
def build():
    layer = QuantDense(4, use_bias=False, input_quantizer="ste_sign", kernel_quantizer="lsr_kernel")
    return keras.Sequential([keras.Input((25,)), layer])
def report(model):
    layer = model.layers[-1]
    layer.kernel.assign(kernel)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, y, batch_size=64, epochs=2, shuffle=False, verbose=0)
    start = float(keras.ops.convert_to_numpy(layer.kernel_quantizer.scale.value.start))
    print(json.dumps({"alpha": start, "expected": spread(x, kernel)}))
"""


@pytest.mark.slow
def test_two_replicas_start_from_the_global_batch(backend):
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "CUDA_VISIBLE_DEVICES": "",
    }
    run = subprocess.run(
        [sys.executable, "-c", PREAMBLE + TWO_REPLICAS[backend]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    results = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert results
    for result in results:
        np.testing.assert_allclose(result["alpha"], result["expected"], rtol=1e-4)
