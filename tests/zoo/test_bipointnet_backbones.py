"""BiDGCNN against the official network's numbers, with exact arithmetic of signs."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import converters
from bnnkeras.zoo import BiDGCNN


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


VARIANTS = {
    "DGCNNMax": {"binarization": None},
    "DGCNNMean": {"binarization": None, "aggregation": "mean"},
    "BiDGCNNXNORMax": {"binarization": "xnor", "aggregation": "max"},
    "BiDGCNNLSREMax": {},
    "BiDGCNNLSRMean": {"aggregation": "mean"},
}


def official_model(variant, goldens, fill):
    """With scales by rule R: divided by the root of the fan-in."""
    names = goldens.names("bipointnet", variant)
    state = fill.fill_state(names)
    for name in names:
        if name.endswith(".scale"):
            fan_in = np.prod(names[name.removesuffix("scale") + "weight"][1:])
            state[name] = state[name] / np.sqrt(fan_in)
    model = BiDGCNN(
        (48, 3), sign_of_zero=0, classifier_activation=None, dropout=0.0, **VARIANTS[variant]
    )
    report = converters.load_official(model, state)
    assert len(report.loaded) == len([name for name in state if "num_batches" not in name])
    return model


def log_probabilities(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "BiDGCNNLSRMean"])
def test_official_dgcnn(variant, float64, goldens, fill, numerics):
    golden = goldens("bipointnet", "backbones")
    x = fill.fill_input("dgcnn", (2, 48, 3))
    logits = numpy(official_model(variant, goldens, fill)(x, training=False))
    numerics.assert_close(log_probabilities(logits), golden[f"{variant}/n48/out"])


def test_official_first_convolution_of_the_mean(float64, goldens, fill, numerics):
    """Behind it means of equal features differ by rounding: no arithmetic gives the same signs."""
    model = official_model("BiDGCNNLSRMean", goldens, fill)
    first = keras.Model(model.input, model.get_layer("conv1_pool").output)
    found = numpy(first(fill.fill_input("dgcnn", (2, 48, 3)), training=False))
    expected = goldens("bipointnet", "backbones")["BiDGCNNLSRMean/n48/conv1"]
    numerics.assert_close(found.reshape(96, 64), expected)


def test_official_dgcnn_step(float64, goldens, fill, numerics, reference):
    golden, prefix = goldens("bipointnet", "backbones"), "BiDGCNNLSREMax/train"
    model = official_model("BiDGCNNLSREMax", goldens, fill)
    x = fill.fill_input("dgcnn", (2, 48, 3))
    labels = np.floor(fill.fill_input("labels:dgcnn", (2,), 0, 40)).astype(int)

    def loss(logits):
        return -ops.sum(ops.log_softmax(logits) * np.eye(40)[labels]) / 2

    result = numerics.gradients(model, [x], loss=loss, training=True)
    numerics.assert_close(log_probabilities(result.value), golden[f"{prefix}/train_out"])
    dx = result.inputs[0].reshape(96, 3)
    numerics.assert_close(dx, golden[f"{prefix}/split/grad_pos"], label="grad_pos")
    names = reference.Names(model, "bidgcnn")
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
