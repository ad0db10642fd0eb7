"""BiDense's networks as files of Larq Compute Engine."""

import keras
import numpy as np
import pytest

from bnnkeras import converters
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.layers import QuantDepthwiseConv2D
from bnnkeras.zoo import BiDenseDPT, BiDenseUperNet
from bnnkeras.zoo.bidense import vit

pytest.importorskip("larq_compute_engine", reason="deployment needs the deploy extra")
if keras.backend.backend() != "tensorflow":
    pytest.skip("conversion has one backend", allow_module_level=True)

SMALL = {"size": "pocket", "classes": 12, "scale_axis": "layer"}


def trained(model, alpha=0.2):
    """The model with statistics, thresholds and scales as training leaves them."""
    generator = np.random.default_rng(0)
    for variable in model.weights:
        kind = variable.path.rpartition("/")[2]
        if kind == "alpha" and "dab" in variable.path:
            variable.assign(generator.normal(0, alpha, variable.shape))
        elif kind in ("alpha", "k", "b", "moving_mean", "beta", "bias", "bias_before"):
            variable.assign(generator.normal(0, 0.2, variable.shape))
        elif kind == "moving_variance":
            variable.assign(generator.uniform(0.005, 0.015, variable.shape))
        elif kind == "gamma":
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return model


def depthwise(model):
    return {layer.name for layer in model.layers if isinstance(layer, QuantDepthwiseConv2D)}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_every_dense_convolution_is_binary(task):
    """Depthwise ones are float on purpose; the file is right, and its masks are Keras's."""
    model = trained(BiDenseUperNet((32, 64, 3), task=task, **SMALL))
    images = np.random.default_rng(1).normal(size=(4, 32, 64, 3)).astype("float32")
    conversion = converters.convert(model, inputs=images)
    verification = conversion.verification
    assert verification.passed and verification.probe_max_difference == 0.0
    # 5 blocks of two, 3 transitions, 5 of the pooling, 3 laterals, 3 smoothings, and 3 behind.
    assert verification.binary_layers_total == verification.binary_layers_converted == 27
    assert set(verification.float_reasons) == depthwise(model)
    interpreter = converters.Interpreter(conversion.flatbuffer)
    found, wanted = interpreter.predict(images), model.predict(images, verbose=0)
    if task == "segmentation":
        assert (found.argmax(-1) == wanted.argmax(-1)).mean() >= 0.995
    else:
        np.testing.assert_allclose(found, wanted, rtol=0.05)


@pytest.mark.slow
def test_the_deploy_form_is_the_network(float64):
    model = trained(BiDenseUperNet((32, 64, 3), **SMALL))
    images = np.random.default_rng(1).normal(size=(2, 32, 64, 3))
    deployed = converters.deploy(model, "float64")
    np.testing.assert_allclose(deployed(images), model(images), rtol=1e-9, atol=1e-9)
    # Scales of normalizations join the convolutions, and offsets each other: beside the product
    # with the input's scale, a map of four times the channels takes a single sum.
    names = [layer.name for layer in deployed.layers if "stage0_block0_pw1" in layer.name]
    behind = names[names.index("stage0_block0_pw1_conv") + 1 :]
    assert sum("_offset" in name for name in behind) == 1
    assert not any("_move_scale" in name for name in behind)
    # Of the map, of what is positive of the centred one, and of the scales over the channels.
    assert sum("_mean" in name for name in names) == 3


@pytest.mark.slow
def test_scales_per_channel_are_refused():
    model = BiDenseUperNet((32, 32, 3), **{**SMALL, "scale_axis": "channel"})
    reasons = deployment_of(model).float_reasons
    dense = {name: reason for name, reason in reasons.items() if name not in depthwise(model)}
    # The shared convolution is one name of three calls.
    assert len(dense) == 25
    assert all("differs within one sum of products" in reason for reason in dense.values())
    with pytest.raises(converters.ConversionError, match="one scale per layer"):
        converters.convert(model, verify=False)


# --- DPT --------------------------------------------------------------------------------------

PATCHES = {"input_shape": (56, 56, 3), "size": "pocket", "classes": 12}


@pytest.mark.slow
def test_every_convolution_and_dense_layer_of_dpt_is_binary():
    """Only the two products of the attention, whose operands are both activations, are not."""
    # The decoder adds a bypass to each of its layers: what it holds grows, and with it the scales.
    model = trained(BiDenseDPT(**PATCHES, scale_axis="layer"), alpha=0.02)
    images = np.random.default_rng(1).normal(size=(2, 56, 56, 3)).astype("float32")
    conversion = converters.convert(model, inputs=images)
    verification = conversion.verification
    assert verification.passed and verification.probe_max_difference == 0.0
    # 4 blocks of four; 4 projections, 3 of another size, 4 behind them, 7 units of two, and 2.
    assert verification.binary_layers_total == verification.binary_layers_converted == 43
    assert not verification.float_reasons
    found = converters.Interpreter(conversion.flatbuffer).predict(images)
    wanted = model.predict(images, verbose=0)
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() >= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"scale_axis": "layer"}, {"precision": "scratch"}])
def test_the_deploy_form_of_dpt_is_the_network(arguments, float64):
    """With the image resized, as at 480x480."""
    model = trained(BiDenseDPT(**{**PATCHES, "input_shape": (60, 58, 3)}, **arguments), alpha=0.02)
    image = model.get_layer("image_resize").output
    images = np.random.default_rng(1).normal(size=(1, 60, 58, 3))
    deployed = converters.deploy(keras.Model(model.input, image), "float64")
    resized = model.get_layer("image_resize")(images)
    # TensorFlow computes where the pixels lie in float32.
    np.testing.assert_allclose(deployed(images), resized, rtol=0, atol=5e-5)

    rest = keras.Model(image, model.output)
    deployed = converters.deploy(rest, "float64")
    found, wanted = deployed(resized).numpy(), rest(resized).numpy()
    # The binary network has a sign behind each GELU; the real one its approximation by tanh.
    tolerance = 1e-9 if "scale_axis" in arguments else 1e-3
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_signs_behind_a_gelu_are_the_arguments():
    """What its approximation gives below -5 is -0.0, and -0.0 counts as +1."""
    inputs = keras.Input((4, 8))
    x = keras.layers.Activation("gelu")(inputs)
    outputs = vit.BinaryTokens().dense(x, 3, False, "dense")
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).choice([-8.0, -6.0, -1.0, 1.0, 8.0], (2, 4, 8)).astype("float32")
    np.testing.assert_allclose(converters.deploy(model)(x), model(x), rtol=1e-5, atol=1e-7)
