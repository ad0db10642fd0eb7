"""Interleaved rounds: contenders take turns, so that whatever slows the machine slows them all."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from bnnkeras.cli.benchmarks.contenders import Contender
from bnnkeras.cli.benchmarks.process import ContenderProcess


def measure(
    contenders: Sequence[Contender],
    batch_size: int,
    input_shape: Sequence[int],
    rounds: int,
    steps: int,
    progress: Callable[[str], None] = lambda message: None,
) -> list[dict[str, Any]]:
    """Runs all contenders in turn, `rounds` times `steps` training steps each.

    They start one after the other and stay. In a round each runs alone while the others wait;
    every second round goes in the opposite order.

    Args:
        contenders: Who takes part.
        batch_size: Samples per step.
        input_shape: Shape of a sample, without the batch.
        rounds: Number of rounds.
        steps: Training steps of each contender in a round.
        progress: Called with what happens next.

    Returns:
        One dict per contender: `facts` of its process, and per round `samples_per_second` and
        `processor_seconds_per_step`.

    Raises:
        ContenderError: If a process fails.
    """
    with contextlib.ExitStack() as stack:
        processes = []
        for contender in contenders:
            progress(f"Building {contender.name}")
            process = ContenderProcess(contender, batch_size, input_shape)
            processes.append(stack.enter_context(process))
        results: list[dict[str, Any]] = [
            {"facts": process.facts, "samples_per_second": [], "processor_seconds_per_step": []}
            for process in processes
        ]
        turns = list(zip(processes, results, strict=True))
        for index in range(rounds):
            for process, result in turns if index % 2 == 0 else reversed(turns):
                progress(f"Round {index + 1} of {rounds}: {process.contender.name}")
                seconds = process.run(steps)
                result["samples_per_second"].append(
                    batch_size * steps / sum(seconds["step_seconds"])
                )
                result["processor_seconds_per_step"].append(
                    sum(seconds["processor_seconds"]) / steps
                )
    return results
