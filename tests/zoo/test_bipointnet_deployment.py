"""BiPointNet in LCE: every binary product in bits, the file exact, and as small as published."""

import math

import keras
import numpy as np
import pytest

from bnnkeras import converters
from bnnkeras.converters import flatbuffer
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.layers import QuantDepthwiseConv2D
from bnnkeras.models import ModelProfile
from bnnkeras.quantizers import LSRKernel
from bnnkeras.zoo import (
    BiDGCNN,
    BiPointCNN,
    BiPointNet,
    BiPointNet2,
    BiPointNetPartSegmentation,
    BiPointNetSemanticSegmentation,
    bipointnet,
)

CASES = {
    "vanilla": (BiPointNet, 3, {"transforms": False}),
    "classification": (BiPointNet, 3, {}),
    "classification_max": (BiPointNet, 6, {"aggregation": "max"}),
    "bnn": (BiPointNet, 3, {"binarization": "bnn", "transforms": False}),
    "irnet": (BiPointNet, 3, {"binarization": "irnet", "transforms": False}),
    "bireal": (BiPointNet, 3, {"binarization": "bireal", "transforms": False}),
    "xnor": (BiPointNet, 3, {"binarization": "xnor"}),
    "part": (BiPointNetPartSegmentation, 6, {}),
    "part_max": (BiPointNetPartSegmentation, 6, {"aggregation": "max"}),
    "semantic": (BiPointNetSemanticSegmentation, 9, {}),
    "semantic_max": (BiPointNetSemanticSegmentation, 9, {"aggregation": "max"}),
}
# Neighbours by position are searched for in the file.
GRAPHS = {
    "pointnet2": (BiPointNet2, 3, {"neighbours": 8}),
    "pointcnn": (BiPointCNN, 3, {}),
}
# Bits are pooled where nothing but signs of the maximum is read: not its magnitude, and not its
# distance from others.
POOLS_OF_BITS = {"xnor": 0, "pointnet2": 1, "pointcnn": 0}
# Bytes at 40 classes; the paper reports 3.16 MB -> 0.17 MB for the first.
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
    function, channels, arguments = {**CASES, **GRAPHS}[case]
    model = trained(function, points, channels, arguments)
    clouds = np.random.default_rng(1).uniform(-1, 1, (4, points, channels))
    conversion = converters.convert(model, strict=True, inputs=clouds)
    verification = conversion.verification
    assert verification.passed and verification.probe_max_difference == 0
    assert verification.binary_layers_left == () and not conversion.notes
    # Counted in the training form, and in the file.
    macs = ModelProfile(model).op_count("mac", 1)
    # Of BiPointCNN's X-convolutions, parts are depthwise, which LCE has no bits for.
    by_channel = [layer for layer in model.layers if isinstance(layer, QuantDepthwiseConv2D)]
    macs -= sum(layer.output.shape[1] * math.prod(layer.kernel.shape) for layer in by_channel)
    assert set(verification.float_reasons) == {layer.name for layer in by_channel}
    report = conversion.report
    assert report.binary_macs == macs
    kinds = [operator.kind for operator in flatbuffer.read(conversion.flatbuffer).operators]
    binary = [layer for layer in model.layers if getattr(layer, "kernel_quantizer", None)]
    assert kinds.count("LceBconv2d") == len(binary)
    assert len(report.layers_in_bits) == len(report.binary_layers) == len(binary)
    pools = sum("pool" in layer.name for layer in model.layers)
    # The features of a cloud that join those of its points are pooled as floats.
    joined = any("concatenate" in layer.name for layer in model.layers)
    assert kinds.count("LceBMaxPool2d") == POOLS_OF_BITS.get(case, pools - joined)
    assert conversion.file_bytes <= LARGEST.get(case, 2_000_000)
    return conversion


@pytest.mark.slow
@pytest.mark.parametrize("case", ["vanilla", "part", *GRAPHS])
def test_small_clouds(case):
    check(case, 256 if case == "pointcnn" else 64)


@pytest.mark.slow
def test_stages_of_a_graph_of_features():
    """BiDGCNN in two files, and the neighbours between them."""
    model = trained(BiDGCNN, 64, 3, {"classes": 10})
    with pytest.raises(converters.UnsupportedLayerError, match="conv2_edges.*its neighbours are"):
        converters.deploy(model)
    first, neighbours, last = bipointnet.stages(model)
    clouds = np.random.default_rng(1).uniform(-1, 1, (4, 64, 3)).astype("float32")
    features = first(clouds)
    edges = neighbours(features)
    np.testing.assert_array_equal(last([features, edges]), model(clouds))
    parts = {
        first: clouds,
        last: {tensor.name: x for tensor, x in zip(last.inputs, (features, edges), strict=True)},
    }
    binary = 0
    for part, inputs in parts.items():
        verification = converters.convert(part, inputs=inputs).verification
        assert verification.passed and verification.probe_max_difference == 0
        binary += verification.binary_layers_converted
    assert binary == sum(getattr(x, "kernel_quantizer", None) is not None for x in model.layers)
    with pytest.raises(ValueError, match="once, as BiDGCNN does. Received: .* with 0 such layers"):
        bipointnet.stages(first)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_1024_points(case):
    check(case, 1024)


EXACT = ["vanilla", "classification_max", "part", "semantic", "xnor"]
# Slow on JAX, which compiles the searches for neighbours step by step.
EXACT += [pytest.param(case, marks=pytest.mark.slow) for case in (*GRAPHS, "pointnet2_mean")]


@pytest.mark.parametrize("case", EXACT)
def test_deploy_form_is_exact(case, float64, randomized_scales):
    """The deploy form against the training form, in float64, at random values of all variables."""
    cases = {**CASES, **GRAPHS}
    cases["pointnet2_mean"] = (BiPointNet2, 3, {"neighbours": 8, "aggregation": "mean"})
    function, channels, arguments = cases[case]
    points = 256 if case == "pointcnn" else 16
    model = trained(function, points, channels, arguments)
    randomized_scales(model)
    clouds = np.random.default_rng(1).uniform(-1, 1, (2, points, channels))
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


def test_sums_over_neighbours_cancel_exactly():
    """As many +s as -s are 0, as in the training form, whose sign the next layer takes."""
    generator = np.random.default_rng(0)
    points = keras.Input((40, 12, 6))
    arguments = {"input_quantizer": "ste_sign", "use_bias": False}
    x = QuantDepthwiseConv2D(
        (1, 12), depth_multiplier=2, depthwise_quantizer=LSRKernel(), **arguments
    )(points)
    model = keras.Model(points, x)
    clouds = generator.normal(size=(8, 40, 12, 6)).astype("float32")
    model(clouds, training=True)
    expected, found = (
        keras.ops.convert_to_numpy(form(clouds)) for form in (model, converters.deploy(model))
    )
    assert 0.15 < np.mean(expected == 0) < 0.35
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, rtol=4e-6)
