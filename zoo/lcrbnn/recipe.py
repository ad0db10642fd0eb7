"""How LCR-BNN and IR-Net were trained."""

from bnnkeras.datasets.images import (
    CenterCrop,
    ColorJitter,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    Resize,
)
from bnnkeras.training.rates import CosineDecay, StepDecay, WarmupCosine, WarmupStepDecay
from bnnkeras.zoo.recipes import Optimizer, Recipe, Retention, Stage, register_recipe

_SGD = Optimizer("sgd", {"momentum": 0.9, "weight_decay": 1e-4})
_RETENTION = {"alpha": 8.0, "batch_size": 128}


def _imagenet(name: str, model: str, teacher: str, rates, notes: str) -> Recipe:
    return register_recipe(
        Recipe(
            name=name,
            model=model,
            dataset="imagenet2012",
            batch_size=128,
            stages=(Stage("binary", 100, _SGD, rates),),
            train_transforms=(RandomResizedCrop(224, area=(0.08, 1.25)), RandomFlip(), Normalize()),
            evaluation_transforms=(Resize(256), CenterCrop(224), Normalize()),
            error_decay=(1e-3, 10.0),
            retention=Retention(teacher, _RETENTION),
            notes=notes,
        )
    )


_RELEASED = (
    "The README's command of LCR-BNN. The teacher is torchvision's; here it runs in inference "
    "mode and the student once per step (released: batch statistics, twice)."
)
_imagenet("lcrresnet18", "lcrresnet18", "resnet18", CosineDecay(0.1), _RELEASED)
_imagenet("lcrresnet34", "lcrresnet34", "resnet34", CosineDecay(0.1), _RELEASED)
_imagenet(
    "lcrresnet18-warmup",
    "lcrresnet18",
    "resnet18",
    WarmupCosine(0.1),
    "LCR-BNN with its --warm_up, whose cosine starts late and ends at 6.7e-4.",
)


def _irnet_imagenet(model: str, weight_decay: float) -> Recipe:
    nesterov = {"momentum": 0.9, "nesterov": True, "weight_decay": weight_decay}
    # 62,500 steps of 2,048 images; 0.2 to 0.8 in 2,500, then a tenth at 18,750, 37,500 and 56,250.
    rates = WarmupStepDecay(0.8, (0.3, 0.6, 0.9), warmup=0.04, start=0.25)
    return register_recipe(
        Recipe(
            name=f"{model}-irnet",
            model=model,
            dataset="imagenet2012",
            batch_size=2048,
            stages=(Stage("binary", 100, Optimizer("sgd", nesterov), rates),),
            train_transforms=(RandomResizedCrop(224), RandomFlip(), ColorJitter(), Normalize()),
            evaluation_transforms=(Resize(256), CenterCrop(224), Normalize()),
            model_arguments={"initialization": "fan_out"},
            error_decay=(0.1, 10.0),
            notes=(
                "IR-Net's released configuration, whose training loop is not published: the crop, "
                "and the error decay, which is the paper's, are choices of this package."
            ),
        )
    )


# The configurations name 1e-4 at their top; that of 18 layers has 1e-5 in its optimizer's section.
_irnet_imagenet("lcrresnet18", 1e-5)
_irnet_imagenet("lcrresnet34", 1e-4)

_AUGMENTED = (RandomFlip(), RandomCrop(32, padding=4), Normalize())


def _cifar(
    model: str, epochs: int, rate: float, t_min: float, retention, notes: str, form: str = "1w1a"
) -> Recipe:
    binary = form == "1w1a"
    return register_recipe(
        Recipe(
            name=model if binary else f"{model}-{form}",
            model=model,
            dataset="cifar10",
            batch_size=128,
            stages=(Stage("binary", epochs, _SGD, CosineDecay(rate)),),
            train_transforms=_AUGMENTED,
            evaluation_transforms=(Normalize(),),
            model_arguments={} if binary else {"binary_activations": False},
            error_decay=(t_min, 10.0),
            retention=retention,
            notes=notes,
        )
    )


_cifar(
    "lcrresnet20",
    400,
    0.1,
    1e-3,
    Retention("resnet20", _RETENTION),
    "IR-Net's released recipe, with LCR-BNN's regularizer, whose code for CIFAR-10 is not "
    "published; with retention=None it is IR-Net's.",
)
_cifar(
    "lcrresnet20", 400, 0.1, 1e-1, None, "IR-Net's released recipe of 1-bit weights.", form="1w32a"
)
_cifar("lcrvggsmall", 300, 0.007, 1e-1, None, "IR-Net's released recipe.")
_cifar(
    "lcrcifarresnet18",
    400,
    0.1,
    1e-3,
    None,
    "No training script was released: that of IR-Net's ResNet-20.",
)
register_recipe(
    Recipe(
        name="resnet20",
        model="resnet20",
        dataset="cifar10",
        batch_size=128,
        stages=(Stage("real", 200, _SGD, StepDecay(0.1, (0.5, 0.75))),),
        train_transforms=_AUGMENTED,
        evaluation_transforms=(Normalize(),),
        notes="A teacher for lcrresnet20: the usual recipe of He et al. (CVPR 2016), section 4.2.",
    )
)
