"""Quantized weights, and files with one bit per weight."""

import json
import logging
import os
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers, models, quantizers
from bnnkeras.models import packed_files, packing

SUFFIXES = (".npz", ".safetensors")
KERNELS = {
    "approx_sign": lambda: quantizers.ApproxSign(),
    "approx_sign, sign(0) = 0": lambda: quantizers.ApproxSign(sign_of_zero=0),
    "bivit": lambda: quantizers.BiViTKernel(),
    "bivit, mean": lambda: quantizers.BiViTKernel(learned_scale=False),
    "ede": lambda: quantizers.EDESign(),
    "libra": lambda: quantizers.LibraKernel(),
    "lsr": lambda: quantizers.LSRKernel(),
    "magnitude_aware": lambda: quantizers.MagnitudeAwareSign(),
    "magnitude_aware, all": lambda: quantizers.MagnitudeAwareSign(axes="all"),
    "ste_heaviside": lambda: quantizers.SteHeaviside(),
    "ste_sign": lambda: quantizers.SteSign(),
    "ste_tern": lambda: quantizers.SteTern(0.3),
    "ste_tern, networks": lambda: quantizers.SteTern(ternary_weight_networks=True),
    "function": lambda: quantizers.ste_sign,
}
IN_FLOATS = {
    "xnor": lambda: quantizers.XNORKernel(),
    "dorefa": lambda: quantizers.DoReFa(3, "weights"),
    "int8": lambda: quantizers.UniformQuantizer(),
    "lsq": lambda: quantizers.LSQ(4, "weights"),
}


def network(quantizer=None) -> keras.Model:
    """Sums of 27 and of 333 magnitudes, neither of which is exact in floats."""
    quantizer = quantizer or KERNELS["magnitude_aware"]
    options = {"kernel_constraint": "weight_clip", "use_bias": False}
    return keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            layers.QuantConv2D(37, 3, kernel_quantizer=quantizer(), **options),
            keras.layers.BatchNormalization(),
            layers.QuantConv2D(
                24, 3, input_quantizer="rsign", kernel_quantizer=quantizer(), **options
            ),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )


X = np.random.default_rng(0).uniform(-1, 1, (16, 9, 9, 3)).astype("float32")


def trained(quantizer=None) -> keras.Model:
    """Weights and statistics as training leaves them, and quantizers that have started."""
    model = network(quantizer)
    for index, variable in enumerate(model.trainable_variables):
        values = np.random.default_rng(index).uniform(-0.9, 0.9, variable.shape)
        moves = variable.name in ("scale_offset", "step_offset")
        variable.assign(0.01 * values if moves else values)
    model(X, training=True)
    return model


def warnings(caplog) -> set[str]:
    """The kernels that warnings of the package name."""
    return {record.args[0] for record in caplog.records if record.name == "bnnkeras.models"}


def assert_round_trip(model, other, path) -> None:
    """`other` computes what `model` does, bit by bit, and saves the same file."""
    models.save_packed(model, path)
    expected = model.predict(X, verbose=0)
    assert not np.array_equal(other.predict(X, verbose=0), expected)
    models.load_packed(other, path)
    np.testing.assert_array_equal(other.predict(X, verbose=0), expected)
    weights = models.quantized_weights(model).values()
    for value, original in zip(models.quantized_weights(other).values(), weights, strict=True):
        np.testing.assert_array_equal(value, original)
    again = path.with_name(f"again{path.suffix}")
    models.save_packed(other, again)
    assert parts(again) == parts(path)


def parts(path) -> list[list[str]]:
    header, _ = packed_files._read(path)
    return [weight["parts"] for weight in header["weights"]]


@pytest.mark.parametrize("name", KERNELS)
def test_round_trip_of_bits(name, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="bnnkeras.models")
    model, other = trained(KERNELS[name]), network(KERNELS[name])
    assert_round_trip(model, other, tmp_path / "weights.npz")
    kernels = [found for found in parts(tmp_path / "weights.npz") if found != ["values"]]
    ternary = name in ("ste_heaviside", "ste_tern", "ste_tern, networks")
    assert kernels == [["nonzero"] * ternary + ["scale", "signs"]] * 2
    assert warnings(caplog) == set()


@pytest.mark.parametrize("name", IN_FLOATS)
def test_round_trip_of_other_kernels(name, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="bnnkeras.models")
    model, other = trained(IN_FLOATS[name]), network(IN_FLOATS[name])
    assert_round_trip(model, other, tmp_path / "weights.npz")
    assert all(found == ["values"] for found in parts(tmp_path / "weights.npz"))
    # That a binary kernel is stored in floats is a surprise, and said.
    assert warnings(caplog) == (
        {v.path for m in (model, other) for v in m.weights if "quant" in v.path and v.ndim == 4}
        if name == "xnor"
        else set()
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_both_formats(suffix, tmp_path):
    other = network()
    assert_round_trip(trained(), other, tmp_path / f"weights{suffix}")
    # Training goes on from there.
    other.compile("sgd", "mse")
    losses = [other.fit(X, np.ones((16, 5)), verbose=0).history["loss"][0] for _ in range(5)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_size(suffix, tmp_path):
    layer = layers.QuantDense(
        1000, kernel_quantizer="magnitude_aware_sign", kernel_constraint="weight_clip"
    )
    models.save_packed(keras.Sequential([keras.Input((2001,)), layer]), tmp_path / f"w{suffix}")
    size = os.path.getsize(tmp_path / f"w{suffix}")
    needed = 2001 * 1000 // 8 + 2 * 4 * 1000  # Signs, scales and the bias.
    assert needed <= size < needed + 2500


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_other_precisions(policy, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        assert_round_trip(trained(), network(), tmp_path / "weights.npz")
    finally:
        keras.config.set_dtype_policy(before)


def test_float64(float64, tmp_path):
    assert_round_trip(trained(), network(), tmp_path / "weights.npz")


def test_constant_negative_and_zero_scales(tmp_path):
    """All channels of one scale, a channel of zeros, and a trained scale below 0."""

    def make(quantizer):
        return keras.Sequential(
            [keras.Input((7,)), layers.QuantDense(3, kernel_quantizer=quantizer)]
        )

    signs = np.sign(np.random.default_rng(1).normal(size=(7, 3)))
    for index, (quantizer, kernel) in enumerate(
        [
            ("magnitude_aware_sign", 0.3 * signs),
            ("magnitude_aware_sign", signs * [0, 0.1, 0.2]),
            ("lsr_kernel", signs),
        ]
    ):
        model, other = make(quantizer), make(quantizer)
        model.layers[0].kernel.assign(kernel)
        if quantizer == "lsr_kernel":
            model.layers[0].kernel_quantizer.scale.assign(-0.7)
        models.save_packed(model, tmp_path / f"{index}.npz")
        assert "signs" in parts(tmp_path / f"{index}.npz")[0]
        models.load_packed(other, tmp_path / f"{index}.npz")
        kernels = [next(iter(models.quantized_weights(m).values())) for m in (model, other)]
        assert kernels[0].any()
        np.testing.assert_array_equal(kernels[1], kernels[0])


def test_exact_means_do_not_depend_on_the_order_of_sums():
    generator = np.random.default_rng(0)
    scale = np.abs(generator.normal(size=(50, 333)).astype("float32")).mean(axis=1, keepdims=True)
    values = scale * np.sign(generator.normal(size=(50, 333))).astype("float32")
    latent = packing._with_exact_means(values, scale, divides=True)
    assert latent.dtype == np.float32
    np.testing.assert_array_equal(np.sign(latent), np.sign(values))
    for _ in range(3):
        total = np.zeros(50, "float32")
        for column in generator.permutation(np.abs(latent), axis=1).T:
            total += column
        np.testing.assert_array_equal(total / np.float32(333), scale[:, 0])


def test_pack_and_unpack():
    generator = np.random.default_rng(0)
    for shape in [(3, 3, 2, 5), (13, 4), (9,)]:
        values = generator.choice([-1.0, 0.0, 1.0], shape) * np.arange(1, shape[-1] + 1)
        if len(shape) == 1:
            values = np.sign(values) * 2
        packed = packing.PackedKernel.pack(values)
        assert packed.scale.size == (1 if len(shape) == 1 else shape[-1])
        np.testing.assert_array_equal(packed.unpack(), values)
    for values in (generator.normal(size=(4, 4)), np.array([[1.0, np.nan]] * 3)):
        assert packing.PackedKernel.pack(values) is None


def test_bits_are_laid_out_as_documented():
    packed = packing.PackedKernel.pack(np.array([[2, -2, 2], [2, 2, -2], [0, -2, 2]], "float32"))
    assert packed.signs.tolist() == [0b10111000, 0b10000000]
    assert packed.nonzero.tolist() == [0b11111101, 0b10000000]
    assert packed.scale.tolist() == [[2.0]]


def test_quantized_weights():
    model = trained()
    found = models.quantized_weights(model)
    assert list(found) == [variable.path for variable in model.weights]
    kernel = found[model.layers[0].kernel.path]
    latent = ops.convert_to_numpy(model.layers[0].kernel)
    np.testing.assert_array_equal(kernel > 0, latent >= 0)
    np.testing.assert_allclose(np.abs(kernel[0, 0, 0]), np.abs(latent).mean((0, 1, 2)), rtol=1e-6)
    last = list(found.values())[-2]
    np.testing.assert_array_equal(last, ops.convert_to_numpy(model.layers[-1].kernel))


def test_weights_of_one_path_are_all_there():
    layer = keras.layers.Dense(2, name="same")
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="same")], name="inner")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, inner(layer(inputs)))
    for variable in model.weights:
        variable._path = "same/weight"
    names = ["same/weight", *(f"same/weight#{number}" for number in (2, 3, 4))]
    assert list(models.quantized_weights(model)) == names


# --- What does not fit, and what is broken ----------------------------------------------------


def assert_refused(path, model, message) -> None:
    before = [array.copy() for array in model.get_weights()]
    with pytest.raises(ValueError, match=message) as info:
        models.load_packed(model, path)
    assert repr(str(path)) in str(info.value)
    for value, original in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, original)


def test_other_models_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    models.save_packed(trained(), path)
    other = keras.Sequential([keras.Input((9, 9, 3)), *network().layers[:-1]])
    assert_refused(path, other, "holds 13 weights, the model has 11; nothing was loaded. 0 differ")
    other = keras.Sequential(
        [keras.Input((9, 9, 3)), *network().layers[:-1], keras.layers.Dense(6)]
    )
    assert_refused(path, other, r"(?s)2 differ. #11: file .*\(24, 5\) float32 \| model .*\(24, 6\)")


def test_a_quantizer_that_cannot_give_the_values_is_refused(tmp_path):
    path = tmp_path / "weights.npz"
    models.save_packed(trained(), path)
    assert_refused(path, network(KERNELS["ste_sign"]), "SteSign.* cannot give the values")
    # Binary weights are a fixed point of this one, and plain layers take any.
    models.save_packed(trained(KERNELS["ste_sign"]), path)
    models.load_packed(network(KERNELS["magnitude_aware"]), path)
    models.load_packed(network(lambda: None), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(suffix, tmp_path):
    good, bad = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    models.save_packed(trained(), good)
    model, data = network(), good.read_bytes()
    generator = np.random.default_rng(0)
    damaged = [b"", data[:100], data[:-30], data[: len(data) // 2], data + b"x" * 9, b"x" * 999]
    for position in generator.integers(0, len(data), 40):
        damaged.append(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
    loaded = network()
    models.load_packed(loaded, good)
    expected, refused = loaded.get_weights(), 0
    for content in damaged:
        bad.write_bytes(content)
        try:
            models.load_packed(model, bad)
        except ValueError as error:
            assert "damaged or none that bnnkeras" in str(error)
            refused += 1
        else:
            # Bytes without a meaning, such as dates in a zip file.
            for value, original in zip(model.get_weights(), expected, strict=True):
                np.testing.assert_array_equal(value, original)
    assert refused >= 30


def edited(path, edit):
    """The file at `path` with another header or arrays and the checksum that goes with them."""
    header, arrays = packed_files._read(path)
    edit(header, arrays)
    if "weights" in header:
        header["crc32"] = packed_files._checksum(header["weights"], arrays)
    packed_files._write(path, json.dumps(header), arrays)


def test_foreign_files(tmp_path):
    model = network()
    path = tmp_path / "weights.npz"
    unfit = "damaged or none that bnnkeras.models.save_packed wrote"
    np.savez(path, np.ones(3))
    assert_refused(path, model, unfit)
    np.savez(path, header=np.array([{"an": "object"}]))
    assert_refused(path, model, unfit)
    np.savez_compressed(path, header=np.zeros(10**7, "uint8"))
    assert_refused(path, model, rf"{unfit} \(its members take more bytes")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", "no array")
    assert_refused(path, model, unfit)
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(tmp_path / "model.keras")
    os.replace(tmp_path / "model.keras", path)
    assert_refused(path, model, unfit)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda header, arrays: header.update(format="bnnkeras packed weights 9"), "weights 9'"),
        (lambda header, arrays: header.pop("weights"), "'weights'"),
        (lambda header, arrays: header["weights"][0].update(shape=[27, 37]), "scale of shape"),
        (lambda header, arrays: header["weights"][0].update(shape=[9**9] * 4), "uint8 bits"),
        (lambda header, arrays: header["weights"][1].update(shape=[2]), "another shape"),
        (lambda header, arrays: header["weights"][0].update(parts=["signs"]), "'scale'"),
        (lambda header, arrays: header["weights"][0].update(path="other"), "other/s"),
    ],
)
def test_headers_that_lie(edit, message, tmp_path):
    path = tmp_path / "weights.npz"
    models.save_packed(trained(), path)
    edited(path, edit)
    assert_refused(path, network(), message)


def test_errors(tmp_path, monkeypatch):
    model = network()
    for function in (models.save_packed, models.load_packed):
        with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: 'a name'"):
            function("a name", tmp_path / "weights.npz")
        with pytest.raises(ValueError, match="must be built"):
            function(keras.Sequential([keras.layers.Dense(1)]), tmp_path / "weights.npz")
        with pytest.raises(ValueError, match=r"must end in one of.*Received: path='.*weights.h5'"):
            function(model, tmp_path / "weights.h5")
    with pytest.raises(FileNotFoundError, match="There is no file '.*weights.npz'"):
        models.load_packed(model, tmp_path / "weights.npz")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for function in (models.save_packed, models.load_packed):
        with pytest.raises(ImportError, match="choose a path that ends in .npz"):
            function(model, tmp_path / "weights.safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failing_write_leaves_the_old_file(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"weights{suffix}"
    model = trained()
    models.save_packed(model, path)
    before = path.read_bytes()

    def fail(path, *arguments):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(packed_files, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        models.save_packed(model, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
