""".keras files that nobody vouches for: refused in one line, before Keras opens them."""

import io
import json
import runpy
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from bnnkeras import converters
from bnnkeras.converters.checkpoints import archives, hdf5

mutate = runpy.run_path(str(Path(__file__).with_name("mutations.py")))["mutate"]
CONFIGURATION, WEIGHTS = "config.json", "model.weights.h5"


def _model():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")])


@pytest.fixture
def path(tmp_path):
    _model().save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def _rewrite(path, compression=zipfile.ZIP_STORED, **members):
    """The archive with members replaced (`None`: left out), by stem."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for stem, value in members.items():
        name = next(name for name in content if name.startswith(stem))
        content[name] = value
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)


def _hdf5(write) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        write(file)
    return stream.getvalue()


def _refused(path, match):
    with pytest.raises(ValueError, match=match) as raised:
        converters.convert(path, path.with_name("model.tflite"))
    assert "model.keras" in str(raised.value) and "Received: " in str(raised.value)
    assert [*path.parent.glob("*.tflite")] == []


def test_what_keras_saves_is_accepted(path) -> None:
    archives.check_keras_archive(path)


@pytest.mark.parametrize("missing", ["config", "model"])
def test_missing_members(path, missing) -> None:
    _rewrite(path, **{missing: None})
    _refused(path, "it holds no config.json or no model.weights.h5")


def test_a_zip_bomb(path) -> None:
    _rewrite(path, zipfile.ZIP_DEFLATED, model=b"\0" * 10_000_000)
    assert path.stat().st_size < 20_000
    _refused(path, "its members are compressed")


def test_flipped_bits_and_truncations(path) -> None:
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(WEIGHTS).header_offset + 300
    for position in range(start, start + 2000, 97):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        _refused(path, "checksum|BadZipFile")
    for length in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        _refused(path, "damaged or of another kind")


def test_weights_that_are_elsewhere(path, tmp_path) -> None:
    secret = tmp_path / "secret.h5"
    secret.write_bytes(_hdf5(lambda file: file.create_dataset("x", data=np.ones(3))))

    def link(file):
        file["layers/dense/vars/0"] = h5py.ExternalLink(secret, "x")

    def external(file):
        file.create_dataset("0", (3,), "f4", external=[(str(secret), 0, 12)])

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "x", (3,))
        file.create_virtual_dataset("0", layout)

    def compressed(file):
        file.create_dataset("0", (1 << 30,), "f4", chunks=(1 << 20,), compression="gzip")

    def claimed(file):
        file.create_dataset("0", (1 << 30,), "f4", chunks=(1 << 20,))

    for write, match in (
        (link, "is a link"),
        (external, "lies in another file"),
        (virtual, "lies in another file"),
        (compressed, "is compressed"),
        (claimed, "claim more bytes than it has"),
    ):
        _rewrite(path, model=_hdf5(write))
        _refused(path, match)
    _rewrite(path, model=b"no HDF5")
    _refused(path, "OSError")


def test_code_and_unknown_classes(path, tmp_path) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x + 1)])
    model.save(path)
    _refused(path, "Keras cannot load the model.*[Ll]ambda")

    _model().save(path)
    with zipfile.ZipFile(path) as archive:
        configuration = json.loads(archive.read(CONFIGURATION))
    configuration["config"]["layers"][1].update(
        module="os", class_name="system", registered_name=None, config={"command": "touch hacked"}
    )
    _rewrite(path, config=json.dumps(configuration))
    _refused(path, "Keras cannot load the model")
    for text in (b"", b"{", b"[]", b"\xff"):
        _rewrite(path, config=text)
        _refused(path, "Keras cannot load the model")


def test_another_suffix(tmp_path) -> None:
    (tmp_path / "model.keras.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match="ending in .keras. Received: .*model.keras.h5"):
        converters.convert(tmp_path / "model.keras.h5")


@pytest.mark.slow
def test_mutated_archives(path, monkeypatch) -> None:
    """Two thousand; the HDF5 inside has a test of its own (test_load_larq.py)."""
    data = path.read_bytes()
    passed = []
    monkeypatch.setattr(hdf5, "ask", lambda weights, request: passed.append(weights.read_bytes()))
    with zipfile.ZipFile(path) as archive:
        weights = archive.read(WEIGHTS)
    refused = 0
    for seed in range(2000):
        path.write_bytes(mutate(data, seed))
        try:
            archives.check_keras_archive(path)
        except ValueError as error:
            assert "Received: " in str(error)
            refused += 1
    assert refused > 1500
    # Dates and the like may change; the weights never.
    assert set(passed) == {weights}
