"""`bnnkeras benchmark --adb` against a fake adb and a transcript in the program's format.

No phone was at hand: the transcript follows the format of TensorFlow Lite's benchmark_model, with
the flags that Larq Compute Engine adds to it.
"""

import dataclasses
import json
import os
import shlex
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

from bnnkeras.cli.app import app
from bnnkeras.cli.benchmarks.adb import DeviceError
from bnnkeras.cli.benchmarks.transcript import parse, with_transcript
from bnnkeras.converters import Report
from bnnkeras.converters.reporting import OperatorRow

TRANSCRIPT = Path(__file__).parent / "goldens" / "benchmark" / "lce_benchmark_model.txt"
AARCH64, ARM, X86_64 = 183, 40, 62

# A phone: `devices`, `push` into a folder, and a shell that knows the commands we send.
FAKE_ADB = """#!{python}
import json, os, shlex, shutil, sys
folder, arguments = {folder!r}, sys.argv[1:]
phone = os.path.join(folder, "phone")
settings = json.load(open(os.path.join(folder, "settings.json")))
with open(os.path.join(folder, "log"), "a") as log:
    print(shlex.join(arguments), file=log)
if arguments == ["devices"]:
    print("List of devices attached")
    for serial, state in settings["devices"].items():
        print(serial + "\\t" + state)
    sys.exit()
assert arguments[0] == "-s" and arguments[1] in settings["devices"], arguments
command, rest = arguments[2], arguments[3:]
if command == "push":
    if settings.get("full"):
        print("adb: error: failed to copy: remote No space left on device")
        sys.exit(1)
    shutil.copy(rest[0], phone + rest[1])
    print("1 file pushed.")
    sys.exit()
assert command == "shell", arguments
if rest[0] == "getprop":
    print(settings[rest[1]])
    sys.exit()
(line,) = rest
words = shlex.split(line.removesuffix(" 2>&1"))
if words[:2] == ["mkdir", "-p"]:
    os.makedirs(phone + words[2])
elif words[0] == "chmod":
    os.chmod(phone + words[2], int(words[1], 8))
elif words[:2] == ["rm", "-rf"]:
    shutil.rmtree(phone + words[2])
else:
    assert os.access(phone + words[0], os.X_OK)
    graph = next(word for word in words if word.startswith("--graph=")).split("=")[1]
    assert os.path.exists(phone + graph)
    sys.stdout.write(open(os.path.join(folder, "transcript")).read())
    sys.exit(settings.get("status", 0))
"""


def _write_settings(folder: Path, **settings) -> None:
    values = {
        "devices": {"R58": "device"},
        "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
        "ro.product.model": "Pixel <7>",
        **settings,
    }
    (folder / "settings.json").write_text(json.dumps(values))


def _program(path: Path, machine: int) -> Path:
    path.write_bytes(b"\x7fELF" + bytes([2, 1, 1]) + bytes(9) + struct.pack("<HH", 3, machine))
    return path


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """A folder: an adb in `bin/`, the phone's files in `phone/`, what was called in `log`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "phone" / "data" / "local" / "tmp").mkdir(parents=True)
    adb = tmp_path / "bin" / "adb"
    adb.write_text(FAKE_ADB.format(python=sys.executable, folder=str(tmp_path)))
    adb.chmod(adb.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "transcript").write_text(TRANSCRIPT.read_text())
    _write_settings(tmp_path)
    _program(tmp_path / "lce_benchmark_model", AARCH64)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """chain.tflite of small_models.py, whose operators the transcript lists."""
    folder = tmp_path_factory.getbasetemp() / "small_models"
    if not folder.exists():
        folder.mkdir()
        script = Path(__file__).parent / "converters" / "small_models.py"
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder / "chain.tflite"


@pytest.fixture
def benchmark(phone: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `bnnkeras benchmark` with the phone's adb in front of all others."""
    monkeypatch.setenv("PATH", str(phone / "bin"), prepend=os.pathsep)

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])

    return run


def test_a_phone_is_measured_and_left_as_it_was(phone, benchmark, model):
    result = benchmark(
        *(model, "--adb", "--lce-benchmark", phone / "lce_benchmark_model"),
        *("--threads", 2, "--kernel", "indirect", "--report", phone / "report.json"),
    )
    assert result.exit_code == 0, result.output
    report = Report.load(phone / "report.json")
    (latency,) = report.latencies
    assert latency.device == "Pixel <7>" and latency.kernel == "indirect"
    assert latency.num_threads == 2 and latency.runs == 100
    assert latency.mean_ms == pytest.approx(0.23142) and latency.p50_ms == pytest.approx(0.230)
    assert latency.memory_bytes == int(3.5 * 2**20)
    assert [row.latency_ms for row in report.rows] == [0.010, 0.171, 0.008, 0.021]
    assert latency.operator_share == pytest.approx(0.210 / 0.23142)

    calls = (phone / "log").read_text().splitlines()
    (run,) = [shlex.split(shlex.split(line)[-1]) for line in calls if "--graph=" in line]
    assert run[0].endswith("/lce_benchmark_model")
    assert {
        "--num_threads=2",
        "--num_runs=100",
        "--enable_op_profiling=true",
        "--use_indirect_bgemm=true",
    } <= set(run)
    # All that was pushed is gone, and nothing but it.
    assert list((phone / "phone/data/local/tmp").iterdir()) == []
    removed = [line for line in calls if "rm -rf" in line]
    assert len(removed) == 1 and "/data/local/tmp/bnnkeras-" in removed[0]


@pytest.mark.parametrize(
    "settings, arguments, message",
    [
        ({"devices": {}}, [], "No phone is connected"),
        ({"devices": {"a": "device", "b": "device"}}, [], "several phones: choose with --serial"),
        ({"devices": {"a": "unauthorized"}}, [], "cannot be used: unauthorized"),
        ({}, ["--serial", "other"], "other cannot be used: not connected"),
        (
            {"ro.product.cpu.abilist": "x86_64"},
            [],
            "made for arm64-v8a, and the phone R58 runs x86",
        ),
    ],
)
def test_phones_that_cannot_be_used_are_explained(
    phone, benchmark, model, settings, arguments, message
):
    _write_settings(phone, **settings)
    program = phone / "lce_benchmark_model"
    result = benchmark(model, "--adb", "--lce-benchmark", program, *arguments)
    assert result.exit_code == 1
    assert message in result.output and result.output.count("\n") == 1
    assert "push" not in (phone / "log").read_text()


def test_one_of_several_phones_is_chosen(phone, benchmark, model):
    _write_settings(phone, devices={"a": "device", "R58": "device", "c": "offline"})
    program = phone / "lce_benchmark_model"
    result = benchmark(model, "--adb", "--serial", "R58", "--lce-benchmark", program, "--no-layers")
    assert result.exit_code == 0, result.output
    assert "-s R58 push" in (phone / "log").read_text()
    assert "--enable_op_profiling=false" in (phone / "log").read_text()


@pytest.mark.parametrize("kind", ["none given", "missing", "text", "ARM"])
def test_the_program_must_be_one_for_the_phone(phone, benchmark, model, kind):
    program = phone / "program"
    if kind == "text":
        program.write_text("#!/bin/sh\n")
    elif kind == "ARM":
        _program(program, X86_64)
    options = [] if kind == "none given" else ["--lce-benchmark", program]
    result = benchmark(model, "--adb", *options)
    assert result.exit_code == 1
    assert {
        "none given": "needs `--lce-benchmark`",
        "missing": "There is no benchmark program",
        "text": "no program for Android",
        "ARM": "made for x86_64",
    }[kind] in result.output


def test_a_missing_adb_is_named(phone, benchmark, model, monkeypatch):
    (phone / "bin" / "adb").unlink()
    monkeypatch.setenv("PATH", str(phone / "bin"))
    program = phone / "lce_benchmark_model"
    result = benchmark(model, "--adb", "--lce-benchmark", program)
    assert result.exit_code == 1 and "adb is not on the PATH" in result.output


@pytest.mark.parametrize("failure", ["full", "crash", "other output"])
def test_what_was_pushed_is_removed_also_after_a_failure(phone, benchmark, model, failure):
    if failure == "full":
        _write_settings(phone, full=True)
    elif failure == "crash":
        _write_settings(phone, status=139)
    else:
        (phone / "transcript").write_text("Failed to initialize XNNPACK\nBenchmarking failed.\n")
    program = phone / "lce_benchmark_model"
    result = benchmark(model, "--adb", "--lce-benchmark", program)
    assert result.exit_code == 1
    assert {
        "full": "No space left on device",
        "crash": "ended with status 139",
        "other output": "printed no timings. Its last lines:",
    }[failure] in result.output
    assert list((phone / "phone/data/local/tmp").iterdir()) == []


def test_options_that_need_each_other(phone, benchmark, model):
    result = benchmark(model, "--serial", "R58")
    assert result.exit_code == 1 and "need `--adb`" in result.output
    result = benchmark(model, "--adb", "--peers")
    assert result.exit_code == 1 and "no peers" in result.output


def _rows(*kinds: str) -> tuple[OperatorRow, ...]:
    return tuple(
        OperatorRow(index, kind, "layer", "", (1,), "float32", 0, 0, 4)
        for index, kind in enumerate(kinds)
    )


REPORT = Report("x", 1, "", False, "", {}, (), (), _rows(*["LceQuantize", "LceBconv2d"] * 2))


def test_older_programs_print_less():
    # No prefix, a column of start times, no percentiles, and memory in other words.
    text = (
        "count=1 curr=3512391\n\n"
        "count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798\n\n"
        "Inference timings in us: Init: 17187, First inference: 3512391, "
        "Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06\n"
        "Peak memory footprint (MB): init=4.92969 overall=138.5\n"
        "Operator-wise Profiling Info for Regular Benchmark Runs:\n"
        "============================== Run Order ==============================\n"
        "\t [node type]\t [start]\t [first]\t [avg ms]\t [%]\t [cdf%]\t [mem KB]"
        "\t[times called]\t[Name]\n"
        "\t LceQuantize\t 0.066\t 87.754\t 60.957\t 2.066%\t 2.066%\t 0.000\t 1\t[a b/c, d]:0\n"
        "\t Convolution (NHWC, QC8)\t 61.0\t 53.6\t 0.5\t 1.7%\t 3.757%\t 0.000\t 12\tDelegate:1\n"
        "\n============================== Top by Computation Time ================\n"
    )
    found = parse(text)
    assert (found.runs, found.median_ms) == (50, None)
    assert found.mean_ms == pytest.approx(2950.34)
    assert found.memory_bytes == int(138.5 * 2**20)
    # Twelve calls of half a millisecond in one run.
    assert found.operators == {0: ("LceQuantize", 60.957), 1: ("Convolution (NHWC, QC8)", 6.0)}
    with pytest.raises(DeviceError, match="not that of the file.*position 1, where the file has"):
        with_transcript(REPORT, text, device="d", kernel="default", threads=1)


def test_a_transcript_without_a_profile_has_no_operators():
    text = TRANSCRIPT.read_text().partition("INFO: Operator-wise")[0]
    report = with_transcript(REPORT, text, device="d", kernel="default", threads=1)
    assert all(row.latency_ms is None for row in report.rows)
    assert report.latencies[0].operator_share is None
    assert report == dataclasses.replace(REPORT, latencies=report.latencies)


@pytest.mark.parametrize("end", range(0, 3200, 97))
def test_a_transcript_cut_anywhere_is_read_or_refused(end):
    text = TRANSCRIPT.read_text()[:end]
    try:
        found = parse(text)
    except DeviceError as error:
        assert "printed no timings" in str(error) or "other columns" in str(error)
    else:
        assert found.runs == 100 and found.mean_ms == pytest.approx(0.23142)
