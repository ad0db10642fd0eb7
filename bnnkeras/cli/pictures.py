"""Pictures of results."""

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402  (the backend must be chosen first)


def save_training_picture(path, history: dict, images, labels, predictions) -> None:
    """Draws loss and accuracy by epoch, and images with their predicted labels.

    Args:
        path: The PNG file to write.
        history: Lists of `loss` and `accuracy` by epoch.
        images: Test images in [-1, 1], `(samples, height, width, channels)`.
        labels: Their labels.
        predictions: The labels predicted by the converted model. Wrong ones are shown first.
    """
    figure = pyplot.figure(figsize=(10, 5), layout="constrained")
    curves, gallery = figure.subfigures(1, 2)
    loss_axes, accuracy_axes = curves.subplots(2, 1, sharex=True)
    for axes, name in ((loss_axes, "loss"), (accuracy_axes, "accuracy")):
        epochs = range(1, len(history[name]) + 1)
        axes.plot(epochs, history[name], marker=".")
        axes.set_ylabel(f"training {name}")
        axes.grid(alpha=0.3)
    accuracy_axes.set_xlabel("epoch")

    wrong_first = np.argsort(predictions == labels, kind="stable")
    gallery.suptitle("predictions through LCE (red: wrong)")
    for axes, index in zip(gallery.subplots(4, 5).flat, wrong_first, strict=False):
        axes.imshow(images[index, ..., 0], cmap="gray_r", vmin=-1, vmax=1)
        right = predictions[index] == labels[index]
        axes.set_title(str(predictions[index]), color="black" if right else "red", fontsize=9)
        axes.axis("off")
    figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)
