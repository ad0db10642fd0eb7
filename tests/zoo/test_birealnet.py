"""Bi-Real Net against the official network's numbers, and as a member of the zoo."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras.layers import QuantConv2D
from bnnkeras.zoo import BiRealNet18
from bnnkeras.zoo.birealnet import model as birealnet
from bnnkeras.zoo.birealnet import official


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def nchw(array):
    return array.transpose(0, 3, 1, 2)


def fill_model(model, state, prefix=""):
    """Assigns an official state dict; every variable of the model must be filled."""
    variables = {variable.path: variable for variable in model.weights}
    for name, array in state.items():
        path = official.variable_of(prefix + name)
        if path is not None:
            variable = variables.pop(path)
            variable.assign(official.to_keras(array, tuple(variable.shape)))
    assert not variables


def official_model(goldens, fill, **arguments):
    model = BiRealNet18(classifier_activation=None, sign_of_zero=0, **arguments)
    fill_model(model, fill.fill_state(goldens.names("birealnet", "birealnet18")))
    return model


def unbiased(after, before, count):
    """The running variance as PyTorch keeps it: of the batch's variance n / (n - 1) times ours."""
    return 0.9 * before + (after - 0.9 * before) * count / (count - 1)


TAPS = {"stem": "stem_bn", "maxpool": "stem_pool", "pool": "pool"}
TAPS |= {f"stage{stage}": f"stage{stage}_block3_add" for stage in (1, 2, 3, 4)}


# --- The official numbers --------------------------------------------------------------------


def test_counts():
    model = BiRealNet18()
    assert model.input_shape == (None, 224, 224, 3) and model.output_shape == (None, 1000)
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert (trainable, model.count_params()) == (11_689_512, 11_699_112)
    binary = [
        layer
        for layer in model.layers
        if isinstance(layer, QuantConv2D) and layer.kernel_quantizer is not None
    ]
    assert len(binary) == 16
    assert sum(int(np.prod(layer.kernel.shape)) for layer in binary) == 10_985_472
    for layer in binary:
        assert layer.input_quantizer.precision == layer.kernel_quantizer.precision == 1


@pytest.mark.parametrize("size", [(2, 64, 96), (1, 32, 32)])
def test_official_inference(size, float64, goldens, fill, numerics):
    golden = goldens("birealnet", "birealnet18")
    batch, height, width = size
    # Sizes left open: one model for every input.
    model = official_model(goldens, fill, input_shape=(None, None, 3))
    taps = {name: model.get_layer(layer).output for name, layer in TAPS.items()}
    tapped = keras.Model(model.input, {**taps, "logits": model.output})
    case = f"{batch}x{height}x{width}"
    x = nhwc(fill.fill_input(f"birealnet18:{case}", (batch, 3, height, width), -2, 2))
    outputs = {name: numpy(value) for name, value in tapped(x, training=False).items()}
    keys = [key for key in golden.files if key.startswith(f"eval_{case}/")]
    assert len(keys) == 7
    for key in keys:
        name = key.partition("/")[2]
        actual = outputs[name.removesuffix("_mean")]
        if name.endswith("_mean"):
            actual = actual.mean(axis=(1, 2))
        elif actual.ndim == 4:
            actual = nchw(actual)
        numerics.assert_close(actual, golden[key], label=key)


def test_official_training_step(float64, goldens, fill, numerics):
    """Logits, loss, every gradient and the running statistics of one training step."""
    golden = goldens("birealnet", "birealnet18")
    model = official_model(goldens, fill, input_shape=(64, 64, 3))
    before = {variable.path: numpy(variable).copy() for variable in model.non_trainable_variables}
    x = nhwc(fill.fill_input("birealnet18:train", (4, 3, 64, 64), -2, 2))
    labels = np.eye(1000)[[3, 141, 592, 653]]

    def loss(logits, smoothing=0.1):
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)(
            labels, logits
        )

    result = numerics.gradients(model, [x], loss=loss, training=True)
    numerics.assert_close(result.value, golden["train/logits"], label="logits")
    for smoothing, key in ((0.1, "loss"), (0.0, "plain_ce")):
        value = numpy(loss(ops.convert_to_tensor(result.value, dtype="float64"), smoothing))
        numerics.assert_close(value, golden[f"train/{key}"], label=key)
    numerics.assert_close(np.linalg.norm(result.inputs[0]), golden["train/grad_x_norm"])

    names = goldens.names("birealnet", "birealnet18")
    parameters = golden["train/param_names"].tolist()
    gradients = [result.variables.pop(official.variable_of(name)) for name in parameters]
    assert not result.variables
    norms = [np.linalg.norm(gradient) for gradient in gradients]
    numerics.assert_close(norms, golden["train/grad_norm"], label="norm")
    probes = [
        np.sum(
            gradient * official.to_keras(fill.fill_input(f"probe:{name}", shape), gradient.shape)
        )
        for name, gradient in zip(parameters, gradients, strict=True)
        for shape in [tuple(names[name])]
    ]
    numerics.assert_close(probes, golden["train/grad_probe"], label="probe")
    # The largest parameter decides the bound above: each norm against itself as well.
    np.testing.assert_allclose(norms, golden["train/grad_norm"], rtol=1e-9)

    after = {variable.path: numpy(variable) for variable in model.non_trainable_variables}
    means, variances = [], []
    for name in golden["train/bn_names"].tolist():
        mean = official.variable_of(f"{name}.running_mean")
        variance = official.variable_of(f"{name}.running_var")
        count = 4 * np.prod(model.get_layer(mean.partition("/")[0]).input.shape[1:3])
        means.append(np.linalg.norm(after[mean]))
        variances.append(np.linalg.norm(unbiased(after[variance], before[variance], count)))
    assert len(means) * 2 == len(after)
    numerics.assert_close(means, golden["train/after_running_mean_norm"], label="mean")
    numerics.assert_close(variances, golden["train/after_running_var_norm"], label="variance")


# Case: filters, stride, input (NCHW).
BLOCKS = {"basic_s1": (6, 1, (4, 6, 6, 8)), "basic_s2": (12, 2, (4, 6, 8, 6))}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", BLOCKS)
def test_official_block(case, mode, float64, goldens, fill, numerics):
    golden = goldens("birealnet", "blocks")
    filters, stride, shape = BLOCKS[case]
    inputs = keras.Input((shape[2], shape[3], shape[1]))
    block = birealnet.basic_block(inputs, filters, stride, 0, "stage2_block0")
    model = keras.Model(inputs, block)
    shapes = goldens.names("birealnet", "blocks")[case]
    state = fill.fill_state(shapes, salt=f"{case}:")
    fill_model(model, state, prefix="layer2.0.")

    key = f"{case}/{mode}"
    x = nhwc(fill.fill_input(case, shape, -1.5, 1.5))
    upstream = nhwc(fill.fill_input(f"upstream:{case}", golden[f"{key}/out"].shape))
    result = numerics.gradients(model, [x], upstream, training=mode == "train")
    numerics.assert_close(nchw(result.value), golden[f"{key}/out"], label="out")
    numerics.assert_close(nchw(result.inputs[0]), golden[f"{key}/grad_x"], label="grad_x")
    prefix = f"{key}/grad/"
    names = [k.removeprefix(prefix) for k in golden.files if k.startswith(prefix)]
    for name in names:
        gradient = result.variables.pop(official.variable_of(f"layer2.0.{name}"))
        expected = official.to_keras(golden[prefix + name], gradient.shape)
        numerics.assert_close(gradient, expected, label=name)
    assert not result.variables

    variables = {variable.path: numpy(variable) for variable in model.non_trainable_variables}
    for name in state:
        path = official.variable_of(f"layer2.0.{name}")
        if path not in variables:
            continue
        expected, actual = state[name], variables[path]
        if mode == "train":
            expected = golden[f"{key}/after/{name}"]
            if name.endswith("running_var"):
                count = result.value[..., 0].size
                actual = unbiased(actual, state[name], count)
        numerics.assert_close(actual, expected, label=name)


def test_initial_values():
    """Spec, section 2.8."""
    model = BiRealNet18(input_shape=(32, 32, 3))
    for layer in model.layers:
        if layer.name == "classifier" or layer.name.endswith("_conv"):
            kernel = numpy(layer.kernel)
            if getattr(layer, "kernel_quantizer", None):
                low, high = 0.0, 0.001
            else:
                high = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
                low = -high
            width = high - low
            assert low <= kernel.min() < low + 0.01 * width, layer.name
            assert high - 0.01 * width < kernel.max() <= high * (1 + 1e-6), layer.name
            assert abs(kernel.mean() - (low + high) / 2) < 0.02 * width, layer.name
        elif layer.name.endswith("_bn"):
            assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)
            assert [set(numpy(v).tolist()) for v in layer.weights] == [{1}, {0}, {0}, {1}]
    bias = numpy(model.get_layer("classifier").bias)
    assert 0.9 / np.sqrt(512) < np.abs(bias).max() <= 1 / np.sqrt(512)


@pytest.mark.parametrize("name", ["birealnet18", "birealnet34"])
def test_official_names(name, goldens):
    shapes = goldens.names("birealnet", name)
    paths = [official.variable_of(parameter) for parameter in shapes]
    used = [path for path in paths if path is not None]
    assert len(set(used)) == len(used)
    assert len(paths) - len(used) == sum("num_batches_tracked" in key for key in shapes)


def test_unknown_official_name():
    for name in ("layer1.0.conv3.weight", "conv2.weight", "fc2.bias"):
        with pytest.raises(KeyError, match=name):
            official.variable_of(name)


# --- Arguments -------------------------------------------------------------------------------

SMALL = {"input_shape": (32, 32, 3), "classes": 10}


def images(batch=2, size=(32, 32), channels=3):
    return np.random.default_rng(0).uniform(-2, 2, (batch, *size, channels)).astype("float32")


def randomize(model):
    """Values that a forgotten or swapped variable could not have by default."""
    generator = np.random.default_rng(1)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.name or "gamma" in variable.name else -0.5
        variable.assign(generator.uniform(low, 1, variable.shape))


def test_top_and_pooling():
    features = BiRealNet18(input_shape=(64, 32, 3), include_top=False)
    assert features.output_shape == (None, 2, 1, 512)
    randomize(features)
    feature_map = numpy(features(images(size=(64, 32))))
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        model = BiRealNet18(input_shape=(64, 32, 3), include_top=False, pooling=pooling)
        assert model.output_shape == (None, 512)
        model.set_weights(features.get_weights())
        pooled = numpy(model(images(size=(64, 32))))
        np.testing.assert_allclose(pooled, reduce(feature_map, axis=(1, 2)), rtol=1e-5, atol=1e-5)


def test_classes_and_classifier_activation():
    model = BiRealNet18(**SMALL, name="named")
    logits = BiRealNet18(**SMALL, classifier_activation=None)
    assert model.name == "named" and logits.name == "birealnet18"
    assert model.output_shape == (None, 10)
    logits.set_weights(model.get_weights())
    probabilities, values = numpy(model(images())), numpy(logits(images()))
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)


def test_sign_of_zero_reaches_every_quantizer():
    for value in (0, 1):
        model = BiRealNet18(**SMALL, sign_of_zero=value)
        found = [
            quantizer.sign_of_zero
            for layer in model.layers
            if isinstance(layer, QuantConv2D) and layer.kernel_quantizer is not None
            for quantizer in (layer.input_quantizer, layer.kernel_quantizer)
        ]
        assert found == [value] * 32


def test_input_tensor():
    image = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    model = BiRealNet18(input_tensor=scaled, classes=10)
    plain = BiRealNet18(**SMALL)
    plain.set_weights(model.get_weights())
    assert model.input is image
    x = images() * 255
    np.testing.assert_allclose(numpy(model(x)), numpy(plain(x / np.float32(255))), rtol=1e-4)
    assert BiRealNet18(input_tensor=image, input_shape=(32, 32, 3), classes=2).inputs[0] is image


def test_any_number_of_channels():
    model = BiRealNet18(input_shape=(32, 32, 1), classes=10)
    assert model(images(channels=1)).shape == (2, 10)


@pytest.mark.parametrize("size", [(32, 32), (29, 61), (64, 96), (224, 160)])
def test_sizes_that_work(size):
    model = BiRealNet18(input_shape=(*size, 3), include_top=False)
    expected = (1, -(-size[0] // 32), -(-size[1] // 32), 512)
    assert model(images(1, size)).shape == expected


def test_open_size():
    model = BiRealNet18(input_shape=(None, None, 3), classes=10)
    fixed = BiRealNet18(**SMALL)
    fixed.set_weights(model.get_weights())
    np.testing.assert_allclose(numpy(model(images())), numpy(fixed(images())), rtol=1e-5)
    assert model(images(1, (64, 32))).shape == (1, 10)
    assert BiRealNet18(input_shape=(None, 32, 3), include_top=False).output_shape == (
        None,
        None,
        1,
        512,
    )


def test_save_and_load(tmp_path):
    model = BiRealNet18(**SMALL)
    randomize(model)
    expected = numpy(model(images()))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(images())), expected)
    assert loaded.name == "birealnet18"
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]

    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(numpy(copy(images())), expected)


def test_weights(tmp_path):
    model = BiRealNet18(**SMALL)
    randomize(model)
    expected = numpy(model(images()))
    model.save_weights(tmp_path / "trained.weights.h5")
    for path in (tmp_path / "trained.weights.h5", str(tmp_path / "trained.weights.h5")):
        restored = BiRealNet18(**SMALL, weights=path)
        np.testing.assert_array_equal(numpy(restored(images())), expected)
    with pytest.raises(ValueError):
        BiRealNet18(input_shape=(32, 32, 3), classes=11, weights=tmp_path / "trained.weights.h5")


@pytest.mark.parametrize("weights", ["imagenet", "missing.weights.h5", 3, "."])
def test_weights_that_do_not_exist(weights):
    with pytest.raises(ValueError, match="`weights` must be .* Received: weights=") as info:
        BiRealNet18(**SMALL, weights=weights)
    assert repr(weights) in str(info.value)


def test_fit():
    """The compiled step of each backend trains every variable."""
    model = BiRealNet18(**SMALL)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    before = {variable.path: numpy(variable).copy() for variable in model.weights}
    loss = model.fit(images(4), np.arange(4), verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    for variable in model.weights:
        value = numpy(variable)
        assert np.isfinite(value).all(), variable.path
        assert not np.array_equal(value, before[variable.path]), variable.path


def test_calls_do_not_warn():
    model = BiRealNet18(**SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(images())


# --- Errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 32), (32, 100), (28, 28), (1, 1)])
def test_sizes_that_do_not_work(size):
    with pytest.raises(ValueError, match="must be multiples of 8, .* Received: ") as info:
        BiRealNet18(input_shape=(*size, 3))
    assert str((*size, 3)) in str(info.value)
    with pytest.raises(ValueError, match="must be multiples of 8"):
        BiRealNet18(input_tensor=keras.Input((*size, 3)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_shape": (32, 32)}, r"`input_shape` must be .*channels.*Received: .*\(32, 32\)"),
        ({"input_shape": (32, 32, None)}, r"`input_shape` must be .*Received: .*None"),
        ({"input_shape": (1, 32, 32, 3)}, "`input_shape` must be .*Received: "),
        ({"input_shape": 32}, "`input_shape` must be .*Received: input_shape=32"),
        ({"input_shape": (32.0, 32, 3)}, "`input_shape` must be .*Received: "),
        ({"input_shape": (-4, 32, 3)}, "`input_shape` must be .*Received: "),
        ({"input_shape": (32, 0, 3)}, "`input_shape` must be .*Received: "),
        ({"input_shape": (32, 32, 0)}, "`input_shape` must be .*Received: "),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "`input_tensor` must be .*ndarray"),
        ({"classes": 0}, "`classes` must be .*Received: classes=0"),
        ({"classes": 2.5}, "`classes` must be .*Received: classes=2.5"),
        ({"pooling": "sum", "include_top": False}, "`pooling` must be .*Received: pooling='sum'"),
        ({"sign_of_zero": -1}, "`sign_of_zero` must be 0 or 1. Received: sign_of_zero=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BiRealNet18(**arguments)


def test_input_tensor_and_shape_must_agree():
    with pytest.raises(ValueError, match=r"must agree. Received: input_shape=\(64, 64, 3\)"):
        BiRealNet18(input_tensor=keras.Input((32, 32, 3)), input_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="`input_tensor` must be"):
        BiRealNet18(input_tensor=keras.Input((32,)))
