"""LCR-BNN's and IR-Net's networks against the official numbers, and as members of the zoo."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import activations, zoo
from bnnkeras.converters import load_official
from bnnkeras.converters import official_state as exported_state
from bnnkeras.models import ModelProfile
from bnnkeras.quantizers import Binarizer, ErrorDecay
from bnnkeras.training import LipschitzRetention
from bnnkeras.zoo import builder
from bnnkeras.zoo.lcrbnn import blocks

pytestmark = pytest.mark.any_backend

IMAGENET, CIFAR, VGG = "lcrbnn_imagenet", "irnet_cifar", "irnet_vgg_small"
# Official variant: zoo function, arguments, map, file of its golden vectors.
VARIANTS = {
    "lcr_resnet18_1w1a": ("LCRResNet18", {}, IMAGENET, "models_lcr_resnet18"),
    "lcr_resnet34_1w1a": ("LCRResNet34", {}, IMAGENET, "models_imagenet"),
    "lcr_resnet18_1w1a_deepstem": (
        "LCRResNet18",
        {"deep_stem": True},
        IMAGENET,
        "models_imagenet",
    ),
    "lcr_resnet18_1w1a_avgdown": ("LCRResNet18", {"avg_down": True}, IMAGENET, "models_imagenet"),
    "irnet_resnet18_1w1a": ("LCRResNet18", {}, IMAGENET, "models_imagenet"),
    "irnet_resnet34_1w1a": ("LCRResNet34", {}, IMAGENET, "models_imagenet"),
    "irnet_resnet18_1w32a": (
        "LCRResNet18",
        {"binary_activations": False},
        IMAGENET,
        "models_imagenet",
    ),
    "teacher_resnet18_fp": ("ResNet18", {}, IMAGENET, "models_imagenet"),
    "teacher_resnet34_fp": ("ResNet34", {}, IMAGENET, "models_imagenet"),
    "irnet_resnet20_1w1a": ("LCRResNet20", {}, CIFAR, "models_cifar"),
    "irnet_resnet20_1w32a": ("LCRResNet20", {"binary_activations": False}, CIFAR, "models_cifar"),
    "irnet_resnet20_fp": ("ResNet20", {}, CIFAR, "models_cifar"),
    "irnet_cifar_resnet18_1w1a": ("LCRCifarResNet18", {}, CIFAR, "models_cifar"),
    "irnet_vgg_small_1w1a": ("LCRVGGSmall", {}, VGG, "models_cifar"),
}
FLOAT = {"ResNet18", "ResNet34", "ResNet20"}
# Whose last layer the official code follows with a log-softmax.
LOG_SOFTMAX = ("irnet_resnet18", "irnet_resnet34", "irnet_cifar_resnet18")
TRAINED = [
    "lcr_resnet18_1w1a",
    "lcr_resnet34_1w1a",
    "lcr_resnet18_1w1a_deepstem",
    "lcr_resnet18_1w1a_avgdown",
    "irnet_resnet20_1w1a",
    "irnet_resnet20_1w32a",
    "irnet_resnet20_fp",
    "irnet_vgg_small_1w1a",
    "irnet_cifar_resnet18_1w1a",
]
LIGHT = {"irnet_resnet20_1w1a", "irnet_vgg_small_1w1a", "irnet_resnet20_1w32a"}
# Counts of the specification, without the released `bn3` (2,000) and `gamma` (4).
COUNTS = {
    "lcr_resnet18_1w1a": (11_690_536, 10_985_472, 1_676_279_808, 137_793_536),
    "lcr_resnet34_1w1a": (21_798_696, 21_086_208, 3_525_967_872, 137_793_536),
    "lcr_resnet18_1w1a_deepstem": (11_709_768, 10_985_472, 1_676_279_808, 377_434_112),
    "irnet_resnet20_1w1a": (269_850, 267_264, 40_108_032, 443_008),
    "irnet_vgg_small_1w1a": (4_660_106, 4_571_136, 603_979_776, 3_620_864),
    "irnet_cifar_resnet18_1w1a": (11_174_986, 10_985_472, 547_356_672, 8_066_048),
    "teacher_resnet18_fp": (11_689_512, 0, 0, 1_814_073_344),
    "teacher_resnet34_fp": (21_797_672, 0, 0, 3_663_761_408),
}


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def build(variant, **arguments):
    function, own, _, _ = VARIANTS[variant]
    if function not in FLOAT:
        own = {"sign_of_zero": 0, **own}
    return getattr(zoo, function)(classifier_activation=None, **own, **arguments)


def set_estimators(model, k, t):
    for layer in model._flatten_layers():
        if isinstance(layer, Binarizer) and isinstance(layer.estimator, ErrorDecay):
            layer.estimator.assign(k, t)


def official_state(variant, goldens, fill, scale=False):
    """The official parameters; scaled as the specification says (section 9), if asked.

    Running variances are then multiplied by the summands of the binary convolution before.
    """
    state = fill.fill_state(goldens.names("lcrbnn", variant))
    if scale and VARIANTS[variant][0] not in FLOAT:
        for name, kernel in list(state.items()):
            # Real-valued are the stem and, of VGG-Small, conv0.
            in_block = re.fullmatch(r"layer\d\.\d\.conv\d\.weight", name)
            if in_block or (VARIANTS[variant][2] == VGG and re.fullmatch("conv[1-5].weight", name)):
                variance = name.replace("conv", "bn").replace("weight", "running_var")
                state[variance] = state[variance] * np.prod(kernel.shape[1:])
    return state


def outputs_of(variant, logits):
    if not variant.startswith(LOG_SOFTMAX):
        return logits
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def only_light(variant, backend):
    if backend != "tensorflow" and variant not in LIGHT:
        pytest.skip("large; the CIFAR networks and all blocks run on this backend")


# --- The official numbers --------------------------------------------------------------------


@pytest.mark.parametrize("variant", COUNTS)
def test_counts(variant):
    trainable, binary_weights, binary_macs, real_macs = COUNTS[variant]
    profile = ModelProfile(build(variant))
    assert profile.weight_count(folded=False, trainable=True) == trainable
    assert profile.weight_count(1) == binary_weights
    macs = {entry.precision: entry.n for entry in profile.op_profiles}
    assert macs == {bits: n for bits, n in {1: binary_macs, 32: real_macs}.items() if n}


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_inference(variant, float64, goldens, fill, numerics, reference, backend):
    only_light(variant, backend)
    _, _, name_map, file = VARIANTS[variant]
    golden = goldens("lcrbnn", file)
    batch = len(golden[f"{variant}.eval.out"])
    size = 32 if name_map != IMAGENET else 64
    model = build(variant, input_shape=(size, size, 3))
    x = reference.nhwc(fill.fill_input(variant, (batch, 3, size, size)))
    for scale in (False, True):
        key = f"{variant}.eval{'_scaled' if scale else ''}"
        if f"{key}.out" not in golden.files:
            continue
        reference.load(model, official_state(variant, goldens, fill, scale), name_map)
        logits = numpy(model(x, training=False))
        numerics.assert_close(outputs_of(variant, logits), golden[f"{key}.out"], label=key)
    _check_stages(variant, f"{variant}.eval_scaled", model, x, golden, False, numerics, reference)


def _check_stages(variant, key, model, x, golden, training, numerics, reference):
    """The outputs of the stages for sample 0, where the file has them."""
    names = {"maxpool": "stem_pool"} | {f"layer{s}": f"stage{s}_output" for s in (1, 2, 3, 4)}
    found = {name: layer for name, layer in names.items() if f"{key}.{name}" in golden.files}
    if not found:
        return
    outputs = reference.layer_outputs(model, found)(x, training=training)
    for name in found:
        actual = reference.nchw(numpy(outputs[name]))[:1]
        expected = golden[f"{key}.{name}"]
        numerics.assert_close(actual.reshape(expected.shape), expected, label=name)


@pytest.mark.parametrize("variant", ["irnet_resnet18_1w1a", "irnet_resnet34_1w1a"])
def test_official_pooling(variant, float64, goldens, fill, numerics, reference, backend):
    only_light(variant, backend)
    golden = goldens("lcrbnn", "models_imagenet")
    keys = [name for name in golden.files if name.startswith(f"{variant}.unpatched")]
    keys += [
        name
        for name in golden.files
        if name.startswith(f"{variant.replace('irnet', 'lcr')}.unpatched")
    ]
    for key in keys:
        official = key.partition(".")[0]
        size = int(key.partition("unpatched")[2].partition(".")[0])
        model = build(official, input_shape=(size, size, 3))
        reference.load(model, official_state(official, goldens, fill, scale=True), IMAGENET)
        x = fill.fill_input(f"{official}:unpatched{size}", (1, 3, size, size))
        logits = numpy(model(reference.nhwc(x), training=False))
        numerics.assert_close(outputs_of(official, logits), golden[key], label=key)


@pytest.mark.parametrize("variant", TRAINED)
def test_official_training_step(variant, float64, goldens, fill, numerics, reference, backend):
    only_light(variant, backend)
    _, _, name_map, file = VARIANTS[variant]
    golden = goldens("lcrbnn", file)
    size = 32 if name_map != IMAGENET else 64
    modes = [mode for mode in ("train", "train_kt1") if f"{variant}.{mode}.out" in golden.files]
    assert modes
    model = build(variant, input_shape=(size, size, 3))
    x = None
    for mode in modes:
        key = f"{variant}.{mode}"
        expected = golden[f"{key}.out"]
        batch, classes = expected.shape
        reference.load(model, official_state(variant, goldens, fill), name_map)
        set_estimators(model, *((1, 2) if mode == "train_kt1" else (10, 0.1)))
        x = reference.nhwc(fill.fill_input(variant, (batch, 3, size, size)))
        labels = (np.arange(batch) * 7 + 3) % classes
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        result = numerics.gradients(
            model, [x], loss=lambda y, labels=labels, loss=loss: loss(labels, y), training=True
        )
        numerics.assert_close(outputs_of(variant, result.value), expected, label=key)
        value = loss(labels, ops.convert_to_tensor(result.value, dtype="float64"))
        numerics.assert_close(numpy(value), golden[f"{key}.loss"], label="loss")

        names = reference.Names(model, name_map)
        norms = {
            name.removeprefix(f"{key}.gradnorm:"): golden[name]
            for name in golden.files
            if name.startswith(f"{key}.gradnorm:")
        }
        found = {"input": result.inputs[0]}
        found |= {
            name: result.variables.pop(names.variable(name).path)
            for name in names
            if names.variable(name).path in result.variables
        }
        unused = {name for name in norms if name.startswith(("bn3", "gamma"))} - set(names)
        assert found.keys() == norms.keys() - unused and not result.variables
        for name, gradient in found.items():
            np.testing.assert_allclose(
                np.linalg.norm(gradient), norms[name], rtol=1e-8, err_msg=name, atol=1e-12
            )
    reference.load(model, official_state(variant, goldens, fill), name_map)
    _check_stages(variant, f"{variant}.train", model, x, golden, True, numerics, reference)


# Case: filters, stride, input (NCHW), style, options of the block.
BLOCKS = {
    "lcr_block_id": (8, 1, (3, 8, 6, 6), {}),
    "lcr_block_down": (16, 2, (3, 8, 8, 8), {}),
    "lcr_block_avgdown": (16, 2, (3, 8, 7, 7), {"avg_down": True}),
    "r20_block_id": (8, 1, (3, 8, 6, 6), {"cifar": True}),
    "r20_block_optA": (16, 2, (3, 8, 8, 8), {"cifar": True, "option_a": True}),
    "c18_block_id": (8, 1, (3, 8, 6, 6), {"cifar": True, "dense": False}),
    "c18_block_down": (16, 2, (3, 8, 8, 8), {"cifar": True, "dense": False}),
    "r20w32_block_optA": (
        16,
        2,
        (3, 8, 8, 8),
        {"cifar": True, "option_a": True, "dense": False, "binary_activations": False},
    ),
    "fp_block_down": (16, 2, (3, 8, 8, 8), {"real": True}),
}


def block_of(case):
    filters, strides, shape, options = BLOCKS[case]
    inputs = keras.Input((shape[2], shape[3], shape[1]))
    name = "stage2_block0"
    if options.get("real"):
        style = blocks.Style(False, binary_kernels=False)
        return keras.Model(
            inputs, blocks.preactivated_block(inputs, filters, strides, style, name, "end")
        )
    style = blocks.Style(options.get("binary_activations", True), sign_of_zero=0)
    if options.get("option_a"):
        shortcut = blocks.subsampling
    else:
        average = options.get("avg_down", False)

        def shortcut(x, filters, strides, name):
            return blocks.projection(x, filters, strides, style, name, average)

    dense = options.get("dense", True)
    outputs = blocks.block(inputs, filters, strides, style, name, shortcut, dense, "end")
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", BLOCKS)
def test_official_block(case, mode, float64, goldens, fill, numerics, reference):
    golden = goldens("lcrbnn", "blocks")
    _, _, shape, options = BLOCKS[case]
    model = block_of(case)
    set_estimators(model, 1, 1)
    name_map = CIFAR if options.get("cifar") else IMAGENET
    names = reference.Names(model, name_map, "layer2.0.")
    state = {
        name: fill.fill_param(
            f"{case}.{name}",
            entry.layout.official_shape(*entry.shapes),
        )
        for name, entry in names._entries.items()
    }
    if not options.get("real"):
        for conv in (1, 2):
            state[f"bn{conv}.running_var"] *= np.prod(state[f"conv{conv}.weight"].shape[1:])
    reference.load(model, state, name_map, "layer2.0.")

    key = f"{case}.{mode}"
    x = reference.nhwc(fill.fill_input(case, shape))
    upstream = reference.nhwc(fill.fill_input(f"upstream:{case}", golden[f"{key}.out"].shape))
    result = numerics.gradients(model, [x], upstream, training=mode == "train")
    numerics.assert_close(reference.nchw(result.value), golden[f"{key}.out"], label="out")
    numerics.assert_close(reference.nchw(result.inputs[0]), golden[f"{key}.grad:input"])
    for name in names:
        path = names.variable(name).path
        if path in result.variables:
            expected = names.to_keras(name, golden[f"{key}.grad:{name}"])
            numerics.assert_close(result.variables.pop(path), expected, label=name)
    assert not result.variables
    if mode == "eval":
        return
    for name in names.batch_norms():
        for kind in ("mean", "var"):
            parameter = f"{name}.running_{kind}"
            variable = names.variable(parameter)
            actual = numpy(variable)
            if kind == "var":
                count = len(x) * reference.sample_count(model, variable)
                actual = reference.unbiased(actual, state[parameter], count)
            numerics.assert_close(actual, golden[f"{key}.after:{parameter}"], label=parameter)


def test_hardtanh(float64, goldens, numerics, fill):
    golden = goldens("lcrbnn", "quantizers")
    ties = [1e-6, -1e-6, 1 + 1e-6, 1 - 1e-6, -1 - 1e-6, -1 + 1e-6]
    x = np.concatenate([np.arange(-64, 65) / 32, ties])
    upstream = fill.fill_input("upstream:quant", (135,))
    result = numerics.gradients(activations.hardtanh, [x], upstream)
    numerics.assert_close(result.value, golden["hardtanh_forward"])
    numerics.assert_close(result.inputs[0], golden["hardtanh_grad"])


# --- Other properties --------------------------------------------------------------------------


def test_official_names_reach_all_parameters(goldens, reference):
    """Without the scales of the trainer, `bn3` and counters, each name has its variable."""
    for variant, (_, _, name_map, _) in VARIANTS.items():
        if variant not in LIGHT | {"lcr_resnet18_1w1a_avgdown", "lcr_resnet18_1w1a_deepstem"}:
            continue
        shapes = goldens.names("lcrbnn", variant)
        names = set(reference.Names(build(variant), name_map))
        others = {name for name in shapes if name not in names}
        assert names <= shapes.keys()
        assert all(
            name.endswith("num_batches_tracked") or name.startswith(("gamma", "bn3."))
            for name in others
        ), variant


def test_a_model_finds_its_own_names():
    for name, key in (("lcrresnet20", "linear.weight"), ("lcrvggsmall", "fc.weight")):
        assert key in exported_state(zoo.get(name))
    small = {"input_shape": (32, 32, 3), "classes": 10}
    assert "layer2.0.downsample.0.weight" in exported_state(zoo.LCRResNet18(**small))
    state = exported_state(zoo.LCRResNet18(**small, avg_down=True))
    assert state["layer2.0.downsample.1.weight"].ndim == 4
    assert state["layer2.0.downsample.2.weight"].ndim == 1


def test_a_trainers_scales_are_in_its_checkpoint():
    """Of a trainer the student and gamma, never the teacher; a network alone leaves gamma out."""
    small = {"input_shape": (32, 32, 3), "classes": 10, "classifier_activation": None}
    trainer = LipschitzRetention(zoo.LCRResNet18(**small), zoo.ResNet18(**small))
    teacher = [numpy(weight) for weight in trainer.teacher.weights]
    state = exported_state(trainer)
    assert state["gamma"].shape == (1, 4)
    assert state.keys() - exported_state(trainer.student).keys() == {"gamma"}
    state = {name: value + 1 for name, value in state.items()}
    load_official(trainer, {"state_dict": state})
    np.testing.assert_array_equal(numpy(trainer.gamma), np.full(4, 2.0))
    for name, value in exported_state(trainer).items():
        np.testing.assert_array_equal(value, state[name])
    for before, weight in zip(teacher, trainer.teacher.weights, strict=True):
        np.testing.assert_array_equal(numpy(weight), before)
    assert "gamma" in load_official(zoo.LCRResNet18(**small), state).unused
    del state["gamma"]
    with pytest.raises(ValueError, match="1 missing: 'gamma'"):
        load_official(trainer, state)


@pytest.mark.parametrize("variant", ["lcr_resnet18_1w1a", "irnet_resnet20_1w1a"])
def test_no_sizes_are_refused(variant):
    model = build(variant, input_shape=(None, None, 3), include_top=False)
    for size in ((33, 47), (40, 32)):
        outputs = model(np.zeros((1, *size, 3), "float32"))
        assert outputs.shape[0] == 1


def test_top_and_pooling():
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    for name in ("lcrresnet20", "lcrvggsmall"):
        features = zoo.get(name, include_top=False)
        pooled = zoo.get(name, include_top=False, pooling="avg")
        pooled.set_weights(features.get_weights())
        expected = numpy(features(x)).mean(axis=(1, 2))
        np.testing.assert_allclose(numpy(pooled(x)), expected, rtol=1e-4, atol=1e-5)


def test_initial_values():
    model = zoo.LCRResNet20()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = numpy(layer.kernel)
            wanted = np.sqrt(2 / np.prod(kernel.shape[:3]))
            assert kernel.std() == pytest.approx(wanted, rel=0.15), layer.name
            assert layer.bias is None
    for fan, size in (("fan_in", 64), ("fan_out", 128)):
        network = zoo.LCRResNet18(input_shape=(32, 32, 3), initialization=fan)
        kernel = numpy(network.get_layer("stage2_block0_conv1").kernel)
        assert kernel.shape[2:] == (64, 128)
        assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * size)), rel=0.05)
    vgg = zoo.LCRVGGSmall()
    kernel = numpy(vgg.get_layer("conv3").kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * kernel.shape[3])), rel=0.05)
    assert numpy(vgg.get_layer("classifier").kernel).std() == pytest.approx(0.01, rel=0.05)
    assert isinstance(builder.he_normal(), keras.initializers.VarianceScaling)


@pytest.mark.parametrize("name", ["lcrresnet20", "lcrvggsmall", "resnet20"])
def test_save_and_load(name, tmp_path):
    model = zoo.get(name)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    expected = numpy(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), expected)


def test_fit_trains_every_variable():
    model = zoo.LCRResNet20()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = {variable.path: numpy(variable).copy() for variable in model.weights}
    x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    model.fit(x, np.arange(8), verbose=0)
    for variable in model.weights:
        assert not np.array_equal(numpy(variable), before[variable.path]), variable.path


def test_bad_arguments():
    with pytest.raises(ValueError, match="Received: binary_activations='no'"):
        zoo.LCRResNet18(binary_activations="no")
    with pytest.raises(ValueError, match="`initialization` must be .*Received: initialization=0"):
        zoo.LCRResNet18(initialization=0)
    with pytest.raises(ValueError, match="`weights` must be .*Received: weights='imagenet'"):
        zoo.LCRResNet20(weights="imagenet")


# --- The regularizer, end to end -----------------------------------------------------------------


def official_trainer(teacher_training, goldens, fill, reference):
    """ResNet-18 beside its teacher, with the official parameters; the student's; and its input."""
    student, teacher = "lcr_resnet18_1w1a", "teacher_resnet18_fp"
    networks = [build(name, input_shape=(64, 64, 3)) for name in (student, teacher)]
    reference.load(networks[1], official_state(teacher, goldens, fill), IMAGENET)
    trainer = LipschitzRetention(*networks, teacher_training=teacher_training)
    state = official_state(student, goldens, fill)
    report = load_official(trainer, state, name_map=IMAGENET)
    assert len(report.loaded) == len(networks[0].weights) + 1
    np.testing.assert_array_equal(numpy(trainer.gamma)[None], state["gamma"])
    x = reference.nhwc(fill.fill_input("lcr_e2e", (4, 3, 64, 64)))
    return trainer, state, x


def check_gradient_norms(golden, prefix, gradients, names) -> int:
    """Holds the norms of gradients by path against all that the file has; returns how many."""
    found = [name.removeprefix(prefix) for name in golden.files if name.startswith(prefix)]
    found = [name for name in found if name != "gamma" and not name.startswith("bn3")]
    for name in found:
        norm = np.linalg.norm(gradients[names.variable(name).path])
        np.testing.assert_allclose(norm, golden[prefix + name], rtol=1e-8, err_msg=name)
    return len(found)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_official_regularized_step(mode, float64, goldens, fill, numerics, reference, backend):
    """Losses, gradients and statistics of ResNet-18 beside its teacher."""
    if backend != "tensorflow":
        pytest.skip("large; tests/bnnkeras/test_training_retention.py runs on this backend")
    golden, key = goldens("lcrbnn", "lcr"), f"e2e.teacher_{mode}"
    trainer, state, x = official_trainer(mode == "train", goldens, fill, reference)
    student = trainer.student
    labels = (np.arange(4) * 7 + 3) % 1000
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def total(logits):
        return entropy(labels, logits) + trainer.losses[0]

    result = numerics.gradients(trainer, [x], loss=total, training=True)
    (scaled,) = trainer.losses
    value = numpy(scaled)
    numerics.assert_close(value, golden[f"{key}.loss_lcr_scaled"], label="scaled")
    numerics.assert_close(value * 128e4 / 8, golden[f"{key}.loss_lcr"], label="LCR")
    plain = numpy(entropy(labels, ops.convert_to_tensor(result.value, "float64")))
    numerics.assert_close(plain, golden[f"{key}.loss_ce"], label="cross-entropy")
    numerics.assert_close(plain + value, golden[f"{key}.loss_total"], label="total")

    gamma = result.variables.pop(trainer.gamma.path)
    numerics.assert_close(gamma[None], golden[f"{key}.grad:gamma"], label="gamma")
    names = reference.Names(student, IMAGENET)
    checked = check_gradient_norms(golden, f"{key}.gradnorm:", result.variables, names)
    assert checked == (len(result.variables) if mode == "train" else 2)
    if mode == "train":
        # The released code runs the student twice a step; here that takes a second call.
        first = {v.path: numpy(v).copy() for v in student.non_trainable_variables}
        trainer(x, training=True)
        start = f"{key}.student_after:"
        found = [name for name in golden.files if name.startswith(start)]
        assert found
        for name in found:
            parameter = name.removeprefix(start)
            variable = names.variable(parameter)
            # The released second pass stops at the stages, before the head's normalization.
            once_only = parameter.startswith("bn2.")
            actual = first[variable.path] if once_only else numpy(variable)
            if parameter.endswith("var") and once_only:
                count = 4 * reference.sample_count(student, variable)
                actual = reference.unbiased(actual, state[parameter], count)
            elif parameter.endswith("var"):
                # The second update adds to what the first one left, biased here.
                factor = 4 * reference.sample_count(student, variable)
                factor = factor / (factor - 1)
                once = 0.9 * state[parameter]
                once = once + (first[variable.path] - once) * factor
                actual = 0.9 * once + (actual - 0.9 * first[variable.path]) * factor
            numerics.assert_close(actual, golden[name], label=name)


@pytest.mark.parametrize("key", ["e2e.lcr_only", "e2e_gamma1"])
def test_official_regularizer_alone(key, float64, goldens, fill, numerics, reference, backend):
    """The gradients of LCR without the cross-entropy; the second time with scales of 1."""
    if backend != "tensorflow":
        pytest.skip("large; tests/bnnkeras/test_training_retention.py runs on this backend")
    golden = goldens("lcrbnn", "lcr")
    trainer, _, x = official_trainer(True, goldens, fill, reference)
    if key == "e2e_gamma1":
        trainer.gamma.assign(np.ones(4))
        set_estimators(trainer.student, 1, 2)
    scale = 128e4 / 8
    result = numerics.gradients(
        trainer, [x], loss=lambda logits: trainer.losses[0] * scale, training=True
    )
    if key == "e2e_gamma1":
        loss = numpy(trainer.losses[0]) * scale
        numerics.assert_close(loss, golden[f"{key}.loss_lcr"], label="LCR")
        gamma = result.variables[trainer.gamma.path]
        numerics.assert_close(gamma[None], golden[f"{key}.grad:gamma"], label="gamma")
    names = reference.Names(trainer.student, IMAGENET)
    # Up to the last stage: nothing behind it moves the regularizer.
    assert check_gradient_norms(golden, f"{key}.gradnorm:", result.variables, names) > 50


def test_trainer_takes_zoo_models_by_their_stages():
    small = {"input_shape": (16, 16, 3), "classifier_activation": None}
    trainer = LipschitzRetention(zoo.LCRResNet20(**small), zoo.ResNet20(**small))
    assert trainer.student_taps == trainer.teacher_taps
    assert trainer.student_taps == ("stage1_output", "stage2_output", "stage3_output")
