"""Running `.tflite` files by names, and damaged ones without harm."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnnkeras.converters import flatbuffer
from bnnkeras.converters.interpreter import Interpreter
from bnnkeras.converters.worker import WorkerError, get_worker

KERNELS = ("default", "reference", "indirect")
# Rounding of one multiplication and addition after an exact sum (lce_limits, section 9).
TOLERANCE = {"rtol": 1e-5, "atol": 1e-3}


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


def test_inputs_and_outputs_are_named(folder: Path) -> None:
    pair = Interpreter(folder / "pair.tflite")
    assert pair.input_names == ["alpha", "zeta"]
    assert pair.output_names == ["first", "second"]
    assert pair.input_shapes == {"alpha": (1, 6, 8, 40), "zeta": (1, 8, 8, 40)}
    assert pair.output_shapes == {"first": (1, 8, 8, 7), "second": (1, 5)}
    assert pair.input_dtypes == {"alpha": "float32", "zeta": "float32"}
    assert pair.output_dtypes == {"first": "float32", "second": "float32"}
    assert pair.kernel in ("default", "indirect")


@pytest.mark.parametrize("kernel", KERNELS)
def test_names_map_to_the_right_arrays(
    folder: Path, arrays: dict[str, np.ndarray], kernel: str
) -> None:
    pair = Interpreter(str(folder / "pair.tflite"), kernel=kernel, num_threads=2)
    assert pair.kernel == kernel
    for inputs in (
        {"zeta": arrays["zeta"], "alpha": arrays["alpha"]},
        [arrays["alpha"], arrays["zeta"]],
    ):
        outputs = pair.predict(inputs)
        assert isinstance(outputs, dict)
        assert list(outputs) == ["first", "second"]
        np.testing.assert_allclose(outputs["first"], arrays["first"], **TOLERANCE)
        np.testing.assert_allclose(outputs["second"], arrays["second"], **TOLERANCE)


@pytest.mark.parametrize("file", ["chain", "chain_of_four"])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_batches_of_any_size(
    folder: Path, arrays: dict[str, np.ndarray], file: str, count: int
) -> None:
    chain = Interpreter((folder / f"{file}.tflite").read_bytes())
    outputs = chain.predict(arrays["image"][:count])
    assert isinstance(outputs, np.ndarray)
    np.testing.assert_allclose(outputs, arrays["chain"][:count], **TOLERANCE)
    listed = chain.predict([arrays["image"][:count]])
    np.testing.assert_array_equal(outputs, listed)


def test_bits_between_layers(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    outputs = Interpreter(folder / "bits.tflite").predict(arrays["image"])
    np.testing.assert_allclose(outputs, arrays["bits"], **TOLERANCE)


def test_taps_show_what_is_computed_inside(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    data = (folder / "chain.tflite").read_bytes()
    model = flatbuffer.read(data)
    quantize, convolution = model.operators[:2]
    assert (quantize.kind, convolution.kind) == ("LceQuantize", "LceBconv2d")
    taps = [convolution.outputs[0], model.outputs[0], quantize.outputs[0]]
    outputs = Interpreter(flatbuffer.with_outputs(data, taps)).predict(arrays["image"])
    hidden, output, bits = (outputs[f"tensor_{index}"] for index in taps)
    np.testing.assert_allclose(hidden, arrays["chain_hidden"], **TOLERANCE)
    np.testing.assert_allclose(output, arrays["chain"], **TOLERANCE)
    # (B, H, W, C / 32) words -> (B, H, W, C) bits; a set bit is -1.
    unpacked = np.unpackbits(bits.astype("<i4").view(np.uint8), axis=-1, bitorder="little")
    np.testing.assert_array_equal(unpacked == 1, arrays["image"] < 0)


def test_what_a_kernel_cannot_run_is_lces_own_error(
    folder: Path, arrays: dict[str, np.ndarray]
) -> None:
    with pytest.raises(WorkerError, match="failed with RuntimeError") as caught:
        Interpreter(folder / "grouped.tflite", kernel="default")
    assert "Last lines of its stderr" in str(caught.value)
    outputs = Interpreter(folder / "grouped.tflite", kernel="reference").predict(arrays["image"])
    np.testing.assert_allclose(outputs, arrays["grouped"], **TOLERANCE)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 8, 8, 40), np.float32), r"must be a dict with the keys \['alpha', 'zeta'\]"),
        ([np.zeros((2, 8, 8, 40), np.float32)], r"must be 2 arrays, .* Received: 1 values"),
        ({"zeta": 0}, r"must have the keys \['alpha', 'zeta'\]. Received: \['zeta'\]"),
        ({"zeta": 0, "alpha": 0, "x": 0}, r"Received: \['zeta', 'alpha', 'x'\]"),
        (
            {"zeta": (2, 8, 8, 40), "alpha": (2, 8, 8, 40)},
            r"\['alpha'\]` must have shape \(batch, ",
        ),
        ({"zeta": (8, 8, 40), "alpha": (1, 6, 8, 40)}, r"\['zeta'\]`.* Received: shape \(8, 8, 40"),
        ({"zeta": (0, 8, 8, 40), "alpha": (0, 6, 8, 40)}, r"Received: shape \(0, "),
        ({"zeta": (2, 8, 8, 40), "alpha": (3, 6, 8, 40)}, "the same number of samples. Received"),
    ],
)
def test_wrong_inputs_are_explained(folder: Path, inputs: object, message: str) -> None:
    if isinstance(inputs, dict):
        inputs = {
            name: np.zeros(shape, np.float32) if isinstance(shape, tuple) else shape
            for name, shape in inputs.items()
        }
    with pytest.raises(ValueError, match=message):
        Interpreter(folder / "pair.tflite").predict(inputs)


def test_wrong_types_are_explained(folder: Path) -> None:
    chain = Interpreter(folder / "chain.tflite")
    with pytest.raises(ValueError, match="must have dtype float32. Received: dtype float64"):
        chain.predict(np.zeros((1, 8, 8, 64)))


def test_wrong_arguments_are_explained(folder: Path, tmp_path: Path) -> None:
    path = folder / "chain.tflite"
    with pytest.raises(ValueError, match="`kernel` must be None or one of .* Received: 'fast'"):
        Interpreter(path, kernel="fast")
    with pytest.raises(ValueError, match="`num_threads` must be a positive integer. Received: 0"):
        Interpreter(path, num_threads=0)
    with pytest.raises(FileNotFoundError):
        Interpreter(tmp_path / "nothing.tflite")
    with pytest.raises(TypeError, match="`model` must be the bytes .* Received: 3"):
        Interpreter(3)  # type: ignore[arg-type]


def test_an_interpreter_survives_the_worker(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    chain = Interpreter(folder / "chain.tflite")
    before = chain.predict(arrays["image"])
    process_id = get_worker().process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    try:
        after = chain.predict(arrays["image"])
    except WorkerError:
        # The signal may arrive only after the request; the one after it finds a new worker.
        after = chain.predict(arrays["image"])
    np.testing.assert_array_equal(before, after)
    assert get_worker().process_id != process_id


def test_an_interpreter_survives_many_others(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    data = (folder / "chain.tflite").read_bytes()
    first = Interpreter(flatbuffer.with_metadata(data, {"number": -1}))
    for number in range(10):
        Interpreter(flatbuffer.with_metadata(data, {"number": number}))
    np.testing.assert_allclose(first.predict(arrays["image"]), arrays["chain"], **TOLERANCE)


@pytest.mark.parametrize("sealed", [False, True])
def test_truncated_files_are_errors(folder: Path, sealed: bool) -> None:
    data = (folder / "chain.tflite").read_bytes()
    data = flatbuffer.with_metadata(data, {}) if sealed else data
    for length in (0, 3, 8, 100, len(data) // 2, len(data) - 108, len(data) - 1):
        with pytest.raises(ValueError, match="Received: "):
            Interpreter(data[:length])


@pytest.mark.parametrize("sealed", [False, True])
def test_mutated_files_do_no_harm(
    folder: Path, arrays: dict[str, np.ndarray], sealed: bool
) -> None:
    data = (folder / "chain.tflite").read_bytes()
    data = flatbuffer.with_metadata(data, {}) if sealed else data
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        mutated = np.frombuffer(data, np.uint8).copy()
        # Most bytes are weights, whose change is another model; half of the edits aim at the rest.
        end = len(data) if random.random() < 0.5 else 1000
        positions = random.integers(end, size=random.integers(1, 4))
        mutated[positions] ^= random.integers(1, 256, size=len(positions), dtype=np.uint8)
        try:
            interpreter = Interpreter(mutated.tobytes())
            inputs = {
                name: np.ones(shape, interpreter.input_dtypes[name])
                for name, shape in interpreter.input_shapes.items()
            }
            interpreter.predict(inputs, timeout_seconds=5)
        # MemoryError: an input shape of gigabytes, already where it is asked for here.
        except (MemoryError, ValueError, WorkerError) as error:
            assert str(error)
            refused += 1
    if sealed:
        assert refused == 150
    else:
        assert 20 <= refused < 150
    chain = Interpreter(folder / "chain.tflite")
    np.testing.assert_allclose(chain.predict(arrays["image"]), arrays["chain"], **TOLERANCE)
