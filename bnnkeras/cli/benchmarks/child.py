"""A contender's process: builds one model, then runs training steps on request.

Started by path (`python -P child.py SPECIFICATION`) and written for the standard library and the
contender's own packages alone, because a peer's environment has no bnnkeras. It reads one JSON
request per line, `{"steps": 3}`, and answers one line each with the seconds of every step.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import time

# The first steps trace, compile and allocate.
_WARM_UP_STEPS = 3
_LABEL_SMOOTHING = 0.1
_LEARNING_RATE = 1e-3


def main(specification: dict) -> None:
    """Serves requests until stdin closes.

    Args:
        specification: `kind` ("zoo" or "larq"), `model`, `dtype`, `batch_size` and
            `input_shape`.
    """
    # Libraries print to stdout: give them stderr, keep the pipe.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        start = time.perf_counter()
        train_step, facts = prepare(specification)
        for _ in range(_WARM_UP_STEPS):
            train_step()
        facts["start_seconds"] = time.perf_counter() - start
        _answer(answers, facts)
        for line in sys.stdin:
            _answer(answers, timed(train_step, json.loads(line)["steps"]))
    except Exception as error:
        _answer(answers, {"error": f"{type(error).__name__}: {error}"})
        raise


def prepare(specification: dict):
    """Builds and compiles the model; returns a function that runs one step, and facts about it."""
    import numpy as np

    builder = {"zoo": _zoo_model, "larq": _larq_model}[specification["kind"]]
    model, keras, packages = builder(specification)
    model.compile(
        optimizer=keras.optimizers.Adam(_LEARNING_RATE),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=_LABEL_SMOOTHING),
    )
    random = np.random.default_rng(0)
    batch_size = specification["batch_size"]
    samples = random.uniform(-1, 1, (batch_size, *specification["input_shape"])).astype("float32")
    *places, classes = model.output_shape[1:]
    labels = np.eye(classes, dtype="float32")[random.integers(0, classes, (batch_size, *places))]
    facts = {
        "parameters": model.count_params(),
        "jit_compile": bool(getattr(model, "jit_compile", None)),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    # What `fit` runs for a batch, without its input pipeline; it returns the loss as a number, so
    # no backend can leave work for later.
    return lambda: model.train_on_batch(samples, labels), facts


def timed(train_step, steps: int) -> dict:
    """Wall-clock and processor seconds of every one of `steps` training steps."""
    wall, processor = [], []
    for _ in range(steps):
        start, start_processor = time.perf_counter(), time.process_time()
        train_step()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return {"step_seconds": wall, "processor_seconds": processor}


def _zoo_model(specification: dict):
    import keras

    from bnnkeras import zoo

    keras.config.set_dtype_policy(specification["dtype"])
    model = zoo.get(specification["model"], input_shape=tuple(specification["input_shape"]))
    return model, keras, ("bnnkeras", "keras", keras.backend.backend())


def _larq_model(specification: dict):
    import tf_keras

    # Only the peer environment has it.
    literature = importlib.import_module("larq_zoo.literature")
    build = getattr(literature, specification["model"])
    model = build(input_shape=tuple(specification["input_shape"]), weights=None)
    return model, tf_keras, ("larq-zoo", "larq", "tf-keras", "tensorflow")


def _answer(answers, message: dict) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
