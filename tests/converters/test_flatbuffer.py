"""Reading, tapping, sealing and checking `.tflite` files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnnkeras.converters import flatbuffer

MODELS = ("pair", "chain", "chain_of_four", "grouped", "bits")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what small_models.py made, once for all test files."""
    folder = tmp_path_factory.getbasetemp() / "small_models"
    if not folder.exists():
        folder.mkdir()
        script = Path(__file__).with_name("small_models.py")
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "arrays.npz") as file:
        return dict(file)


def _data(folder: Path, name: str) -> bytes:
    return (folder / f"{name}.tflite").read_bytes()


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _binary(model: flatbuffer.FlatbufferModel) -> list[flatbuffer.BinaryConvolution]:
    return [item.binary for item in model.operators if item.binary is not None]


def test_operators_come_in_order_with_their_options(folder: Path) -> None:
    model = flatbuffer.read(_data(folder, "pair"))
    kinds = [item.kind for item in model.operators]
    assert sorted(kinds) == ["LceBconv2d", "LceBconv2d", "LceQuantize", "LceQuantize", "MEAN"]
    known = set(model.inputs) | {item.index for item in model.tensors if item.value is not None}
    for item in model.operators:
        assert set(item.inputs) - {-1} <= known
        known |= set(item.outputs)
        for index in item.outputs:
            producer = model.producer(index)
            assert producer is not None and producer.index == item.index
            assert all(index in consumer.inputs for consumer in model.consumers(index))
    (mean,) = [item for item in model.operators if item.kind == "MEAN"]
    assert mean.options == {"keep_dims": False}
    np.testing.assert_array_equal(model.tensors[mean.inputs[1]].value, [1, 2])


def test_the_signature_maps_names_to_tensors(folder: Path) -> None:
    model = flatbuffer.read(_data(folder, "pair"))
    shapes = {name: model.tensors[i].shape for name, i in model.signature_inputs.items()}
    assert shapes == {"alpha": (1, 6, 8, 40), "zeta": (1, 8, 8, 40)}
    shapes = {name: model.tensors[i].shape for name, i in model.signature_outputs.items()}
    assert shapes == {"first": (1, 8, 8, 7), "second": (1, 5)}
    assert set(model.signature_inputs.values()) == set(model.inputs)
    assert {model.tensors[index].dtype for index in model.inputs} == {"float32"}


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("pair", {"first", "second"}),
        ("chain", {"hidden", "output"}),
        ("grouped", {"grouped"}),
        ("bits", {"bits", "after_bits"}),
    ],
)
def test_unpacked_bits_are_the_kernel(
    folder: Path, arrays: dict[str, np.ndarray], file: str, names: set[str]
) -> None:
    found = _binary(flatbuffer.read(_data(folder, file)))
    assert len(found) == len(names)
    matches = set()
    for binary in found:
        assert binary.kernel.dtype == np.int8
        (name,) = [
            name for name in names if np.array_equal(binary.kernel, arrays[f"{name}_kernel"])
        ]
        matches.add(name)
        if name == "bits":
            assert binary.multiplier is None and binary.bias is None
            assert binary.output_threshold is not None
            assert binary.output_threshold.shape == (binary.kernel.shape[-1],)
            continue
        assert binary.output_threshold is None
        np.testing.assert_allclose(binary.multiplier, arrays[f"{name}_scale"], rtol=1e-6)
        np.testing.assert_allclose(binary.bias, arrays[f"{name}_shift"], rtol=1e-6)
    assert matches == names


def test_options_of_a_binary_convolution(folder: Path) -> None:
    pair = {item.kernel.shape[-1]: item for item in _binary(flatbuffer.read(_data(folder, "pair")))}
    assert (pair[7].padding, pair[7].pad_values, pair[7].strides) == ("same", 0, (1, 1))
    assert (pair[5].padding, pair[5].strides, pair[5].dilation_rate) == ("valid", (2, 1), (1, 1))
    assert (pair[5].channels_in, pair[5].groups, pair[5].activation) == (40, 1, "none")
    (grouped,) = _binary(flatbuffer.read(_data(folder, "grouped")))
    assert (grouped.channels_in, grouped.groups, grouped.kernel.shape[2]) == (64, 2, 32)
    bits = _binary(flatbuffer.read(_data(folder, "bits")))[0]
    assert (bits.padding, bits.pad_values) == ("same", 1)


def test_quantization_is_read(folder: Path) -> None:
    schema = flatbuffer.tflite_schema()
    model = flatbuffer.unpack(_data(folder, "chain"))
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = [0.5, 0.25], [3, -4]
    quantization.quantizedDimension = 2
    model.subgraphs[0].tensors[0].quantization = quantization
    read = flatbuffer.read(flatbuffer.pack(model)).tensors[0].quantization
    assert read is not None and read.axis == 2
    np.testing.assert_array_equal(read.scale, np.float32([0.5, 0.25]))
    np.testing.assert_array_equal(read.zero_point, [3, -4])


@pytest.mark.parametrize("file", MODELS)
def test_packing_keeps_the_model_and_aligns_its_constants(folder: Path, file: str) -> None:
    data = _data(folder, file)
    packed = flatbuffer.with_metadata(data, {})
    before, after = flatbuffer.read(data), flatbuffer.read(packed)
    assert [vars(item) | {"binary": None} for item in before.operators] == [
        vars(item) | {"binary": None} for item in after.operators
    ]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (old.name, old.shape, old.dtype) == (new.name, new.shape, new.dtype)
        np.testing.assert_array_equal(old.value, new.value)
        if new.value is not None:
            assert (_address(new.value) - _address(np.frombuffer(packed, np.uint8))) % 16 == 0
    assert before.signature_inputs == after.signature_inputs
    assert before.signature_outputs == after.signature_outputs


def test_with_outputs_names_taps_and_keeps_the_inputs(folder: Path) -> None:
    data = flatbuffer.with_metadata(_data(folder, "pair"), {"a": 1})
    before = flatbuffer.read(data)
    taps = [item.outputs[0] for item in before.operators][::-1]
    after = flatbuffer.read(flatbuffer.with_outputs(data, taps))
    assert after.outputs == tuple(taps)
    assert after.signature_outputs == {f"tensor_{index}": index for index in taps}
    assert after.signature_inputs == before.signature_inputs
    assert after.metadata is None
    flatbuffer.check(flatbuffer.with_outputs(data, taps))


@pytest.mark.parametrize("indices", [[], [0], [99], [-1], "twice"])
def test_with_outputs_refuses_what_is_not_computed(folder: Path, indices: list[int]) -> None:
    data = _data(folder, "pair")
    if indices == "twice":
        indices = [flatbuffer.read(data).outputs[0]] * 2
    with pytest.raises(ValueError, match="`tensor_indices` must name computed tensors"):
        flatbuffer.with_outputs(data, indices)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"layers": [{"name": "conv", "padding": None}], "scale": 0.1, "text": 'ä"}\n'},
        # What could be taken for the seal where it is only a value.
        {"x": '{"bnnkeras_sha256": "' + "1" * 64},
    ],
)
def test_metadata_comes_back_and_the_file_passes(folder: Path, values: dict[str, object]) -> None:
    data = _data(folder, "chain")
    sealed = flatbuffer.with_metadata(data, values)
    assert flatbuffer.metadata(data) is None and flatbuffer.seal_matches(data) is None
    assert flatbuffer.metadata(sealed) == values == flatbuffer.read(sealed).metadata
    assert flatbuffer.seal_matches(sealed) is True
    flatbuffer.check(data)
    flatbuffer.check(sealed)


def test_metadata_is_replaced_not_added(folder: Path) -> None:
    once = flatbuffer.with_metadata(_data(folder, "chain"), {"value": "first"})
    twice = flatbuffer.with_metadata(once, {"value": "second"})
    assert flatbuffer.metadata(twice) == {"value": "second"}
    assert b"first" not in twice
    names = [entry.name for entry in flatbuffer.unpack(twice).metadata]
    assert sorted(names) == [b"bnnkeras", b"min_runtime_version"]
    flatbuffer.check(twice)


def test_metadata_refuses_the_key_of_the_hash(folder: Path) -> None:
    with pytest.raises(ValueError, match="must leave the key 'bnnkeras_sha256' free"):
        flatbuffer.with_metadata(_data(folder, "chain"), {"bnnkeras_sha256": "0"})


def test_every_changed_byte_of_a_sealed_file_is_noticed(folder: Path) -> None:
    sealed = flatbuffer.with_metadata(_data(folder, "grouped"), {"value": 1})
    for position in range(len(sealed)):
        edited = bytearray(sealed)
        edited[position] ^= 1 << position % 8
        if flatbuffer.seal_matches(bytes(edited)) is not False:
            # The mark of the seal itself was hit: the name of the metadata gives it away.
            with pytest.raises(ValueError, match="half of its bnnkeras metadata is missing"):
                flatbuffer.check(bytes(edited))


def test_a_hash_of_other_metadata_does_not_pass(folder: Path) -> None:
    sealed = flatbuffer.with_metadata(_data(folder, "grouped"), {"value": 1})
    edited = sealed.replace(b'"value": 1', b'"value": 2')
    assert flatbuffer.metadata(edited) == {"value": 2}
    with pytest.raises(ValueError, match="edited, truncated or damaged after conversion"):
        flatbuffer.check(edited)


@pytest.mark.parametrize("sealed", [False, True])
def test_truncated_files_are_refused(folder: Path, sealed: bool) -> None:
    data = _data(folder, "pair")
    data = flatbuffer.with_metadata(data, {}) if sealed else data
    lengths = {0, 1, 4, 7, 8, 12, 16, 64, 100, len(data) // 2}
    lengths |= {len(data) - missing for missing in (1, 2, 4, 8, 16, 108, 500)}
    for length in lengths:
        with pytest.raises(ValueError, match="The file (is|was) .* Received: ") as caught:
            flatbuffer.check(data[:length])
        assert f"{length} bytes" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" * 10, bytes(1000)])
def test_other_files_are_named_so(data: bytes) -> None:
    with pytest.raises(ValueError, match="no TFLite file: its identifier is not TFL3"):
        flatbuffer.check(data)


def test_custom_operators_other_than_lce_are_refused(folder: Path) -> None:
    data = _data(folder, "chain").replace(b"LceQuantize\0", b"FlexErfcCpu\0")
    with pytest.raises(ValueError, match=r"LceBconv2d.*Received: \['FlexErfcCpu'\]"):
        flatbuffer.check(data)


@pytest.mark.parametrize("damage", ["index", "constant", "opcode", "signature"])
def test_what_the_verifier_lets_through_is_refused(folder: Path, damage: str) -> None:
    model = flatbuffer.unpack(_data(folder, "chain"))
    graph = model.subgraphs[0]
    if damage == "index":
        graph.operators[0].outputs = [len(graph.tensors)]
    elif damage == "constant":
        graph.tensors[graph.operators[1].inputs[1]].shape = [48, 3, 3, 4]
    elif damage == "opcode":
        graph.operators[0].opcodeIndex = 9
    else:
        model.signatureDefs[0].inputs[0].tensorIndex = 3
    with pytest.raises(ValueError, match="Received: "):
        flatbuffer.check(flatbuffer.pack(model))
