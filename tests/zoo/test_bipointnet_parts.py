"""Set abstraction, edge convolution and X-convolution by themselves, against the official ones."""

import keras
import numpy as np
import pytest

from bnnkeras import converters
from bnnkeras.layers.points import EdgeFeatures, SampleAndGroup
from bnnkeras.zoo.bipointnet.blocks import Style, mlp, pooled
from bnnkeras.zoo.bipointnet.pointcnn import x_convolution

pytestmark = pytest.mark.any_backend


def inputs(channels):
    """Positions and features, side by side in one input."""
    points = keras.Input((64, 3 + channels))
    return points, points[..., :3], points[..., 3:]


def set_abstraction(aggregation):
    """The layers have the names of the network's second one, and so have the parameters."""
    style = Style("xnor", aggregation, sign_of_zero=0)
    points, positions, features = inputs(5)
    _, x, mask = SampleAndGroup(0.5, 0.3, 64)(positions, features)
    x = mlp(x, (12, 16), style, ["sa2_mlp0", "sa2_mlp1"], mask)
    x = pooled(x, 2, 64, style, "pool", mask)
    return keras.Model(points, x, name="bipointnet2")


def edge_convolution(aggregation):
    style = Style("xnor", aggregation, sign_of_zero=0)
    points, _, features = inputs(6)
    x = mlp(EdgeFeatures(7)(features), (16,), style, ["conv2_mlp0"])
    return keras.Model(points, pooled(x, 2, 7, style, "pool"), name="bidgcnn")


def x_conv(binarization):
    style = Style(binarization, "mean", sign_of_zero=0)
    points, positions, features = inputs(4)
    x = x_convolution(positions, features, (10, 5, 6, 2), style, "conv1")
    return keras.Model(points, x, name="bipointcnn")


# Golden's prefix: the model, the start of its official names, that of the network's.
PARTS = {
    "sa/max": (set_abstraction, "max", "sa.conv.local_nn.", "sa2_module.conv.local_nn."),
    "sa/ema-max": (set_abstraction, "ema-max", "sa.conv.local_nn.", "sa2_module.conv.local_nn."),
    "sa/mean": (set_abstraction, "mean", "sa.conv.local_nn.", "sa2_module.conv.local_nn."),
    "edge": (edge_convolution, "max", "edge.nn.", "conv2.nn."),
    "xconv/BNN": (x_conv, "bnn", "x.", "conv1."),
    "xconv/XNOR": (x_conv, "xnor", "x.", "conv1."),
}


# JAX takes seconds for each; the others share these layers.
ELSEWHERE = ("sa/max", "edge", "xconv/BNN")


@pytest.mark.parametrize("part", PARTS)
def test_official_parts(part, float64, goldens, fill, numerics, reference, backend):
    if backend != "tensorflow" and part not in ELSEWHERE:
        pytest.skip("the same layers as those of other parts, which run on this backend")
    build, argument, own, of_network = PARTS[part]
    model = build(argument)
    names = reference.Names(model, model.name)
    official = {
        name: name.replace(of_network, own, 1) for name in names if not name.endswith(".scale")
    }
    state = fill.fill_state({official[name]: names.official_shape(name) for name in official})
    report = converters.load_official(model, {name: state[official[name]] for name in official})
    assert len(report.loaded) == len(official) > 4 and not report.kept

    kind = part.partition("/")[0]
    channels = model.input.shape[-1] - 3
    cloud = fill.fill_input("neighbours", (2, 64, 3), -0.4, 0.4)
    features = fill.fill_input(f"{kind}:x", (128, channels)).reshape(2, 64, channels)
    points = np.concatenate([cloud, features], axis=-1)
    golden = goldens("bipointnet", "neighbours")
    if f"{part}/eval" in golden.files:
        found = keras.ops.convert_to_numpy(model(points, training=False))
        numerics.assert_close(rows(found), golden[f"{part}/eval"], label="eval")
    expected = golden[f"{part}/train"]
    upstream = fill.fill_input(f"upstream:{kind}", expected.shape)
    upstream = upstream.reshape(2, -1, expected.shape[-1])
    result = numerics.gradients(model, [points], upstream, training=True)
    numerics.assert_close(rows(result.value), expected, label="train")
    dx = rows(result.inputs[0][..., 3:])
    numerics.assert_close(dx, golden[f"{part}/grad_x"], label="grad_x")

    norms = {name: f"{part}/gradnorm/{official[name]}" for name in official}
    norms = {name: golden[key] for name, key in norms.items() if key in golden.files}
    assert len(norms) >= 4
    # Gradients of biases in front of a normalization are rounding noise.
    floor = 1e-9 * max(norms.values())
    for name, norm in norms.items():
        gradient = result.variables[names.variable(name).path]
        np.testing.assert_allclose(
            np.linalg.norm(gradient), norm, rtol=1e-9, atol=floor, err_msg=name
        )
        key = f"{part}/grad/{official[name]}"
        if key in golden.files:
            found = names.to_official(name, gradient)
            np.testing.assert_allclose(found, golden[key], rtol=1e-9, atol=floor, err_msg=name)


def rows(x):
    return np.reshape(x, (-1, x.shape[-1]))
