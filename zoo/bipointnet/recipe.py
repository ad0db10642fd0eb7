"""How BiPointNet's networks were trained."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from bnnkeras.datasets import Batches, point_clouds
from bnnkeras.registration import register
from bnnkeras.training.rates import CosineDecay, StepDecay
from bnnkeras.zoo.recipes import Optimizer, Recipe, Stage, register_recipe


@register
class PointCrossentropy(keras.losses.Loss):
    """Cross-entropy of the points' logits, with a weight for each class.

    sum_i w[y_i] (-log p_i[y_i]) / sum_i w[y_i]

    Args:
        class_weights: Positive floats, one for each class, or `None` (default) for equal ones.
        **kwargs: As `keras.losses.Loss`.

    Call arguments:
        y_true: `(batch, points)`, integers.
        y_pred: `(batch, points, classes)`, logits.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.zoo.bipointnet.recipe import PointCrossentropy
        >>> loss = PointCrossentropy((1.0, 3.0))
        >>> round(float(loss(np.array([[0, 1]]), np.array([[[0.0, 2.0], [0.0, 2.0]]]))), 4)
        0.6269

    Reference:
        Qin et al., BiPointNet (ICLR 2021), released training code.
    """

    def __init__(self, class_weights=None, name="point_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.class_weights = None if class_weights is None else tuple(map(float, class_weights))

    def call(self, y_true, y_pred):
        y_true = ops.cast(y_true, "int32")
        values = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        if self.class_weights is None:
            return values
        weights = ops.take(ops.cast(self.class_weights, values.dtype), y_true)
        # The reduction is a mean over the points.
        return values * weights / ops.mean(weights)

    def get_config(self):
        return {**super().get_config(), "class_weights": self.class_weights}


def class_weights(labels, classes: int) -> tuple[float, ...]:
    """(largest count / count of the class)^(1/3), of the labels of training points.

    Args:
        labels: Integers of any shape, each class among them.
        classes: Number of classes.

    Raises:
        ValueError: If a class has no points.

    Example:
        >>> from bnnkeras.zoo.bipointnet.recipe import class_weights
        >>> class_weights([0, 1, 1, 1, 1, 1, 1, 1, 1], 2)
        (2.0, 1.0)
    """
    counts = np.bincount(np.ravel(labels), minlength=classes)
    if len(counts) != classes or not counts.all():
        raise ValueError(
            f"`labels` must hold all of the {classes} classes. Received: {counts.tolist()} of each"
        )
    return tuple(float(weight) for weight in np.cbrt(counts.max() / counts))


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """A recipe for a class of each point.

    `fit` takes pairs of arrays, clouds `(clouds, points, channels)` and labels `(clouds, points)`.

    Args:
        augmentation: Arguments of `point_clouds.jitter_and_rotate` for training clouds, or `None`.
        class_weights: Weights of the classes in the loss (`class_weights`), or `None`.
    """

    augmentation: tuple[float, float] | None = None
    class_weights: tuple[float, ...] | None = None

    def _data(self, data, training, source, transforms=None):
        if not training or self.augmentation is None or not isinstance(data, (tuple, list)):
            return super()._data(data, training, source, transforms)
        augment = point_clouds.jitter_and_rotate(*self.augmentation)
        clouds, labels = map(np.asarray, data)
        return Batches(clouds, labels, self.batch_size, augment, self.seed)

    def _compile(self, trainer, stage, steps_per_epoch, classes):
        trainer.compile(
            stage.optimizer.build(stage.rates.schedule(stage.epochs, steps_per_epoch)),
            PointCrossentropy(self.class_weights),
            metrics=[
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                keras.metrics.MeanIoU(
                    classes, name="mean_iou", sparse_y_true=True, sparse_y_pred=False
                ),
            ],
        )


_ADAM = Optimizer("adam", {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8})
_CONSTANT = StepDecay(1e-3)
_RELEASED = (
    "The released configuration: Adam without weight decay, in batches that 8 devices share, with "
    "statistics of their own. "
)
_OF_COSINE = "Epochs are those of its cosine; the script's default is 200. "
_MESHES = (
    "The data are meshes from which each access samples 1024 points: give `fit` "
    "`bnnkeras.datasets.point_clouds.MeshBatches` of `point_clouds_files.modelnet_meshes`, or "
    "arrays. "
)
_OF_BINARIZATION: dict[str | None, str] = {
    "lsr": "",
    "bnn": "Published to collapse with plain maxima. ",
    "xnor": "Released as a baseline. ",
    "irnet": "Released as a baseline; k and t follow the epoch, over 200 whatever their number. ",
    "bireal": "Released as a baseline. ",
    None: "In full precision. ",
}
# t = 10^(-3 + 0.02 e), e from 1 on.
_ERROR_DECAY = (1e-3, 10.0, 200, 1)


def _classification(name: str, model: str, binarization: str | None = "lsr", **arguments):
    real = binarization is None
    rates = _CONSTANT if real else CosineDecay(1e-3)
    chosen: dict[str, Any] = {} if binarization == "lsr" else {"binarization": binarization}
    suffix = "" if binarization == "lsr" else f"-{binarization or 'real'}"
    register_recipe(
        Recipe(
            name=name + suffix,
            model=model,
            dataset="modelnet40",
            batch_size=256,
            stages=(Stage("real" if real else "binary", 200, _ADAM, rates),),
            model_arguments={**chosen, **arguments},
            error_decay=_ERROR_DECAY if binarization == "irnet" else None,
            notes=_RELEASED + _OF_BINARIZATION[binarization] + _MESHES,
        )
    )


for _binarization in _OF_BINARIZATION:
    _classification("bipointnet", "bipointnet", _binarization)
for _binarization in ("lsr", "xnor", None):
    # Released with plain maxima.
    _pool = {"aggregation": "max"} if _binarization == "xnor" else {}
    _classification("bipointnet-vanilla", "bipointnet", _binarization, transforms=False, **_pool)
    _classification("bipointnet2", "bipointnet2", _binarization, **_pool)
    _classification("bidgcnn", "bidgcnn", _binarization, **_pool)
for _binarization in ("lsr", "bnn", "xnor", None):
    _classification("bipointcnn", "bipointcnn", _binarization)


def _segmentation(recipe: SegmentationRecipe, real_rates) -> None:
    """The recipe with the scales of LSR, with signs alone, and in full precision."""
    register_recipe(recipe)
    (stage,) = recipe.stages
    for binarization in ("bnn", None):
        name = f"{recipe.name}-{binarization or 'real'}"
        chosen = replace(
            recipe,
            name=name,
            model_arguments={"binarization": binarization},
            notes=recipe.notes + _OF_BINARIZATION[binarization],
        )
        if binarization is None:
            chosen = replace(chosen, stages=(replace(stage, name="real", rates=real_rates),))
        register_recipe(chosen)


_segmentation(
    SegmentationRecipe(
        name="bipointnetpartsegmentation",
        model="bipointnetpartsegmentation",
        dataset="shapenetpart",
        batch_size=96,
        stages=(Stage("binary", 250, _ADAM, CosineDecay(1e-3)),),
        augmentation=(0.01, 15.0),
        notes=_RELEASED
        + _OF_COSINE
        + "A network for each of the 16 categories, trained on its training and validation clouds "
        "(`point_clouds_files`), each repeated to 4096 points (`point_clouds.padded`). ",
    ),
    _CONSTANT,
)
_segmentation(
    SegmentationRecipe(
        name="bipointnetsemanticsegmentation",
        model="bipointnetsemanticsegmentation",
        dataset="s3dis",
        batch_size=128,
        stages=(Stage("binary", 128, _ADAM, CosineDecay(1e-3)),),
        notes=_RELEASED
        + _OF_COSINE
        + "Blocks of 4096 points, one area of six held out. Classes are weighted: "
        "`dataclasses.replace(recipe, class_weights=class_weights(labels, 13))`. The real network "
        "has an L2 penalty of 1e-4 inside Adam, which is left out here. ",
    ),
    StepDecay(1e-3, tuple(10 * step / 128 for step in range(1, 13)), factor=0.7),
)
