"""Latency, memory and operators cut out of files: everything but the numbers themselves."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnnkeras import converters
from bnnkeras.converters import cutting, flatbuffer
from bnnkeras.converters.worker import WorkerError, get_worker
from bnnkeras.converters.worker.running import LoadedModel

KERNELS = ("default", "reference", "indirect")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what small_models.py made, once for all test files."""
    folder = tmp_path_factory.getbasetemp() / "small_models"
    if not folder.exists():
        folder.mkdir()
        script = Path(__file__).with_name("small_models.py")
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder


def test_every_file_runs_as_often_in_every_round(folder: Path) -> None:
    files = [
        {"path": folder / "chain.tflite", "runner": "lce", "kernel": kernel} for kernel in KERNELS
    ]
    result, _ = get_worker().request("benchmark", files=files, rounds=3, runs=2, warmup=1)
    assert np.shape(result["latency_ms"]) == (3, 3, 2)
    assert np.all(np.array(result["latency_ms"]) > 0)
    assert result["kernels"] == [*KERNELS]
    with pytest.raises(ValueError, match='`runner` must be "lce" or "tflite". Received: \'x\''):
        get_worker().request("benchmark", files=[{"path": str(files[0]["path"]), "runner": "x"}])


def test_measure_latency_runs_stock_tflite_beside_lce(folder: Path) -> None:
    path = folder / "float.tflite"
    times = converters.measure_latency([("tflite", path), ("lce", path)], runs=3)
    assert np.shape(times) == (2, 3)


def test_benchmark_reports_every_kernel_and_operator(folder: Path) -> None:
    paths = [folder / "chain.tflite", folder / "float.tflite"]
    chain, real = converters.benchmark(paths, kernels=KERNELS, rounds=3, runs=2)
    assert [latency.kernel for latency in chain.latencies] == [*KERNELS]
    for latency in (*chain.latencies, *real.latencies):
        assert latency.runs == 6 and len(latency.round_medians_ms) == 3
        assert 0 < latency.p50_ms <= latency.p90_ms <= latency.p99_ms
        assert latency.memory_bytes is None or latency.memory_bytes >= 0
    assert chain.refusals == {}
    assert all(row.latency_ms >= 0 for row in chain.rows)
    # One kernel, the fastest, is the one that the operators were timed with.
    (share,) = [item.operator_share for item in chain.latencies if item.operator_share is not None]
    assert share > 0
    assert "median" in str(chain) and chain.latencies[0].device in str(chain)


def test_a_kernel_that_cannot_run_the_file_is_named(folder: Path) -> None:
    path = folder / "grouped.tflite"
    (report,) = converters.benchmark([path], kernels=KERNELS, rounds=1, runs=1, by_operator=False)
    assert [latency.kernel for latency in report.latencies] == ["reference", "indirect"]
    assert [*report.refusals] == ["default"]
    assert "cannot run: default kernel" in str(report)
    with pytest.raises(WorkerError):
        converters.benchmark([path], kernels=["default"], rounds=1, runs=1)


@pytest.mark.parametrize("argument", ["num_threads", "rounds", "runs"])
def test_numbers_must_be_positive(folder: Path, argument: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be a positive integer. Received: 0"):
        converters.benchmark([folder / "chain.tflite"], **{argument: 0})


@pytest.mark.parametrize("name", ["chain", "pair", "bits", "float"])
def test_cut_operators_compute_what_they_compute_in_the_whole(folder: Path, name: str) -> None:
    data = (folder / f"{name}.tflite").read_bytes()
    cutter = cutting.OperatorCutter(data)
    model = cutter.model
    whole = LoadedModel(data, "indirect", 1)
    values = dict(zip(model.inputs, whole.sample_inputs(), strict=True))
    computed = [index for operator in model.operators for index in operator.outputs]
    tapped = LoadedModel(flatbuffer.with_outputs(data, computed), "indirect", 1)
    values |= zip(computed, tapped._run([values[index] for index in model.inputs]), strict=True)
    for operator in model.operators:
        for copies in (1, 3):
            cut = cutter.alone(operator.index, copies)
            assert cut is not None
            parts = flatbuffer.read(cut.data)
            assert [item.kind for item in parts.operators] == [operator.kind] * copies
            # Without the constants of the other operators.
            constants = {
                i for i in operator.inputs if i >= 0 and model.tensors[i].value is not None
            }
            assert sum(item.value is not None for item in parts.tensors) == len(constants)
            outputs = LoadedModel(cut.data, "indirect", 1)._run([values[i] for i in cut.inputs])
            for output, index in zip(outputs, operator.outputs, strict=True):
                np.testing.assert_array_equal(output, values[index])


def test_constants_of_constants_are_cut_out_with_their_reader(tmp_path: Path) -> None:
    # A large kernel of ones is written as a FILL, which is an operator of its own.
    import keras

    from bnnkeras.layers import QuantConv2D

    layer = QuantConv2D(512, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign")
    model = keras.Sequential([keras.Input((8, 8, 256)), layer])
    layer.kernel.assign(np.ones(layer.kernel.shape))
    path = tmp_path / "ones.tflite"
    converters.convert(model, path, verify=False)
    cutter = cutting.OperatorCutter(path.read_bytes())
    kinds = [operator.kind for operator in cutter.model.operators]
    assert "FILL" in kinds and cutter.alone(kinds.index("FILL")) is None
    cut = cutter.alone(kinds.index("LceBconv2d"), 2)
    assert cut is not None
    cut_kinds = [operator.kind for operator in flatbuffer.read(cut.data).operators]
    assert cut_kinds == ["FILL", "LceBconv2d", "LceBconv2d"]
    (report,) = converters.benchmark([path], rounds=1, runs=1)
    assert [row.latency_ms is None for row in report.rows] == [kind == "FILL" for kind in kinds]
