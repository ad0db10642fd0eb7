"""Published binary networks, built with the conventions of `keras.applications`."""

from bnnkeras.zoo import bcdnet, bidense, bipointnet, birealnet, lcrbnn
from bnnkeras.zoo.bcdnet import BCDNetA, BCDNetB
from bnnkeras.zoo.bcdnet import recipe as _bcdnet_recipe  # noqa: F401  (registers them)
from bnnkeras.zoo.bidense import BiDenseDPT, BiDenseUperNet
from bnnkeras.zoo.bidense import recipe as _bidense_recipe  # noqa: F401
from bnnkeras.zoo.bipointnet import (
    BiDGCNN,
    BiPointCNN,
    BiPointNet,
    BiPointNet2,
    BiPointNetPartSegmentation,
    BiPointNetSemanticSegmentation,
)
from bnnkeras.zoo.bipointnet import recipe as _bipointnet_recipe  # noqa: F401
from bnnkeras.zoo.birealnet import BiRealNet18, BiRealNet34, BiRealNet50, BiRealNet152
from bnnkeras.zoo.birealnet import recipe as _birealnet_recipe  # noqa: F401  (registers them)
from bnnkeras.zoo.lcrbnn import (
    LCRCifarResNet18,
    LCRResNet18,
    LCRResNet20,
    LCRResNet34,
    LCRVGGSmall,
    ResNet18,
    ResNet20,
    ResNet34,
)
from bnnkeras.zoo.lcrbnn import recipe as _lcrbnn_recipe  # noqa: F401
from bnnkeras.zoo.recipes import list_recipes, recipe
from bnnkeras.zoo.registry import get, list_models

__all__ = [
    "BCDNetA",
    "BCDNetB",
    "BiDenseDPT",
    "BiDenseUperNet",
    "BiDGCNN",
    "BiPointCNN",
    "BiPointNet",
    "BiPointNet2",
    "BiPointNetPartSegmentation",
    "BiPointNetSemanticSegmentation",
    "BiRealNet152",
    "BiRealNet18",
    "BiRealNet34",
    "BiRealNet50",
    "LCRCifarResNet18",
    "LCRResNet18",
    "LCRResNet20",
    "LCRResNet34",
    "LCRVGGSmall",
    "ResNet18",
    "ResNet20",
    "ResNet34",
    "bcdnet",
    "bidense",
    "bipointnet",
    "birealnet",
    "get",
    "lcrbnn",
    "list_models",
    "list_recipes",
    "recipe",
]
