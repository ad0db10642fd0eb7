"""BiPointNet on solids that need no download: a class for each cloud, or a part for each point.

    python examples/train_bipointnet.py classes --output table.jsonl [--seeds 3]
    python examples/train_bipointnet.py parts --solid chair --picture parts.png

`classes` trains every binarization and aggregation at equal budget and prints a table of test
accuracies. With `--output` each training is a line of that file, and the same command goes on
where it stopped. `parts` trains part segmentation and draws the labels and predictions of two
clouds.

The vanilla network on 520 test clouds, mean of three seeds (lowest to highest), in percent; 20
minutes of one core:

                     max                    mean                   ema-max
    full precision   99.4 (99.2 to 99.4)    81.3 (79.6 to 83.5)
    bnn              43.1 (37.9 to 48.3)    83.1 (82.1 to 83.7)    90.5 (88.8 to 91.3)
    lsr              34.6 (23.6 to 56.1)    84.8 (82.7 to 86.2)    90.3 (89.4 to 91.5)

Plain maxima fail in bits, and shifted ones are best, as published. That scales make no difference
to them is not: a batch normalization follows each of these layers. Longer trainings close the gap:
after 6 epochs two seeds of the last one had 93.3 and 94.6.

Qin et al., BiPointNet (ICLR 2021), table 2.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np

from bnnkeras import zoo
from bnnkeras.datasets import Batches, point_clouds, point_clouds_scores

# Full precision; binary layers only, scales only, aggregation only, and both.
TABLE = (
    (None, "max"),
    (None, "mean"),
    ("bnn", "max"),
    ("bnn", "mean"),
    ("bnn", "ema-max"),
    ("lsr", "max"),
    ("lsr", "mean"),
    ("lsr", "ema-max"),
)
BUDGET = ("points", "clouds", "epochs", "rate", "transforms")


def fit(model, batches, epochs: int, rate: float, verbose) -> float:
    """Adam with a cosine to 0, as the released code; returns the seconds it took."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * len(batches))
    model.compile(
        keras.optimizers.Adam(schedule, epsilon=1e-8),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # Compiling takes longer than it saves.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    start = time.monotonic()
    model.fit(batches, epochs=epochs, shuffle=False, verbose=verbose)
    return time.monotonic() - start


def classes(options) -> None:
    """The table: every binarization and aggregation, for each seed."""
    finished = []
    if options.output and options.output.exists():
        finished = [json.loads(line) for line in options.output.read_text().splitlines()]
    train, test = point_clouds.solids(options.points, options.clouds, 40)
    records = []
    for seed in range(options.seeds):
        for binarization, aggregation in TABLE:
            settings = {"seed": seed, "binarization": binarization, "aggregation": aggregation}
            settings |= {name: getattr(options, name) for name in BUDGET}
            known = (record for record in finished if settings.items() <= record.items())
            record = next(known, None)
            if record is None:
                record = settings | trained(train, test, settings, options.verbose)
                print(json.dumps(record), flush=True)
                if options.output:
                    with options.output.open("a") as file:
                        print(json.dumps(record), file=file)
            records.append(record)
    print_table(records)


def trained(train, test, settings, verbose) -> dict:
    """Trains one network; returns its scores on the clouds to test on."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(settings["seed"])
    count = len(point_clouds.SOLIDS)
    model = zoo.BiPointNet(
        (settings["points"], 3),
        classes=count,
        classifier_activation=None,
        binarization=settings["binarization"],
        aggregation=settings["aggregation"],
        transforms=settings["transforms"],
    )
    positions = train.points[..., :3]
    # Turned anew in each epoch, as the solids were when they were made.
    batches = Batches(positions, train.labels, 32, point_clouds.turned(), settings["seed"])
    seconds = fit(model, batches, settings["epochs"], settings["rate"], verbose)
    logits = model.predict(test.points[..., :3], batch_size=32, verbose=0)
    matrix = point_clouds_scores.confusion(test.labels, logits.argmax(axis=-1), count)
    return {
        "overall_accuracy": round(point_clouds_scores.overall_accuracy(matrix), 4),
        "class_accuracy": round(point_clouds_scores.class_accuracy(matrix), 4),
        "seconds": round(seconds, 1),
    }


def print_table(records) -> None:
    """Mean and range over the seeds of each row."""
    print(
        f"{'binarization':<16}{'aggregation':<13}{'accuracy %':<12}{'lowest .. highest':<20}seeds"
    )
    for binarization, aggregation in TABLE:
        values = [
            100 * record["overall_accuracy"]
            for record in records
            if (record["binarization"], record["aggregation"]) == (binarization, aggregation)
        ]
        span = f"{min(values):.1f} .. {max(values):.1f}"
        name = binarization or "full precision"
        print(f"{name:<16}{aggregation:<13}{np.mean(values):<12.1f}{span:<20}{len(values)}")


def parts(options) -> None:
    """Part segmentation of one kind of solid, as the released code has a network per category."""
    keras.utils.set_random_seed(0)
    train, test = point_clouds.solids(options.points, options.clouds, 40)
    label = point_clouds.SOLIDS.index(options.solid)
    x, y, x_test, y_test = (
        array[clouds.labels == label]
        for clouds in (train, test)
        for array in (clouds.points, clouds.parts)
    )
    count = int(y.max()) + 1
    model = zoo.BiPointNetPartSegmentation(
        (options.points, 6),
        classes=count,
        classifier_activation=None,
        transforms=options.transforms,
    )
    batches = Batches(x, y, 8, point_clouds.turned())
    seconds = fit(model, batches, options.epochs, options.rate, options.verbose)
    predictions = model.predict(x_test, batch_size=8, verbose=0).argmax(axis=-1)
    instance, _ = point_clouds_scores.part_scores(
        y_test, predictions, [0] * len(y_test), parts=[count]
    )
    accuracy = float(np.mean(predictions == y_test))
    record = {
        "solid": options.solid,
        "mean_iou": round(instance, 4),
        "accuracy": round(accuracy, 4),
    }
    print(json.dumps({**record, "seconds": round(seconds, 1)}))
    if options.picture:
        draw(x_test[:2, :, :3], y_test[:2], predictions[:2], options.picture)


def draw(positions, labels, predictions, path) -> None:
    """Clouds in rows: the labels on the left, the predictions on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5 * len(positions)), layout="constrained")
    columns = (("labels", labels), ("predictions", predictions))
    for row, cloud in enumerate(positions):
        for column, (title, values) in enumerate(columns):
            place = 2 * row + column + 1
            axes = figure.add_subplot(len(positions), 2, place, projection="3d")
            axes.scatter(*cloud.T, c=values[row], cmap="tab10", vmin=0, vmax=9, s=4)
            axes.set_title(title)
            axes.set_axis_off()
            axes.set_box_aspect((1, 1, 1))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=["classes", "parts"])
    parser.add_argument("--points", type=int, default=128, help="of each cloud")
    parser.add_argument("--clouds", type=int, default=400, help="of each class to train on")
    parser.add_argument("--epochs", type=int, default=3)
    # The paper's 0.001 is made for ten times as many steps, of batches eight times as large.
    parser.add_argument("--rate", type=float, default=0.03, help="of learning, at the start")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--transforms", action="store_true", help="with T-Nets")
    parser.add_argument("--output", type=Path, help="of classes: file of finished trainings")
    parser.add_argument("--solid", choices=point_clouds.SOLIDS, default="chair")
    parser.add_argument("--picture", help="where to draw predictions of parts")
    parser.add_argument("--verbose", default=0, type=int)
    options = parser.parse_args()
    {"classes": classes, "parts": parts}[options.task](options)


if __name__ == "__main__":
    main()
