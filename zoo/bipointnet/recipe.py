"""How BiPointNet's classifiers were trained."""

from bnnkeras.training.rates import CosineDecay
from bnnkeras.zoo.recipes import Optimizer, Recipe, Stage, register_recipe

_ADAM = Optimizer("adam", {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8})
_NOTES = (
    "The released configuration: Adam without weight decay and a cosine to 0 over 200 epochs, in "
    "batches of 256 on 8 devices with statistics of their own. The data are meshes from which "
    "each access samples 1024 points: give `fit` `bnnkeras.datasets.point_clouds.MeshBatches` of "
    "`point_clouds_files.modelnet_meshes`, or arrays."
)


def _classification(name: str, model: str, **arguments) -> Recipe:
    return register_recipe(
        Recipe(
            name=name,
            model=model,
            dataset="modelnet40",
            batch_size=256,
            stages=(Stage("binary", 200, _ADAM, CosineDecay(1e-3)),),
            model_arguments=arguments,
            notes=_NOTES,
        )
    )


_classification("bipointnet", "bipointnet")
_classification("bipointnet-vanilla", "bipointnet", transforms=False)
_classification("bipointnet2", "bipointnet2")
_classification("bidgcnn", "bidgcnn")
_classification("bipointcnn", "bipointcnn")
