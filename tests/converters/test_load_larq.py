"""Weight files of Larq, made by Larq itself on legacy Keras."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import bnnkeras
from bnnkeras import converters
from bnnkeras.converters.checkpoints import hdf5, hdf5_child

HERE = Path(__file__).parent


def _module(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


networks = _module("larq_networks")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("larq")
    result = subprocess.run(
        [sys.executable, str(HERE / "larq_networks.py"), str(folder)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("suffix", ["", "_whole"])
@pytest.mark.parametrize("build", networks.NETWORKS, ids=lambda build: build.__name__)
def test_larq_networks(build, suffix, folder):
    """The same outputs as Larq, from a weights file and from a whole model."""
    model = build(keras, bnnkeras.layers)
    report = converters.load_larq(model, folder / f"{build.__name__}{suffix}.h5")
    assert len(report.loaded) == len(model.weights) and report.name_map is None
    with np.load(folder / f"{build.__name__}.npz") as expected:
        outputs = model.predict(expected["images"].astype("float32"), verbose=0)
        scale = np.abs(expected["outputs"]).max()
        assert scale > 0.1
        np.testing.assert_allclose(outputs, expected["outputs"], rtol=0, atol=1e-5 * scale)


def test_every_difference_is_listed_and_nothing_is_loaded(folder):
    model = networks.birealnet(keras, bnnkeras.layers)
    before = model.get_weights()
    with pytest.raises(ValueError, match="nothing was loaded. 13 layers differ") as info:
        converters.load_larq(model, folder / "sequential.h5")
    message = str(info.value)
    assert "#0: file 'quant_conv2d' [kernel (3, 3, 3, 6), bias (6,)] | model " in message
    assert "file nothing | model" in message
    assert "sequential.h5' with 8 layers of weights, for 13 in the model" in message
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


# --- Files made by hand ----------------------------------------------------------------------


def small_model():
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4), keras.layers.BatchNormalization()]
    )


def small_arrays():
    names = {
        "dense": {"kernel": (5, 4), "bias": (4,)},
        "bn": dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (4,)),
    }
    generator = np.random.default_rng(0)
    return {
        layer: {
            f"{name}:0": generator.uniform(0, 1, shape).astype("float32")
            for name, shape in weights.items()
        }
        for layer, weights in names.items()
    }


def write(path, layers, edit=None):
    """A legacy weights file; `edit(file)` changes it afterwards."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ["input", *layers]]
        file.create_group("input").attrs["weight_names"] = np.zeros(0)
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, array in weights.items():
                group[name] = array
        if edit is not None:
            edit(file)
    return path


def assert_refused(path, message):
    model = small_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message) as info:
        converters.load_larq(model, path)
    assert str(path) in str(info.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_long_lists_of_names_come_in_parts(tmp_path):
    def split(file):
        del file.attrs["layer_names"]
        file.attrs["layer_names0"] = [b"dense"]
        file.attrs["layer_names1"] = [b"bn"]

    model = small_model()
    layers = small_arrays()
    converters.load_larq(model, write(tmp_path / "a.h5", layers, split))
    expected = [array for weights in layers.values() for array in weights.values()]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), expected, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "int8"])
def test_other_types_are_cast(dtype, tmp_path):
    layers = small_arrays()
    layers["dense"]["kernel:0"] = np.arange(20).reshape(5, 4).astype(dtype)
    model = small_model()
    converters.load_larq(model, write(tmp_path / "a.h5", layers))
    np.testing.assert_array_equal(model.get_weights()[0], np.arange(20).reshape(5, 4))


@pytest.mark.parametrize(
    "value, message",
    [
        (np.full((5, 4), np.nan, "float32"), "'dense/kernel:0' has 20 values that are not finite"),
        (np.full((5, 4), 1e300), "'dense/kernel:0' has values that float32 cannot hold"),
        (np.zeros((5, 4), bool), "no array of real numbers"),
        (np.zeros((5, 4), complex), "no array of real numbers"),
        (np.full((5, 4), b"text"), "no array of real numbers"),
        (np.zeros((4, 5), "float32"), r"kernel \(4, 5\)"),
    ],
)
def test_unusable_values(value, message, tmp_path):
    layers = small_arrays()
    layers["dense"]["kernel:0"] = value
    assert_refused(write(tmp_path / "a.h5", layers), message)


def test_roles_are_compared_where_shapes_agree(tmp_path):
    layers = small_arrays()
    layers["bn"] = dict(reversed(layers["bn"].items()))
    assert_refused(write(tmp_path / "a.h5", layers), "1 layers differ.*\n.*moving_variance")


def test_other_files_are_out_of_reach(tmp_path):
    other = tmp_path / "secret.h5"
    write(other, small_arrays())
    (tmp_path / "secret.bin").write_bytes(bytes(80))

    def linked(link):
        def edit(file):
            del file["dense"]["kernel:0"]
            file["dense"]["kernel:0"] = link

        return edit

    def external_storage(file):
        del file["dense"]["kernel:0"]
        file["dense"].create_dataset(
            "kernel:0", (5, 4), "float32", external=[(str(tmp_path / "secret.bin"), 0, 80)]
        )

    def virtual(file):
        del file["dense"]["kernel:0"]
        layout = h5py.VirtualLayout((5, 4), "float32")
        layout[:] = h5py.VirtualSource(other, "dense/kernel:0", (5, 4))
        file["dense"].create_virtual_dataset("kernel:0", layout)

    edits = {
        linked(h5py.ExternalLink(str(other), "dense/kernel:0")): "link",
        linked(h5py.SoftLink("/dense/bias:0")): "link",
        external_storage: "another file",
        virtual: "another file",
    }
    for edit, message in edits.items():
        assert_refused(write(tmp_path / "a.h5", small_arrays(), edit), message)


def test_bombs(tmp_path):
    def absurd(file):
        del file["dense"]["kernel:0"]
        file["dense"].create_dataset("kernel:0", (1 << 40, 1 << 20), "float64", chunks=(1, 8))

    def compressed(file):
        del file["dense"]["kernel:0"]
        file["dense"].create_dataset("kernel:0", data=np.zeros((5, 4)), compression="gzip")

    assert_refused(write(tmp_path / "a.h5", small_arrays(), absurd), r"kernel \(1099511627776, ")
    assert_refused(write(tmp_path / "b.h5", small_arrays(), compressed), "is compressed")


def test_files_of_another_kind(folder, tmp_path):
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("no HDF5")
    small_model().save_weights(tmp_path / "new.weights.h5")
    assert_refused(tmp_path / "empty.h5", "cannot be read")
    assert_refused(tmp_path / "text.h5", "cannot be read")
    assert_refused(tmp_path / "new.weights.h5", "no `layer_names`.*`model.load_weights`")
    with pytest.raises(FileNotFoundError, match="missing.h5"):
        converters.load_larq(small_model(), tmp_path / "missing.h5")
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: dict"):
        converters.load_larq({}, tmp_path / "text.h5")


def test_a_reader_that_hangs_or_dies(monkeypatch, tmp_path):
    path = write(tmp_path / "a.h5", small_arrays())
    child = tmp_path / "child.py"
    monkeypatch.setattr(hdf5, "_CHILD", child)
    child.write_text("import os; os.abort()")
    assert_refused(path, "the reader ended with -6")
    monkeypatch.setattr(hdf5, "_TIMEOUT_SECONDS", 0.5)
    child.write_text("import time; time.sleep(60)")
    assert_refused(path, "reading took more than 0.5 s")


@pytest.mark.slow
@pytest.mark.parametrize("request_text", ["10000", "check"])
def test_damaged_files(tmp_path, request_text):
    """Each ends in an answer, or the process that reads it is stopped."""
    path = tmp_path / "a.weights.h5"
    if request_text == "check":
        small_model().save_weights(path)
    else:
        write(path, small_arrays())
    count, first, stopped, answers = 2000, 0, 0, []
    while first < count:
        arguments = [hdf5_child.__file__, path, request_text, first, count]
        result = subprocess.run(
            [sys.executable, str(HERE / "mutations.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
        )
        lines = result.stdout.splitlines()
        answers += [line.partition(" ")[2] for line in lines]
        first += len(lines)
        if first < count:
            # By a signal: HDF5 hung or crashed, no Python exception got out.
            assert result.returncode < 0, result.stderr
            stopped += 1
            first += 1
    assert len(answers) + stopped == count
    assert stopped < 20
    assert 200 < answers.count("read") < 1800
