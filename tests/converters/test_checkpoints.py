"""Official checkpoints: names, layouts, files, and files that mean harm."""

import importlib.util
import io
import json
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest

from bnnkeras import converters, zoo
from bnnkeras.converters import checkpoints
from bnnkeras.converters.checkpoints import (
    STANDARD,
    Depthwise,
    Flat,
    FlattenedFeatures,
    Layout,
    NameMap,
    Pointwise,
    Rule,
    SingleAxis,
    Transposed,
    batch_normalization,
    names,
    weight_and_bias,
)

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


def _module(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutate = _module("mutations").mutate

NAMES = NameMap(
    "small",
    [
        *weight_and_bias("features.{i}.conv", "conv{i}"),
        *batch_normalization("features.{i}.bn", "bn{i}"),
        *weight_and_bias("fc", "classifier"),
    ],
    unused=["fc.weight", "fc.bias", "auxiliary.*"],
)


def small_model(classes=3, **arguments):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, (3, 2), name="conv0", **arguments),
            keras.layers.BatchNormalization(name="bn0", **arguments),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    if classes:
        model.add(keras.layers.Dense(classes, name="classifier", **arguments))
    return model


def small_state():
    generator = np.random.default_rng(0)
    shapes = {
        "features.0.conv.weight": (4, 2, 3, 2),
        "features.0.conv.bias": (4,),
        **{f"features.0.bn.{name}": (4,) for name in ("weight", "bias")},
        **{f"features.0.bn.running_{name}": (4,) for name in ("mean", "var")},
        "fc.weight": (3, 4),
        "fc.bias": (3,),
    }
    return {
        name: generator.uniform(0.1, 1, shape).astype("float32") for name, shape in shapes.items()
    }


def tensors(state):
    return OrderedDict((name, torch.from_numpy(array)) for name, array in state.items())


def load(source, model=None):
    model = small_model() if model is None else model
    report = converters.load_official(model, source, name_map=NAMES)
    return model, report


def assert_loaded(source):
    model, report = load(source)
    state = small_state()
    assert set(report.loaded) == set(state)
    for name, array in converters.official_state(model, name_map=NAMES).items():
        np.testing.assert_array_equal(array, state[name])
    return report


def assert_refused(source, *messages, model=None):
    """One ValueError with all of the messages, and no variable changed."""
    model = small_model() if model is None else model
    before = model.get_weights()
    with pytest.raises(ValueError) as info:
        converters.load_official(model, source, name_map=NAMES)
    text = str(info.value)
    for message in (*messages, "Received: "):
        assert message in text
    if isinstance(source, (str, Path)):
        assert str(source) in text
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    return text


# --- The official network --------------------------------------------------------------------


@pytest.mark.any_backend
def test_birealnet18_gives_the_official_logits(float64, goldens, fill, numerics):
    shapes = goldens.names("birealnet", "birealnet18")
    model = zoo.BiRealNet18(
        input_shape=(32, 32, 3), classifier_activation=None, sign_of_zero=0, name="renamed"
    )
    state = {f"module.{name}": array for name, array in fill.fill_state(shapes).items()}
    report = converters.load_official(model, {"epoch": 255, "state_dict": state})
    counters = {name for name in shapes if name.endswith("num_batches_tracked")}
    assert report.name_map == "birealnet"
    assert set(report.unused) == counters and set(report.loaded) == set(shapes) - counters
    x = fill.fill_input("birealnet18:1x32x32", (1, 3, 32, 32), -2, 2).transpose(0, 2, 3, 1)
    logits = keras.ops.convert_to_numpy(model(x, training=False))
    golden = goldens("birealnet", "birealnet18")
    numerics.assert_close(logits, golden["eval_1x32x32/logits"], label="logits")

    returned = converters.official_state(model)
    assert {name: list(array.shape) for name, array in returned.items()} == {
        name: shape for name, shape in shapes.items() if name not in counters
    }
    for name, array in returned.items():
        np.testing.assert_array_equal(array, state[f"module.{name}"])


def test_a_saved_model_without_its_top_finds_its_map(goldens, fill, tmp_path):
    state = fill.fill_state(goldens.names("birealnet", "birealnet18"))
    model = zoo.BiRealNet18(input_shape=(32, 32, 3), include_top=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    report = converters.load_official(loaded, state)
    assert {"fc.weight", "fc.bias"} <= set(report.unused)
    with pytest.raises(ValueError, match="2 of another shape: 'fc.weight'"):
        converters.load_official(zoo.BiRealNet18(input_shape=(32, 32, 3), classes=10), state)


# --- Sources ---------------------------------------------------------------------------------


def write(path, state):
    """The state in the format that the suffix says."""
    if path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".safetensors":
        safetensors_torch.save_file(tensors(state), path)
    else:
        torch.save(tensors(state), path)
    return path


SUFFIXES = (".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".npz", ".safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files(suffix, tmp_path):
    path = write(tmp_path / f"weights{suffix}", small_state())
    for source in (path, str(path)):
        report = assert_loaded(source)
        assert report.source == repr(str(path))


def test_old_and_compressed_files(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(tensors(small_state()), path, _use_new_zipfile_serialization=False)
    assert_loaded(path)
    np.savez_compressed(tmp_path / "small.npz", **small_state())
    assert_loaded(tmp_path / "small.npz")


@pytest.mark.any_backend
def test_mappings():
    state = small_state()
    assert_loaded(state)
    assert_loaded(tensors(state))
    assert_loaded({name: keras.Variable(array) for name, array in state.items()})
    assert_loaded({name: keras.ops.convert_to_tensor(array) for name, array in state.items()})
    assert_loaded({name: array.tolist() for name, array in state.items()})
    with pytest.raises(TypeError, match="`source` must be .*Received: list"):
        load(list(state))
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: int"):
        load(state, model=3)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "model": "resnet18", "state_dict": state, "parameters": [1]},
        lambda state: {"model": state, "last_iter": 7, "optimizer": {"state": {}}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"net": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {**state, "auxiliary.loss.weight": torch.ones(3)}},
    ],
)
def test_wrappers_and_prefixes(wrap, tmp_path):
    source = wrap(tensors(small_state()))
    assert_loaded(source)
    torch.save(source, tmp_path / "a.pth")
    assert_loaded(tmp_path / "a.pth")


def test_lightning(tmp_path):
    state = {f"module.{name}": value for name, value in tensors(small_state()).items()}
    state["criterion.weight"] = torch.ones(3)
    assert_refused(
        {"state_dict": state, "hyper_parameters": {}}, "1 unexpected: 'criterion.weight'"
    )


def test_names_that_meet_without_their_prefix():
    state = small_state()
    assert_refused({**state, "module.fc.bias": state["fc.bias"]}, "Names must differ", "'fc.bias'")
    assert_refused({**state, 3: state["fc.bias"]}, "must be strings", "3")


# --- What is wrong ---------------------------------------------------------------------------


def test_everything_wrong_is_said_at_once():
    state = small_state()
    del state["features.0.conv.bias"]
    state["features.1.conv.bias"] = np.ones(4)
    state["fc.weight"] = np.ones((10, 4))
    state["features.0.bn.weight"] = np.array([1, np.nan, np.inf, 0])
    state["features.0.bn.bias"] = "text"
    text = assert_refused(
        state,
        "1 missing: 'features.0.conv.bias'",
        "1 unexpected: 'features.1.conv.bias'",
        "1 of another shape: 'fc.weight' (expected (3, 4), received (10, 4))",
        "'features.0.bn.weight' has 2 values that are not finite",
        "'features.0.bn.bias' is no array",
        "Received: dict with 8 entries",
    )
    assert "2 not usable" in text


def test_long_lists_are_cut():
    extra = {f"extra{number}": np.ones(1) for number in range(40)}
    text = assert_refused({**small_state(), **extra}, "40 unexpected: 'extra0'", "and 28 more")
    assert "extra11" in text and "extra12" not in text
    assert_refused({}, "8 missing: ")


@pytest.mark.parametrize(
    "value, message",
    [
        (np.ones(3, bool), "no array of real numbers but of bool"),
        (np.ones(3, complex), "no array of real numbers but of complex128"),
        (np.array(["1", "2", "3"]), "no array of real numbers"),
        (np.array([1, None, 2], object), "no array of real numbers but of object"),
        (np.zeros(3, "datetime64[s]"), "no array of real numbers"),
        (np.array([1, 2, 1e39]), "has values that float32 cannot hold, as 1e+39"),
        (np.array([1, 2, -np.inf], "float16"), "has 1 values that are not finite"),
        (torch.ones(3).to_sparse(), "no array of real numbers but of torch.sparse_coo"),
        (torch.ones(3, device="meta"), "no array of real numbers but of torch.strided float32 on"),
        (torch.ones(3, dtype=torch.complex64), "no array of real numbers but of complex64"),
    ],
)
def test_unusable_values(value, message):
    assert_refused({**small_state(), "fc.bias": value}, "1 not usable: 'fc.bias' ", message)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8", "uint16", ">f8"])
def test_other_types_are_cast(dtype, tmp_path):
    """Whole numbers up to 3, which every type holds."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    state = {**small_state(), "fc.bias": np.arange(1, 4).astype(kind)}
    sources = [state]
    if dtype != ">f8":
        tensor = torch.arange(1, 4).to(getattr(torch, dtype))
        sources.append({**small_state(), "fc.bias": tensor})
        safetensors_torch.save_file(
            {**tensors(small_state()), "fc.bias": tensor}, tmp_path / "a.safetensors"
        )
        torch.save({**tensors(small_state()), "fc.bias": tensor}, tmp_path / "a.pth")
        sources += [tmp_path / "a.safetensors", tmp_path / "a.pth"]
    for source in sources:
        model, _ = load(source)
        bias = keras.ops.convert_to_numpy(model.get_layer("classifier").bias)
        np.testing.assert_array_equal(bias, np.arange(1, 4, dtype="float32"))


def test_models_of_other_types():
    for dtype in ("float64", "float16", "bfloat16", "mixed_float16"):
        model, _ = load(small_state(), model=small_model(dtype=dtype))
        bias = keras.ops.convert_to_numpy(
            keras.ops.cast(model.get_layer("classifier").bias, "float64")
        )
        np.testing.assert_allclose(bias, small_state()["fc.bias"], rtol=1e-2)
    state = {**small_state(), "fc.bias": np.full(3, 1e5)}
    assert_refused(state, "float16 cannot hold, as 100000.0", model=small_model(dtype="float16"))


def test_models_that_fit_no_map():
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="unknown")])
    with pytest.raises(ValueError, match="No map .*'birealnet' has no names for 2 of 2 .*unknown"):
        converters.load_official(plain, {})
    with pytest.raises(ValueError, match="No map .*'small' has no names for 2 of 2"):
        converters.load_official(plain, {}, name_map=NAMES)
    with pytest.raises(ValueError, match="`name_map` must be one of .*'birealnet'.*'none'"):
        converters.load_official(plain, {}, name_map="none")
    with pytest.raises(TypeError, match="`name_map` must be .* Received: int"):
        converters.load_official(plain, {}, name_map=3)
    with pytest.raises(ValueError, match="must be built"):
        converters.load_official(keras.Sequential([keras.layers.Dense(3)]), {})


# --- Maps ------------------------------------------------------------------------------------


def test_the_checkpoint_decides_between_maps(monkeypatch):
    other = NameMap("other", weight_and_bias("linear", "classifier"))
    same = NameMap("same", weight_and_bias("fc", "classifier"))
    monkeypatch.setattr(names, "_MAPS", {"small": NAMES, "other": other})
    assert checkpoints.list_name_maps() == ["other", "small"]
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="classifier")])
    state = {"fc.weight": np.eye(2), "fc.bias": np.ones(2)}
    assert converters.load_official(model, state).name_map == "small"
    linear = {"linear.weight": np.eye(2), "linear.bias": np.ones(2)}
    assert converters.load_official(model, linear).name_map == "other"
    with pytest.raises(ValueError, match="Several maps .*'small', 'other'"):
        converters.official_state(model)
    assert set(converters.official_state(model, name_map="other")) == set(linear)

    assert checkpoints.register_name_map(same) is same
    with pytest.raises(ValueError, match="a name map of this name already. Received: 'same'"):
        checkpoints.register_name_map(NameMap("same", []))
    with pytest.raises(ValueError, match="Several maps .*choose with `name_map`.*'small', 'same'"):
        converters.load_official(model, state)
    assert converters.load_official(model, state, name_map="same").name_map == "same"


def test_paths_survive_scopes_and_nesting():
    with keras.name_scope("scope"):
        model = small_model()
        outer = keras.Sequential([keras.Input((8, 8, 2)), model], name="outer")
    load(small_state(), model=outer)
    twice = keras.Sequential(
        [keras.Input((8, 8, 2)), keras.layers.Conv2D(2, 1, name="conv0"), model]
    )
    with pytest.raises(ValueError, match="Layer names must be unique.*'conv0/kernel'"):
        load(small_state(), model=twice)


def test_rules_read_in_both_directions():
    assert NAMES.variables_of("features.12.bn.running_var") == ("bn12/moving_variance",)
    assert NAMES.variables_of("auxiliary.weight") is None
    assert NAMES.variables_of("features.0.bn.num_batches_tracked") is None
    for name in ("features.x.bn.weight", "features.0.bn", "Xfeatures.0.bn.weight", "fc.weights"):
        with pytest.raises(KeyError, match=name):
            NAMES.variables_of(name)
    with pytest.raises(ValueError, match=r"same placeholders. Received: 'a\{i\}' and 'b\{j\}'"):
        Rule("a{i}", "b{j}")


class _Scale(Layout):
    """A learned scale as `start + offset` and whether it has started; 0 means it has not."""

    def to_keras(self, array, *shapes):
        return array, np.zeros(()), array != 0

    def to_official(self, *arrays):
        return arrays[0] + arrays[1]

    def note(self, array):
        return "is set by the first batch" if array == 0 else None


@keras.saving.register_keras_serializable(package="tests")
class Scaled(keras.layers.Layer):
    def build(self, input_shape):
        self.start = self.add_weight(name="start", shape=(), trainable=False)
        self.offset = self.add_weight(name="offset", shape=())
        self.started = self.add_weight(
            name="started", shape=(), dtype="bool", trainable=False, initializer="zeros"
        )

    def call(self, inputs):
        return inputs * (self.start + self.offset)


def test_one_entry_for_several_variables_with_a_sentinel():
    paths = tuple(f"scale{{i}}/{name}" for name in ("start", "offset", "started"))
    scales = NameMap("scales", [Rule("{i}.scale", paths, layout=_Scale())])
    model = keras.Sequential([keras.Input((2,)), Scaled(name="scale0"), Scaled(name="scale1")])
    state = {"0.scale": np.array(0.5), "1.scale": np.array(0.0)}
    report = converters.load_official(model, state, name_map=scales)
    assert report.notes == ("1.scale: is set by the first batch",)
    assert [bool(layer.started.numpy()) for layer in model.layers] == [True, False]
    model.layers[0].offset.assign(0.25)
    returned = converters.official_state(model, name_map=scales)
    assert {name: float(value) for name, value in returned.items()} == {
        "0.scale": 0.75,
        "1.scale": 0,
    }


def test_optional_names_and_copies():
    shared = NameMap(
        "shared",
        [
            Rule(
                "smooth.0.weight",
                "classifier/kernel",
                copies=("smooth.1.weight", "smooth.2.weight"),
            ),
            Rule("smooth.bias", "classifier/bias", optional=True),
        ],
    )
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="classifier")])
    kernel = np.arange(4.0).reshape(2, 2)
    state = {f"smooth.{number}.weight": kernel.copy() for number in range(3)}
    report = converters.load_official(model, state, name_map=shared)
    assert report.kept == ("smooth.bias",) and len(report.loaded) == 3
    np.testing.assert_array_equal(model.get_weights()[0], kernel.T)
    assert set(converters.official_state(model, name_map=shared)) == {*state, "smooth.bias"}
    state["smooth.2.weight"][0, 0] = 9
    with pytest.raises(ValueError, match="'smooth.2.weight' differs from 'smooth.0.weight'"):
        converters.load_official(model, state, name_map=shared)


@pytest.mark.parametrize(
    "layout, shape, official",
    [
        (STANDARD, (), ()),
        (STANDARD, (5,), (5,)),
        (STANDARD, (3, 5), (5, 3)),
        (STANDARD, (7, 3, 5), (5, 3, 7)),
        (STANDARD, (7, 2, 3, 5), (5, 3, 7, 2)),
        (STANDARD, (7, 2, 4, 3, 5), (5, 3, 7, 2, 4)),
        (Flat(), (7, 2, 3, 5), (210, 1)),
        (Depthwise(), (7, 2, 3, 1), (3, 1, 7, 2)),
        (Depthwise(), (7, 3, 4), (12, 1, 7)),
        (Pointwise(), (3, 5), (5, 3)),
        (Pointwise(), (1, 1, 3, 5), (5, 3)),
        (Pointwise(ones=1), (3, 5), (5, 3, 1)),
        (SingleAxis(), (5,), (1, 5, 1, 1)),
        (SingleAxis(rank=3, axis=2), (1, 1, 5), (1, 1, 5)),
        (Transposed((2, 3, 1, 0)), (7, 2, 3, 5), (5, 3, 7, 2)),
        (FlattenedFeatures(4, 2), (24, 5), (5, 24)),
    ],
)
def test_layouts(layout, shape, official):
    array = np.arange(np.prod(shape, dtype=int)).reshape(official)
    assert layout.official_shape(shape) == official
    value = layout.to_keras(array, shape)
    assert value.shape == shape
    returned = layout.to_official(value)
    assert returned.shape == official
    np.testing.assert_array_equal(returned, array)


def test_layouts_against_pytorch():
    """Each layout, by what the layers compute."""
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype("float32")
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    cases = [
        (
            torch.nn.Conv2d(4, 6, (2, 3), groups=2),
            keras.layers.Conv2D(6, (2, 3), groups=2),
            STANDARD,
        ),
        (
            torch.nn.Conv2d(4, 8, (2, 3), groups=4),
            keras.layers.DepthwiseConv2D((2, 3), depth_multiplier=2),
            Depthwise(),
        ),
        (torch.nn.ConvTranspose2d(4, 6, (2, 3)), keras.layers.Conv2DTranspose(6, (2, 3)), STANDARD),
    ]
    for theirs, ours, layout in cases:
        ours(x)
        weight, bias = theirs.weight.detach().numpy(), theirs.bias.detach().numpy()
        ours.kernel.assign(layout.to_keras(weight, tuple(ours.kernel.shape)))
        ours.bias.assign(bias)
        expected = theirs(nchw).detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours(x), expected, atol=1e-5)
    theirs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(120, 3))
    ours = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    ours(x)
    kernel = FlattenedFeatures(5, 6).to_keras(theirs[1].weight.detach().numpy(), (120, 3))
    ours.set_weights([kernel, theirs[1].bias.detach().numpy()])
    np.testing.assert_allclose(ours(x), theirs(nchw).detach().numpy(), atol=1e-5)


# --- Files that mean harm --------------------------------------------------------------------


class _Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def rewrite(path, edit, compression=zipfile.ZIP_STORED):
    """The members of a zip file through `edit(name, data)`."""
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, edit(name, data))
    return path


def test_code_is_not_run(tmp_path):
    marker = tmp_path / "harmed"
    harmful = {**tensors(small_state()), "fc.bias": _Harm(marker)}
    for old in (False, True):
        path = tmp_path / f"code{old}.pth"
        torch.save(harmful, path, _use_new_zipfile_serialization=not old)
        assert_refused(path, ".mkdir, which may run code and is never loaded")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(_Harm(marker)))
    assert_refused(tmp_path / "bare.pth", "its pickle is damaged or holds more than tensors")
    np.savez(tmp_path / "code.npz", **{**small_state(), "fc.bias": np.array([_Harm(marker)] * 3)})
    assert_refused(tmp_path / "code.npz", "no array of real numbers but of object")
    assert not marker.exists()
    # The test's own means: unpickled for real, it would have worked.
    pickle.loads((tmp_path / "bare.pth").read_bytes())
    assert marker.is_dir()


def test_sizes_that_are_lies(tmp_path):
    path = write(tmp_path / "a.pth", {"fc.bias": np.arange(251, dtype="float32")})

    def larger(name, data):
        return data.replace(b"K\xfb", b"J\x00\x00\x00\x70") if name.endswith("data.pkl") else data

    assert_refused(rewrite(path, larger), "cannot be read")
    state = tensors({"fc.bias": np.arange(251, dtype="float32")})
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pth").read_bytes()
    assert b"K\xfb" in data
    (tmp_path / "old.pth").write_bytes(larger("data.pkl", data))
    assert_refused(tmp_path / "old.pth", "cannot be read")

    for header in (1 << 60, 1 << 20, 3):
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", header) + b"{}")
        assert_refused(path, "cannot be read")
    entry = {"fc.bias": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(entry).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
    assert_refused(path, "cannot be read")


def _npy(shape, data, dtype="<f4"):
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


def test_bombs_do_not_go_off(tmp_path):
    """What is unpacked is bounded by the model, not by the file."""
    size = 40_000_000
    bombs = {
        "longer than it says": _npy((3,), bytes(size)),
        "wrong shape": _npy((size // 4,), bytes(size)),
        "shorter than it says": _npy((1 << 50,), bytes(12)),
    }
    paths = [write(tmp_path / f"{number}.npz", small_state()) for number in range(len(bombs))]
    for path, data in zip(paths, bombs.values(), strict=True):
        rewrite(
            path,
            lambda name, old, data=data: data if name == "fc.bias.npy" else old,
            zipfile.ZIP_DEFLATED,
        )
    torch_path = write(tmp_path / "a.pth", {"fc.bias": np.zeros(size // 4, "float32")})
    rewrite(torch_path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    del bombs

    tracemalloc.start()
    assert_refused(paths[0], "is not of the size that it claims")
    assert_refused(paths[1], "'fc.bias' (expected (3,), received (10000000,))")
    assert_refused(paths[2], "'fc.bias' (expected (3,), received (1125899906842624,))")
    assert_refused(torch_path, "its members are compressed")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_bombs_of_views(tmp_path):
    """A tensor of one stored value may have any shape."""
    torch.save({"fc.bias": torch.ones(1).expand(1 << 40)}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "received (1099511627776,)")


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_checksums_are_compared(suffix, tmp_path):
    path = write(tmp_path / f"a{suffix}", small_state())
    data = bytearray(path.read_bytes())
    index = data.index(small_state()["fc.weight"].tobytes())
    data[index + 1] ^= 4
    path.write_bytes(data)
    assert_refused(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_another_kind(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    whole = write(tmp_path / f"whole{suffix}", small_state()).read_bytes()
    for data in (
        b"",
        b"PK",
        b"text",
        b"\x80\x02}q\x00.",
        whole[:-1],
        whole[: len(whole) // 2],
        whole[9:],
    ):
        path.write_bytes(data)
        assert_refused(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        load(tmp_path / "missing.pth")
    (tmp_path / "a.onnx").write_bytes(b"")
    assert_refused(tmp_path / "a.onnx", "`source` must end in one of ('.pth', ")
    torch.save([1, 2], tmp_path / "list.pth")
    assert_refused(tmp_path / "list.pth", "must hold a dict of tensors", "with list")
    np.savez(tmp_path / "twice.npz", **small_state())
    with zipfile.ZipFile(tmp_path / "twice.npz", "a") as archive, pytest.warns(UserWarning):
        archive.writestr("fc.bias.npy", _npy((3,), bytes(12)))
    assert_refused(tmp_path / "twice.npz", "two members of one name")


@pytest.mark.parametrize("name, suffix", [("torch", ".pth"), ("safetensors", ".safetensors")])
def test_packages_that_are_not_installed(name, suffix, monkeypatch, tmp_path):
    path = write(tmp_path / f"a{suffix}", small_state())
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"needs {name}.*bnnkeras\[torch\]"):
        load(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".old.pth"])
def test_damaged_files(suffix, tmp_path):
    """Each is loaded or is one ValueError with the path, and then changes nothing."""
    path = tmp_path / f"a{suffix}"
    if suffix == ".old.pth":
        torch.save(tensors(small_state()), path, _use_new_zipfile_serialization=False)
    else:
        write(path, small_state())
    whole = path.read_bytes()
    model = small_model()
    before = [value.tobytes() for value in model.get_weights()]
    damaged = path.with_name(f"damaged{suffix}")
    loaded = 0
    for seed in range(2000):
        # A new file each time: to truncate one costs a flush.
        damaged.unlink(missing_ok=True)
        damaged.write_bytes(mutate(whole, seed))
        try:
            load(damaged, model)
            loaded += 1
            before = [value.tobytes() for value in model.get_weights()]
        except ValueError as error:
            assert str(damaged) in str(error)
        assert [value.tobytes() for value in model.get_weights()] == before
    assert loaded < 1800
