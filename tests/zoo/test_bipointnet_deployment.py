"""BiPointNet in LCE: every binary product in bits, the file exact, and as small as published."""

import keras
import numpy as np
import pytest

from bnnkeras import converters
from bnnkeras.converters import flatbuffer
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.models import ModelProfile
from bnnkeras.zoo import (
    BiPointNet,
    BiPointNetPartSegmentation,
    BiPointNetSemanticSegmentation,
)

CASES = {
    "vanilla": (BiPointNet, 3, {"transforms": False}),
    "classification": (BiPointNet, 3, {}),
    "classification_max": (BiPointNet, 6, {"aggregation": "max"}),
    "bnn": (BiPointNet, 3, {"binarization": "bnn", "transforms": False}),
    "irnet": (BiPointNet, 3, {"binarization": "irnet", "transforms": False}),
    "bireal": (BiPointNet, 3, {"binarization": "bireal", "transforms": False}),
    "part": (BiPointNetPartSegmentation, 6, {}),
    "part_max": (BiPointNetPartSegmentation, 6, {"aggregation": "max"}),
    "semantic": (BiPointNetSemanticSegmentation, 9, {}),
    "semantic_max": (BiPointNetSemanticSegmentation, 9, {"aggregation": "max"}),
}
# Kilobytes at 40 classes; the paper reports 3.16 MB -> 0.17 MB for the first.
LARGEST = {"vanilla": 160_000, "classification": 560_000, "classification_max": 560_000}


def trained(function, points, channels, arguments) -> keras.Model:
    """Scales and statistics that a first training batch sets, betas like those of a long training.

    Without these the mean of four sums of signs is often such a sum itself, and rounding would
    decide on which side of it the file's threshold lies.
    """
    model = function(input_shape=(points, channels), classifier_activation=None, **arguments)
    generator = np.random.default_rng(0)
    clouds = generator.uniform(-1, 1, (4, points, channels)).astype("float32")
    model(clouds, training=True)
    for variable in model.weights:
        if variable.path.endswith("/beta"):
            variable.assign(generator.normal(0, 0.1, variable.shape))
    return model


def check(case, points):
    function, channels, arguments = CASES[case]
    model = trained(function, points, channels, arguments)
    conversion = converters.convert(model, strict=True)
    verification = conversion.verification
    assert verification.passed and verification.probe_max_difference == 0
    assert verification.binary_layers_left == () and not conversion.notes
    # Counted in the training form, and in the file.
    macs = ModelProfile(model).op_count("mac", 1)
    report = conversion.report
    assert report.binary_macs == macs
    kinds = [operator.kind for operator in flatbuffer.read(conversion.flatbuffer).operators]
    binary = [layer for layer in model.layers if getattr(layer, "kernel_quantizer", None)]
    assert kinds.count("LceBconv2d") == len(binary)
    assert len(report.layers_in_bits) == len(report.binary_layers) == len(binary)
    pools = sum("pool" in layer.name for layer in model.layers)
    # The features of a cloud that join those of its points are pooled as floats.
    joined = any("concatenate" in layer.name for layer in model.layers)
    assert kinds.count("LceBMaxPool2d") == pools - joined
    assert conversion.file_bytes <= LARGEST.get(case, 2_000_000)
    return conversion


@pytest.mark.slow
@pytest.mark.parametrize("case", ["vanilla", "part"])
def test_small_clouds(case):
    check(case, 64)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_1024_points(case):
    check(case, 1024)


@pytest.mark.parametrize("case", ["vanilla", "classification_max", "part", "semantic"])
def test_deploy_form_is_exact(case, float64, randomized_scales):
    """The deploy form against the training form, in float64, at random values of all variables."""
    function, channels, arguments = CASES[case]
    model = trained(function, 16, channels, arguments)
    randomized_scales(model)
    clouds = np.random.default_rng(1).uniform(-1, 1, (2, 16, channels))
    deployed = deployment_of(model, "float64").model
    expected, found = (keras.ops.convert_to_numpy(form(clouds)) for form in (model, deployed))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.fixture
def randomized_scales():
    def randomize(model):
        generator = np.random.default_rng(0)
        for variable in model.weights:
            name = variable.path.rpartition("/")[2]
            if name in ("gamma", "beta", "moving_mean", "scale_offset"):
                variable.assign(generator.normal(size=variable.shape) * 0.5)
            elif name == "moving_variance":
                variable.assign(generator.uniform(0.5, 2, size=variable.shape))

    return randomize
