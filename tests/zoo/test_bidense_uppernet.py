"""BiDense's UperNet against the official network's numbers, and what is its own in the zoo."""

import csv
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import converters
from bnnkeras.models import ModelProfile
from bnnkeras.zoo import BiDenseUperNet, list_models
from bnnkeras.zoo import bidense as bidense_package
from bnnkeras.zoo.bidense import blocks, uppernet

pytestmark = pytest.mark.any_backend

HERE = Path(__file__).parent
SMALL = {"input_shape": (64, 64, 3), "size": "pocket", "classes": 12}


@pytest.fixture(scope="session")
def bidense():
    """bidense_reference.py, by its path: tests/ is not on sys.path."""
    path = HERE / "bidense_reference.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


# --- The official blocks ----------------------------------------------------------------------

BINARY = blocks.Binary(sign_of_zero=0)


def _block(form):
    def build():
        x = keras.Input((9, 7, 8) if form is BINARY else (6, 5, 8))
        return [x], form.block(x, "stage0_block0")

    return build


def _transition():
    x = keras.Input((8, 6, 8))
    return [x], BINARY.transition(x, 16, "transition1")


def _pyramid_pooling(height, width, channels):
    def build():
        x = keras.Input((height, width, channels))
        return [x], uppernet.pyramid_pooling(x, BINARY, dropout=0.0)

    return build


def _feature_pyramid():
    shapes = [(16, 12, 8), (8, 6, 16), (4, 3, 32), (2, 2, 64)]
    maps = [keras.Input(shape) for shape in shapes]
    return maps, uppernet.feature_pyramid(list(maps), BINARY)


# Golden name: how it is built, prefix of the official names, form, batch.
BLOCKS = {
    "block": (_block(BINARY), "backbone.stages.0.0.", "", 2),
    "transition": (_transition, "backbone.downsample_layers.1.", "", 2),
    "psp": (_pyramid_pooling(7, 5, 16), "PPN.", "", 3),
    "psp_small": (_pyramid_pooling(2, 3, 8), "PPN.", "", 3),
    "fpn": (_feature_pyramid, "FPN.", "", 2),
    "fp32_0_block": (_block(blocks.Scratch()), "backbone.stages.0.0.", "_scratch", 2),
    "fp32_block": (_block(blocks.Pretrained()), "backbone.stages.0.0.", "_pretrained", 2),
}


# Without statistics of a batch, training and inference are the same.
MODES = [(case, mode) for case in BLOCKS for mode in ("eval", "train")]
MODES.remove(("fp32_block", "train"))


@pytest.mark.parametrize("case, mode", MODES)
def test_official_block(case, mode, float64, goldens, fill, numerics, reference, bidense):
    golden = goldens("bidense", "layers")
    build, prefix, form, batch = BLOCKS[case]
    model = bidense.with_exact_gelu(keras.Model(*build()))
    name_map = f"bidense_upernet{form}"
    names = reference.Names(model, name_map, prefix)
    shapes = {name: names.official_shape(name) for name in names}
    state = bidense.filled(fill, shapes, f"{case}.")
    reference.load(model, state, name_map, prefix)
    before = {variable.path: numpy(variable).copy() for variable in model.non_trainable_variables}

    key = f"{case}/{mode}"
    inputs = []
    for index, tensor in enumerate(model.inputs):
        height, width, channels = tensor.shape[1:]
        x = fill.fill_input(f"x{index or ''}:{case}", (batch, channels, height, width), -2, 2)
        inputs.append(reference.nhwc(x))
    upstream = reference.nhwc(fill.fill_input(f"upstream:{case}", golden[f"{key}/out"].shape))
    single = bidense.Single(model) if len(inputs) > 1 else model
    result = numerics.gradients(single, inputs, upstream, training=mode == "train")
    numerics.assert_close(reference.nchw(result.value), golden[f"{key}/out"], label="out")
    found = {
        f"grad_x{index or ''}": reference.nchw(gradient)
        for index, gradient in enumerate(result.inputs)
    }
    found |= {
        f"grad/{name}": value for name, value in bidense.official_gradients(result, names).items()
    }
    if mode == "train":
        statistics = bidense.official_statistics(model, names, before, inputs)
        found |= {f"buf/{name}": value for name, value in statistics.items()}
    keys = {name.removeprefix(f"{key}/") for name in golden.files if name.startswith(f"{key}/")}
    assert keys == {"out", *found}
    for name, value in found.items():
        expected = golden[f"{key}/{name}"]
        if mode == "train" and name.endswith("conv.bias") or np.max(np.abs(expected)) < 1e-9:
            # What batch normalization cancels is rounding noise.
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-9, err_msg=name)
        else:
            numerics.assert_close(value, expected, label=name)


# --- The official networks --------------------------------------------------------------------

STAGES = {
    "backbone.stem": ("stem_bn", "stem_ln"),
    "backbone.stages.0": ("stage0_block2_pw2_add", "stage0_block2_add"),
    "backbone.stages.1": ("stage1_block2_pw2_add", "stage1_block2_add"),
    "backbone.stages.2": ("stage2_block8_pw2_add", "stage2_block8_add"),
    "backbone.stages.3": ("stage3_block2_pw2_add", "stage3_block2_add"),
    "PPN": ("psp_dropout",),
    "FPN": ("fpn_fusion_rprelu", "fpn_fusion_relu"),
}
# Official name: arguments, batch, height, width, step of the stored pixels.
NETWORKS = {
    "upernet_bidense_seg151": ({}, (1, 64, 96), 8),
    "upernet_bidense_seg151_192": ({}, (1, 192, 160), 32),
    "upernet_bidense_seg22": ({"classes": 22}, (2, 64, 64), 8),
    "upernet_bidense_depth": ({"task": "depth"}, (1, 96, 64), 4),
    "upernet_fp32_0_seg151": ({"precision": "scratch"}, (1, 64, 64), 16),
    "upernet_fp32_0_depth": ({"precision": "scratch", "task": "depth"}, (1, 64, 64), 4),
    "upernet_fp32_seg151": ({"precision": "pretrained"}, (1, 64, 64), 16),
    "upernet_fp32_depth": ({"precision": "pretrained", "task": "depth"}, (1, 64, 64), 4),
}
SLOW = pytest.mark.slow


def official_network(case, goldens, fill, reference, bidense, size=None):
    arguments, (_, height, width), _ = NETWORKS[case]
    height, width = size or (height, width)
    model = BiDenseUperNet(input_shape=(height, width, 3), sign_of_zero=0, **arguments)
    bidense.with_exact_gelu(model)
    names = case.removesuffix("_192").replace("seg22", "seg151")
    shapes = goldens.names("bidense", names)
    if "classes" in arguments:
        for name in ("out_conv2.2.weight", "out_conv2.2.bias"):
            shapes[name] = [arguments["classes"], *shapes[name][1:]]
    state = bidense.filled(fill, shapes)
    form = arguments.get("precision", "binary")
    task = "_depth" if form == "pretrained" and arguments.get("task") else ""
    name_map = "bidense_upernet" + ("" if form == "binary" else f"_{form}{task}")
    report = reference.load(model, state, name_map)
    unused = {name for name in state if name.startswith(("backbone.norm", "backbone.head"))}
    unused |= {name for name in state if "num_batches" in name or "smooth_conv.1" in name}
    unused |= {name for name in state if "smooth_conv.2" in name}
    assert set(state) - unused == set(report.loaded) - unused
    return model, name_map


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case == "upernet_bidense_seg151" else SLOW)
        for case in NETWORKS
    ],
)
def test_official_network(case, float64, goldens, fill, numerics, reference, bidense, backend):
    if backend != "tensorflow" and case != "upernet_bidense_seg151":
        pytest.skip("minutes to compile; upernet_bidense_seg151 and all blocks run here")
    golden = goldens("bidense", "models_upernet")
    _, (batch, height, width), step = NETWORKS[case]
    model, _ = official_network(case, goldens, fill, reference, bidense)
    layers = {layer.name for layer in model.layers}
    tapped = {
        stage: next(name for name in names if name in layers) for stage, names in STAGES.items()
    }
    x = fill.fill_input(f"x:{case}", (batch, 3, height, width), -2, 2)
    outputs = reference.layer_outputs(model, tapped)(reference.nhwc(x), training=False)
    outputs = {name: reference.nchw(numpy(y)) for name, y in outputs.items()}
    y = outputs.pop("logits")
    numerics.assert_close(y[:, :, ::step, ::step], golden[f"{case}/eval/out_sub"], label="out")
    numerics.assert_close(y.mean(axis=(2, 3)), golden[f"{case}/eval/chan_mean"], label="mean")
    numerics.assert_close(np.linalg.norm(y)[None], golden[f"{case}/eval/l2"], label="l2")
    if f"{case}/eval/argmax" in golden:
        np.testing.assert_array_equal(y.argmax(axis=1), golden[f"{case}/eval/argmax"])
    for stage, y in outputs.items():
        if f"{case}/stage/{stage}/l2" in golden:
            numerics.assert_close(
                np.linalg.norm(y)[None], golden[f"{case}/stage/{stage}/l2"], label=stage
            )
            mean = y.mean(axis=(2, 3))
            numerics.assert_close(mean, golden[f"{case}/stage/{stage}/mean"], label=stage)


def crossentropy(logits, target):
    """The mean over pixels of all classes but the last, which is to be ignored."""
    classes = logits.shape[-1]
    valid = target < classes - 1
    wanted = ops.one_hot(target, classes, dtype=logits.dtype)
    losses = -ops.sum(wanted * ops.log_softmax(logits), axis=-1)
    weights = ops.convert_to_tensor(valid, dtype=logits.dtype)
    return ops.sum(losses * weights) / ops.sum(weights)


def silog(depth, target):
    """The scale-invariant loss of depths where the target is above 0.1."""
    valid = target > 0.1
    difference = ops.log(depth + 1e-7) - np.log(np.where(valid, target, 1) + 1e-7)
    weights = ops.convert_to_tensor(valid, dtype=depth.dtype) / valid.sum()
    mean, square = (ops.sum(weights * part) for part in (difference, difference**2))
    return 10 * ops.sqrt(square - 0.85 * mean**2)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["upernet_bidense_seg151", "upernet_bidense_depth"])
def test_official_training_step(
    case, float64, goldens, fill, numerics, reference, bidense, backend
):
    """The loss, the norm of every gradient, and the running variances after one step."""
    if backend != "tensorflow":
        pytest.skip("minutes to compile; all blocks take a training step on this backend")
    golden = goldens("bidense", "models_upernet")
    model, name_map = official_network(case, goldens, fill, reference, bidense, (64, 64))
    model.get_layer("psp_dropout").rate = 0.0
    names = reference.Names(model, name_map)
    before = {variable.path: numpy(variable).copy() for variable in model.non_trainable_variables}
    x = reference.nhwc(fill.fill_input(f"x:{case}:train", (3, 3, 64, 64), -2, 2))
    if "depth" in case:
        target = fill.fill_input(f"target:{case}", (3, 1, 64, 64), -1, 10)
        target = np.maximum(reference.nhwc(target), 0)
        criterion = silog
    else:
        target = np.floor(fill.fill_input(f"target:{case}", (3, 64, 64), 0, 151)).astype("int32")
        criterion = crossentropy
    losses = []

    def loss(outputs):
        losses.append(criterion(outputs, target))
        return losses[-1]

    result = numerics.gradients(model, [x], loss=loss, training=True)
    numerics.assert_close(numpy(losses[0])[None], golden[f"{case}/train/loss"], label="loss")
    bidense.assert_gradient_norms(golden, case, result, names, noise=1e-11)
    statistics = bidense.official_statistics(model, names, before, x)
    wanted = golden[f"{case}/train/running_var_names"].tolist()
    means = {name: value.mean() for name, value in statistics.items() if "running_var" in name}
    for copy in (1, 2):
        shared = "FPN.smooth_conv.0.norm.running_var"
        means[shared.replace(".0.", f".{copy}.")] = means[shared]
    found = [means[name] for name in wanted]
    np.testing.assert_allclose(found, golden[f"{case}/train/running_var_mean"], rtol=1e-9)


# --- Costs ------------------------------------------------------------------------------------

COSTS = {
    "upernet_bidense_seg151_480": {"input_shape": (480, 480, 3)},
    "upernet_bidense_seg151_512": {"input_shape": (512, 512, 3)},
    "upernet_bidense_depth_480x640": {"input_shape": (480, 640, 3), "task": "depth"},
}
# 1-bit weights, trainable parameters, binary and real MACs (spec, sections 1 and 8).
TOTALS = {
    "upernet_bidense_seg151_480": (39_759_840, 40_068_503, 64.8141, 4.5195),
    "upernet_bidense_seg151_512": (39_759_840, 40_068_503, 73.7429, 5.1422),
    "upernet_bidense_depth_480x640": (39_649_248, 39_938_273, 52.4421, 0.0983),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COSTS)
def test_costs_layer_by_layer(case, goldens):
    model = BiDenseUperNet(**COSTS[case])
    profile = ModelProfile(model)
    found = {layer.name: layer for layer in profile.layer_profiles}
    names = bidense_package.NAMES["binary"]
    with (goldens.folder / "bidense" / f"layers_{case}.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        (path,) = names.variables_of(f"{row['layer']}.weight")
        layer = found.pop(path.partition("/")[0])
        bits = 1 if row["binary"] == "1" else 32
        assert layer.op_count("mac", bits) == int(row["macs"]) == layer.op_count("mac"), row
        assert layer.call_count == int(row["calls"])
        kernel = next(weight for weight in layer.weight_profiles if weight.bitwidth == bits)
        assert kernel.memory == int(row["weight_bits"]), row
    assert not any(layer.op_count("mac") for layer in found.values())
    one_bit, trainable, binary, real = TOTALS[case]
    assert profile.weight_count(1) == one_bit
    assert profile.weight_count(folded=False, trainable=True) == trainable
    assert round(profile.op_count("mac", 1) / 1e9, 4) == binary
    assert round(profile.op_count("mac", 32) / 1e9, 4) == real


# --- What is the zoo's own --------------------------------------------------------------------


def test_registered_by_name():
    assert "bidenseupernet" in list_models()


@pytest.mark.parametrize("precision", ["binary", "scratch", "pretrained"])
@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_small_network(precision, task):
    model = BiDenseUperNet(**SMALL, task=task, precision=precision, max_depth=7.0)
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    y = numpy(model(x))
    assert y.shape == (2, 64, 64, 12 if task == "segmentation" else 1) and np.isfinite(y).all()
    if task == "depth":
        assert (y > 0).all() and (y < 7).all()


def test_scale_axes_share_their_weights():
    """One scale per image and layer where LCE needs it; depthwise convolutions keep theirs."""
    official = BiDenseUperNet(**SMALL)
    deployable = BiDenseUperNet(**SMALL, scale_axis="layer")
    for one, other in zip(official.layers, deployable.layers, strict=True):
        quantizer = getattr(other, "input_quantizer", None)
        if quantizer is not None:
            assert quantizer.per_layer == (not other.name.endswith("_dw_conv"))
            assert not one.input_quantizer.per_layer
            one.input_quantizer.scale.alpha.assign(
                np.linspace(-1, 1, one.input_quantizer.scale.alpha.shape[0])
            )
    deployable.set_weights(official.get_weights())
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    assert np.abs(numpy(official(x)) - numpy(deployable(x))).max() > 1e-3


def test_classifying_at_a_quarter_costs_a_sixteenth():
    """The same weights, another function; only the head's multiply-accumulates differ."""
    whole, quarter = (
        BiDenseUperNet(**SMALL, classify_at=place, name="network") for place in ("input", "quarter")
    )
    assert [v.path for v in whole.weights] == [v.path for v in quarter.weights]
    assert quarter.output_shape == whole.output_shape
    costs = [
        {p.name: p.op_count("mac") for p in ModelProfile(m).layer_profiles}
        for m in (whole, quarter)
    ]
    for name in ("head_conv", "prediction"):
        assert costs[0].pop(name) == 16 * costs[1].pop(name)
    assert {k: v for k, v in costs[0].items() if v} == {k: v for k, v in costs[1].items() if v}


def test_saved_and_loaded(tmp_path):
    model = BiDenseUperNet(**SMALL)
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(again(x)), numpy(model(x)), rtol=1e-6, atol=1e-6)
    model.save_weights(tmp_path / "model.weights.h5")
    third = BiDenseUperNet(**SMALL, weights=tmp_path / "model.weights.h5")
    np.testing.assert_allclose(numpy(third(x)), numpy(model(x)), rtol=1e-6, atol=1e-6)


def test_official_checkpoint_of_lightning(tmp_path, bidense, reference, fill):
    """`module.` before every name, the loss's weights, and three copies of the shared module."""
    model = BiDenseUperNet(**SMALL)
    names = reference.Names(model, "bidense_upernet")
    shapes = {name: names.official_shape(name) for name in names}
    state = {f"module.{name}": value for name, value in fill.fill_state(shapes).items()}
    for name in list(state):
        for copy in (1, 2):
            state[name.replace("smooth_conv.0.", f"smooth_conv.{copy}.")] = state[name]
    state["criterion.weight"] = np.ones(12)
    state["module.backbone.norm.weight"] = np.ones(256)
    np.savez(tmp_path / "official.npz", **state)
    loaded = BiDenseUperNet(**SMALL, weights=tmp_path / "official.npz")
    kernel = loaded.get_layer("stage0_block0_dw_conv").weights[0]
    (wanted,) = (value for name, value in state.items() if "0.0.dwconv.conv.weight" in name)
    np.testing.assert_allclose(numpy(kernel)[..., 0], wanted[:, 0].transpose(1, 2, 0), rtol=1e-6)
    state["module.FPN.smooth_conv.2.norm.bias"] = state["module.FPN.smooth_conv.2.norm.bias"] + 1
    with pytest.raises(ValueError, match="smooth_conv.2.norm.bias"):
        converters.load_official(loaded, state)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": "huge"}, "`size` must be one of .*Received: size='huge'"),
        ({"precision": "half"}, "`precision` must be .*Received: precision='half'"),
        ({"task": "pose"}, "`task` must be .*Received: task='pose'"),
        ({"classes": 1}, "`classes` must be .*Received: classes=1"),
        ({"max_depth": -1}, "`max_depth` must be .*Received: max_depth=-1"),
        ({"scale_axis": "group"}, "`scale_axis` must be .*Received: scale_axis='group'"),
        ({"classify_at": "half"}, "`classify_at` must be .*Received: classify_at='half'"),
        ({"input_shape": (16, 64, 3)}, r"at least 32. Received: \(16, 64, 3\)"),
        ({"input_shape": (None, 64, 3)}, r"must be known .*Received: \(None, 64, 3\)"),
        ({"sign_of_zero": 2}, "`sign_of_zero` must be 0 or 1. Received: sign_of_zero=2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BiDenseUperNet(**{**SMALL, **arguments})
