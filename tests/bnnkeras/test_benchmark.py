"""`bnnkeras benchmark training`: everything but the speed itself."""

import json
import re
import sys

import keras
import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from bnnkeras.cli import benchmark
from bnnkeras.cli.benchmarks import contenders, peers, process, report, rounds, spread
from bnnkeras.environments import PrivateEnvironmentError

TINY = ["--size", "32", "--batch-size", "2", "--rounds", "2", "--steps", "1"]


def invoke(*arguments):
    return CliRunner().invoke(benchmark.app, ["training", *arguments])


def test_spread_interpolates_quartiles():
    assert spread.spread([4.0, 1.0, 3.0, 2.0]) == spread.Spread(2.5, 1.75, 3.25)
    assert spread.spread([7.0]) == spread.Spread(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match=r"`values`.*Received: \[\]"):
        spread.spread([])


def test_ratio_is_taken_round_by_round():
    # The machine is ten times slower in the second round: the ratio does not notice.
    assert spread.ratio_spread([20.0, 2.0], [10.0, 1.0]) == spread.Spread(2.0, 2.0, 2.0)


def test_contenders_are_all_pairs_once():
    entrants = contenders.zoo_contenders(
        ["birealnet18"], ["jax", "torch", "jax"], ["float32", "mixed_bfloat16"]
    )
    assert [(entrant.backend, entrant.dtype) for entrant in entrants] == [
        ("jax", "float32"),
        ("jax", "mixed_bfloat16"),
        ("torch", "float32"),
        ("torch", "mixed_bfloat16"),
    ]


def test_environments_keep_both_keras_apart(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    (own,) = contenders.zoo_contenders(["birealnet18"], ["jax"], ["float32"])
    assert own.environment()["KERAS_BACKEND"] == "jax"
    assert "TF_USE_LEGACY_KERAS" not in own.environment()
    peer = contenders.larq_contender("BiRealNet", "python")
    assert peer.environment()["TF_USE_LEGACY_KERAS"] == "1"
    assert "PYTHONPATH" not in peer.environment()


class FakeProcess:
    """Answers at once; notes whose turn it is."""

    turns: list[str] = []

    def __init__(self, contender, batch_size, input_shape):
        self.contender, self.facts = contender, {"parameters": 1}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.turns.append(f"end {self.contender.name}")

    def run(self, steps):
        self.turns.append(self.contender.name)
        seconds = 0.5 if self.contender.name == "a" else 1.0
        return {"step_seconds": [seconds] * steps, "processor_seconds": [2 * seconds] * steps}


def test_rounds_alternate_and_the_first_contender_is_the_reference(monkeypatch):
    monkeypatch.setattr(rounds, "ContenderProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "turns", [])
    entrants = [contenders.Contender(name, "zoo", "birealnet18") for name in "ab"]
    results = rounds.measure(entrants, batch_size=8, input_shape=(32, 32, 3), rounds=3, steps=2)
    assert FakeProcess.turns == ["a", "b", "b", "a", "a", "b", "end b", "end a"]
    assert results[0]["samples_per_second"] == [16.0] * 3
    assert results[0]["processor_seconds_per_step"] == [1.0] * 3

    settings = {"batch_size": 8, "input_shape": (32, 32, 3), "rounds": 3, "steps": 2}
    values = report.training_report(entrants, results, settings)
    assert values["reference"] == "a"
    assert values["contenders"][1]["ratio"]["median"] == 0.5
    assert report.training_table(json.loads(json.dumps(values))).row_count == 2


@pytest.mark.slow
def test_two_rounds_end_to_end(tmp_path):
    output = tmp_path / "new" / "report.json"
    result = invoke(*TINY, "--backend", keras.backend.backend(), "--output", str(output))
    assert result.exit_code == 0, result.output
    assert "samples/s" in result.output
    written = json.loads(output.read_text())
    (entry,) = written["contenders"]
    assert entry["parameters"] == 11_699_112
    assert entry["backend"] == keras.backend.backend()
    assert len(entry["samples_per_second_by_round"]) == 2
    assert "ratio" not in entry and written["reference"] is None
    assert [path.name for path in output.parent.iterdir()] == ["report.json"]


@pytest.mark.slow
def test_clouds_and_several_models(tmp_path):
    output = tmp_path / "report.json"
    models = ["--model", "BiPointNet", "--model", "BiPointNetPartSegmentation", "--points", "32"]
    result = invoke(*TINY, *models, "--backend", keras.backend.backend(), "--output", str(output))
    assert result.exit_code == 0, result.output
    written = json.loads(output.read_text())
    assert [entry["model"] for entry in written["contenders"]] == models[1:4:2]
    assert written["input_shape"] == [32, 3]
    assert written["contenders"][1]["ratio"]["median"] > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "birealnet19"], "`name` must be one of.*Received: name='birealnet19'"),
        (["--size", "33"], "`input_shape`: .*Received: "),
        (["--peers", "--model", "other"], "`peers` needs a `model`.*Received: model=other"),
    ],
)
def test_bad_arguments_are_named(arguments, message, tmp_path):
    output = tmp_path / "report.json"
    options = ["--backend", keras.backend.backend(), "--output", str(output), "--rounds", "1"]
    result = invoke(*options, *arguments)
    assert result.exit_code == 1
    assert re.search(message, result.output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["--backend", "theano"], ["--dtype", "int1"], ["--rounds", "0"], ["--batch-size", "-1"]],
)
def test_options_out_of_range_are_refused(arguments):
    assert invoke(*arguments).exit_code == 2


def test_output_must_be_a_writable_file(tmp_path):
    result = invoke("--output", str(tmp_path))
    assert result.exit_code == 1
    assert "`output` must name a file" in result.output
    (tmp_path / "file").touch()
    result = invoke("--output", str(tmp_path / "file" / "report.json"))
    assert result.exit_code == 1
    assert "Cannot write" in result.output


def test_process_that_dies_shows_the_end_of_its_output(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no such package >&2\nexit 3\n")
    script.chmod(0o755)
    contender = contenders.Contender("a", "zoo", "birealnet18", python=str(script))
    with pytest.raises(contenders.ContenderError, match="(?s)a ended with status 3.*no such pack"):
        process.ContenderProcess(contender, 1, (32, 32, 3))
    missing = contenders.Contender("a", "zoo", "birealnet18", python=str(tmp_path / "none"))
    with pytest.raises(contenders.ContenderError, match="a cannot start"):
        process.ContenderProcess(missing, 1, (32, 32, 3))


def test_peer_environment_is_tried_by_importing_larq_zoo():
    # This environment has no Larq Zoo.
    with pytest.raises(PrivateEnvironmentError, match="(?s)status 1.*No module named 'larq_zoo'"):
        peers.LARQ_ZOO.check(sys.executable)
