"""How BCDNet was trained: the two released configurations, one after the other."""

from bnnkeras.datasets.images import (
    CenterCrop,
    ColorJitter,
    Normalize,
    RandomFlip,
    RandomResizedCrop,
    Resize,
)
from bnnkeras.zoo.bcdnet.heads import HEADS
from bnnkeras.zoo.bcdnet.rates import RatesBySteps
from bnnkeras.zoo.recipes import Distillation, Optimizer, Recipe, Stage, register_recipe

_ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}


def _recipe(model: str, notes: str) -> Recipe:
    return register_recipe(
        Recipe(
            name=model,
            model=model,
            dataset="imagenet2012",
            batch_size=256,
            stages=(
                # 300,000 and 600,000 steps of 256 images: 59.9 and 119.9 epochs.
                Stage(
                    "binary_activations",
                    60,
                    Optimizer("adamw", {**_ADAM, "weight_decay": 0.01}),
                    RatesBySteps(1e-3, rise=4.0, warmup=0.05),
                    label_smoothing=0.1,
                    model_arguments={"binary_weights": False},
                    train_transforms=(
                        RandomResizedCrop(224),
                        RandomFlip(),
                        ColorJitter(),
                        Normalize(),
                    ),
                ),
                Stage(
                    "binary",
                    120,
                    Optimizer("adamw", {**_ADAM, "weight_decay": 0.0}),
                    RatesBySteps(5e-4),
                    label_smoothing=0.1,
                    train_transforms=(RandomResizedCrop(224), RandomFlip(), Normalize()),
                ),
            ),
            train_transforms=(RandomResizedCrop(224), RandomFlip(), Normalize()),
            evaluation_transforms=(Resize(256), CenterCrop(224), Normalize()),
            distillation=Distillation(
                "bnnkeras.zoo.bcdnet.resnet50_teacher",
                {"hard_layer": HEADS[0], "soft_layer": HEADS[1]},
            ),
            notes=notes,
        )
    )


_RELEASED = (
    "The released configurations: binary activations first, with weight decay on every parameter, "
    "then binary weights without. One classifier learns from the labels, the other from a "
    "ResNet-50; the output is their mean. The released runs had 32 workers with synchronized batch "
    "normalization: build the model with synchronized=True under a distribution strategy. Keras "
    "adds epsilon before Adam's bias correction, PyTorch after it."
)
_recipe("bcdneta", _RELEASED)
_recipe("bcdnetb", "No recipe was released: that of BCDNet-A. " + _RELEASED)
