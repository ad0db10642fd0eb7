"""How Bi-Real Net was trained: the released PyTorch script, and the paper's recipe in Caffe."""

from bnnkeras.datasets.images import (
    CenterCrop,
    Lighting,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    Resize,
    SubtractMean,
)
from bnnkeras.training.rates import LinearDecay, StepDecay
from bnnkeras.zoo.recipes import Optimizer, Recipe, Stage, register_recipe

_ADAM = Optimizer("adam", {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8})
_SGD = Optimizer("sgd", {"momentum": 0.9})
_DECAYED_SGD = Optimizer("sgd", {"momentum": 0.9, "weight_decay": 1e-4})


def _pytorch(name: str, batch_size: int, rate: float, notes: str) -> Recipe:
    return register_recipe(
        Recipe(
            name=name,
            model=name,
            dataset="imagenet2012",
            batch_size=batch_size,
            stages=(Stage("binary", 256, _ADAM, LinearDecay(rate), label_smoothing=0.1),),
            train_transforms=(RandomResizedCrop(224), Lighting(), RandomFlip(), Normalize()),
            evaluation_transforms=(Resize(256), CenterCrop(224), Normalize()),
            notes=notes,
        )
    )


_RELEASED = (
    "The released PyTorch script: Adam, a rate that falls to 0 by epoch (the last one runs at 0), "
    "labels smoothed by 0.1, and its Lighting on the scale of [0, 255]. Keras adds epsilon before "
    "Adam's bias correction, PyTorch after it."
)
_pytorch("birealnet18", 512, 1e-3, _RELEASED)
_pytorch("birealnet34", 512, 1e-3, _RELEASED)
_pytorch("birealnet50", 256, 5e-4, _RELEASED)
_pytorch("birealnet152", 256, 5e-4, "No recipe was released: that of 50 layers.")


def _caffe(model: str, batch_size: int, rate: float, epochs: int, boundaries) -> Recipe:
    def in_advance(activation, epochs, rates):
        arguments = {"activation": activation}
        return Stage(activation, epochs, _DECAYED_SGD, rates, model_arguments=arguments)

    return register_recipe(
        Recipe(
            name=f"{model}-caffe",
            model=model,
            dataset="imagenet2012",
            batch_size=batch_size,
            stages=(
                in_advance("relu", 90, StepDecay(0.1, (1 / 3, 2 / 3))),
                in_advance("leaky_clip", 20, StepDecay(0.01, (0.5, 0.75))),
                in_advance("clip", 20, StepDecay(0.01, (0.5, 0.75))),
                Stage("binary", epochs, _SGD, StepDecay(rate, boundaries)),
                Stage("bn", 1, _SGD, StepDecay(rate * 0.01), bn_retraining=True),
            ),
            train_transforms=(Resize(256), RandomCrop(224), RandomFlip(), SubtractMean()),
            evaluation_transforms=(Resize(256), CenterCrop(224), SubtractMean()),
            model_arguments={"convention": "caffe"},
            notes=(
                "The paper's recipe: ReLU, leaky clip and clip in place of the sign, then binary, "
                "then batch normalization alone. The README gives the binary stage. Of the others "
                "only the order is published: their epochs and rates are ResNet's and choices of "
                "this package. (In Caffe the classifier's bias learns at twice the rate.)"
            ),
        )
    )


_caffe("birealnet18", 128, 0.01, 20, (0.5, 0.75))
_caffe("birealnet34", 1024, 0.08, 40, (0.5, 0.75))
