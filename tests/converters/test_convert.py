"""`convert`: whole files, what they compute, and what is written when something is wrong."""

import os
import sys

import keras
import numpy as np
import pytest
from keras import layers

from bnnkeras import converters
from bnnkeras.converters import conversion, flatbuffer, verification
from bnnkeras.converters.lowering import builder
from bnnkeras.converters.worker import DeployWorker
from bnnkeras.layers import QuantConv2D
from bnnkeras.zoo import BiRealNet18

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}


def _small():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3), name="image"),
            QuantConv2D(8, 3, padding="symmetric", name="stem"),
            layers.BatchNormalization(name="stem_bn"),
            QuantConv2D(8, 3, padding="symmetric", strides=2, name="binary", **BINARY),
            layers.BatchNormalization(name="binary_bn"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(4, activation="softmax", name="classifier"),
        ],
        name="small",
    )


def _images(model, count, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _assert_right(conversion, binary_layers):
    found = conversion.verification
    assert found.problems == () and found.passed
    assert found.binary_layers_total == found.binary_layers_converted == binary_layers
    assert found.binary_layers_left == ()
    assert found.probe_max_difference == 0
    assert {name: result.probe_difference for name, result in found.kernels.items()} == {
        "default": 0,
        "reference": 0,
        "indirect": 0,
    }


@pytest.mark.any_backend
def test_a_trained_model_converts_from_this_process_and_from_its_file(tmp_path, backend) -> None:
    """Whatever trained it: the worker runs under TensorFlow."""
    model = _small()
    model.compile("adam", "sparse_categorical_crossentropy")
    images = _images(model, 32)
    model.fit(images, np.arange(32) % 4, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")

    made = converters.convert(model, tmp_path / "made" / "model.tflite")
    _assert_right(made, 1)
    assert made.path == tmp_path / "made" / "model.tflite"
    assert made.path.read_bytes() == made.flatbuffer and made.file_bytes == len(made.flatbuffer)
    assert made.notes == {}

    from_path = converters.convert(str(tmp_path / "model.keras"))
    assert from_path.path is None
    _assert_right(from_path, 1)

    # One binary layer: no sign can flip between two that follow each other.
    wanted = keras.ops.convert_to_numpy(model(images))
    for file in (made.path, from_path.flatbuffer):
        for kernel in ("default", "reference", "indirect"):
            found = converters.Interpreter(file, kernel=kernel).predict(images)
            np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_dtype_policies_convert_in_float32(randomized, tmp_path, policy) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = randomized(_small())
    finally:
        keras.config.set_dtype_policy("float32")
    model.save(tmp_path / "model.keras")
    single = _small()
    single.set_weights(model.get_weights())
    images = _images(single, 8)
    for made in (converters.convert(model), converters.convert(tmp_path / "model.keras")):
        _assert_right(made, 1)
        np.testing.assert_allclose(
            converters.Interpreter(made.flatbuffer).predict(images),
            keras.ops.convert_to_numpy(single(images)),
            atol=1e-5,
        )


def test_the_batch_size_of_the_file(randomized) -> None:
    model = randomized(_small())
    made = converters.convert(model, batch_size=3)
    _assert_right(made, 1)
    interpreter = converters.Interpreter(made.flatbuffer)
    assert interpreter.input_shapes == {"image": (3, 6, 6, 3)}
    images = _images(model, 7)
    np.testing.assert_allclose(
        interpreter.predict(images), keras.ops.convert_to_numpy(model(images)), atol=1e-5
    )


def test_a_fixed_batch_size_of_the_model_is_no_obstacle(randomized) -> None:
    image = keras.Input(batch_shape=(4, 6, 6, 4))
    model = randomized(keras.Model(image, QuantConv2D(4, 3, padding="same", **BINARY)(image)))
    made = converters.convert(model)
    _assert_right(made, 1)
    assert [*converters.Interpreter(made.flatbuffer).input_shapes.values()] == [(1, 6, 6, 4)]


def test_inputs_and_outputs_keep_their_names(randomized) -> None:
    left, right = (keras.Input((6, 6, 4), name=name) for name in ("left", "right"))
    shared = QuantConv2D(4, 3, padding="same", **BINARY)
    one, other = shared(left), shared(right)
    total = layers.Add()([one, layers.BatchNormalization()(other)])
    model = randomized(
        keras.Model(
            {"right": right, "left": left},
            {"zeta": one, "alpha": other, "total": shared(total), "again": total},
        )
    )
    made = converters.convert(model)
    _assert_right(made, 3)
    generator = np.random.default_rng(0)
    inputs = {
        name: generator.normal(size=(5, 6, 6, 4)).astype("float32") for name in ("left", "right")
    }
    found = converters.Interpreter(made.flatbuffer).predict(inputs)
    wanted = model(inputs)
    assert set(found) == {"zeta", "alpha", "total", "again"}
    for name in ("zeta", "alpha", "again"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4)


def test_networks_without_residuals_pass_bits_on(randomized) -> None:
    """Without zero padding, BatchNorm and sign become thresholds, and pools work on bits."""
    image = keras.Input((12, 12, 8))
    x = layers.Conv2D(40, 1)(image)
    for filters in (33, 16, 64):
        x = QuantConv2D(filters, 3, use_bias=False, **BINARY)(x)
        x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D(2)(x)
    x = QuantConv2D(8, 1, **BINARY)(x)
    model = randomized(keras.Model(image, layers.Dense(5)(layers.Flatten()(x))))
    made = converters.convert(model)
    _assert_right(made, 4)
    file = flatbuffer.read(made.flatbuffer)
    packed = [item for item in file.operators if item.binary and item.binary.multiplier is None]
    assert len(packed) == 3
    assert "LceBMaxPool2d" in {item.kind for item in file.operators}


@pytest.mark.parametrize(
    ("activation", "fused"),
    [("relu", "relu"), ("relu6", "relu6"), ("hard_tanh", "relu_n1_to_1")],
)
def test_activations_that_lce_fuses(randomized, activation, fused) -> None:
    image = keras.Input((6, 6, 8))
    quantizers = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
    x = QuantConv2D(8, 3, use_bias=False, activation=activation, **quantizers)(image)
    x = layers.BatchNormalization()(x)
    x = QuantConv2D(
        4, 3, use_bias=False, activation=activation, padding="same", pad_values=1, **quantizers
    )(x)
    made = converters.convert(randomized(keras.Model(image, x)))
    _assert_right(made, 2)
    binary = [item.binary for item in flatbuffer.read(made.flatbuffer).operators if item.binary]
    assert {item.activation for item in binary} == {fused}


def test_operations_that_round_cut_the_probe(randomized) -> None:
    """Means over 9 values, slopes of 0.3 and chains of float layers void no probe."""
    image = keras.Input((9, 9, 4))
    x = image
    for filters in (8, 16, 16, 16):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = layers.ReLU(negative_slope=0.3)(x)
    x = x * 0.7 + keras.ops.mean(x, axis=(1, 2), keepdims=True)
    x = QuantConv2D(8, 3, padding="same", **BINARY)(x)
    x = layers.AveragePooling2D(3)(layers.PReLU()(x))
    x = QuantConv2D(8, 3, padding="same", activation="tanh", **BINARY)(x)
    x = layers.Softmax()(layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    _assert_right(converters.convert(randomized(keras.Model(image, x))), 2)


def test_a_float_model_converts(randomized) -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="silu")(image)
    _assert_right(converters.convert(randomized(keras.Model(image, x))), 0)


def test_dilated_convolutions_share_their_signs(randomized) -> None:
    """As in ASPP; written as space-to-batch, LCE would leave both in float."""
    image = keras.Input((9, 9, 32))
    outputs = [
        QuantConv2D(4, 3, dilation_rate=2, padding=padding, **BINARY)(image)
        for padding in ("same", "same", "valid", "valid", "symmetric")
    ]
    _assert_right(converters.convert(randomized(keras.Model(image, outputs))), 5)


def test_bireal_net_18_as_built() -> None:
    """Its fresh kernels are all +1, which the converter writes as FILL operations."""
    model = BiRealNet18(input_shape=(32, 32, 3), classes=10)
    made = converters.convert(model, verify=False)
    assert "FILL" in {item.kind for item in flatbuffer.read(made.flatbuffer).operators}
    found = converters.verify(model, made.flatbuffer, _images(model, 2), run_probe=False)
    assert found.problems == () and found.binary_layers_converted == 16
    assert [*found.kernels] == ["default", "reference", "indirect"]


@pytest.mark.parametrize(
    "size",
    # The last stage has maps of 1x1, 2x2 and 7x7: LCE computes SAME zero padding wrong on two.
    [32, *(pytest.param(size, marks=pytest.mark.slow) for size in (64, 224))],
)
def test_bireal_net_18(randomized, size) -> None:
    model = randomized(BiRealNet18(input_shape=(size, size, 3), classifier_activation=None))
    images = _images(model, 4)
    made = converters.convert(model, inputs=images)
    _assert_right(made, 16)
    # The same sums of +-1 in every kernel: the very same outputs.
    outputs = [
        converters.Interpreter(made.flatbuffer, kernel=kernel).predict(images)
        for kernel in ("default", "reference", "indirect")
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5 * np.abs(outputs[0]).max())
    np.testing.assert_allclose(outputs[2], outputs[0], atol=1e-5 * np.abs(outputs[0]).max())
    # Signs within rounding of zero may flip; that is a few out of hundred thousands.
    wanted = keras.ops.convert_to_numpy(model(images))
    for one, other in zip(outputs[0], wanted, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.98
    if size == 224:
        assert made.file_bytes <= 4.25e6


def test_without_verify_the_structure_is_still_read(randomized, monkeypatch) -> None:
    found = converters.convert(randomized(_small()), verify=False).verification
    assert found.passed and found.kernels == {} and found.probe_max_difference is None
    assert found.binary_layers_converted == 1
    monkeypatch.setattr(builder.Builder, "sign", lambda self, x, name: x)
    with pytest.raises(converters.ConversionError, match="0 of 1 binary layers are LceBconv2d"):
        converters.convert(randomized(_small()), verify=False)


def test_a_strict_failure_writes_nothing(randomized, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(builder.Builder, "sign", lambda self, x, name: x)
    model, path = randomized(_small()), tmp_path / "model.tflite"
    path.write_bytes(b"what was there before")
    with pytest.raises(converters.ConversionError, match="'small' is not right, and was not"):
        converters.convert(model, path)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"what was there before"

    made = converters.convert(model, path, strict=False)
    assert not made.verification.passed
    assert path.read_bytes() == made.flatbuffer


def test_an_output_that_cannot_be_written(randomized, tmp_path) -> None:
    model = randomized(_small())
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "model.tflite", tmp_path / "folder"):
        with pytest.raises(OSError, match="file|folder"):
            converters.convert(model, path, verify=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert [*(tmp_path / "folder").iterdir()] == []


@pytest.mark.parametrize("batch_size", [0, -1, 1.0, "1", None, True])
def test_a_wrong_batch_size_is_named(batch_size) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer. Received: "):
        converters.convert(_small(), batch_size=batch_size)


def test_wrong_inputs_are_named() -> None:
    for inputs in (np.zeros((2, 6, 5, 3)), {"picture": np.zeros((2, 6, 6, 3))}, np.zeros(3)):
        with pytest.raises(ValueError, match=r"`inputs` must .*\(6, 6, 3\).* Received: "):
            converters.convert(_small(), inputs=inputs)


def test_wrong_models_are_named(tmp_path) -> None:
    with pytest.raises(TypeError, match="`model_or_path` must be .* Received: int"):
        converters.convert(1)
    with pytest.raises(FileNotFoundError, match="missing.keras"):
        converters.convert(tmp_path / "missing.keras")
    for name, content in (("text.keras", b"no archive"), ("empty.keras", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            converters.convert(tmp_path / name, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()


def test_a_missing_extra_is_one_clear_error(monkeypatch, tmp_path) -> None:
    python = tmp_path / "python"
    # -I -S: this Python without its installed packages.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("BNNKERAS_DEPLOY_PYTHON", os.fspath(python))
    worker = DeployWorker()
    for module in (conversion, verification):
        monkeypatch.setattr(module, "get_worker", lambda: worker)
    with pytest.raises(ImportError, match=r'pip install "bnnkeras\[deploy\]"'):
        converters.convert(_small(), tmp_path / "model.tflite")
    assert [*tmp_path.iterdir()] == [python]
