"""BiDense's DPT against the official network's numbers."""

import csv
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras.models import ModelProfile
from bnnkeras.training import ScaleInvariantLogLoss
from bnnkeras.zoo import BiDenseDPT
from bnnkeras.zoo import bidense as package
from bnnkeras.zoo.bidense import blocks, dpt, vit

HERE = Path(__file__).parent
SMALL = {"input_shape": (56, 84, 3), "size": "pocket", "classes": 12}
DECODER = dpt.BinaryDecoder(blocks.Binary(sign_of_zero=0))
TOKENS = vit.BinaryTokens(sign_of_zero=0)


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


def _of_one(build):
    """A block of one input."""

    def made(shape):
        x = keras.Input(shape)
        return [x], build(x)

    return made


def _fusion(shape):
    maps = [keras.Input(shape), keras.Input(shape)]
    return maps, dpt.fuse(*maps, DECODER, "refine1")


# Golden name: how it is built, shape of the inputs, official prefix.
BLOCKS = {
    "resconfunit": (
        _of_one(lambda x: DECODER.convolution_unit(x, "refine1_rcu1")),
        (5, 6, 8),
        "scratch.refinenet1.resConfUnit1.",
    ),
    "ffb1": (
        _of_one(lambda x: dpt.fuse(x, None, DECODER, "refine1")),
        (3, 4, 8),
        "scratch.refinenet1.",
    ),
    "ffb2": (_fusion, (3, 4, 8), "scratch.refinenet1."),
    "up4": (_of_one(lambda x: DECODER.grow(x, 4, "resize0")), (3, 2, 6), "resize_layers.0."),
    "down": (_of_one(lambda x: DECODER.shrink(x, "resize3")), (6, 5, 8), "resize_layers.3."),
    "vit_attn": (
        _of_one(lambda x: vit.attention(x, 2, TOKENS, "block0")),
        (9, 16),
        "backbone.blocks.0.attn.",
    ),
    "vit_mlp": (_of_one(lambda x: vit.mlp(x, TOKENS, "block0")), (9, 16), "backbone.blocks.0.mlp."),
    "vit_block": (
        _of_one(lambda x: vit.block(x, 2, TOKENS, "block0")),
        (9, 16),
        "backbone.blocks.0.",
    ),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_official_block(case, float64, goldens, fill, numerics, reference, bidense):
    golden = goldens("bidense", "layers")
    modes = [mode for mode in ("eval", "train") if f"{case}/{mode}/out" in golden]
    assert modes
    for mode in modes:
        build, shape, prefix = BLOCKS[case]
        model = bidense.with_exact_gelu(keras.Model(*build(shape)))
        names = reference.Names(model, "bidense_dpt", prefix)
        shapes = {name: names.official_shape(name) for name in names}
        state = bidense.filled(fill, shapes, f"{case}.")
        bidense.load(model, state, "bidense_dpt", prefix)
        before = {v.path: numpy(v).copy() for v in model.non_trainable_variables}
        key = f"{case}/{mode}"
        x = golden[f"{key}/grad_x"]
        inputs = []
        for index in range(len(model.inputs)):
            array = fill.fill_input(f"x{index or ''}:{case}", x.shape, -2, 2)
            inputs.append(reference.nhwc(array) if x.ndim == 4 else array)
        upstream = fill.fill_input(f"upstream:{case}", golden[f"{key}/out"].shape)
        upstream = reference.nhwc(upstream) if x.ndim == 4 else upstream
        single = bidense.Single(model) if len(inputs) > 1 else model
        result = numerics.gradients(single, inputs, upstream, training=mode == "train")
        numerics.assert_close(reference.nchw(result.value), golden[f"{key}/out"], label="out")
        found = {
            f"grad_x{index or ''}": reference.nchw(gradient)
            for index, gradient in enumerate(result.inputs)
        }
        gradients = bidense.official_gradients(result, names)
        found |= {f"grad/{name}": value for name, value in gradients.items()}
        if mode == "train":
            statistics = bidense.official_statistics(model, names, before, inputs)
            found |= {f"buf/{name}": value for name, value in statistics.items()}
        keys = {name.removeprefix(f"{key}/") for name in golden.files if name.startswith(f"{key}/")}
        if case == "ffb1":  # The official module has a unit for a second map, which is not used.
            keys = {name for name in keys if not name.startswith("buf/resConfUnit1.")}
        assert keys == {"out", *found}
        for name, value in found.items():
            expected = golden[f"{key}/{name}"]
            if mode == "train" and name.endswith("conv.bias"):
                np.testing.assert_allclose(value, expected, rtol=0, atol=1e-9, err_msg=name)
            else:
                numerics.assert_close(value, expected, label=name)


@pytest.mark.parametrize("rows, columns", [(4, 6), (34, 34), (40, 20), (37, 38)])
def test_official_position_embedding(rows, columns, float64, goldens, fill, numerics):
    key = f"pos_embed_{rows}x{columns}"
    layer = vit.TokenEmbedding(rows, columns)
    layer.build((None, rows * columns, 3))
    layer.pos_embed.assign(fill.fill_param(f"{key}.pos_embed", (1, 1370, 3)))
    numerics.assert_close(numpy(layer.positions()), goldens("bidense", "ops")[key])


@pytest.mark.parametrize(
    "source, target", [((60, 90), (56, 84)), ((33, 40), (28, 28)), ((480, 480), (476, 476))]
)
def test_official_image_resizing(source, target, float64, goldens, fill, numerics):
    key = "resize_bilinear_{}x{}_to_{}x{}".format(*source, *target)
    x = fill.fill_input(f"x:{key}", (1, 1, *source)).transpose(0, 2, 3, 1)
    y = numpy(vit.PixelCentredResizing(*target)(x)).transpose(0, 3, 1, 2)
    expected = goldens("bidense", "ops")[key]
    step = 8 if target[0] == 476 else 1
    numerics.assert_close(y[:, :, ::step, ::step], expected)


STAGES = {
    "backbone.patch_embed": ("patches",),
    "backbone.blocks.11": ("block11_add2",),
    "resize_layers.0": ("resize0_add", "resize0_conv"),
    "resize_layers.3": ("resize3_add", "resize3_conv"),
    "scratch.refinenet4": ("refine4_resize",),
    "scratch.refinenet1": ("refine1_resize",),
    "scratch.output_conv1": ("neck_add", "neck_conv"),
}
NETWORKS = {
    "dpt_bidense_seg151": ({}, (56, 84), 8),
    "dpt_bidense_seg151_resized": ({}, (60, 90), 12),
    "dpt_bidense_depth": ({"task": "depth"}, (84, 56), 4),
    "dpt_fp32_0_seg151": ({"precision": "scratch"}, (56, 56), 16),
    "dpt_fp32_0_depth": ({"precision": "scratch", "task": "depth"}, (56, 56), 8),
    "dpt_fp32_seg151": ({"precision": "pretrained"}, (56, 56), 16),
    "dpt_fp32_depth": ({"precision": "pretrained", "task": "depth"}, (56, 56), 8),
}


def official_network(case, goldens, fill, bidense, size=None):
    """The network with the official parameters behind a golden, and its name map."""
    arguments, (height, width), _ = NETWORKS[case]
    height, width = size or (height, width)
    model = BiDenseDPT(input_shape=(height, width, 3), sign_of_zero=0, **arguments)
    bidense.with_exact_gelu(model)
    state = bidense.filled(fill, goldens.names("bidense", case.removesuffix("_resized")))
    name_map = "bidense_dpt" if "bidense" in case else "bidense_dpt_real"
    if case == "dpt_fp32_depth":
        name_map = "bidense_dpt_pretrained_depth"
    report = bidense.load(model, state, name_map)
    unused = {name for name in state if "num_batches" in name or "mask_token" in name}
    unused |= {name for name in state if "refinenet4.resConfUnit1" in name}
    assert set(state) - unused == set(report.loaded) - unused
    return model, name_map


@pytest.mark.slow
@pytest.mark.parametrize("case", NETWORKS)
def test_official_network(case, float64, goldens, fill, numerics, reference, bidense, backend):
    if backend != "tensorflow":
        pytest.skip("minutes to compile; all blocks run on this backend")
    golden = goldens("bidense", "models_dpt")
    _, (height, width), step = NETWORKS[case]
    model, _ = official_network(case, goldens, fill, bidense)
    x = fill.fill_input(f"x:{case}", (1, 3, height, width), -2, 2)
    layers = {layer.name for layer in model.layers}
    tapped = {
        stage: next(name for name in names if name in layers) for stage, names in STAGES.items()
    }
    outputs = reference.layer_outputs(model, tapped)(reference.nhwc(x), training=False)
    outputs = {name: reference.nchw(numpy(y)) for name, y in outputs.items()}
    y = outputs.pop("logits")
    numerics.assert_close(y[:, :, ::step, ::step], golden[f"{case}/eval/out_sub"], label="out")
    numerics.assert_close(y.mean(axis=(2, 3)), golden[f"{case}/eval/chan_mean"], label="mean")
    numerics.assert_close(np.linalg.norm(y)[None], golden[f"{case}/eval/l2"], label="l2")
    if f"{case}/eval/argmax" in golden:
        np.testing.assert_array_equal(y.argmax(axis=1), golden[f"{case}/eval/argmax"])
    for stage, y in outputs.items():
        key = f"{case}/stage/{stage}"
        if f"{key}/l2" in golden:
            numerics.assert_close(np.linalg.norm(y)[None], golden[f"{key}/l2"], label=stage)
            mean = y.mean(axis=(2, 3) if y.ndim == 4 else 1)
            numerics.assert_close(mean, golden[f"{key}/mean"], label=stage)


@pytest.mark.slow
def test_official_training_step(float64, goldens, fill, numerics, reference, bidense, backend):
    """The loss, the norm of every gradient, and the running variances after one step."""
    if backend != "tensorflow":
        pytest.skip("minutes to compile; all blocks take a training step on this backend")
    case = "dpt_bidense_depth"
    golden = goldens("bidense", "models_dpt")
    model, name_map = official_network(case, goldens, fill, bidense, (56, 56))
    names = reference.Names(model, name_map)
    before = {variable.path: numpy(variable).copy() for variable in model.non_trainable_variables}
    x = reference.nhwc(fill.fill_input(f"x:{case}:train", (2, 3, 56, 56), -2, 2))
    target = reference.nhwc(fill.fill_input(f"target:{case}", (2, 1, 56, 56), -1, 10))
    criterion, losses = ScaleInvariantLogLoss(dtype="float64"), []

    def loss(outputs):
        losses.append(criterion(ops.convert_to_tensor(np.maximum(target, 0)), outputs))
        return losses[-1]

    result = numerics.gradients(model, [x], loss=loss, training=True)
    numerics.assert_close(numpy(losses[0])[None], golden[f"{case}/train/loss"], label="loss")
    bidense.assert_gradient_norms(golden, case, result, names, noise=1e-9)
    statistics = bidense.official_statistics(model, names, before, x)
    wanted = golden[f"{case}/train/running_var_names"].tolist()
    found = [statistics[name].mean() for name in wanted if name in statistics]
    expected = [
        value
        for name, value in zip(wanted, golden[f"{case}/train/running_var_mean"], strict=True)
        if name in statistics
    ]
    assert len(found) == len(statistics) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "task, arguments",
    [
        ("segmentation", {}),
        ("depth", {"scale_axis": "layer"}),
        ("segmentation", {"precision": "scratch"}),
        ("depth", {"precision": "pretrained"}),
    ],
)
def test_small_network(task, arguments):
    model = BiDenseDPT(**SMALL, task=task, **arguments)
    y = numpy(model(np.random.default_rng(0).normal(size=(2, 56, 84, 3)).astype("float32")))
    assert y.shape == (2, 56, 84, 12 if task == "segmentation" else 1) and np.isfinite(y).all()


def test_saved_and_loaded(tmp_path):
    model = BiDenseDPT(**SMALL)
    x = np.random.default_rng(0).normal(size=(1, 56, 84, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(again(x)), numpy(model(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": "huge"}, "`size` must be one of .*Received: size='huge'"),
        ({"input_shape": (28, 84, 3)}, r"at least 56. Received: \(28, 84, 3\)"),
        ({"precision": "half"}, "`precision` must be .*Received: precision='half'"),
        ({"scale_axis": "group"}, "`scale_axis` must be .*Received: scale_axis='group'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BiDenseDPT(**{**SMALL, **arguments})


@pytest.mark.slow
def test_costs_layer_by_layer(goldens):
    model = BiDenseDPT(input_shape=(480, 480, 3))
    profile = ModelProfile(model)
    found = {layer.name: layer for layer in profile.layer_profiles}
    with (goldens.folder / "bidense" / "layers_dpt_bidense_seg151_480.csv").open() as lines:
        for row in csv.DictReader(lines):
            paths = package.NAMES["dpt"].variables_of(f"{row['layer']}.weight")
            if paths is None:  # The unit of the coarsest map that is never used.
                continue
            layer = found[paths[0].partition("/")[0]]
            bits = 1 if row["binary"] == "1" else 32
            assert layer.op_count("mac", bits) == int(row["macs"]), row
            assert layer.weight_count(bits) >= int(row["weights"]), row
