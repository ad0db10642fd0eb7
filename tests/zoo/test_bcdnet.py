"""BCDNet against the official network's numbers, and what is its own in the zoo.

The numbers of BCDNet-B are those of an independent implementation of the same definition: no code
of it was ever released.
"""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import converters
from bnnkeras.layers import QuantConv2D
from bnnkeras.models import ModelProfile
from bnnkeras.quantizers import MagnitudeAwareSign
from bnnkeras.training import SoftCrossEntropy
from bnnkeras.zoo import BCDNetA, BCDNetB, bcdnet
from bnnkeras.zoo.bcdnet import blocks

pytestmark = pytest.mark.any_backend

TINY = {"input_shape": (None, None, 3), "classes": 10, "width": 0.25, "mlp_blocks": 1}
STEP1 = {"binary_weights": False}
# Golden name: function, arguments, names of the state dict.
MODELS = {
    "tiny_a": (BCDNetA, TINY, "tiny_a"),
    "tiny_step1": (BCDNetA, {**TINY, **STEP1}, "tiny_a"),
    "tiny_b": (BCDNetB, TINY, "tiny_b"),
    "bcdnet_a": (BCDNetA, {"input_shape": (None, None, 3)}, "bcdnet_a"),
    "bcdnet_a_step1": (BCDNetA, {"input_shape": (None, None, 3), **STEP1}, "bcdnet_a"),
    "bcdnet_b": (BCDNetB, {"input_shape": (None, None, 3)}, "bcdnet_b"),
}
SIZES = {
    "tiny_a": [(2, 160, 128), (1, 64, 64)],
    "tiny_step1": [(2, 160, 128), (1, 64, 64)],
    "tiny_b": [(2, 160, 128), (1, 64, 64)],
    "bcdnet_a": [(2, 64, 64), (1, 160, 128), (1, 224, 224)],
    "bcdnet_a_step1": [(1, 160, 128)],
    "bcdnet_b": [(1, 160, 128)],
}


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def filled(fill, shapes, salt):
    """The official parameters; matrices of contexts small, or all thresholds would saturate."""
    state = fill.fill_state(shapes, salt=salt)
    for name in state:
        if name.endswith((".fc2.weight", ".fc3.weight")):
            state[name] = 0.1 * state[name]
    return state


def official_model(variant, goldens, fill, reference):
    function, arguments, names = MODELS[variant]
    model = function(classifier_activation=None, sign_of_zero=0, **arguments)
    state = filled(fill, goldens.names("bcdnet", names), f"{variant}:")
    report = reference.load(model, state, "bcdnet")
    assert {name for name in state if "num_batches" not in name} == set(report.loaded)
    return model


def stages(model, variant):
    """Layers at whose outputs the goldens look, by their official names."""
    count = 1 if variant.startswith("tiny") else 3
    return {
        "feature.0": "stem_bn",
        **{f"feature.{i}": f"block{i}_rprelu2" for i in range(1, 11)},
        **{f"mlp_layer.{i}": f"mlp{i}_3_rprelu" for i in range(count)},
    }


def only_tiny_elsewhere(variant, backend):
    if backend != "tensorflow" and variant not in ("tiny_a", "tiny_b"):
        pytest.skip("minutes to compile; tiny_a, tiny_b and all blocks run on this backend")


# --- The official numbers --------------------------------------------------------------------


@pytest.mark.parametrize("variant, size", [(v, s) for v, sizes in SIZES.items() for s in sizes])
def test_official_inference(variant, size, float64, goldens, fill, numerics, reference, backend):
    only_tiny_elsewhere(variant, backend)
    golden = goldens("bcdnet", "models_tiny" if variant.startswith("tiny") else "models_full")
    batch, height, width = size
    model = official_model(variant, goldens, fill, reference)
    tapped = reference.layer_outputs(model, stages(model, variant))
    tag = f"{variant}/{height}x{width}_b{batch}"
    x = fill.fill_input(tag.replace("/", ":"), (batch, 3, height, width), -2, 2)
    outputs = {name: numpy(y) for name, y in tapped(reference.nhwc(x), training=False).items()}
    numerics.assert_close(outputs.pop("logits"), golden[f"{tag}/y"], label="y")
    assert len([key for key in golden.files if key.startswith(tag)]) == 1 + 2 * len(outputs)
    for name, output in outputs.items():
        y = reference.nchw(output).ravel()
        stats = [y.mean(), y.std(), np.linalg.norm(y), y.min(), y.max()]
        numerics.assert_close(stats, golden[f"{tag}/stage.{name}/stats"], label=name)
        sample = y[np.arange(64) * y.size // 64]
        numerics.assert_close(sample, golden[f"{tag}/stage.{name}/sample"], label=name)


@pytest.mark.parametrize("variant", ["tiny_a", "tiny_step1", "tiny_b", "bcdnet_a"])
def test_official_training_step(variant, float64, goldens, fill, numerics, reference, backend):
    """Both heads, the losses, every gradient and the running statistics of one training step."""
    only_tiny_elsewhere(variant, backend)
    golden = goldens("bcdnet", "models_tiny" if variant.startswith("tiny") else "models_full")
    model = official_model(variant, goldens, fill, reference)
    classes = model.output_shape[-1]
    heads = [model.get_layer(name).output for name in ("classifier", "classifier_distilled")]
    both = keras.Model(model.input, keras.layers.Concatenate()(heads))
    before = {variable.path: numpy(variable).copy() for variable in model.non_trainable_variables}
    x = reference.nhwc(fill.fill_input(f"{variant}:train", (2, 3, 160, 128), -2, 2))
    labels = np.eye(classes)[[(37 * i + 5) % classes for i in range(2)]]
    teacher = fill.fill_input(f"{variant}:teacher", (2, classes), -3, 3)
    losses = []

    def loss(outputs):
        hard = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(
            labels, outputs[:, :classes]
        )
        soft = SoftCrossEntropy()(teacher, outputs[:, classes:])
        losses.extend([hard, soft, (hard + soft) / 2])
        return losses[-1]

    result = numerics.gradients(both, [x], loss=loss, training=True)
    logits, distilled = np.split(result.value, 2, axis=-1)
    numerics.assert_close(logits, golden[f"{variant}/train/logits"], label="logits")
    numerics.assert_close(distilled, golden[f"{variant}/train/logits_dist"], label="distilled")
    if backend != "jax":  # There they are tracers of a compiled function.
        numerics.assert_close(
            [float(numpy(v)) for v in losses], golden[f"{variant}/train/losses_ce_kd_total"]
        )
    dx = reference.nchw(result.inputs[0])
    sample = dx.ravel()[np.arange(64) * dx.size // 64]
    expected = golden[f"{variant}/train/dx_l2_sample"]
    numerics.assert_close(np.linalg.norm(dx), expected[0], label="dx")
    numerics.assert_close(sample, expected[1:], label="dx")

    gradients = official_gradients(result, model, reference, "")
    names = golden[f"{variant}/train/grad_names"].tolist()
    assert set(names) == set(gradients)
    norms = [np.linalg.norm(gradients[name]) for name in names]
    # Each norm against itself: the largest would decide a common bound.
    np.testing.assert_allclose(norms, golden[f"{variant}/train/grad_l2"], rtol=1e-9)
    samples = [gradients[name].ravel()[np.arange(4) * gradients[name].size // 4] for name in names]
    numerics.assert_close(samples, golden[f"{variant}/train/grad_sample4"], label="samples")

    buffers = official_statistics(model, before, reference, "", len(x), x.shape[1:3])
    names = golden[f"{variant}/train/buffer_names"].tolist()
    assert set(names) == set(buffers)
    norms = [np.linalg.norm(buffers[name]) for name in names]
    np.testing.assert_allclose(norms, golden[f"{variant}/train/buffer_l2"], rtol=1e-9)


def official_gradients(result, model, reference, prefix):
    """Gradients by their official names, in their official layouts."""
    names = reference.Names(model, "bcdnet", prefix)
    return {
        name: names.to_official(name, result.variables[names.variable(name).path])
        for name in names
        if names.variable(name).path in result.variables
    }


def official_statistics(model, before, reference, prefix, batch, image):
    """The running statistics by their official names, the variances PyTorch's."""
    names = reference.Names(model, "bcdnet", prefix)
    sized = keras.Model(model.inputs, [layer.output for layer in model.layers])
    shapes = sized.compute_output_shape((batch, *image, model.input_shape[-1]))
    counts = {
        layer.name: int(np.prod(shape[:-1]))
        for layer, shape in zip(model.layers, shapes, strict=True)
    }
    found = {}
    for name in names:
        if not name.endswith((".running_mean", ".running_var")):
            continue
        variable = names.variable(name)
        value = numpy(variable)
        if name.endswith(".running_var"):
            (layer,) = (v for v in model.layers if any(w is variable for w in v.weights))
            value = reference.unbiased(value, before[variable.path], counts[layer.name])
        found[name] = names.to_official(name, value)
    return found


def _stem(style):
    x = keras.Input((10, 12, 3))
    return keras.Model(x, blocks.stem(x, 8, style)), "feature.0."


def _convolution(filters, strides):
    def build(style):
        x = keras.Input((8, 6, 8))
        y = blocks.convolution_block(x, filters, strides, style, "block1")
        return keras.Model(x, y), "feature.1."

    return build


def _layer(shifts):
    def build(style):
        x = keras.Input((5, 7, 8))
        y = blocks.mlp_layer(x, style, "mlp0_0", shifts)
        return keras.Model(x, y), "mlp_layer.0.mlp_layer.0."

    return build


def _mlp_block(style):
    x = keras.Input((5, 7, 8))
    return keras.Model(x, blocks.mlp_block(x, style, "mlp0")), "mlp_layer.0."


BINARY, REAL, CONTEXT = {}, {"binary_weights": False}, {"context_units": ("3x3", "1x1")}
BLOCKS = {
    "firstconv": (_stem, BINARY),
    "basic_same": (_convolution(8, 1), BINARY),
    "basic_expand_s1": (_convolution(16, 1), BINARY),
    "basic_down_s2": (_convolution(16, 2), BINARY),
    "shiftblock": (_layer(True), BINARY),
    "pointblock": (_layer(False), BINARY),
    "mlp_block": (_mlp_block, BINARY),
    "step1_basic_same": (_convolution(8, 1), REAL),
    "step1_basic_down_s2": (_convolution(16, 2), REAL),
    "step1_shiftblock": (_layer(True), REAL),
    "ctx_basic_same": (_convolution(8, 1), CONTEXT),
    "ctx_basic_expand_s1": (_convolution(16, 1), CONTEXT),
    "ctx_basic_down_s2": (_convolution(16, 2), CONTEXT),
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", BLOCKS)
def test_official_block(case, mode, float64, goldens, fill, numerics, reference):
    golden = goldens("bcdnet", "blocks_context" if case.startswith("ctx") else "blocks")
    build, style = BLOCKS[case]
    model, prefix = build(blocks.Style(sign_of_zero=0, **style))
    names = reference.Names(model, "bcdnet", prefix)
    shapes = {name: names.official_shape(name) for name in names}
    state = filled(fill, shapes, f"{case}:")
    reference.load(model, state, "bcdnet", prefix)
    before = {variable.path: numpy(variable).copy() for variable in model.non_trainable_variables}

    key = f"{case}/{mode}"
    shape = (2, *reference.nchw(np.empty((1, *model.input_shape[1:]))).shape[1:])
    x = reference.nhwc(fill.fill_input(case, shape, -2, 2))
    upstream = reference.nhwc(fill.fill_input(f"upstream:{case}", golden[f"{key}/y"].shape))
    result = numerics.gradients(model, [x], upstream, training=mode == "train")
    numerics.assert_close(reference.nchw(result.value), golden[f"{key}/y"], label="y")
    numerics.assert_close(reference.nchw(result.inputs[0]), golden[f"{key}/dx"], label="dx")
    found = {
        f"d.{name}": value
        for name, value in official_gradients(result, model, reference, prefix).items()
    }
    if mode == "train":
        statistics = official_statistics(model, before, reference, prefix, 2, x.shape[1:3])
        found |= {f"buf.{name}": value for name, value in statistics.items()}
    keys = {name.removeprefix(f"{key}/") for name in golden.files if name.startswith(f"{key}/")}
    assert keys == {"y", "dx", *found}
    for name, value in found.items():
        numerics.assert_close(value, golden[f"{key}/{name}"], label=name)


CONVOLUTIONS = {"hbconv3_s1": (12, 3, 1), "hbconv3_s2": (8, 3, 2), "hbconv1": (16, 1, 1)}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_official_convolution(case, mode, float64, goldens, fill, numerics, reference):
    golden = goldens("bcdnet", "blocks")
    filters, size, strides = CONVOLUTIONS[case]
    style = blocks.Style(sign_of_zero=0)
    inputs = keras.Input((8, 6, 8))
    # The same layer without its input quantizer, as the released one is.
    layer = keras.Model(
        inputs, style.convolution(inputs, filters, size, strides, "conv")
    ).get_layer("conv")
    layer.input_quantizer = None
    kernel = fill.fill_param("weight", (filters, 8, size, size), salt=f"{case}:")
    layer.kernel.assign(kernel.transpose(2, 3, 1, 0))
    x = reference.nhwc(fill.fill_input(case, (2, 8, 8, 6), -2, 2))
    key = f"{case}/{mode}"
    upstream = reference.nhwc(fill.fill_input(f"upstream:{case}", golden[f"{key}/y"].shape))
    result = numerics.gradients(layer, [x], upstream)
    numerics.assert_close(reference.nchw(result.value), golden[f"{key}/y"], label="y")
    numerics.assert_close(reference.nchw(result.inputs[0]), golden[f"{key}/dx"], label="dx")
    (gradient,) = result.variables.values()
    numerics.assert_close(gradient.transpose(3, 2, 0, 1), golden[f"{key}/d.weight"], label="d")


@pytest.mark.parametrize("case", ["label_smooth", "distribution"])
def test_official_losses(case, float64, goldens, fill, numerics):
    golden = goldens("bcdnet", "misc")
    if case == "label_smooth":
        logits = fill.fill_input("loss:logits", (3, 10), -3, 3)
        labels = np.eye(10)[[(37 * i + 5) % 10 for i in range(3)]]
        criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)

        def loss(z):
            return criterion(labels, z)
    else:
        logits = fill.fill_input("loss:logits_dist", (3, 10), -3, 3)
        teacher = fill.fill_input("loss:teacher", (3, 10), -3, 3)

        def loss(z):
            return SoftCrossEntropy()(teacher, z)

    result = numerics.gradients(lambda z: z, [logits], loss=loss)
    numerics.assert_close(result.inputs[0], golden[f"{case}/dz"], label="dz")
    value = numpy(loss(ops.convert_to_tensor(logits, dtype="float64")))
    numerics.assert_close(value, golden[f"{case}/loss"], label="loss")


# --- Counts (spec, section 1.2) ---------------------------------------------------------------

STEM_MACS, HEAD_MACS, CONTEXT_MACS = 10_838_016, 1_024_000, 1_913_600


@pytest.mark.parametrize(
    "function, trainable, context_macs, paper",
    [
        (BCDNetA, 46_146_384, 0, (0.12e8, 0.87e8)),
        (BCDNetB, 48_059_984, CONTEXT_MACS, (0.14e8, 0.89e8)),
    ],
)
def test_counts(function, trainable, context_macs, paper):
    model = function()
    assert model.input_shape == (None, 224, 224, 3) and model.output_shape == (None, 1000)
    profile = ModelProfile(model)
    assert profile.weight_count(1) == 43_981_824
    assert profile.weight_count(folded=False, trainable=True) == trainable
    statistics = 38_272
    assert model.count_params() == trainable + statistics
    binary = [layer for layer in model.layers if getattr(layer, "kernel_quantizer", None)]
    # The two convolutions of a widening block are one: 55 of them otherwise.
    assert len(binary) == 50

    merged = ModelProfile(bcdnet.merge_heads(model))
    macs = {entry.precision: entry.n for entry in merged.op_profiles}
    assert macs == {1: 4_816_896_000, 32: STEM_MACS + HEAD_MACS + context_macs}
    flops, operations = paper
    assert macs[32] == pytest.approx(flops, abs=0.005e8)
    assert merged.equivalent_operations == pytest.approx(operations, abs=0.005e8)
    assert merged.equivalent_operations == 4_816_896_000 / 64 + macs[32]
    assert profile.op_count("mac", 32) == macs[32] + HEAD_MACS


def test_reactnet_has_the_same_cost():
    """The poster's 14/0: convolution blocks in place of the MLP blocks cost as much."""
    profile = ModelProfile(BCDNetA(depths=(1, 1, 5, 1), mlp_blocks=0))
    assert profile.op_count("mac", 1) == 4_816_896_000
    assert profile.weight_count(1) == 28_253_184


# --- What is this family's own ------------------------------------------------------------------

SMALL = {"input_shape": (32, 32, 3), "classes": 10, "width": 0.125, "depths": (0, 0, 0, 0)}
SMALL |= {"mlp_blocks": 1}


def images(batch=2, size=(32, 32)):
    return np.random.default_rng(0).uniform(-2, 2, (batch, *size, 3)).astype("float32")


def randomize(model):
    """Values that a forgotten or swapped variable could not have by default."""
    generator = np.random.default_rng(1)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.name or "gamma" in variable.name else -0.5
        variable.assign(generator.uniform(low, 1, variable.shape))


def test_b_starts_as_a(float64):
    a, b = (function(**SMALL) for function in (BCDNetA, BCDNetB))
    randomize(a)
    report = converters.load_official(b, converters.official_state(a))
    assert len(report.kept) == 5 * 2 * 3 and all(".ctx" in name for name in report.kept)
    np.testing.assert_allclose(numpy(b(images())), numpy(a(images())), rtol=1e-12)


def test_official_state_is_the_inverse(goldens, fill):
    state = filled(fill, goldens.names("bcdnet", "tiny_b"), "")
    model = BCDNetB(**{**TINY, "input_shape": (64, 64, 3)})
    converters.load_official(model, {"model": {f"module.{k}": v for k, v in state.items()}})
    exported = converters.official_state(model)
    assert set(exported) == {name for name in state if "num_batches" not in name}
    for name, value in exported.items():
        np.testing.assert_allclose(value, state[name], rtol=1e-6)


def test_checkpoint_without_the_heads(goldens, fill):
    state = filled(fill, goldens.names("bcdnet", "tiny_a"), "")
    model = BCDNetA(input_shape=(64, 64, 3), width=0.25, mlp_blocks=1, include_top=False)
    report = converters.load_official(model, state)
    heads = {f"{head}.{kind}" for head in ("fc", "fc_dist") for kind in ("weight", "bias")}
    assert heads <= set(report.unused)
    del state["feature.1.binary_pw_down2.weight"]
    with pytest.raises(ValueError, match="1 missing: 'feature.1.binary_pw_down2.weight'"):
        converters.load_official(model, state)


def test_merged_heads(float64):
    for activation in ("softmax", None):
        model = BCDNetA(**SMALL, classifier_activation=activation)
        randomize(model)
        merged = bcdnet.merge_heads(model)
        np.testing.assert_allclose(numpy(merged(images())), numpy(model(images())), rtol=1e-12)
    with pytest.raises(ValueError, match="`model` must have the layers .*Received: 'bcdneta'"):
        bcdnet.merge_heads(merged)


def test_first_step_hands_its_weights_over():
    first = BCDNetB(**SMALL, classifier_activation=None, binary_weights=False)
    second = BCDNetB(**SMALL, classifier_activation=None)
    assert [(v.path, v.shape) for v in first.weights] == [(v.path, v.shape) for v in second.weights]
    for layer in first.layers:
        if isinstance(layer, QuantConv2D):
            assert layer.kernel_quantizer is None
            twin = second.get_layer(layer.name).kernel_quantizer
            assert layer.name == "stem_conv" or isinstance(twin, MagnitudeAwareSign)
    randomize(first)
    second.set_weights(first.get_weights())
    assert not np.array_equal(numpy(first(images())), numpy(second(images())))


@pytest.mark.parametrize("long_shift, distance", [(3, 3), ("half", 2), (1, 1)])
def test_long_shift(long_shift, distance):
    model = BCDNetA(input_shape=(128, 160, 3), width=0.125, mlp_blocks=1, long_shift=long_shift)
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 128)).astype("float32")
    y = numpy(model.get_layer("mlp0_0_long")(x))
    np.testing.assert_array_equal(y[..., :32], np.roll(x, distance, 1)[..., :32])
    np.testing.assert_array_equal(y[..., 96:], np.roll(x, -distance, 2)[..., 96:])


def test_context_options():
    model = BCDNetB(**SMALL, context_units=("1x1",), context_ratio=2, context_activation="relu")
    one, other = (model.get_layer(f"block2_conv{n}").input_quantizer for n in (1, "2_widening"))
    assert not hasattr(one, "ratio") and other.ratio == 2 and other.activation == "relu"
    assert other.embedding == 16 * 128 // 128


def test_widths_and_depths():
    model = BCDNetA(**{**SMALL, "width": 0.5, "depths": (0, 2, 0, 1)})
    blocks_of = [layer.name for layer in model.layers if layer.name.endswith("_rprelu2")]
    assert len(blocks_of) == 1 + 1 + 3 + 1 + 2
    widths = [model.get_layer(name).output.shape[-1] for name in blocks_of]
    assert widths == [32, 64, 128, 128, 128, 256, 512, 512]
    assert model.get_layer("block1_rprelu2").output.shape[1:3] == (16, 16)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"width": 0}, "`width` must be .*Received: width=0"),
        ({"width": 0.3}, "`width` must be .*Received: width=0.3"),
        ({"width": "wide"}, "`width` must be .*Received: width='wide'"),
        ({"depths": (1, 1)}, r"`depths` must be 4 integers.*Received: depths=\(1, 1\)"),
        ({"depths": (1, 1, -1, 0)}, "`depths` must be 4 integers.*Received: depths="),
        ({"mlp_blocks": 1.5}, "`mlp_blocks` must be .*Received: mlp_blocks=1.5"),
        ({"long_shift": "whole"}, "`distance` must be .*Received: distance='whole'"),
        ({"context_units": ("5x5",)}, "`context_units` must be .*Received: context_units="),
        ({"context_ratio": 0}, "`ratio` must be .*Received: ratio=0"),
        ({"input_shape": (48, 64, 3)}, r"must be multiples of 32. Received: \(48, 64, 3\)"),
        ({"sign_of_zero": 2}, "`sign_of_zero` must be 0 or 1. Received: sign_of_zero=2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BCDNetB(**{**SMALL, **arguments})
