"""BiDGCNN, BiPointNet2 and BiPointCNN against official numbers made with exact sums of signs."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import converters
from bnnkeras.zoo import BiDGCNN, BiPointCNN, BiPointNet2


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


VARIANTS = {
    "DGCNNMax": (BiDGCNN, {"binarization": None}),
    "DGCNNMean": (BiDGCNN, {"binarization": None, "aggregation": "mean"}),
    "BiDGCNNXNORMax": (BiDGCNN, {"binarization": "xnor", "aggregation": "max"}),
    "BiDGCNNLSREMax": (BiDGCNN, {}),
    "BiDGCNNLSRMean": (BiDGCNN, {"aggregation": "mean"}),
    "PointNet2Max": (BiPointNet2, {"binarization": None}),
    "BiPointNet2XNORMax": (BiPointNet2, {"binarization": "xnor", "aggregation": "max"}),
    "BiPointNet2LSREMax": (BiPointNet2, {}),
    "BiPointNet2LSRMean": (BiPointNet2, {"aggregation": "mean"}),
    "PointCNNMean": (BiPointCNN, {"binarization": None}),
    "BiPointCNNMean": (BiPointCNN, {"binarization": "bnn"}),
    "BiPointCNNXNORMean": (BiPointCNN, {"binarization": "xnor"}),
    "BiPointCNNLSRMean": (BiPointCNN, {}),
}


def cloud_of(variant, fill):
    """The input, with its name in the goldens."""
    if VARIANTS[variant][0] is BiDGCNN:
        return fill.fill_input("dgcnn", (2, 48, 3)), "dgcnn"
    if VARIANTS[variant][0] is BiPointCNN:
        return fill.fill_input("pointcnn3", (2, 256, 3)), "pointcnn"
    return fill.fill_input("pn2", (2, 256, 3), -0.4, 0.4), "pn2"


def official_model(variant, goldens, fill):
    """With scales by rule R: divided by the root of the fan-in."""
    names = goldens.names("bipointnet", variant)
    state = fill.fill_state(names)
    for name in names:
        if name.endswith(".scale"):
            fan_in = np.prod(names[name.removesuffix("scale") + "weight"][1:])
            state[name] = state[name] / np.sqrt(fan_in)
    function, arguments = VARIANTS[variant]
    shape = cloud_of(variant, fill)[0].shape[1:]
    model = function(shape, sign_of_zero=0, classifier_activation=None, dropout=0.0, **arguments)
    report = converters.load_official(model, state)
    unread = [name for name in state if "num_batches" in name]
    if variant == "BiPointCNNLSRMean":
        unread += [name for name in state if name.endswith("conv.2.bias")]
    assert sorted(report.unused) == sorted(unread)
    assert len(report.loaded) == len(state) - len(unread)
    return model


def log_probabilities(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "BiDGCNNLSRMean"])
def test_official_inference(variant, float64, goldens, fill, numerics):
    golden = goldens("bipointnet", "backbones")
    x, _ = cloud_of(variant, fill)
    logits = numpy(official_model(variant, goldens, fill)(x, training=False))
    expected = golden[f"{variant}/n{x.shape[1]}/out"]
    numerics.assert_close(log_probabilities(logits), expected)


def test_official_set_abstractions(float64, goldens, fill, numerics):
    golden, prefix = goldens("bipointnet", "backbones"), "BiPointNet2LSREMax/n256"
    model = official_model("BiPointNet2LSREMax", goldens, fill)
    outputs = {}
    for number in (1, 2):
        outputs[f"sa{number}_x_first8"] = model.get_layer(f"sa{number}_pool").output
        outputs[f"sa{number}_pos"] = model.get_layer(f"sa{number}_group").output[0]
    tapped = keras.Model(model.input, outputs)
    for name, value in tapped(cloud_of("BiPointNet2LSREMax", fill)[0], training=False).items():
        value = numpy(value).reshape(-1, value.shape[-1])
        expected = golden[f"{prefix}/{name}"]
        numerics.assert_close(value[: len(expected)], expected, label=name)


def test_official_first_convolution_of_the_mean(float64, goldens, fill, numerics):
    """Behind it means of equal features differ by rounding: no arithmetic gives the same signs."""
    model = official_model("BiDGCNNLSRMean", goldens, fill)
    first = keras.Model(model.input, model.get_layer("conv1_pool").output)
    found = numpy(first(fill.fill_input("dgcnn", (2, 48, 3)), training=False))
    expected = goldens("bipointnet", "backbones")["BiDGCNNLSRMean/n48/conv1"]
    numerics.assert_close(found.reshape(96, 64), expected)


MAPS = {"BiDGCNNLSREMax": "bidgcnn", "BiPointNet2LSREMax": "bipointnet2"}
MAPS |= {"BiPointCNNXNORMean": "bipointcnn", "BiPointCNNLSRMean": "bipointcnn"}


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(variant, marks=[pytest.mark.slow] if "PointCNN" in variant else [])
        for variant in MAPS
    ],
)
def test_official_training_step(variant, float64, goldens, fill, numerics, reference):
    golden, prefix = goldens("bipointnet", "backbones"), f"{variant}/train"
    model = official_model(variant, goldens, fill)
    x, tag = cloud_of(variant, fill)
    labels = np.floor(fill.fill_input(f"labels:{tag}", (2,), 0, 40)).astype(int)

    def loss(logits):
        targets = ops.convert_to_tensor(np.eye(40)[labels])
        return -ops.sum(ops.log_softmax(logits) * targets) / 2

    result = numerics.gradients(model, [x], loss=loss, training=True)
    numerics.assert_close(log_probabilities(result.value), golden[f"{prefix}/train_out"])
    dx = result.inputs[0].reshape(-1, 3)
    numerics.assert_close(dx, golden[f"{prefix}/split/grad_pos"], label="grad_pos")
    names = reference.Names(model, MAPS[variant])
    start = f"{prefix}/split/gradnorm/"
    norms = {key[len(start) :]: golden[key] for key in golden.files if key.startswith(start)}
    assert len(norms) > 20
    largest = max(norms.values())
    for name, value in norms.items():
        path = names.variable(name).path.replace("scale_start", "scale_offset")
        tolerance = 1e-6 if name.endswith(".scale") else 1e-9
        np.testing.assert_allclose(
            np.linalg.norm(result.variables[path]),
            value,
            rtol=tolerance,
            atol=1e-9 * largest,
            err_msg=name,
        )


def test_top_and_pooling():
    model = BiDGCNN((24, 6), include_top=False, pooling="max", neighbours=5)
    clouds = np.random.default_rng(0).normal(size=(2, 24, 6)).astype("float32")
    assert numpy(model(clouds)).shape == (2, 1024)
    with pytest.raises(ValueError, match="at least 20 points, a fixed number. Received:"):
        BiDGCNN((16, 3))


def test_bad_arguments():
    for arguments, message in (
        ({"binarization": "irnet"}, "`binarization` must be one of .*Received: binarization="),
        ({"aggregation": "max"}, '`aggregation` must be "mean" or .*Received: aggregation='),
        ({"input_shape": (64, 3)}, "at least .* points, a fixed number. Received:"),
    ):
        with pytest.raises(ValueError, match=message):
            BiPointCNN(**arguments)
