"""How BiDense's networks were trained."""

from dataclasses import dataclass

import numpy as np

from bnnkeras.datasets.dense_files import DenseFiles
from bnnkeras.datasets.dense_images import (
    Box,
    CentreCrop,
    DenseBatches,
    OfImage,
    RandomCrop,
    RandomFlip,
    RandomPhotometry,
    RandomRotation,
    RandomScale,
    ShorterSide,
)
from bnnkeras.datasets.images import Normalize
from bnnkeras.dense_metrics import DepthDelta, MeanIoU, PixelAccuracy
from bnnkeras.training import OneCycleAdamW, PixelCrossentropy, ScaleInvariantLogLoss
from bnnkeras.training.onecycle import OneCycle
from bnnkeras.zoo.recipes import Optimizer, Recipe, Stage, register_recipe


@dataclass(frozen=True)
class DenseRecipe(Recipe):
    """A recipe for masks or depths, by the `task` of its `model_arguments`.

    `fit` also takes `bnnkeras.datasets.dense_files.DenseFiles`, and pairs of arrays whose targets
    are masks or depths. Transforms are those of `bnnkeras.datasets.dense_images`.

    Args:
        minimum_depth: Float: the loss is over pixels of larger true depths. Defaults to 0.1 m.
    """

    minimum_depth: float = 0.1

    def _head_arguments(self):
        return {}

    def _compile(self, trainer, stage, steps_per_epoch, classes):
        if isinstance(stage.rates, OneCycle):
            # Adam's first beta goes against the rate, which no schedule of rates alone can say.
            optimizer = OneCycleAdamW(
                stage.rates.base, stage.epochs, steps_per_epoch, **stage.optimizer.arguments
            )
        else:
            optimizer = stage.optimizer.build(stage.rates.schedule(stage.epochs, steps_per_epoch))
        if self.model_arguments["task"] == "depth":
            loss = ScaleInvariantLogLoss(self.minimum_depth)
            metrics = [DepthDelta(power) for power in (1, 2, 3)]
        else:
            loss = PixelCrossentropy()
            metrics = [
                MeanIoU(classes - 1),
                MeanIoU(classes - 1, official=True, name="official_mean_iou"),
                PixelAccuracy(classes - 1),
            ]
        trainer.compile(optimizer, loss, metrics=metrics)

    def _data(self, data, training, source, transforms=None):
        if transforms is None:
            transforms = self.train_transforms if training else self.evaluation_transforms
        if isinstance(data, (tuple, list)) and np.asarray(data[0]).dtype == np.uint8:
            data = list(zip(*data, strict=True))
        elif not isinstance(data, DenseFiles):
            return super()._data(data, training, source, transforms)
        return DenseBatches(data, self.batch_size, transforms, training, self.seed)


_ADAMW = Optimizer("adamw", {"weight_decay": 0.01, "epsilon": 1e-8})
_NORMALIZE = OfImage(Normalize())
_NOTES = (
    "The released configuration: AdamW, weight decay on all weights, a cycle of rate and momentum "
    "that moves once per epoch. There, statistics are those of micro-batches of 2 to 4 images per "
    "device, whose gradients are accumulated; here of the whole batch. There, the weights of the "
    "best epoch are kept; here the last ones. "
)


def _segmentation(name, model, dataset, rate, epochs, fill, notes):
    return register_recipe(
        DenseRecipe(
            name=name,
            model=model,
            dataset=dataset,
            batch_size=32,
            stages=(Stage("binary", epochs, _ADAMW, OneCycle(rate)),),
            train_transforms=(
                RandomFlip(),
                RandomScale(260, 1040),
                RandomCrop(480, 480, fill=fill),
                _NORMALIZE,
            ),
            evaluation_transforms=(ShorterSide(480), CentreCrop(480, 480), _NORMALIZE),
            model_arguments={"task": "segmentation"},
            notes=_NOTES + notes,
        )
    )


_ADE20K = (
    "Evaluation is on the middle of each image, as published; "
    "`bnnkeras.sliding.predict_sliding` covers all of it."
)
_segmentation("bidenseupernet", "bidenseupernet", "scene_parse150", 1e-4, 50, 150, _ADE20K)
_segmentation("bidensedpt", "bidensedpt", "scene_parse150", 2e-4, 50, 150, _ADE20K)
_segmentation(
    "bidenseupernet-voc",
    "bidenseupernet",
    "voc2012",
    1e-4,
    200,
    0,
    "PASCAL VOC's masks are not in TensorFlow Datasets: give `fit` "
    "`bnnkeras.datasets.dense_files.pascal_voc`. The release trains on `trainval` and validates on "
    "`val`, which is part of it, and calls what it pads background (fill=0; 21 would ignore it).",
)


def _depth(name, dataset, rate, batch_size, train, evaluation, maximum, minimum, notes):
    return register_recipe(
        DenseRecipe(
            name=name,
            model="bidenseupernet",
            dataset=dataset,
            batch_size=batch_size,
            stages=(Stage("binary", 50, _ADAMW, OneCycle(rate)),),
            train_transforms=(*train, _NORMALIZE),
            evaluation_transforms=(*evaluation, _NORMALIZE),
            model_arguments={"task": "depth", "max_depth": maximum},
            minimum_depth=minimum,
            notes=_NOTES + notes,
        )
    )


_depth(
    "bidenseupernet-nyu",
    "nyu_depth_v2",
    6e-5,
    32,
    (
        Box((45, 472), (43, 608)),
        RandomRotation(2.5),
        RandomCrop(416, 544),
        RandomFlip(),
        RandomPhotometry(0.25),
    ),
    (CentreCrop(416, 544),),
    10.0,
    0.1,
    "`fit` validates at the size it trains at. Published are scores of whole images: build the "
    'network at 480x640 with the trained weights, and take `depth_metrics(..., crop="nyu")`. '
    "TensorFlow Datasets' NYUv2 is not the list of BTS that the release trains on "
    "(`bnnkeras.datasets.dense_files.nyu_depth` reads that).",
)
_depth(
    "bidenseupernet-kitti",
    "kitti_depth",
    1e-4,
    64,
    (
        CentreCrop(352, 1216, bottom=True),
        RandomRotation(1.0),
        RandomCrop(352, 704),
        RandomFlip(),
        RandomPhotometry(0.1),
    ),
    (CentreCrop(352, 1216, bottom=True), CentreCrop(352, 704)),
    80.0,
    1.0,
    "KITTI's depths are not in TensorFlow Datasets: give `fit` "
    "`bnnkeras.datasets.dense_files.kitti_depth`. `fit` validates at the size it trains at; "
    'published are scores at 352x1216, `depth_metrics(..., crop="kitti")`.',
)
