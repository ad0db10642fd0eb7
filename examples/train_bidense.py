"""BiDense's UperNet on scenes of scanned digits: masks or depth, binary or of full precision.

    python examples/train_bidense.py [--task depth] [--precision scratch] [--tflite scenes.tflite]

The scenes are made on the spot, without a download, and are new in every epoch. Behind the training
stand the metrics on scenes of digits that the network has not seen, and a picture of some of them:
the input, what is true, and what the network says. With `--folder`, a training that was interrupted
continues, and the trained network is kept. `--tflite` converts it, and compares what Larq Compute
Engine says of the same scenes.

On one core the 40 epochs take 15 (full precision) to 25 minutes. They end with a mean IoU of 0.75
in full precision and 0.41 binary; with depths, 8 epochs end with 90 and 87 % within 25 %.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

from bnnkeras import converters
from bnnkeras.datasets import SceneBatches, scenes
from bnnkeras.dense_metrics import DepthDelta, MeanIoU, PixelAccuracy, depth_metrics
from bnnkeras.training import (
    OneCycleAdamW,
    PixelCrossentropy,
    ScaleInvariantLogLoss,
    fit_resumable,
)
from bnnkeras.zoo import BiDenseUperNet

# The background, ten digits, and the class to ignore.
CLASSES = 12
MAX_DEPTH = 10.0
TARGETS = {"segmentation": "masks", "depth": "depths"}


def network(task: str, precision: str, size: int, classify_at: str) -> keras.Model:
    """The small UperNet, of the form that LCE runs."""
    return BiDenseUperNet(
        (size, size, 3),
        classes=CLASSES,
        task=task,
        size="pocket",
        precision=precision,
        scale_axis="layer",
        max_depth=MAX_DEPTH,
        classify_at=classify_at,
    )


def train(model, task, count, test, epochs, batch_size, rate, folder) -> None:
    """Trains the network; prints the metrics of unseen digits every few epochs."""
    size = model.input_shape[1]
    data = SceneBatches(count, batch_size, TARGETS[task], size)
    if task == "segmentation":
        loss, metrics = PixelCrossentropy(), [MeanIoU(CLASSES - 1), PixelAccuracy(CLASSES - 1)]
    else:
        loss, metrics = ScaleInvariantLogLoss(), [DepthDelta()]
    model.compile(OneCycleAdamW(rate, epochs, len(data)), loss, metrics=metrics)
    settings = {"network": model.get_config(), "rate": rate, "batch": [count, batch_size]}
    fit_resumable(
        model,
        data,
        epochs,
        folder,
        settings,
        validation_data=(test.images, getattr(test, TARGETS[task])),
        validation_batch_size=20,
        validation_freq=[*range(4, epochs, 4), epochs],
        verbose=2,
    )


def evaluate(model, test, task: str) -> None:
    """Prints all metrics of the test scenes."""
    predicted = model.predict(test.images, batch_size=20, verbose=0)
    if task == "segmentation":
        for metric in (MeanIoU(CLASSES - 1), PixelAccuracy(CLASSES - 1)):
            print(f"{metric.name}: {float(metric(test.masks, predicted)):.4f}")
        return
    found = [depth_metrics(*pair, MAX_DEPTH) for pair in zip(predicted, test.depths, strict=True)]
    for name in found[0]:
        print(f"{name}: {np.mean([values[name] for values in found]):.4f}")


def draw(path: Path, model, test, task: str) -> None:
    """Input, truth and prediction of four scenes, side by side."""
    from matplotlib.figure import Figure

    outputs = model.predict(test.images[:4], verbose=0)
    if task == "segmentation":
        shown = {"true mask": test.masks[:4], "predicted mask": outputs.argmax(-1)}
        style = {"cmap": "tab20", "vmin": 0, "vmax": 19, "interpolation": "nearest"}
    else:
        shown = {"true depth": test.depths[:4, ..., 0], "predicted depth": outputs[..., 0]}
        style = {"cmap": "viridis", "vmin": 0, "vmax": MAX_DEPTH}
    figure = Figure(figsize=(6, 8), layout="constrained")
    axes = figure.subplots(4, 3)
    for row in range(4):
        axes[row, 0].imshow(test.images[row] / 2 + 0.5)
        for axis, values in zip(axes[row, 1:], shown.values(), strict=True):
            axis.imshow(values[row], **style)
    for axis, title in zip(axes[0], ["input", *shown], strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


def deploy(path: Path, model, test, task: str) -> None:
    """Converts the network, and prints how far Larq Compute Engine's answers are from Keras's."""
    conversion = converters.convert(model, path, inputs=test.images[:4])
    verification = conversion.verification
    print(
        f"{path}: {len(conversion.flatbuffer):,} bytes; in 1 bit "
        f"{verification.binary_layers_converted} of {verification.binary_layers_total} layers; "
        f"largest difference in the probe {verification.probe_max_difference}"
    )
    found = converters.Interpreter(path).predict(test.images)
    wanted = model.predict(test.images, batch_size=20, verbose=0)
    if task == "segmentation":
        print(f"pixels with the same class: {(found.argmax(-1) == wanted.argmax(-1)).mean():.4%}")
    else:
        print(f"mean difference of depths: {np.abs(found - wanted).mean():.2e} m")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=("segmentation", "depth"), default="segmentation")
    parser.add_argument("--precision", choices=("binary", "scratch"), default="binary")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--scenes", type=int, default=2000, help="per epoch")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4e-3, help="largest learning rate")
    parser.add_argument("--classify-at", choices=("input", "quarter"), default="quarter")
    parser.add_argument("--picture", type=Path, default=Path("bidense.png"))
    parser.add_argument("--folder", type=Path, help="where the training and the network are kept")
    parser.add_argument("--tflite", type=Path, help="the file to convert to")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    test = scenes(200, options.size, "test")
    model = network(options.task, options.precision, options.size, options.classify_at)
    train(
        model,
        options.task,
        options.scenes,
        test,
        options.epochs,
        options.batch_size,
        options.rate,
        options.folder,
    )
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        model.save(options.folder / "bidense.keras")
    evaluate(model, test, options.task)
    draw(options.picture, model, test, options.task)
    print(f"Picture: {options.picture}")
    if options.tflite is not None:
        deploy(options.tflite, model, test, options.task)


if __name__ == "__main__":
    main()
