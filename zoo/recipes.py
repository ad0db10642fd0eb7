"""Training recipes of the zoo's networks: data to print, to change and to run.

recipe = zoo.recipe("birealnet18")
print(recipe)
recipe = dataclasses.replace(recipe, batch_size=256)
trained = recipe.fit("imagenet2012", folder="runs/birealnet18")
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bnnkeras.callbacks import EDESchedule
from bnnkeras.datasets import Batches, TFDSBatches
from bnnkeras.datasets.images import ImageTransforms
from bnnkeras.files import replacing
from bnnkeras.training import (
    CoupledSGD,
    Distiller,
    LipschitzRetention,
    SmoothedCrossentropy,
    fit_resumable,
)
from bnnkeras.zoo.birealnet.scales import bn_retraining
from bnnkeras.zoo.registry import get

# Splits of TensorFlow Datasets to train on and to evaluate on.
_SPLITS = {
    "imagenet2012": ("train", "validation"),
    "nyu_depth_v2": ("train", "validation"),
}
_OTHER_SPLITS = ("train", "test")
_OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "sgd": CoupledSGD,
}


@dataclass(frozen=True)
class Optimizer:
    """An optimizer by name.

    Args:
        name: `"adam"` or `"adamw"`, Keras's, or `"sgd"`, which is `bnnkeras.training.CoupledSGD`.
        arguments: Its arguments without the learning rate.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self, learning_rate) -> keras.optimizers.Optimizer:
        """The optimizer, with a rate or schedule."""
        if self.name not in _OPTIMIZERS:
            raise ValueError(f"`name` must be one of {sorted(_OPTIMIZERS)}. Received: {self.name=}")
        return _OPTIMIZERS[self.name](learning_rate, **self.arguments)


@dataclass(frozen=True)
class Stage:
    """One training after another: each starts from the weights that the last one left.

    Args:
        name: Of its files.
        epochs: Positive integer.
        optimizer: An `Optimizer`.
        rates: The learning rate by epoch, of `bnnkeras.training.rates`.
        label_smoothing: Float in [0, 1).
        model_arguments: Of this stage's network, such as `{"activation": "relu"}`.
        bn_retraining: Whether kernels are replaced by their signs and only batch normalization and
            the classifier are trained.
        train_transforms: Instead of the recipe's, or `None`.
    """

    name: str
    epochs: int
    optimizer: Optimizer
    rates: Any
    label_smoothing: float = 0.0
    model_arguments: dict[str, Any] = field(default_factory=dict)
    bn_retraining: bool = False
    train_transforms: tuple | None = None


@dataclass(frozen=True)
class Distillation:
    """A teacher for the logits: arguments of `bnnkeras.training.Distiller`.

    Args:
        teacher: What the recipe was made with, in words.
        arguments: The distiller's, beside student and teacher.
    """

    teacher: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Retention:
    """LCR-BNN's regularizer: arguments of `bnnkeras.training.LipschitzRetention`.

    Args:
        teacher: Name of the teacher in the zoo.
        arguments: The trainer's.
    """

    teacher: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What `Recipe.fit` returns.

    Args:
        model: The trained network, which returns logits; without the trainer around it.
        history: For each stage, the metrics of all epochs.
    """

    model: keras.Model
    history: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        name: Name of the recipe.
        model: Name of the network in the zoo.
        dataset: Name of the data set in TensorFlow Datasets that it was made for.
        batch_size: Positive integer.
        stages: Tuple of `Stage`s.
        train_transforms: Transforms of training images (`bnnkeras.datasets.images`).
        evaluation_transforms: Transforms of evaluation images.
        model_arguments: Of every stage's network.
        error_decay: Arguments of the `EDESchedule`, `(t_min, t_max)` and what follows, or `None`.
        retention: A `Retention`, or `None`.
        distillation: A `Distillation`, or `None`.
        seed: Integer that weights, order and augmentation follow from.
        notes: Where the recipe is from, and what in it is not.
    """

    name: str
    model: str
    dataset: str
    batch_size: int
    stages: tuple[Stage, ...]
    train_transforms: tuple = ()
    evaluation_transforms: tuple = ()
    model_arguments: dict[str, Any] = field(default_factory=dict)
    error_decay: tuple | None = None
    retention: Retention | None = None
    distillation: Distillation | None = None
    seed: int = 0
    notes: str = ""

    def scaled(
        self,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        **model_arguments,
    ) -> "Recipe":
        """The recipe for less data.

        Args:
            epochs: Epochs of every stage. Schedules keep their shape.
            batch_size: Images per step. Learning rates are scaled by the same factor, and so is
                the regularizer's constant.
            learning_rate: The first rate of every stage instead.
            **model_arguments: Further arguments of the network: `input_shape`, `classes`.

        Returns:
            A new recipe.

        Raises:
            ValueError: If a value is not positive.

        Example:
            >>> from bnnkeras import zoo
            >>> small = zoo.recipe("birealnet18").scaled(epochs=20, batch_size=64, classes=10)
            >>> small.stages[0].epochs, small.stages[0].rates
            (20, LinearDecay(base=0.000125, per_step=False))
        """
        for name, value in (
            ("epochs", epochs),
            ("batch_size", batch_size),
            ("learning_rate", learning_rate),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        size = batch_size or self.batch_size
        stages = tuple(
            dataclasses.replace(
                stage,
                epochs=epochs or stage.epochs,
                rates=dataclasses.replace(
                    stage.rates, base=learning_rate or stage.rates.base * size / self.batch_size
                ),
            )
            for stage in self.stages
        )
        retention = self.retention
        if retention is not None and batch_size is not None:
            arguments = {**retention.arguments, "batch_size": batch_size}
            retention = dataclasses.replace(retention, arguments=arguments)
        return dataclasses.replace(
            self,
            stages=stages,
            batch_size=size,
            retention=retention,
            model_arguments={**self.model_arguments, **model_arguments},
        )

    def fit(
        self,
        train,
        validation=None,
        *,
        teacher=None,
        folder=None,
        data_dir=None,
        download: bool = False,
        callbacks=(),
        verbose="auto",
    ) -> Training:
        """Trains the network.

        Args:
            train: The name of a data set (`"imagenet2012"`, `"cifar10"`); a pair of arrays, images
                and integer labels; or batches such as `bnnkeras.datasets.Batches`. Arrays of uint8
                are images, which the recipe's transforms augment; others are the network's input.
            validation: Likewise. A name needs none: its evaluation split is used.
            teacher: For a recipe with `retention`: a trained model, or the path of the weights of
                the teacher that it names. With `distillation`: a trained model that returns logits.
            folder: Where the state is kept, so that the same call continues an interrupted
                training; `None` keeps none.
            data_dir: Where data sets by name lie.
            download: Whether a data set by name may be downloaded.
            callbacks: Further callbacks of `model.fit`.
            verbose: As for `model.fit`.

        Returns:
            A `Training`.

        Raises:
            ValueError: If the teacher is missing, or an argument of the recipe is out of range.
            FileNotFoundError: If a data set is not there.

        Example:
            >>> import numpy as np
            >>> from bnnkeras import zoo
            >>> recipe = zoo.recipe("birealnet18").scaled(epochs=1, batch_size=2, classes=10)
            >>> x, y = np.zeros((4, 32, 32, 3), "float32"), np.arange(4)
            >>> training = recipe.fit((x, y), verbose=0)
            >>> training.model.output_shape
            (None, 10)
        """
        keras.utils.set_random_seed(self.seed)
        source = {"data_dir": data_dir, "download": download}
        train_batches = self._data(train, True, source, self.stages[0].train_transforms)
        if validation is None and isinstance(train, str):
            validation = train
        held_out = None if validation is None else self._data(validation, False, source)
        # Arrays do not know theirs, and depths have none.
        classes = getattr(train_batches, "classes", None)
        arguments = {
            "input_shape": tuple(np.shape(train_batches[0][0])[1:]),
            **({} if classes is None else {"classes": classes}),
            **self.model_arguments,
            **self._head_arguments(),
        }
        teacher = self._teacher(teacher, arguments)

        model, history = None, {}
        for stage in self.stages:
            if stage.train_transforms is not None:
                train_batches = self._data(train, True, source, stage.train_transforms)
            place = None if folder is None else Path(folder) / stage.name
            model, history[stage.name] = self._fit_stage(
                stage, model, arguments, teacher, train_batches, held_out, place, callbacks, verbose
            )
        assert model is not None
        return Training(model, history)

    def _fit_stage(
        self, stage, previous, arguments, teacher, train, validation, folder, callbacks, verbose
    ):
        model = get(self.model, **{**arguments, **stage.model_arguments})
        if previous is not None:
            model.set_weights(previous.get_weights())
        if stage.bn_retraining:
            model = bn_retraining(model)
        finished = None if folder is None else folder / "finished.weights.h5"
        if finished is not None and finished.is_file():
            record = json.loads((folder / "history.json").read_text())
            if record["settings"] == self._settings(stage):
                model.load_weights(finished)
                return model, record["history"]
        trainer = model
        if teacher is not None:
            trainer = self._trainer(model, teacher)
        self._compile(trainer, stage, len(train), model.output_shape[-1])
        callbacks = list(callbacks)
        if self.error_decay is not None and not stage.model_arguments.get("activation"):
            callbacks.insert(0, EDESchedule(*self.error_decay))
        history = fit_resumable(
            trainer,
            train,
            stage.epochs,
            folder,
            self._settings(stage),
            callbacks=callbacks,
            validation_data=validation,
            verbose=verbose,
        )
        if finished is not None:
            with replacing(finished) as temporary:
                model.save_weights(temporary)
            record = {"settings": self._settings(stage), "history": history}
            with replacing(folder / "history.json") as temporary:
                temporary.write_text(json.dumps(record))
        return model, history

    def _head_arguments(self) -> dict:
        """Arguments that make the network return logits."""
        return {"classifier_activation": None}

    def _compile(self, trainer, stage, steps_per_epoch, classes) -> None:
        """Gives the trainer of a network with so many outputs its optimizer, loss and metrics."""
        trainer.compile(
            stage.optimizer.build(stage.rates.schedule(stage.epochs, steps_per_epoch)),
            SmoothedCrossentropy(stage.label_smoothing),
            metrics=[
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                # PyTorch has no five largest of fewer values.
                keras.metrics.SparseTopKCategoricalAccuracy(min(5, classes), name="top5_accuracy"),
                # What validation reports, without smoothing and regularizer.
                keras.metrics.SparseCategoricalCrossentropy(name="crossentropy", from_logits=True),
            ],
        )

    def _trainer(self, model, teacher) -> keras.Model:
        if self.distillation is not None:
            return Distiller(model, teacher, **self.distillation.arguments)
        if self.retention is not None:
            return LipschitzRetention(model, teacher, **self.retention.arguments)
        return model

    def _settings(self, stage) -> dict:
        """What decides the result of a stage, as JSON."""
        until = self.stages[: self.stages.index(stage) + 1]
        described = repr(dataclasses.replace(self, stages=until, notes=""))
        return {"recipe": described, "keras_backend": keras.backend.backend()}

    def _data(self, data, training: bool, source: dict, transforms=None):
        if transforms is None:
            transforms = self.train_transforms if training else self.evaluation_transforms
        if isinstance(data, str):
            split = _SPLITS.get(data, _OTHER_SPLITS)[0 if training else 1]
            return TFDSBatches(
                data,
                split,
                self.batch_size,
                transforms,
                shuffle=training,
                seed=self.seed,
                **source,
            )
        if not isinstance(data, (tuple, list)):
            return data
        x, y = data
        x, y = np.asarray(x), np.asarray(y)
        augment = ImageTransforms(transforms) if x.dtype == np.uint8 else None
        if not training and augment is None:
            return x, y
        return Batches(x, y, self.batch_size, augment, self.seed)

    def _teacher(self, teacher, arguments) -> keras.Model | None:
        if self.distillation is not None:
            if isinstance(teacher, keras.Model):
                return teacher
            raise ValueError(
                f"The recipe {self.name!r} learns from a teacher, {self.distillation.teacher}: "
                "`teacher` must be a model that returns logits; without it train "
                "dataclasses.replace(recipe, distillation=None). "
                f"Received: teacher={teacher!r}"
            )
        if self.retention is None or not self.retention.arguments.get("alpha", 1):
            return None
        if isinstance(teacher, keras.Model):
            return teacher
        if not isinstance(teacher, (str, os.PathLike)):
            raise ValueError(
                f"The recipe {self.name!r} compares the network with a trained teacher: `teacher` "
                f"must be a model or the path of weights for {self.retention.teacher!r}; without "
                f"the regularizer train dataclasses.replace(recipe, retention=None). "
                f"Received: teacher={teacher!r}"
            )
        known = {"input_shape", "classes", "classifier_activation"}
        chosen = {name: value for name, value in arguments.items() if name in known}
        return get(self.retention.teacher, **chosen, weights=teacher)


_RECIPES: dict[str, Recipe] = {}


def register_recipe(recipe: Recipe) -> Recipe:
    """Adds a recipe to those that `recipe` and `list_recipes` know; returns it."""
    _RECIPES[recipe.name] = recipe
    return recipe


def list_recipes() -> list[str]:
    """The names that `recipe` accepts, sorted.

    Example:
        >>> from bnnkeras import zoo
        >>> "birealnet18" in zoo.list_recipes()
        True
    """
    return sorted(_RECIPES)


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Args:
        name: One of `list_recipes()`; upper or lower case.

    Raises:
        ValueError: If there is no such recipe.

    Example:
        >>> from bnnkeras import zoo
        >>> recipe = zoo.recipe("lcrresnet18")
        >>> recipe.batch_size, recipe.stages[0].epochs, recipe.retention.arguments["alpha"]
        (128, 100, 8.0)
    """
    found = _RECIPES.get(str(name).lower())
    if found is None:
        raise ValueError(f"`name` must be one of {list_recipes()}. Received: name={name!r}")
    return found
