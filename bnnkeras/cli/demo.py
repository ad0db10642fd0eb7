"""The main job, end to end: real images -> binary network -> verified `.tflite` -> its answers."""

import json
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from bnnkeras import converters, datasets, zoo
from bnnkeras.cli.pictures import save_training_picture
from bnnkeras.files import check_writable, replacing
from bnnkeras.training import fit_resumable

_SIZE = 32
_BATCH_SIZE = 64
_LEARNING_RATE = 2e-3
_SHIFT_PIXELS = 2


def run(epochs: int, seed: int, output: Path, console: Console) -> bool:
    """Trains, converts, verifies, evaluates and reports.

    Args:
        epochs: Epochs of training.
        seed: Seed of weights, order and augmentation.
        output: Folder for `birealnet18.keras`, `birealnet18.tflite`, `report.json`, `training.png`.
        console: Where progress and the table go.

    Returns:
        Whether the file was verified.
    """
    start = time.monotonic()
    check_writable(output)
    (x_train, y_train), (x_test, y_test) = datasets.digits(size=_SIZE)
    console.print(f"Training BiRealNet18 on {len(x_train)} scanned digits, {epochs} epochs.")
    model, history = _train(x_train, y_train, epochs, seed, output)
    probabilities = model.predict(x_test, verbose=0)

    console.print("Converting and verifying.")
    model_path, file_path = output / "birealnet18.keras", output / "birealnet18.tflite"
    with replacing(model_path) as temporary:
        model.save(temporary)
    conversion = converters.convert(model, file_path, strict=False, inputs=x_test[:4])
    lce = np.asarray(converters.Interpreter(file_path).predict(x_test))
    float_path = output / "birealnet18_float32.tflite"
    with replacing(float_path) as temporary:
        temporary.write_bytes(converters.convert_float(model))
    latencies = converters.measure_latency([("lce", file_path), ("tflite", float_path)])
    lce_ms, float_ms = (statistics.median(times) for times in latencies)

    verification = conversion.verification
    report = {
        "accuracy_keras": _accuracy(probabilities, y_test),
        "accuracy_lce": _accuracy(lce, y_test),
        "predictions_different": int(np.sum(probabilities.argmax(-1) != lce.argmax(-1))),
        "test_images": len(y_test),
        "binary_layers_converted": verification.binary_layers_converted,
        "binary_layers_total": verification.binary_layers_total,
        "verified": verification.passed,
        "problems": list(verification.problems),
        "probe_max_difference": verification.probe_max_difference,
        "probe_difference_by_kernel": {
            name: result.probe_difference for name, result in verification.kernels.items()
        },
        "file_bytes": conversion.file_bytes,
        "float32_file_bytes": float_path.stat().st_size,
        "latency_ms_lce": lce_ms,
        "latency_ms_float32": float_ms,
        "epochs": epochs,
        "seed": seed,
        "seconds": time.monotonic() - start,
        "keras_backend": keras.backend.backend(),
    }
    with replacing(output / "training.png") as temporary:
        save_training_picture(temporary, history, x_test, y_test, lce.argmax(-1))
    with replacing(output / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    console.print(_table(report, output))
    for problem in verification.problems:
        console.print(f"[red]{problem}")
    return verification.passed


def _train(x_train, y_train, epochs, seed, output):
    keras.utils.set_random_seed(seed)
    model = zoo.BiRealNet18(input_shape=(_SIZE, _SIZE, 3), classes=10)
    batches = datasets.Batches(
        x_train, y_train, _BATCH_SIZE, augment=datasets.random_shift(_SHIFT_PIXELS), seed=seed
    )
    # Linear decay to 0, as the official recipe.
    schedule = keras.optimizers.schedules.PolynomialDecay(
        _LEARNING_RATE, len(batches) * epochs, end_learning_rate=0.0
    )
    model.compile(
        keras.optimizers.Adam(schedule),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    settings = {"seed": seed, "keras_backend": keras.backend.backend()}
    history = fit_resumable(model, batches, epochs, output / "training_state", settings)
    return model, history


def _accuracy(probabilities, labels) -> float:
    return float(np.mean(probabilities.argmax(-1) == labels))


def _table(report: dict, output: Path) -> Table:
    table = Table(title="BiRealNet18 on scanned digits", show_header=False)
    probes = ", ".join(f"{k} {v:g}" for k, v in report["probe_difference_by_kernel"].items())
    ratio = report["float32_file_bytes"] / report["file_bytes"]
    for name, value in (
        ("accuracy in Keras", f"{report['accuracy_keras']:.2%}"),
        ("accuracy in LCE", f"{report['accuracy_lce']:.2%}"),
        (
            "predictions that differ",
            f"{report['predictions_different']} of {report['test_images']}",
        ),
        (
            "binary layers in 1 bit",
            f"{report['binary_layers_converted']} of {report['binary_layers_total']}",
        ),
        ("verified", "yes" if report["verified"] else "NO"),
        ("probe difference", probes),
        ("size", f"{report['file_bytes'] / 1e6:.2f} MB"),
        ("size in float32", f"{report['float32_file_bytes'] / 1e6:.2f} MB ({ratio:.1f} times)"),
        ("latency in LCE", f"{report['latency_ms_lce']:.2f} ms per image (this machine)"),
        ("latency in float32 TFLite", f"{report['latency_ms_float32']:.2f} ms per image"),
        ("files", str(output)),
    ):
        table.add_row(name, value)
    return table
