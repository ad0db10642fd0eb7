"""BiPointNet against the official networks' numbers, and what is its own in the zoo."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import converters
from bnnkeras.layers import QuantDense
from bnnkeras.layers.points import orthogonality
from bnnkeras.models import ModelProfile
from bnnkeras.zoo import (
    BiPointNet,
    BiPointNetPartSegmentation,
    BiPointNetSemanticSegmentation,
)
from bnnkeras.zoo.bipointnet import blocks

pytestmark = pytest.mark.any_backend


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


METHODS = {"BNN": "bnn", "XNOR": "xnor", "IRNet": "irnet", "BiReal": "bireal", "LSR": "lsr"}
POOLS = {"EMax": "ema-max", "Max": "max", "Mean": "mean"}
REAL = {"binarization": None}

# Golden name: function, arguments.
MODELS: dict = {
    f"BiPointNet{method}{pool}": (
        BiPointNet,
        {"binarization": METHODS[method], "aggregation": POOLS[pool]},
    )
    for method in METHODS
    for pool in POOLS
}
MODELS |= {
    "BiPointNetVanillaXNORMax": (
        BiPointNet,
        {"binarization": "xnor", "aggregation": "max", "transforms": False},
    ),
    "BiPointNetVanillaLSREMax": (BiPointNet, {"transforms": False}),
    "PointNet": (BiPointNet, REAL),
    "PointNetMean": (BiPointNet, {**REAL, "aggregation": "mean"}),
    "PointNetVanillaMax": (BiPointNet, {**REAL, "transforms": False}),
    "PointNetVanillaMean": (BiPointNet, {**REAL, "transforms": False, "aggregation": "mean"}),
}
CLASSIFIERS = list(MODELS)
for task, function in {
    "PartSeg": BiPointNetPartSegmentation,
    "SemSeg": BiPointNetSemanticSegmentation,
}.items():
    for pool, aggregation in POOLS.items():
        for method in ("BNN", "LSR"):
            arguments = {"binarization": METHODS[method], "aggregation": aggregation}
            MODELS[f"BiPointNet{task}{method}{pool}"] = (function, arguments)
        if pool != "EMax":
            MODELS[f"PointNet{task}{pool}"] = (function, {**REAL, "aggregation": aggregation})
SEGMENTERS = [name for name in MODELS if "Seg" in name]
OPTIONS = {
    "opt_bi_first": (BiPointNet, {"bi_first": True}),
    "opt_no_affine": (BiPointNet, {"affine": False}),
    "opt_bi_last": (BiPointNet, {"bi_last": True, "transforms": False}),
    "opt_no_bn": (BiPointNet, {"use_bn": False, "transforms": False}),
    "opt_normals": (BiPointNet, {"aggregation": "mean"}),
    "opt_part_car_xyz": (BiPointNetPartSegmentation, {}),
    "opt_part_no_concat": (BiPointNetPartSegmentation, {"concat_global": False}),
    "opt_part_no_tnet": (BiPointNetPartSegmentation, {"transforms": False}),
    "opt_sem_xyz": (
        BiPointNetSemanticSegmentation,
        {"binarization": "xnor", "aggregation": "mean"},
    ),
}
MODELS |= OPTIONS
# On JAX and PyTorch a few are enough: they share every layer with the others.
ELSEWHERE = ("BiPointNetVanillaLSREMax", "BiPointNetXNOREMax", "BiPointNetPartSegLSREMax")


def only_few_elsewhere(variant, backend):
    if backend != "tensorflow" and variant not in ELSEWHERE:
        pytest.skip("the same layers as those of other variants, which run on this backend")


def official_state(names, fill, rule_r=False):
    """The official parameters; by rule R each scale is divided by the root of the fan-in."""
    state = fill.fill_state(names)
    for name, value in state.items():
        if name.endswith((".k", ".t")):
            state[name] = np.full_like(value, 1.0 if name.endswith(".k") else 1.5)
        elif name.endswith(".scale") and rule_r:
            weight = names[name.removesuffix("scale") + "weight"]
            state[name] = value / np.sqrt(np.prod(weight[1:]))
    return state


def official_model(variant, points, channels, goldens, fill, rule_r=False, **more):
    function, arguments = MODELS[variant]
    model = function(
        input_shape=(points, channels),
        classifier_activation=None,
        sign_of_zero=0,
        **{**arguments, **more},
    )
    for layer in model.layers:
        if isinstance(layer, QuantDense) and arguments.get("binarization") == "irnet":
            for quantizer in (layer.input_quantizer, layer.kernel_quantizer):
                quantizer.estimator.assign(1.0, 1.5)
    state = official_state(goldens.names("bipointnet", variant), fill, rule_r)
    report = converters.load_official(model, state)
    assert not report.kept and not report.notes
    return model


def check_log_probabilities(logits, expected, numerics, label=""):
    logits = logits.reshape(-1, logits.shape[-1])
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    numerics.assert_close(found, expected, label=label)


# --- The official numbers --------------------------------------------------------------------


@pytest.mark.parametrize("points", [64, 1024])
@pytest.mark.parametrize("variant", CLASSIFIERS)
def test_official_classification(variant, points, float64, goldens, fill, numerics, backend):
    only_few_elsewhere(variant, backend)
    batch = 3 if points == 64 else 2
    x = fill.fill_input(f"cls:{points}", (batch, points, 3))
    model = official_model(variant, points, 3, goldens, fill)
    logits = numpy(model(x, training=False))
    expected = goldens("bipointnet", "cls_eval")[f"{variant}/n{points}/out"]
    check_log_probabilities(logits, expected, numerics)


def segmentation_input(variant, points, batch, fill, suffix=""):
    task = "part" if "Part" in variant or "part" in variant else "sem"
    tag = task + suffix
    parts = [fill.fill_input(tag, (batch, points, 3))]
    if task == "part":
        parts.append(fill.fill_input(f"{tag}_normal", (batch, points, 3)))
    else:
        parts.append(fill.fill_input(f"{tag}_feat", (batch, points, 6)))
    return np.concatenate(parts, axis=-1)


@pytest.mark.parametrize(
    "variant, points",
    [(variant, 64) for variant in SEGMENTERS]
    + [("BiPointNetPartSegLSREMax", 1024), ("BiPointNetSemSegLSREMax", 1024)],
)
def test_official_segmentation(variant, points, float64, goldens, fill, numerics, backend):
    only_few_elsewhere(variant, backend)
    batch, suffix = (2, "") if points == 64 else (1, "1024")
    x = segmentation_input(variant, points, batch, fill, suffix)
    model = official_model(variant, points, x.shape[-1], goldens, fill)
    logits = numpy(model(x, training=False))
    expected = goldens("bipointnet", "segmentation")[f"{variant}/n{points}/out"]
    check_log_probabilities(logits, expected, numerics)


@pytest.mark.parametrize("variant", OPTIONS)
def test_official_options(variant, float64, goldens, fill, numerics, backend):
    only_few_elsewhere(variant, backend)
    x = fill.fill_input("opt", (2, 64, 3))
    if variant == "opt_normals":
        x = fill.fill_input("opt", (2, 64, 6))
    elif variant in ("opt_part_no_concat", "opt_part_no_tnet"):
        x = np.concatenate([x, fill.fill_input("opt_feat", (2, 64, 3))], axis=-1)
    model = official_model(variant, 64, x.shape[-1], goldens, fill, rule_r=True)
    logits = numpy(model(x, training=False))
    (key,) = (
        key for key in goldens("bipointnet", "cls_eval").files if key.startswith(f"{variant}/")
    )
    check_log_probabilities(logits, goldens("bipointnet", "cls_eval")[key], numerics, key)


STAGES = {
    "feat.stn": "feat_stn_fc3",
    "feat.conv1": "feat_conv1",
    "feat.fstn": "feat_fstn_fc3",
    "feat.conv2": "feat_conv2",
    "feat.conv3": "feat_conv3",
    "feat": "feat_pool",
    **{name: name for name in ("fc1", "bn1", "fc2", "bn2", "fc3")},
}


def test_official_stages(float64, goldens, fill, numerics, reference):
    model = official_model("BiPointNetLSREMax", 64, 3, goldens, fill)
    tapped = reference.layer_outputs(model, STAGES)
    outputs = tapped(fill.fill_input("cls:stages", (2, 64, 3)), training=False)
    for name in STAGES:
        expected = goldens("bipointnet", "cls_eval")[f"BiPointNetLSREMax/stages/{name}"]
        found = numpy(outputs[name])
        if name.endswith("stn"):
            size = expected.shape[-1]
            found = (found.reshape(2, size, size) + np.eye(size))[:, : expected.shape[1]]
        elif found.ndim == 3:
            found = found[:, :4].transpose(0, 2, 1)  # (B, N, C) -> (B, C, N)
        numerics.assert_close(found, expected, label=name)


def official_gradients(result, names):
    """Gradients by official names; that of a scale is its offset's."""
    found = {}
    for name in names:
        variable = names.variable(name)
        path = variable.path.replace("scale_start", "scale_offset")
        if path in result.variables:
            gradient = result.variables[path]
            found[name] = gradient if name.endswith(".scale") else names.to_official(name, gradient)
    return found


def check_training_step(variant, ties, x, labels, file, goldens, fill, numerics, reference):
    """The losses, the outputs and every gradient of one training step."""
    golden, prefix = goldens("bipointnet", file), f"{variant}/train"
    more = {} if "Seg" in variant else {"dropout": 0.0}
    model = official_model(
        variant, *x.shape[1:], goldens, fill, rule_r=True, ties=ties, orthogonality=0.0, **more
    )
    classes = model.output_shape[-1]
    outputs, matrices = [keras.layers.Flatten()(model.output)], None
    names_of_layers = {layer.name for layer in model.layers}
    for name in ("feat_fstn_fc3", "fstn_fc3"):
        if name in names_of_layers:
            matrices = model.get_layer(name).output
            outputs.append(matrices)
    both = keras.Model(
        model.input, keras.layers.Concatenate()(outputs) if matrices is not None else outputs[0]
    )
    count = len(labels) // len(x) * classes

    def loss(outputs):
        logits = ops.reshape(outputs[:, :count], (-1, classes))
        targets = ops.convert_to_tensor(np.eye(classes)[labels])
        nll = -ops.sum(ops.log_softmax(logits) * targets) / len(labels)
        if matrices is None:
            return nll
        size = int(np.sqrt(matrices.shape[-1]))
        transform = ops.reshape(outputs[:, count:], (-1, size, size)) + ops.eye(size)
        return nll + 0.001 * orthogonality(transform)

    result = numerics.gradients(both, [x], loss=loss, training=True)
    total = numpy(loss(ops.convert_to_tensor(result.value, dtype="float64")))
    numerics.assert_close(total, golden[f"{prefix}/loss"], label="loss")
    logits = result.value[:, :count].reshape(-1, classes)
    check_log_probabilities(logits, golden[f"{prefix}/train_out"], numerics, "train_out")
    positions = result.inputs[0][..., :3].reshape(-1, 3)
    numerics.assert_close(positions, golden[f"{prefix}/{ties}/grad_pos"], label="grad_pos")
    gradients = official_gradients(result, reference.Names(model, NAME_MAPS["Part" in variant]))
    start = f"{prefix}/{ties}/gradnorm/"
    expected = {
        key.removeprefix(start): golden[key] for key in golden.files if key[: len(start)] == start
    }
    assert set(expected) == {name for name, value in gradients.items() if np.any(value)} | {
        name for name in expected if not np.any(gradients[name])
    }
    largest = max(expected.values())
    for name, value in expected.items():
        relative = 1e-6 if name.endswith(".scale") else 1e-9
        np.testing.assert_allclose(
            np.linalg.norm(gradients[name]),
            value,
            rtol=relative,
            atol=1e-9 * largest,
            err_msg=name,
        )


PART = "bipointnet_part_segmentation"
NAME_MAPS = {False: "bipointnet", True: PART}
STEPS = ["LSRMean", "XNOREMax", "BNNMean", "IRNetMean", "BiRealMean", "LSRMax"]
STEPS = [(f"BiPointNet{name}", "split") for name in STEPS] + [("PointNet", "split")]
STEPS += [
    (variant, ties)
    for variant in ("BiPointNetLSREMax", "BiPointNetVanillaLSREMax")
    for ties in ("split", "first")
]


@pytest.mark.parametrize("variant, ties", STEPS)
def test_official_training_step(
    variant, ties, float64, goldens, fill, numerics, reference, backend
):
    only_few_elsewhere(variant, backend)
    x = fill.fill_input("cls_train", (4, 32, 3))
    labels = np.floor(fill.fill_input("labels:cls_train", (4,), 0, 40)).astype(int)
    check_training_step(variant, ties, x, labels, "cls_train", goldens, fill, numerics, reference)


@pytest.mark.parametrize("variant", ["BiPointNetPartSegLSREMax", "BiPointNetSemSegLSREMax"])
def test_official_segmentation_step(variant, float64, goldens, fill, numerics, reference, backend):
    only_few_elsewhere(variant, backend)
    x = segmentation_input(variant, 24, 3, fill, "_train")
    task, classes = ("part", 4) if "Part" in variant else ("sem", 13)
    labels = np.floor(fill.fill_input(f"labels:{task}_train", (72,), 0, classes)).astype(int)
    check_training_step(
        variant, "split", x, labels, "segmentation", goldens, fill, numerics, reference
    )


def test_official_start_of_the_scales(float64, goldens, fill, numerics, reference):
    """A checkpoint with scales of 0.0, the mark of "not initialised", and one training pass."""
    golden, prefix = goldens("bipointnet", "cls_train"), "BiPointNetLSREMax/lsr_init"
    state = official_state(goldens.names("bipointnet", "BiPointNetLSREMax"), fill)
    state |= {name: np.zeros(()) for name in state if name.endswith(".scale")}
    model = BiPointNet((32, 3), sign_of_zero=0, classifier_activation=None)
    report = converters.load_official(model, state)
    assert len(report.notes) == 15 and all("not initialised" in note for note in report.notes)
    assert not any(np.any(v) for n, v in converters.official_state(model).items() if "scale" in n)
    logits = numpy(model(fill.fill_input("cls_train", (4, 32, 3)), training=True))
    exported = converters.official_state(model)
    checked = 0
    for key in golden.files:
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(f"{prefix}/")
        checked += 1
        if name.endswith("scale"):
            # Stored in float32 by the released code.
            np.testing.assert_allclose(exported[name], golden[key], rtol=1e-6, err_msg=name)
        elif name in exported:
            numerics.assert_close(exported[name], golden[key], 1e-6, name)
        else:
            shifted = logits - logits.max(axis=-1, keepdims=True)
            found = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
            numerics.assert_close(found, golden[key], 1e-6, name)
    assert checked == 17


# --- Blocks ----------------------------------------------------------------------------------

CLASSES = {f"BiLinear{method.replace('BNN', '')}": value for method, value in METHODS.items()}
TNETS = [("BiSTN3d", 3, method, pool) for method in CLASSES for pool in POOLS.values()]
TNETS += [
    ("BiSTNkd16", 16, method, pool)
    for method in ("BiLinearXNOR", "BiLinearLSR")
    for pool in POOLS.values()
]


def official_block(build, kind, channels, points, style, prefix, goldens, fill, reference):
    inputs = keras.Input((points, channels))
    model = keras.Model(inputs, build(inputs, style))
    for layer in model.layers:
        if isinstance(layer, QuantDense) and style.binarization == "irnet":
            for quantizer in (layer.input_quantizer, layer.kernel_quantizer):
                quantizer.estimator.assign(1.0, 1.5)
    names = reference.Names(model, kind, prefix)
    state = fill.fill_state({name: names.official_shape(name) for name in names})
    state = {f"{prefix}{name}": value for name, value in state.items()}
    report = converters.load_official(model, state, name_map=kind)
    assert len(report.loaded) == len(state) and not report.kept
    return model, names


@pytest.mark.parametrize("kind, size, method, pool", TNETS)
def test_official_tnet(kind, size, method, pool, float64, goldens, fill, numerics, reference):
    golden, prefix = goldens("bipointnet", "blocks"), f"{kind}/{method}/{pool}"
    x = fill.fill_input(f"stn:{kind}", (4, size, 32)).transpose(0, 2, 1)  # (B, C, N) -> (B, N, C)
    upstream = fill.fill_input(f"upstream:stn:{kind}", (4, size, size)).reshape(4, -1)
    identity = np.eye(size)

    def model_of(ties):
        style = blocks.Style(CLASSES[method], pool, ties=ties, sign_of_zero=0)

        def build(inputs, style):
            return blocks.tnet(inputs, size, style, "stn", real_first=size == 3)

        return official_block(build, PART, size, 32, style, "stn.", goldens, fill, reference)

    model, _ = model_of("split")
    found = numpy(model(x, training=False)).reshape(4, size, size) + identity
    numerics.assert_close(found, golden[f"{prefix}/eval"], label="eval")
    if f"{prefix}/train" not in golden:
        return
    # A mean has no ties.
    for ties in ("split", "first") if pool != "mean" else ("split",):
        model, names = model_of(ties)
        before = {v.path: numpy(v).copy() for v in model.non_trainable_variables}
        result = numerics.gradients(model, [x], upstream, training=True)
        found = result.value.reshape(4, size, size) + identity
        numerics.assert_close(found, golden[f"{prefix}/train"], label="train")
        for norm in ("bn1", "bn5"):
            variable = names.variable(f"{norm}.running_var")
            count = 4 * 32 if norm == "bn1" else 4
            value = reference.unbiased(numpy(variable), before[variable.path], count)
            numerics.assert_close(value, golden[f"{prefix}/train/{norm}.running_var"], label=norm)
        key = f"{prefix}/{ties}"
        dx = result.inputs[0].transpose(0, 2, 1)
        numerics.assert_close(dx, golden[f"{key}/grad_input"], label="grad_input")
        gradients = official_gradients(result, names)
        norms = {
            name.removeprefix(f"{key}/gradnorm/"): golden[name]
            for name in golden.files
            if name.startswith(f"{key}/gradnorm/")
        }
        assert len(norms) >= 16
        largest = max(norms.values())
        for name, value in norms.items():
            gradient = gradients.get(name, np.zeros(()))
            limits = {
                "rtol": 1e-6 if name.endswith("scale") else 1e-9,
                "atol": 1e-9 * largest,
                "err_msg": f"{ties} {name}",
            }
            np.testing.assert_allclose(np.linalg.norm(gradient), value, **limits)
            if f"{key}/grad/{name}" in golden:
                np.testing.assert_allclose(gradient, golden[f"{key}/grad/{name}"], **limits)


@pytest.mark.parametrize("transforms", [0, 1])
def test_official_encoder(transforms, float64, goldens, fill, numerics, reference):
    golden = goldens("bipointnet", "blocks")
    x = fill.fill_input("encoder", (2, 6, 16)).transpose(0, 2, 1)

    def build(inputs, style):
        local, _, pooled = blocks.encoder(inputs, style, bool(transforms), 0.0)
        return [local, pooled]

    style = blocks.Style("lsr", "ema-max", sign_of_zero=0)
    model, _ = official_block(build, "bipointnet", 6, 16, style, "feat.", goldens, fill, reference)
    local, pooled = (numpy(y) for y in model(x, training=False))
    prefix = f"encoder/tnet{transforms}"
    numerics.assert_close(pooled, golden[f"{prefix}/global1/out"])
    # Channels 1000 to 1087 of 1088: the last 24 of the pooled ones, repeated, and the points' own.
    repeated = np.broadcast_to(pooled[:, 1000:, None], (2, 24, 16))
    joined = np.concatenate([repeated, local.transpose(0, 2, 1)], axis=1)
    numerics.assert_close(joined, golden[f"{prefix}/global0/out"])


# --- What is this family's own ------------------------------------------------------------------

SMALL = {"input_shape": (32, 6), "classes": 5}
MODEL_FUNCTIONS = (BiPointNet, BiPointNetPartSegmentation, BiPointNetSemanticSegmentation)


def clouds(batch=2, shape=(32, 6)):
    return np.random.default_rng(0).uniform(-1, 1, (batch, *shape)).astype("float32")


@pytest.mark.parametrize("function", MODEL_FUNCTIONS)
def test_without_the_top(function):
    for pooling, rank in ((None, 3), ("avg", 2), ("max", 2)):
        model = function(**SMALL, include_top=False, pooling=pooling)
        y = numpy(model(clouds()))
        assert y.ndim == rank and y.shape[-1] == {"BiPointNet": 1024}.get(
            function.__name__, 4928 if "Part" in function.__name__ else 1088
        )


def test_counts():
    for transforms, binary, macs in ((True, 3_438_848, 435.0e6), (False, 794_624, 143.3e6)):
        profile = ModelProfile(BiPointNet(transforms=transforms))
        assert profile.weight_count(1) == binary
        assert profile.op_count("mac", 1) == pytest.approx(macs, rel=1e-3)
    assert ModelProfile(BiPointNet(binarization=None, transforms=False)).weight_count(
        folded=False, trainable=True
    ) == 815_016 - 2 * (64 + 128 + 1024 + 512 + 256)


def test_the_penalty_joins_the_loss():
    model = BiPointNet(**SMALL, orthogonality=0.5, classifier_activation=None)
    plain = BiPointNet(**SMALL, orthogonality=0.0, classifier_activation=None)
    for one in (model, plain):
        one.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, labels = clouds(4), np.arange(4)
    model.train_on_batch(x, labels)  # The scales start.
    plain.set_weights(model.get_weights())
    matrices = keras.Model(model.input, model.get_layer("feat_fstn_fc3").output)(x)
    transform = numpy(matrices).reshape(4, 64, 64) + np.eye(64)
    penalty = 0.5 * float(numpy(orthogonality(transform.astype("float32"))))
    found, expected = (one.evaluate(x, labels, verbose=0) for one in (model, plain))
    assert found - expected == pytest.approx(penalty, rel=1e-4)


def test_scales_that_are_not_trained():
    x, labels = clouds(4), np.arange(4)
    for trained in (True, False):
        model = BiPointNet(**SMALL, transforms=False, train_scales=trained)
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.train_on_batch(x, labels)
        offset = model.get_layer("fc2").kernel_quantizer.scale.value.offset
        assert bool(numpy(offset)) is trained
        assert any(offset is variable for variable in model.trainable_variables) is trained


def test_official_state_is_the_inverse(goldens, fill):
    for variant, arguments in (("BiPointNetLSREMax", {}), ("PointNetSemSegMax", REAL)):
        names = goldens.names("bipointnet", variant)
        state = official_state(names, fill)
        function, channels = (
            (BiPointNetSemanticSegmentation, 9) if "Seg" in variant else (BiPointNet, 3)
        )
        model = function(input_shape=(32, channels), **arguments)
        converters.load_official(model, {f"module.{key}": value for key, value in state.items()})
        exported = converters.official_state(model)
        assert set(exported) == {name for name in state if "num_batches" not in name}
        for name, value in exported.items():
            np.testing.assert_allclose(value, state[name], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"binarization": "abc"}, "`binarization` must be one of .*Received: binarization='abc'"),
        ({"aggregation": "sum"}, "`aggregation` must be one of .*Received: aggregation='sum'"),
        ({"input_shape": (None, 3)}, r"`input_shape` must be \(points, channels\).*Received: "),
        ({"input_shape": (32, 2)}, "at least 3 channels.*Received: "),
        ({"ties": "all"}, "`ties` must be .*Received: ties='all'"),
        ({"sign_of_zero": 2}, "`sign_of_zero` must be 0 or 1. Received: sign_of_zero=2"),
        ({"orthogonality": -1.0}, "`weight` must be at least 0. Received: weight=-1.0"),
        ({"classes": 0}, "`classes` must be .*Received: classes=0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BiPointNet(**{**SMALL, **arguments})
    with pytest.raises(ValueError, match="`input_tensor` must be a Keras tensor of shape"):
        BiPointNet(input_tensor=keras.Input((8, 8, 3)))
