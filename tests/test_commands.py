"""`bnnkeras convert`, `verify`, `inspect`, `summary`, `import` and `benchmark files`."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from bnnkeras import converters, layers, zoo
from bnnkeras.cli.app import app
from bnnkeras.cli.benchmarks import files as file_benchmark
from bnnkeras.cli.benchmarks import peer_file
from bnnkeras.converters import Report

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def fails(*arguments):
    """Runs a command that must fail with status 1; returns its one line."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.output.strip() and "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds small.keras and the small.tflite that `bnnkeras convert` made of it."""
    folder = tmp_path_factory.mktemp("commands")
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(32, 3, padding="same", name="stem")(x)
    x = layers.QuantConv2D(16, 3, padding="same", use_bias=False, name="binary", **BINARY)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="top")(x), name="small")
    model.save(folder / "small.keras")
    result = run("convert", folder / "small.keras", "--report", folder / "small.json")
    assert result.exit_code == 0, result.output
    assert "1 of 1 in 1 bit" in result.output and "yes (probe difference 0)" in result.output
    return folder


def test_convert_writes_the_file_and_its_report(folder):
    report = Report.load(folder / "small.json")
    assert report.file == "small.tflite"
    assert report.file_bytes == (folder / "small.tflite").stat().st_size
    assert report.verification is not None and report.verification["passed"]


def test_convert_options_reach_the_converter(folder, tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(8, 12, 10, 3)))
    output, page = tmp_path / "new" / "x.tflite", tmp_path / "x.html"
    result = run(
        *("convert", folder / "small.keras", "-o", output, "--quantize", "float16"),
        *("--data", tmp_path / "data.npy", "--keep-float", "stem", "--batch-size", 3),
        *("--input-size", "12x10", "--no-verify", "--report", page),
    )
    assert result.exit_code == 0, result.output
    assert converters.Interpreter(output).input_shapes == {"image": (3, 12, 10, 3)}


def test_layers_in_float_are_named(tmp_path):
    depthwise = layers.QuantDepthwiseConv2D(
        3, name="depthwise", input_quantizer="ste_sign", depthwise_quantizer="ste_sign"
    )
    keras.Sequential([keras.Input((8, 8, 32)), depthwise]).save(tmp_path / "x.keras")
    result = run("convert", tmp_path / "x.keras", "--no-verify")
    assert result.exit_code == 0, result.output
    assert "in float: depthwise: " in result.output and "0 of 0 in 1 bit" in result.output


@pytest.mark.parametrize("strict", [True, False])
def test_convert_is_strict_unless_told_not_to(folder, monkeypatch, strict):
    def convert(model, output, **options):
        assert options["strict"] is strict and options["verify"] is True
        raise converters.ConversionError("a layer runs in float")

    monkeypatch.setattr(converters, "convert", convert)
    options = [] if strict else ["--no-strict"]
    message = fails("convert", folder / "small.keras", *options)
    assert message == "ConversionError: a layer runs in float\n"


def test_verify_tells_right_from_wrong(folder, tmp_path):
    model, file = folder / "small.keras", folder / "small.tflite"
    np.savez(tmp_path / "inputs.npz", image=np.ones((2, 8, 8, 3)))
    result = run("verify", model, file, "--inputs", tmp_path / "inputs.npz")
    assert result.exit_code == 0, result.output
    assert "Verified." in result.output and result.output.count("probe difference 0") == 3
    other = keras.models.load_model(model)
    kernel = other.get_layer("binary").kernel
    kernel.assign(-kernel)
    other.save(tmp_path / "other.keras")
    result = run("verify", tmp_path / "other.keras", file, "--report", tmp_path / "x.json")
    assert result.exit_code == 1
    assert "0 of 1 binary layers" in result.output and "Verified." not in result.output
    report = Report.load(tmp_path / "x.json")
    assert report.verification is not None and not report.verification["passed"]


def test_inspect_needs_the_file_alone(folder, tmp_path):
    result = run("inspect", folder / "small.tflite", "--report", tmp_path / "x.html")
    assert result.exit_code == 0, result.output
    assert "LceBconv2d" in result.output and "1 of 1 in 1 bit" in result.output
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")


def test_summary_of_files_and_of_the_zoo(folder):
    result = run("summary", folder / "small.keras")
    assert result.exit_code == 0 and "small summary" in result.output
    result = run("summary", "BiRealNet18", "--input-size", "32x32")
    assert result.exit_code == 0 and "birealnet18 summary" in result.output


@pytest.mark.slow
def test_import_loads_official_weights(tmp_path):
    trained = zoo.BiRealNet18(input_shape=(32, 32, 3), classes=7)
    np.savez(tmp_path / "official.npz", **converters.official_state(trained))
    options = ["--input-size", "32x32", "--classes", 7, "-o", tmp_path / "new" / "x.keras"]
    result = run("import", tmp_path / "official.npz", "--model", "birealnet18", *options)
    assert result.exit_code == 0, result.output
    assert "Loaded 102 arrays into birealnet18" in result.output
    loaded = keras.models.load_model(tmp_path / "new" / "x.keras")
    for ours, theirs in zip(loaded.weights, trained.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Weights of another network, or none: nothing is written.
    output = tmp_path / "y.keras"
    message = fails("import", tmp_path / "official.npz", "--model", "birealnet18", "-o", output)
    assert "official.npz" in message
    assert not output.exists()


def test_bad_arguments_are_one_line(folder, tmp_path):
    model, file = folder / "small.keras", folder / "small.tflite"
    (tmp_path / "broken.tflite").write_bytes(file.read_bytes()[:-100])
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    for message, *arguments in (
        ("There is no file", "convert", tmp_path / "none.keras"),
        ("ending in .keras", "convert", file),
        ("`--report` must end in", "convert", model, "--report", tmp_path / "x.pdf"),
        ("`--input-size` must be", "convert", model, "--input-size", "8,8"),
        ("does not fit|must fit", "convert", model, "--input-size", "8x8x4"),
        ("`--data` must be an .npy", "convert", model, "--data", tmp_path / "text.npy"),
        ("`--data` must be an .npy", "convert", model, "--data", tmp_path / "pickle.npy"),
        ("none.npy", "convert", model, "--data", tmp_path / "none.npy"),
        ("representative_data", "convert", model, "--quantize", "int8"),
        ("stored hash", "verify", model, tmp_path / "broken.tflite"),
        ("stored hash", "inspect", tmp_path / "broken.tflite"),
        ("stored hash", "benchmark", tmp_path / "broken.tflite"),
        ("must be a .keras file or one of", "summary", "birealnet19"),
        ("must be one of", "import", file, "--model", "x", "-o", tmp_path / "x.keras"),
        ("`--output` must end in", "import", file, "--model", "birealnet18", "-o", "x.h5"),
        ("`--classes` is for", "import", file, "--model", model, "-o", "x.keras", "--classes", 3),
        ("none.tflite", "benchmark", tmp_path / "none.tflite"),
        ("`--report` must end in", "benchmark", file, "--report", tmp_path / "x.pdf"),
        ("out of \\['birealnet18'\\]", "benchmark", file, "--peers"),
    ):
        output = fails(*arguments)
        assert any(part.replace("\\", "") in output for part in message.split("|")), output
    assert {path.name for path in tmp_path.iterdir()} == {"broken.tflite", "text.npy", "pickle.npy"}


def test_options_out_of_range_have_status_2(folder):
    model, file = folder / "small.keras", folder / "small.tflite"
    assert run("convert", model, "--batch-size", 0).exit_code == 2
    assert run("convert", model, "--quantize", "int4").exit_code == 2
    assert run("benchmark", file, "--kernel", "fast").exit_code == 2
    assert run("benchmark", file, "--threads", 0).exit_code == 2
    assert run("import", file).exit_code == 2


def test_every_command_has_help():
    text = run("--help").output
    for name in ("convert", "verify", "inspect", "summary", "import", "benchmark", "demo"):
        assert name in text
        help_text = run(name, "--help")
        assert help_text.exit_code == 0 and "Usage" in help_text.output
    assert "files" in run("benchmark", "--help").output


def test_benchmark_measures_a_file_by_default(folder, tmp_path):
    path, page = folder / "small.tflite", tmp_path / "x.json"
    result = run("benchmark", path, "--rounds", 2, "--runs", 2, "--report", page, "--threads", 2)
    assert result.exit_code == 0, result.output
    report = Report.load(page)
    (latency,) = report.latencies
    assert latency.runs == 4 and latency.num_threads == 2
    assert all(row.latency_ms is not None for row in report.rows)
    assert "Where the time goes" in result.output and "binary" in result.output


def test_benchmark_compares_files_and_kernels(folder):
    path = folder / "small.tflite"
    options = ["--kernel", "all", "--rounds", 2, "--runs", 1, "--no-layers"]
    result = run("benchmark", "files", path, path, *options)
    assert result.exit_code == 0, result.output
    assert result.output.count("indirect") == 2 and "/ first" in result.output
    assert "Where the time goes" not in result.output


def test_peer_is_the_reference(folder, tmp_path, monkeypatch):
    # Larq Zoo's environment takes gigabytes: its file is another copy of ours here.
    peer = tmp_path / "larq_zoo_BiRealNet.tflite"
    peer.write_bytes((folder / "small.tflite").read_bytes())
    asked = []

    def make_peer_file(of, into, progress):
        asked.append(of)
        progress("Building")
        return peer

    monkeypatch.setattr(file_benchmark, "make_peer_file", make_peer_file)
    reports = file_benchmark.run_files(
        [folder / "small.tflite"],
        **{"threads": 1, "kernel": None, "rounds": 2, "runs": 1, "layers": False},
        peers=True,
        report=tmp_path / "x.json",
    )
    assert [report.file for report in reports] == [peer.name, "small.tflite"]
    assert asked[0].model == "small" and asked[0].inputs[0].shape == (1, 8, 8, 3)
    assert json.loads((tmp_path / "x.json").read_text())["file"] == "small.tflite"


def test_a_peer_that_cannot_be_built_shows_the_end_of_its_output(folder, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such network >&2\nexit 3\n")
    python.chmod(0o755)

    class Environment:
        @staticmethod
        def make(progress):
            return python

    monkeypatch.setattr(peer_file, "LARQ_ZOO", Environment)
    report = dataclasses.replace(converters.inspect(folder / "small.tflite"), model="birealnet18")
    with pytest.raises(RuntimeError, match="(?s)ended with status 3.*no such network"):
        peer_file.make_peer_file(report, tmp_path)
