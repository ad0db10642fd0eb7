"""Bi-Real Net against the official network's numbers, and as a member of the zoo."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import activations
from bnnkeras.layers import QuantConv2D
from bnnkeras.models import ModelProfile
from bnnkeras.zoo import (
    BiRealNet18,
    BiRealNet34,
    BiRealNet50,
    BiRealNet152,
    birealnet,
)
from bnnkeras.zoo.birealnet import blocks

pytestmark = pytest.mark.any_backend

# Blocks in each stage, binary convolutions, and what is trained.
VARIANTS = {
    "birealnet18": (BiRealNet18, 16, 10_985_472, 11_689_512, 11_699_112, 1_676_279_808),
    "birealnet34": (BiRealNet34, 32, 21_086_208, 21_797_672, 21_814_696, 3_525_967_872),
    # Without the 1,024 released parameters that nothing reads.
    "birealnet50": (BiRealNet50, 47, 20_672_512, 25_729_064, 25_782_184, 3_596_615_680),
    "birealnet152": (BiRealNet152, 149, 55_209_984, 60_364_840, 60_516_264, 11_021_058_048),
}
REAL_MACS = {"birealnet18": 137_793_536, "birealnet34": 137_793_536}
REAL_MACS |= {"birealnet50": 569_638_912, "birealnet152": 569_638_912}
# Bits of the weights without moving statistics, of the PyTorch network (spec, section 1.1).
MEMORY_BITS = {"birealnet18": 33_514_752, "birealnet34": 43_853_056, "birealnet50": 182_482_176}
# The papers' memory in Mbit and FLOPs, where they speak of the released network.
PAPER = {"birealnet18": (33.6, 1.63e8), "birealnet34": (43.7, 1.93e8)}

MAPS = {"birealnet18": "birealnet", "birealnet34": "birealnet"}
MAPS |= {"birealnet50": "birealnet_bottleneck"}
TAPS = {"stem": "stem_bn", "maxpool": "stem_pool", "pool": "pool"}
LAST = {
    "birealnet18": [f"stage{stage}_block3_add" for stage in (1, 2, 3, 4)],
    "birealnet34": [f"stage{s}_block{b}_add" for s, b in ((1, 5), (2, 7), (3, 11), (4, 5))],
    "birealnet50": [f"block{index}_add3" for index in (2, 6, 12, 15)],
}
GOLDEN = pytest.mark.parametrize("variant", list(LAST))


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def taps(variant):
    names = {f"stage{stage}": name for stage, name in enumerate(LAST[variant], start=1)}
    if variant == "birealnet50":
        names |= {f"{key}_x1": name.replace("add3", "add2") for key, name in names.items()}
    return {**TAPS, **names}


def official_model(variant, goldens, fill, reference, **arguments):
    model = VARIANTS[variant][0](classifier_activation=None, sign_of_zero=0, **arguments)
    state = fill.fill_state(goldens.names("birealnet", variant))
    reference.load(model, state, MAPS[variant])
    return model


def only_the_smallest(variant, backend):
    if backend != "tensorflow" and variant != "birealnet18":
        pytest.skip("minutes to compile; 18 layers and all blocks run on this backend")


# --- The official numbers --------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts(variant):
    function, layers, binary_weights, trainable, total, binary_macs = VARIANTS[variant]
    model = function()
    assert model.input_shape == (None, 224, 224, 3) and model.output_shape == (None, 1000)
    assert model.count_params() == total
    profile = ModelProfile(model)
    assert profile.weight_count(folded=False) == total
    assert profile.weight_count(folded=False, trainable=True) == trainable
    assert profile.weight_count(1) == binary_weights
    macs = {entry.precision: entry.n for entry in profile.op_profiles}
    assert macs == {1: binary_macs, 32: REAL_MACS[variant]}
    binary = [
        layer
        for layer in model.layers
        if isinstance(layer, QuantConv2D) and layer.kernel_quantizer is not None
    ]
    assert len(binary) == layers
    for layer in binary:
        assert layer.input_quantizer.precision == layer.kernel_quantizer.precision == 1

    memory_bits = binary_weights + 32 * (trainable - binary_weights)
    # The moving statistics join as 32-bit numbers.
    assert profile.unfolded_memory == memory_bits + 32 * (total - trainable)
    if variant in MEMORY_BITS:
        assert memory_bits == MEMORY_BITS[variant]
    if variant in PAPER:
        megabits, operations = PAPER[variant]
        # (The 34 layers' 43.7 reuses the overhead of 18 layers: spec, section 1.1.)
        assert abs(memory_bits / 1e6 - megabits) < (0.1 if variant == "birealnet18" else 0.2)
        assert REAL_MACS[variant] + binary_macs / 64 == pytest.approx(operations, rel=0.01)


@pytest.mark.parametrize("size", [(2, 64, 96), (1, 32, 32)])
@GOLDEN
def test_official_inference(variant, size, float64, goldens, fill, numerics, reference, backend):
    only_the_smallest(variant, backend)
    golden = goldens("birealnet", variant)
    batch, height, width = size
    # Sizes left open: one model for every input.
    model = official_model(variant, goldens, fill, reference, input_shape=(None, None, 3))
    tapped = reference.layer_outputs(model, taps(variant))
    case = f"{batch}x{height}x{width}"
    x = reference.nhwc(fill.fill_input(f"{variant}:{case}", (batch, 3, height, width), -2, 2))
    outputs = {name: numpy(value) for name, value in tapped(x, training=False).items()}
    keys = [key for key in golden.files if key.startswith(f"eval_{case}/")]
    assert len(keys) == (11 if variant == "birealnet50" else 7)
    for key in keys:
        name = key.partition("/")[2]
        actual = outputs[name.removesuffix("_mean")]
        actual = actual.mean(axis=(1, 2)) if name.endswith("_mean") else reference.nchw(actual)
        numerics.assert_close(actual, golden[key], label=key)


@GOLDEN
def test_official_training_step(variant, float64, goldens, fill, numerics, reference, backend):
    """Logits, loss, every gradient and the running statistics of one training step."""
    only_the_smallest(variant, backend)
    golden = goldens("birealnet", variant)
    model = official_model(variant, goldens, fill, reference, input_shape=(64, 64, 3))
    before = {variable.path: numpy(variable).copy() for variable in model.non_trainable_variables}
    x = reference.nhwc(fill.fill_input(f"{variant}:train", (4, 3, 64, 64), -2, 2))
    labels = np.eye(1000)[[3, 141, 592, 653]]

    def loss(logits, smoothing=0.1):
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)(
            labels, logits
        )

    result = numerics.gradients(model, [x], loss=loss, training=True)
    numerics.assert_close(result.value, golden["train/logits"], label="logits")
    for smoothing, key in ((0.1, "loss"), (0.0, "plain_ce")):
        value = numpy(loss(ops.convert_to_tensor(result.value, dtype="float64"), smoothing))
        numerics.assert_close(value, golden[f"train/{key}"], label=key)
    numerics.assert_close(np.linalg.norm(result.inputs[0]), golden["train/grad_x_norm"])

    names = reference.Names(model, MAPS[variant])
    shapes = goldens.names("birealnet", variant)
    parameters = golden["train/param_names"].tolist()
    gradients = [result.variables.pop(names.variable(name).path) for name in parameters]
    assert not result.variables
    norms = [np.linalg.norm(gradient) for gradient in gradients]
    numerics.assert_close(norms, golden["train/grad_norm"], label="norm")
    probes = [
        np.sum(gradient * names.to_keras(name, fill.fill_input(f"probe:{name}", shapes[name])))
        for name, gradient in zip(parameters, gradients, strict=True)
    ]
    numerics.assert_close(probes, golden["train/grad_probe"], label="probe")
    # The largest parameter decides the bound above: each norm against itself as well.
    np.testing.assert_allclose(norms, golden["train/grad_norm"], rtol=1e-9)

    means, variances = [], []
    for name in golden["train/bn_names"].tolist():
        mean, variance = (names.variable(f"{name}.running_{kind}") for kind in ("mean", "var"))
        count = 4 * reference.sample_count(model, variance)
        means.append(np.linalg.norm(numpy(mean)))
        variances.append(
            np.linalg.norm(reference.unbiased(numpy(variance), before[variance.path], count))
        )
    assert len(means) * 2 == len(before)
    numerics.assert_close(means, golden["train/after_running_mean_norm"], label="mean")
    numerics.assert_close(variances, golden["train/after_running_var_norm"], label="variance")


# Case: map, official prefix, filters, stride, input (NCHW), place of a bottleneck.
BLOCKS = {
    "basic_s1": ("birealnet", "layer2.0.", 6, 1, (4, 6, 6, 8), None),
    "basic_s2": ("birealnet", "layer2.0.", 12, 2, (4, 6, 8, 6), None),
    "bottle_first": ("birealnet_bottleneck", "layers.0.", 32, 1, (3, 8, 6, 4), "network"),
    "bottle_plain": ("birealnet_bottleneck", "layers.1.", 32, 1, (3, 32, 6, 4), None),
    "bottle_down": ("birealnet_bottleneck", "layers.3.", 64, 2, (3, 32, 6, 8), "stage"),
}


def block_of(case):
    """The block as a model of one or two inputs, and its inputs' shapes (NCHW)."""
    name_map, prefix, filters, stride, shape, first = BLOCKS[case]
    style = blocks.Style(sign_of_zero=0)
    wide = keras.Input((shape[2], shape[3], shape[1]))
    if name_map == "birealnet":
        output = blocks.basic_block(wide, filters, stride, style, "stage2_block0")
        return keras.Model(wide, output), [shape]
    narrow = (shape[0], 8, *shape[2:])
    middle = keras.Input((narrow[2], narrow[3], 8))
    name = f"block{prefix.split('.')[1]}"
    outputs = blocks.bottleneck_block(middle, wide, filters, stride, style, name, first)
    # The first block of the network ignores the middle stream, and so would a model.
    inputs = [wide] if first == "network" else [wide, middle]
    return keras.Model(inputs, list(outputs)), [shape, narrow][: len(inputs)]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", BLOCKS)
def test_official_block(case, mode, float64, goldens, fill, numerics, reference):
    golden = goldens("birealnet", "blocks")
    name_map, prefix, *_ = BLOCKS[case]
    model, shapes = block_of(case)
    state = fill.fill_state(goldens.names("birealnet", "blocks")[case], salt=f"{case}:")
    reference.load(model, state, name_map, prefix)

    key = f"{case}/{mode}"
    names = ("", ":x1")
    x = [
        reference.nhwc(fill.fill_input(f"{case}{name}", shape, -1.5, 1.5))
        for name, shape in zip(names, shapes, strict=False)
    ]
    single = name_map == "birealnet"
    outs, grads = (["out"], ["grad_x"]) if single else (["out1", "out2"], ["grad_x2", "grad_x1"])
    ups = [f"upstream:{case}"] if single else [f"upstream:{case}:{number}" for number in (1, 2)]
    upstream = [
        reference.nhwc(fill.fill_input(up, golden[f"{key}/{out}"].shape))
        for up, out in zip(ups, outs, strict=True)
    ]

    # One tensor of all outputs, so that there is one upstream gradient.
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(y) for y in model.outputs])
    flat = keras.Model(model.inputs if len(x) > 1 else model.inputs[0], joined)
    joined_upstream = np.concatenate([u.reshape(len(u), -1) for u in upstream], axis=-1)
    if len(x) > 1:
        result = _pair_gradients(numerics, flat, x, joined_upstream, mode == "train")
    else:
        result = numerics.gradients(flat, x, joined_upstream, training=mode == "train")

    start = 0
    for out, u in zip(outs, upstream, strict=True):
        size = u[0].size
        value = result.value[:, start : start + size].reshape(u.shape)
        numerics.assert_close(reference.nchw(value), golden[f"{key}/{out}"], label=out)
        start += size
    for grad, value in zip(grads, result.inputs, strict=False):
        numerics.assert_close(reference.nchw(value), golden[f"{key}/{grad}"], label=grad)

    entries = reference.Names(flat, name_map, prefix)
    gradients = {
        name.removeprefix(f"{key}/grad/"): golden[name]
        for name in golden.files
        if name.startswith(f"{key}/grad/")
    }
    for name, expected in gradients.items():
        actual = result.variables.pop(entries.variable(name).path)
        numerics.assert_close(actual, entries.to_keras(name, expected), label=name)
    assert not result.variables
    for name in entries.batch_norms():
        for kind in ("mean", "var"):
            parameter = f"{name}.running_{kind}"
            variable = entries.variable(parameter)
            actual, expected = numpy(variable), state[parameter]
            if mode == "train":
                expected = golden[f"{key}/after/{parameter}"]
                if kind == "var":
                    count = len(x[0]) * reference.sample_count(flat, variable)
                    actual = reference.unbiased(actual, state[parameter], count)
            numerics.assert_close(actual, expected, label=parameter)


def _pair_gradients(numerics, model, arrays, upstream, training):
    """`numerics.gradients` of a model that takes its two inputs as a list."""

    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = model
            self.built = True

        def call(self, one, other, training=None):
            return self.inner([one, other], training=training)

    return numerics.gradients(Pair(), arrays, upstream, training=training)


# --- Real-valued training in advance, Caffe, scales --------------------------------------------


@pytest.mark.parametrize("case", ["leaky_clip", "clip"])
def test_official_activations(case, float64, goldens, numerics):
    golden = goldens("birealnet", "quantizers")
    x = _grid()
    pytorch, caffe = (blocks.PRETRAINING[name][case] for name in ("pytorch", "caffe"))
    result = numerics.gradients(pytorch, [x])
    numerics.assert_close(result.value, golden[f"{case}/forward"], label="forward")
    numerics.assert_close(result.inputs[0], golden[f"{case}/derivative"], label="derivative")
    if case == "leaky_clip":
        result = numerics.gradients(caffe, [x])
        numerics.assert_close(result.inputs[0], golden["caffe_leaky_clip/derivative"])
    else:
        assert caffe is activations.hardtanh


def _grid():
    return np.concatenate(
        [
            np.arange(-80, 81) / 40,
            [0, 1, -1, 1e-300, -1e-300, np.nextafter(1, 0), np.nextafter(1, 2)],
            [np.nextafter(-1, 0), np.nextafter(-1, -2), 1e-6, -1e-6, 1 + 1e-6, 1 - 1e-6],
            [-1 + 1e-6, -1 - 1e-6, 3, -3],
        ]
    )


@pytest.mark.parametrize("activation", ["relu", "leaky_clip", "clip", keras.activations.tanh])
def test_pretraining_networks_have_the_weights_of_the_binary_one(activation):
    real = BiRealNet18(**SMALL, activation=activation)
    binary = BiRealNet18(**SMALL)
    assert [(v.path, v.shape) for v in real.weights] == [(v.path, v.shape) for v in binary.weights]
    assert not any(getattr(layer, "input_quantizer", None) for layer in real.layers)
    binary.set_weights(real.get_weights())
    x = images()
    # What stands before each convolution is the activation, and then the same graph.
    block = real.get_layer("stage1_block0_conv")
    tapped = keras.Model(real.input, [real.get_layer("stem_pool").output, block.input])
    before, after = map(numpy, tapped(x))
    function = activation if callable(activation) else blocks.PRETRAINING["pytorch"][activation]
    np.testing.assert_allclose(after, numpy(function(before)), atol=1e-6)
    assert np.abs(numpy(real(x)) - numpy(binary(x))).max() > 0


def test_scale_gradient_multiplies_by_the_scale(numerics):
    kernel = np.random.default_rng(0).uniform(-1.2, 1.2, (3, 3, 2, 4)).astype("float32")
    found = []
    for scale_gradient in (False, True):
        inputs = keras.Input((4, 4, 2))
        style = blocks.Style(scale_gradient=scale_gradient)
        model = keras.Model(inputs, style.binary(inputs, 4, 3, 1, "conv"))
        model.layers[-1].kernel.assign(kernel)
        x = np.random.default_rng(1).normal(size=(2, 4, 4, 2)).astype("float32")
        (gradient,) = numerics.gradients(model, [x]).variables.values()
        found.append(gradient)
    scale = np.abs(kernel).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(found[1], found[0] * scale, rtol=1e-5, atol=1e-6)


def test_caffe_convention():
    model = BiRealNet18(convention="caffe")
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert all(layer.bias is not None for layer in convolutions) and len(convolutions) == 20
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 17 and not any("shortcut" in layer.name for layer in norms)
    # The paper's 33.6 Mbit: 33,611,008 bit (spec, section 1.1).
    profile = ModelProfile(model)
    trainable = profile.weight_count(folded=False, trainable=True)
    binary = profile.weight_count(1)
    assert binary + 32 * (trainable - binary) == 33_611_008
    quantizer = model.get_layer("stage1_block0_conv").kernel_quantizer
    assert quantizer.clip_value is None and quantizer.scale_gradient is False


def test_caffe_max_pool_starts_without_padding():
    model = BiRealNet18(input_shape=(64, 64, 3), convention="caffe")
    pool = model.get_layer("stem_pool")
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 64)).astype("float32")
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    rows = np.arange(16)[:, None] * 2 + np.arange(3)
    expected = padded[:, rows][:, :, :, rows].max(axis=(2, 4))
    np.testing.assert_array_equal(numpy(pool(x)), expected)
    with pytest.raises(ValueError, match="multiples of 8"):
        BiRealNet18(input_shape=(61, 61, 3), convention="caffe")


@pytest.mark.parametrize("convention", ["pytorch", "caffe"])
@pytest.mark.parametrize("sign_of_zero", [0, 1])
def test_absorbed_scales_leave_the_function(convention, sign_of_zero, float64):
    model = BiRealNet18(**SMALL, convention=convention, sign_of_zero=sign_of_zero)
    randomize(model)
    if sign_of_zero == 0:
        layer = model.get_layer("stage1_block1_conv")
        kernel = numpy(layer.kernel).copy()
        kernel[0, 0, 0] = 0
        layer.kernel.assign(kernel)
    absorbed = birealnet.absorb_scale(model)
    for layer in absorbed.layers:
        if getattr(layer, "kernel_quantizer", None) is not None:
            assert set(np.unique(numpy(layer.kernel))) <= {-1, 0, 1}
    x = images().astype("float64")
    np.testing.assert_allclose(numpy(absorbed(x)), numpy(model(x)), rtol=1e-9)


def test_absorbing_where_the_variance_would_be_negative(float64):
    inputs = keras.Input((4, 4, 2))
    x = blocks.Style().binary(inputs, 3, 3, 1, "conv")
    model = keras.Model(inputs, keras.layers.BatchNormalization(epsilon=0.5)(x))
    kernel, gamma, beta, mean, _ = model.get_weights()
    kernel = np.full_like(kernel, -9.0)
    model.set_weights([kernel, gamma + 0.3, beta, mean + 0.2, np.full_like(mean, 0.01)])
    absorbed = birealnet.absorb_scale(model)
    assert (absorbed.get_weights()[4] >= 0).all()
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2))
    np.testing.assert_allclose(numpy(absorbed(x)), numpy(model(x)), rtol=1e-9)


def test_scales_that_cannot_be_absorbed():
    model = BiRealNet18(**SMALL)
    layer = model.get_layer("stage1_block0_conv")
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    with pytest.raises(ValueError, match="positive scale.*'stage1_block0_conv' with 64 filters"):
        birealnet.absorb_scale(model)
    with pytest.raises(ValueError, match="must have quantized convolutions.*'birealnet18'"):
        birealnet.absorb_scale(BiRealNet18(**SMALL, activation="relu"))
    inputs = keras.Input((4, 4, 2))
    bare = keras.Model(inputs, blocks.Style().binary(inputs, 3, 3, 1, "conv"))
    with pytest.raises(ValueError, match="must feed a BatchNormalization.*'conv'"):
        birealnet.absorb_scale(bare)


def test_bn_retraining_moves_only_batch_norms_and_the_classifier():
    original = BiRealNet18(**SMALL, classifier_activation=None)
    randomize(original)
    model = birealnet.bn_retraining(original)
    before = {variable.path: numpy(variable).copy() for variable in model.weights}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(images(4), np.arange(4), verbose=0)
    for variable in model.weights:
        moved = not np.array_equal(numpy(variable), before[variable.path])
        assert moved == ("conv/" not in variable.path), variable.path
    kernel = numpy(model.get_layer("stage1_block0_conv").kernel)
    np.testing.assert_array_equal(
        kernel, np.sign(numpy(original.get_layer("stage1_block0_conv").kernel))
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"activation": "gelu"}, "`activation` must be None, one of .*Received: activation='gelu'"),
        ({"convention": "onnx"}, "`convention` must be one of .*Received: convention='onnx'"),
    ],
)
def test_bad_styles(arguments, message):
    with pytest.raises(ValueError, match=message):
        BiRealNet18(**arguments)


# --- Preprocessing ----------------------------------------------------------------------------


def test_preprocessing():
    x = np.array([[[0, 128, 255]]], "uint8")
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    for value in (x, ops.convert_to_tensor(x)):
        found = birealnet.preprocess_input(value)
        np.testing.assert_allclose(numpy(found).ravel(), expected, rtol=1e-5)
    caffe = birealnet.preprocess_input(x, convention="caffe")
    np.testing.assert_array_equal(caffe.ravel(), [255 - 104, 128 - 117, 0 - 123])
    with pytest.raises(ValueError, match="Received: convention='tf'"):
        birealnet.preprocess_input(x, convention="tf")


def test_decoding_takes_imagenet_classes(monkeypatch):
    from keras.src.applications import imagenet_utils

    names = {str(index): [f"n{index:08d}", f"class{index}"] for index in range(1000)}
    monkeypatch.setattr(imagenet_utils, "CLASS_INDEX", names)
    predictions = np.zeros((1, 1000))
    predictions[0, [7, 9]] = [0.7, 0.3]
    decoded = birealnet.decode_predictions(predictions, top=2)
    assert [(name, value) for _, name, value in decoded[0]] == [("class7", 0.7), ("class9", 0.3)]
    with pytest.raises(ValueError, match=r"Received: predictions.shape=\(1, 10\)"):
        birealnet.decode_predictions(np.zeros((1, 10)))


# --- Official files ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth.tar"])
def test_official_files_as_weights(suffix, tmp_path, goldens, fill):
    shapes = goldens.names("birealnet", "birealnet18")
    state = {f"module.{k}": v for k, v in fill.fill_state(shapes).items()}
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".npz":
        np.savez(path, **state)
    elif suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(state, path)
    else:
        import torch

        tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    model = BiRealNet18(input_shape=(32, 32, 3), weights=path)
    kernel = state["module.layer2.0.binary_conv.weights"].reshape(128, 64, 3, 3)
    found = numpy(model.get_layer("stage2_block0_conv").kernel)
    np.testing.assert_allclose(found, kernel.transpose(2, 3, 1, 0), rtol=1e-6)


# --- Other properties --------------------------------------------------------------------------


def test_initial_values():
    """Spec, section 2.8."""
    model = BiRealNet18(input_shape=(32, 32, 3))
    for layer in model.layers:
        if layer.name == "classifier" or layer.name.endswith("_conv"):
            kernel = numpy(layer.kernel)
            if getattr(layer, "kernel_quantizer", None):
                low, high = 0.0, 0.001
            else:
                high = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
                low = -high
            width = high - low
            assert low <= kernel.min() < low + 0.01 * width, layer.name
            assert high - 0.01 * width < kernel.max() <= high * (1 + 1e-6), layer.name
            assert abs(kernel.mean() - (low + high) / 2) < 0.02 * width, layer.name
        elif layer.name.endswith("_bn"):
            assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)
            assert [set(numpy(v).tolist()) for v in layer.weights] == [{1}, {0}, {0}, {1}]
    bias = numpy(model.get_layer("classifier").bias)
    assert 0.9 / np.sqrt(512) < np.abs(bias).max() <= 1 / np.sqrt(512)


# --- Arguments -------------------------------------------------------------------------------

SMALL = {"input_shape": (32, 32, 3), "classes": 10}


def images(batch=2, size=(32, 32), channels=3):
    return np.random.default_rng(0).uniform(-2, 2, (batch, *size, channels)).astype("float32")


def randomize(model):
    """Values that a forgotten or swapped variable could not have by default."""
    generator = np.random.default_rng(1)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.name or "gamma" in variable.name else -0.5
        variable.assign(generator.uniform(low, 1, variable.shape))


def test_top_and_pooling():
    features = BiRealNet18(input_shape=(64, 32, 3), include_top=False)
    assert features.output_shape == (None, 2, 1, 512)
    randomize(features)
    feature_map = numpy(features(images(size=(64, 32))))
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        model = BiRealNet18(input_shape=(64, 32, 3), include_top=False, pooling=pooling)
        assert model.output_shape == (None, 512)
        model.set_weights(features.get_weights())
        pooled = numpy(model(images(size=(64, 32))))
        np.testing.assert_allclose(pooled, reduce(feature_map, axis=(1, 2)), rtol=1e-5, atol=1e-5)


def test_classes_and_classifier_activation():
    model = BiRealNet18(**SMALL, name="named")
    logits = BiRealNet18(**SMALL, classifier_activation=None)
    assert model.name == "named" and logits.name == "birealnet18"
    assert model.output_shape == (None, 10)
    logits.set_weights(model.get_weights())
    probabilities, values = numpy(model(images())), numpy(logits(images()))
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)


def test_sign_of_zero_reaches_every_quantizer():
    for value in (0, 1):
        model = BiRealNet18(**SMALL, sign_of_zero=value)
        found = [
            quantizer.sign_of_zero
            for layer in model.layers
            if isinstance(layer, QuantConv2D) and layer.kernel_quantizer is not None
            for quantizer in (layer.input_quantizer, layer.kernel_quantizer)
        ]
        assert found == [value] * 32


def test_input_tensor():
    image = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    model = BiRealNet18(input_tensor=scaled, classes=10)
    plain = BiRealNet18(**SMALL)
    plain.set_weights(model.get_weights())
    assert model.input is image
    x = images() * 255
    np.testing.assert_allclose(numpy(model(x)), numpy(plain(x / np.float32(255))), rtol=1e-4)
    assert BiRealNet18(input_tensor=image, input_shape=(32, 32, 3), classes=2).inputs[0] is image


def test_any_number_of_channels():
    model = BiRealNet18(input_shape=(32, 32, 1), classes=10)
    assert model(images(channels=1)).shape == (2, 10)


@pytest.mark.parametrize("size", [(32, 32), (29, 61), (64, 96), (224, 160)])
def test_sizes_that_work(size):
    model = BiRealNet18(input_shape=(*size, 3), include_top=False)
    expected = (1, -(-size[0] // 32), -(-size[1] // 32), 512)
    assert model(images(1, size)).shape == expected


def test_open_size():
    model = BiRealNet18(input_shape=(None, None, 3), classes=10)
    fixed = BiRealNet18(**SMALL)
    fixed.set_weights(model.get_weights())
    np.testing.assert_allclose(numpy(model(images())), numpy(fixed(images())), rtol=1e-5)
    assert model(images(1, (64, 32))).shape == (1, 10)
    assert BiRealNet18(input_shape=(None, 32, 3), include_top=False).output_shape == (
        None,
        None,
        1,
        512,
    )


def test_save_and_load(tmp_path):
    model = BiRealNet18(**SMALL)
    randomize(model)
    expected = numpy(model(images()))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(images())), expected)
    assert loaded.name == "birealnet18"
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]

    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(numpy(copy(images())), expected)


def test_weights(tmp_path):
    model = BiRealNet18(**SMALL)
    randomize(model)
    expected = numpy(model(images()))
    model.save_weights(tmp_path / "trained.weights.h5")
    for path in (tmp_path / "trained.weights.h5", str(tmp_path / "trained.weights.h5")):
        restored = BiRealNet18(**SMALL, weights=path)
        np.testing.assert_array_equal(numpy(restored(images())), expected)
    with pytest.raises(ValueError):
        BiRealNet18(input_shape=(32, 32, 3), classes=11, weights=tmp_path / "trained.weights.h5")


@pytest.mark.parametrize("weights", ["imagenet", "missing.weights.h5", 3, "."])
def test_weights_that_do_not_exist(weights):
    with pytest.raises(ValueError, match="`weights` must be .* Received: weights=") as info:
        BiRealNet18(**SMALL, weights=weights)
    assert repr(weights) in str(info.value)


def test_fit():
    """The compiled step of each backend trains every variable."""
    model = BiRealNet18(**SMALL)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    before = {variable.path: numpy(variable).copy() for variable in model.weights}
    loss = model.fit(images(4), np.arange(4), verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    for variable in model.weights:
        value = numpy(variable)
        assert np.isfinite(value).all(), variable.path
        assert not np.array_equal(value, before[variable.path]), variable.path


def test_calls_do_not_warn():
    model = BiRealNet18(**SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(images())


# --- Errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 32), (32, 100), (28, 28), (1, 1)])
def test_sizes_that_do_not_work(size):
    with pytest.raises(ValueError, match="must be multiples of 8, .* Received: ") as info:
        BiRealNet18(input_shape=(*size, 3))
    assert str((*size, 3)) in str(info.value)
    with pytest.raises(ValueError, match="must be multiples of 8"):
        BiRealNet18(input_tensor=keras.Input((*size, 3)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_shape": (32, 32)}, r"`input_shape` must be .*channels.*Received: .*\(32, 32\)"),
        ({"input_shape": (32, 32, None)}, r"`input_shape` must be .*Received: .*None"),
        ({"input_shape": (1, 32, 32, 3)}, "`input_shape` must be .*Received: "),
        ({"input_shape": 32}, "`input_shape` must be .*Received: input_shape=32"),
        ({"input_shape": (32.0, 32, 3)}, "`input_shape` must be .*Received: "),
        ({"input_shape": (-4, 32, 3)}, "`input_shape` must be .*Received: "),
        ({"input_shape": (32, 0, 3)}, "`input_shape` must be .*Received: "),
        ({"input_shape": (32, 32, 0)}, "`input_shape` must be .*Received: "),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "`input_tensor` must be .*ndarray"),
        ({"classes": 0}, "`classes` must be .*Received: classes=0"),
        ({"classes": 2.5}, "`classes` must be .*Received: classes=2.5"),
        ({"pooling": "sum", "include_top": False}, "`pooling` must be .*Received: pooling='sum'"),
        ({"sign_of_zero": -1}, "`sign_of_zero` must be 0 or 1. Received: sign_of_zero=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BiRealNet18(**arguments)


def test_input_tensor_and_shape_must_agree():
    with pytest.raises(ValueError, match=r"must agree. Received: input_shape=\(64, 64, 3\)"):
        BiRealNet18(input_tensor=keras.Input((32, 32, 3)), input_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="`input_tensor` must be"):
        BiRealNet18(input_tensor=keras.Input((32,)))
