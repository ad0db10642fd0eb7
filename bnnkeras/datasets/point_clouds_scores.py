"""Scores of point-cloud classification and segmentation, from NumPy labels and predictions."""

from collections.abc import Sequence

import numpy as np


def confusion(labels, predictions, classes: int) -> np.ndarray:
    """Counts `(classes, classes)`: rows are labels, columns predictions.

    Raises:
        ValueError: If the arrays differ in shape, or hold other values than 0 to classes - 1.
    """
    labels, predictions = np.ravel(labels), np.ravel(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(
            "`labels` and `predictions` must have as many values. "
            f"Received: {labels.size} and {predictions.size}"
        )
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and not (0 <= values.min() and values.max() < classes):
            raise ValueError(
                f"`{name}` must be 0 to {classes - 1}. Received: {values.min()} to {values.max()}"
            )
    flat = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return flat.reshape(classes, classes)


def overall_accuracy(matrix: np.ndarray) -> float:
    """The share of right predictions (OA), from a `confusion` matrix."""
    return float(np.trace(matrix) / matrix.sum())


def class_accuracy(matrix: np.ndarray) -> float:
    """The mean of the classes' shares of right predictions; classes without labels do not count."""
    counts = matrix.sum(axis=1)
    known = counts > 0
    return float(np.mean(np.diag(matrix)[known] / counts[known]))


def mean_iou(matrix: np.ndarray) -> float:
    """The mean over classes of intersection over union; classes that never occur do not count.

    As for S3DIS: intersections and unions are those of all points together.

    Example:
        >>> from bnnkeras.datasets import point_clouds_scores as scores
        >>> matrix = scores.confusion([0, 0, 1, 1], [0, 1, 1, 1], classes=2)
        >>> round(scores.mean_iou(matrix), 4)
        0.5833
    """
    intersections = np.diag(matrix)
    unions = matrix.sum(axis=0) + matrix.sum(axis=1) - intersections
    known = unions > 0
    return float(np.mean(intersections[known] / unions[known]))


def shape_iou(labels, predictions, parts: int) -> float:
    """The mean over the parts of one shape; a part that neither has counts as 1, as for ShapeNet.

    Example:
        >>> from bnnkeras.datasets import point_clouds_scores as scores
        >>> scores.shape_iou([0, 0, 1], [0, 0, 1], parts=3)
        1.0
    """
    matrix = confusion(labels, predictions, parts)
    intersections = np.diag(matrix)
    unions = matrix.sum(axis=0) + matrix.sum(axis=1) - intersections
    return float(np.mean(np.where(unions > 0, intersections / np.maximum(unions, 1), 1.0)))


def part_scores(
    labels: Sequence, predictions: Sequence, categories: Sequence[int], parts: Sequence[int]
) -> tuple[float, float]:
    """Instance mIoU and category mIoU of ShapeNetPart.

    Args:
        labels: For each shape the parts of its points, numbered from 0 in its category.
        predictions: Likewise.
        categories: The category of each shape.
        parts: The number of parts of each category.

    Returns:
        The mean over all shapes of their `shape_iou`, and the mean over the categories that occur
        of the mean over their shapes.

    Example:
        >>> from bnnkeras.datasets import point_clouds_scores as scores
        >>> shapes = [[0, 1], [0, 0], [1, 1]]
        >>> scores.part_scores(shapes, [[0, 1], [1, 1], [1, 1]], [0, 1, 1], parts=[2, 2])
        (0.6666666666666666, 0.75)
    """
    values = np.array(
        [
            shape_iou(one, other, parts[category])
            for one, other, category in zip(labels, predictions, categories, strict=True)
        ]
    )
    chosen = np.asarray(categories)
    means = [values[chosen == category].mean() for category in np.unique(chosen)]
    return float(values.mean()), float(np.mean(means))
