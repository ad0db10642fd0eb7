"""Metrics of dense prediction: masks and depths."""

import keras
import numpy as np
from keras import ops

from bnnkeras.registration import register


@register
class MeanIoU(keras.metrics.Metric):
    """The mean over classes of intersection / union of masks.

    Args:
        classes: Integer, the classes that count; other labels are ignored.
        official: `False` (default): the mean over classes that occur, in labels or predictions. A
            prediction outside of `classes` is no class's. `True`: the mean as BiDense's released
            code takes it: over all classes, 0 for those that don't occur, and a prediction beyond
            the last class counts as the last one.
        name: String.
        dtype: Of the result.

    Call arguments:
        y_true: `(batch, height, width)`, integers.
        y_pred: `(batch, height, width, n)`, logits of at least `classes` classes.

    Raises:
        ValueError: If `classes` is not positive.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.dense_metrics import MeanIoU
        >>> labels, predictions = np.array([[[0, 0, 1]]]), np.eye(3)[None, None, [0, 1, 1]]
        >>> float(MeanIoU(2)(labels, predictions))
        0.5

    Reference:
        Yin et al., BiDense (2024), released code (`official`).
    """

    def __init__(self, classes: int, official: bool = False, name="mean_iou", dtype=None):
        super().__init__(name=name, dtype=dtype)
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise ValueError(f"`classes` must be a positive integer. Received: classes={classes!r}")
        self.classes = classes
        self.official = official
        self.intersection, self.predicted, self.labelled = (
            self.add_weight(name=area, shape=(classes,), initializer="zeros")
            for area in ("intersection", "predicted", "labelled")
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels, chosen = (
            ops.reshape(ops.cast(classes, "int32"), (-1,))
            for classes in (y_true, ops.argmax(y_pred, axis=-1))
        )
        valid = (labels >= 0) & (labels < self.classes)
        self.intersection.assign_add(self._areas(labels, valid & (labels == chosen)))
        if self.official:
            chosen = ops.minimum(chosen, self.classes - 1)
        self.predicted.assign_add(self._areas(chosen, valid & (chosen < self.classes)))
        self.labelled.assign_add(self._areas(labels, valid))

    def _areas(self, labels, valid):
        """Number of valid pixels of each class."""
        # The class behind the last takes what is not valid.
        labels = ops.where(valid, labels, self.classes)
        ones = ops.cast(ops.ones_like(labels), self.dtype)
        return ops.segment_sum(ones, labels, num_segments=self.classes + 1)[: self.classes]

    def scores(self):
        """Intersection / union of each class; 0 where there is no union."""
        union = self._union()
        return self.intersection / ops.maximum(union, 1)

    def _union(self):
        return self.predicted + self.labelled - self.intersection

    def result(self):
        if self.official:
            return ops.mean(self.scores())
        occurring = ops.cast(self._union() > 0, self.dtype)
        return ops.sum(self.scores()) / ops.maximum(ops.sum(occurring), 1)

    def get_config(self) -> dict:
        return {**super().get_config(), "classes": self.classes, "official": self.official}


@register
class PixelAccuracy(keras.metrics.Metric):
    """The share of pixels whose class is right, of those with a label below `classes`.

    Args:
        classes: Integer, the classes that count.
        official: `True` takes the share of each batch, and their mean weighted by the batches'
            sizes, as BiDense's released code. Defaults to `False`: all pixels count alike.
        name: String.
        dtype: Of the result.

    Call arguments:
        y_true: `(batch, height, width)`, integers.
        y_pred: `(batch, height, width, n)`, logits.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.dense_metrics import PixelAccuracy
        >>> labels, predictions = np.array([[[0, 0, 1, 2]]]), np.eye(3)[None, None, [0, 1, 1, 0]]
        >>> round(float(PixelAccuracy(2)(labels, predictions)), 4)
        0.6667
    """

    def __init__(self, classes: int, official: bool = False, name="pixel_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.classes = classes
        self.official = official
        self.right = self.add_weight(name="right", initializer="zeros")
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = ops.cast(y_true, "int32")
        valid = (labels >= 0) & (labels < self.classes)
        right = valid & (labels == ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
        right, total = (ops.sum(ops.cast(part, self.dtype)) for part in (right, valid))
        if self.official:
            size = ops.cast(ops.shape(labels)[0], self.dtype)
            right, total = size * right / ops.maximum(total, 1), size
        self.right.assign_add(right)
        self.total.assign_add(total)

    def result(self):
        return self.right / ops.maximum(self.total, 1)

    def get_config(self) -> dict:
        return {**super().get_config(), "classes": self.classes, "official": self.official}


@register
class DepthDelta(keras.metrics.Metric):
    """The share of pixels whose depth is right by a factor below 1.25^power.

    Args:
        power: Integer, 1 (default), 2 or 3.
        minimum: Float: pixels of true depths above it count. Defaults to 1e-3 m.
        name: String; `None` for `"delta<power>"`.
        dtype: Of the result.

    Call arguments:
        y_true: Depths, 0 where there is none.
        y_pred: Likewise, positive.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.dense_metrics import DepthDelta
        >>> float(DepthDelta()(np.array([1.0, 2.0, 0.0]), np.array([1.2, 2.6, 1.0])))
        0.5
    """

    def __init__(self, power: int = 1, minimum: float = 1e-3, name=None, dtype=None):
        super().__init__(name=name or f"delta{power}", dtype=dtype)
        self.power = power
        self.minimum = minimum
        self.right = self.add_weight(name="right", initializer="zeros")
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = (ops.cast(value, self.dtype) for value in (y_true, y_pred))
        valid = y_true > self.minimum
        ratio = y_pred / ops.where(valid, y_true, 1.0)
        right = valid & (ops.maximum(ratio, 1 / ops.maximum(ratio, 1e-9)) < 1.25**self.power)
        self.right.assign_add(ops.sum(ops.cast(right, self.dtype)))
        self.total.assign_add(ops.sum(ops.cast(valid, self.dtype)))

    def result(self):
        return self.right / ops.maximum(self.total, 1)

    def get_config(self) -> dict:
        return {**super().get_config(), "power": self.power, "minimum": self.minimum}


# Rows and columns, in pixels or as shares of the size.
CROPS = {
    "nyu": ((45, 471), (41, 601)),
    "kitti": ((0.40810811, 0.99189189), (0.03594771, 0.96405229)),
    "kitti_eigen": ((0.3324324, 0.91351351), (0.0359477, 0.96405229)),
}


def depth_metrics(
    predicted, depth, maximum: float, crop: str | None = None, minimum: float = 1e-3
) -> dict[str, float]:
    """The metrics of one depth map; a data set's are the means over its images.

    Args:
        predicted: `(height, width)` or with an axis of 1, in metres. It is clipped to
            [`minimum`, `maximum`], infinity is `maximum` and NaN `minimum`.
        depth: Likewise, the true one; values in (`minimum`, `maximum`) count.
        maximum: Float, 10 for NYUv2, 80 for KITTI.
        crop: What part counts: `"nyu"` (of 480x640), `"kitti"`, `"kitti_eigen"`, or `None`
            (default) for all of it.
        minimum: Float.

    Returns:
        `silog`, `abs_rel`, `log10`, `rms`, `sq_rel`, `log_rms` and `delta1` to `delta3`.

    Raises:
        ValueError: If `crop` is unknown, the shapes differ, or no pixel counts.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.dense_metrics import depth_metrics
        >>> found = depth_metrics(np.full((4, 4), 2.2), np.full((4, 4), 2.0), 10.0)
        >>> round(found["abs_rel"], 3), found["delta1"]
        (0.1, 1.0)

    Reference:
        Eigen et al., Depth Map Prediction from a Single Image (NIPS 2014).
    """
    predicted, depth = (np.asarray(value, "float64") for value in (predicted, depth))
    predicted, depth = (value.reshape(value.shape[:2]) for value in (predicted, depth))
    if predicted.shape != depth.shape:
        raise ValueError(
            "`predicted` and `depth` must have the same shape. "
            f"Received: {predicted.shape} and {depth.shape}"
        )
    predicted = np.nan_to_num(predicted, nan=minimum, posinf=maximum, neginf=minimum)
    predicted = np.clip(predicted, minimum, maximum)
    valid = (depth > minimum) & (depth < maximum)
    if crop is not None:
        inside = np.zeros(valid.shape, bool)
        inside[_slices(crop, valid.shape)] = True
        valid &= inside
    if not valid.any():
        raise ValueError("No pixel of `depth` counts. Received: depths that are all out of range")
    p, d = predicted[valid], depth[valid]
    error = np.log(p) - np.log(d)
    ratio = np.maximum(p / d, d / p)
    values = {
        "silog": 100 * np.sqrt((error**2).mean() - error.mean() ** 2),
        "abs_rel": (np.abs(p - d) / d).mean(),
        "log10": np.abs(np.log10(p) - np.log10(d)).mean(),
        "rms": np.sqrt(((p - d) ** 2).mean()),
        "sq_rel": ((p - d) ** 2 / d).mean(),
        "log_rms": np.sqrt((error**2).mean()),
        **{f"delta{power}": (ratio < 1.25**power).mean() for power in (1, 2, 3)},
    }
    return {name: float(value) for name, value in values.items()}


def _slices(crop, shape):
    if crop not in CROPS:
        raise ValueError(f"`crop` must be one of {list(CROPS)} or None. Received: crop={crop!r}")
    return tuple(
        slice(*(int(end * size) if isinstance(end, float) else end for end in ends))
        for ends, size in zip(CROPS[crop], shape, strict=True)
    )
