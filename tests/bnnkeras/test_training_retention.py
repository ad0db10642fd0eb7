"""LCR-BNN's regularizer against the official numbers, and as a trainer inside `fit`."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers, training
from bnnkeras.training import LipschitzRetention, fit_resumable, retention

SETS = {
    "four": [(3, 8, 16, 16), (3, 12, 8, 8), (3, 16, 4, 4), (3, 20, 2, 2)],
    "three": [(2, 8, 8, 8), (2, 12, 4, 4), (2, 16, 2, 2)],
    "odd": [(2, 6, 9, 11), (2, 5, 7, 7), (2, 4, 7, 7), (2, 6, 3, 4)],
}


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


@pytest.fixture
def features(fill):
    def make(case):
        shapes = SETS[case]
        binary = [fill.fill_input(f"lcr_{case}:binary{i}", s) for i, s in enumerate(shapes)]
        full = [fill.fill_input(f"lcr_{case}:full{i}", s, 0.0, 2.0) for i, s in enumerate(shapes)]
        return [nhwc(x) for x in binary], [nhwc(x) for x in full]

    return make


# --- The official numbers --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "full"])
@pytest.mark.parametrize("case", SETS)
def test_official_values(case, kind, float64, goldens, features, numerics):
    golden = goldens("lcrbnn", "lcr")
    maps = features(case)[kind == "full"]
    for index, pair in enumerate(zip(maps, maps[1:], strict=False)):
        key = f"{case}.retention_{kind}{index}"
        numerics.assert_close(numpy(training.retention_matrix(*pair)), golden[key], label=key)
        for iterations in (1, 2, 5, 30):
            key = f"{case}.top_{kind}{index}_iter{iterations}"
            value = numpy(training.retention_value(*pair, iterations=iterations))
            numerics.assert_close(value, golden[key].reshape(-1), label=key)
        exact = golden[f"{case}.sigma_exact_{kind}{index}"]
        value = numpy(training.retention_value(*pair, iterations=200, normalize_start=True))
        numerics.assert_close(value, exact, 1e-5, label="converged")


@pytest.mark.parametrize("case", SETS)
def test_official_loss_and_gradients(case, float64, goldens, features, numerics, fill):
    golden = goldens("lcrbnn", "lcr")
    binary, full = features(case)
    result = numerics.gradients(lambda *maps: training.lipschitz_retention_loss(maps, full), binary)
    numerics.assert_close(result.value, golden[f"{case}.loss"], label="loss")
    for index, gradient in enumerate(result.inputs):
        expected = nhwc(golden[f"{case}.grad_binary{index}"])
        numerics.assert_close(gradient, expected, label=f"gradient {index}")

    gamma = 1 + 0.5 * fill.fill_input(f"lcr_{case}:gamma", (1, len(binary)))

    def scaled(gamma):
        maps = [gamma[0, index] * ops.convert_to_tensor(x) for index, x in enumerate(binary)]
        return training.lipschitz_retention_loss(maps, full)

    result = numerics.gradients(scaled, [gamma])
    numerics.assert_close(result.value, golden[f"{case}.loss_gamma"], label="loss of gamma")
    numerics.assert_close(result.inputs[0], golden[f"{case}.grad_gamma"], label="grad of gamma")


@pytest.mark.slow
@pytest.mark.parametrize("case", SETS)
def test_form_of_the_paper(case, float64, goldens, features, numerics):
    golden = goldens("lcrbnn", "lcr")
    binary, full = features(case)
    for beta in (1, 2):

        def loss(*maps, beta=beta):
            # Enough steps to converge; the golden values have the exact singular values.
            return training.lipschitz_retention_loss(
                maps, full, form="paper", iterations=150, normalize_start=True, beta=beta
            )

        result = numerics.gradients(loss, binary)
        numerics.assert_close(result.value, golden[f"{case}.paper_loss_beta{beta}"])
        if beta == 2:
            for index, gradient in enumerate(result.inputs):
                expected = nhwc(golden[f"{case}.paper_grad_beta2_binary{index}"])
                numerics.assert_close(gradient, expected, label=f"gradient {index}")


# --- Properties --------------------------------------------------------------------------------


def test_features_of_zeros_give_no_nan(numerics):
    zeros = [np.zeros((2, 4, 4, 3), "float32"), np.zeros((2, 2, 2, 5), "float32")]
    ones = [np.ones_like(x) for x in zeros]
    result = numerics.gradients(
        lambda *maps: training.lipschitz_retention_loss(maps, ones, iterations=3), zeros
    )
    assert np.isfinite(result.value)
    assert all(np.isfinite(gradient).all() for gradient in result.inputs)


def test_half_precision_computes_in_float32():
    generator = np.random.default_rng(0)
    maps = [generator.uniform(0, 300, (2, 4, 4, 64)) for _ in range(2)]
    half = [ops.cast(x, "float16") for x in maps]
    value = training.retention_value(*half)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    expected = training.retention_value(*(ops.cast(x, "float32") for x in half))
    np.testing.assert_array_equal(numpy(value), numpy(expected))
    assert numpy(value).min() > 1e5  # Its square overflows float16.


@pytest.mark.parametrize(
    "change, message",
    [
        ({"form": "exact"}, "`form` must be one of.*Received: form='exact'"),
        ({"teacher_features": []}, "equally many, and two or more. Received: 2 and 0"),
    ],
)
def test_bad_arguments_of_the_loss(change, message):
    maps = [np.ones((1, 4, 4, 2))] * 2
    arguments = {"student_features": maps, "teacher_features": maps, **change}
    with pytest.raises(ValueError, match=message):
        training.lipschitz_retention_loss(**arguments)


def test_bad_features():
    with pytest.raises(ValueError, match="Received: iterations=0"):
        training.retention_value(np.ones((1, 2, 2, 3)), np.ones((1, 2, 2, 3)), iterations=0)
    with pytest.raises(ValueError, match=r"must be \(batch, height.*Received: shape \(1, 4\)"):
        training.retention_value(np.ones((1, 4)), np.ones((1, 2, 2, 3)))
    with pytest.raises(ValueError, match="known sizes"):
        retention.retention_matrix(keras.KerasTensor((2, None, 4, 3)), keras.KerasTensor((2,) * 4))


# --- The trainer -------------------------------------------------------------------------------


def networks(binary=True, width=8):
    def build(name, quantized, activation):
        inputs = keras.Input((8, 8, 3))
        x = inputs
        for stage in (1, 2):
            quantizers = (
                {"input_quantizer": "ede_sign", "kernel_quantizer": "libra_kernel"}
                if quantized
                else {}
            )
            x = layers.QuantConv2D(
                width, 3, strides=stage, padding="symmetric", use_bias=False, **quantizers
            )(x)
            x = keras.layers.BatchNormalization(momentum=0.5)(x)
            x = keras.layers.Activation(activation, name=f"stage{stage}_output")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(3)(x), name=name)

    return build("student", binary, "tanh"), build("teacher", False, "linear")


def data(count=8):
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 8, 8, 3)).astype("float32"), np.arange(count) % 3


def compiled(trainer, rate=0.1):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
    return trainer


def test_loss_is_the_compiled_one_plus_the_regularizer():
    student, teacher = networks()
    trainer = compiled(LipschitzRetention(student, teacher, alpha=800.0, batch_size=4))
    trainer.gamma.assign([0.5, 2.0])
    x, y = data()
    tapped = {
        model: keras.Model(
            model.input,
            [model.output] + [model.get_layer(f"stage{s}_output").output for s in (1, 2)],
        )
        for model in (student, teacher)
    }
    # Copies: a call in training mode moves the student's statistics.
    weights = student.get_weights()
    logits, *binary = tapped[student](x, training=True)
    student.set_weights(weights)
    _, *full = tapped[teacher](x, training=False)
    binary = [scale * np.clip(numpy(f), -1, 1) for scale, f in zip((0.5, 2.0), binary, strict=True)]
    full = [np.maximum(numpy(f), 0) for f in full]
    penalty = 800 / (4 * 1e4) * float(training.lipschitz_retention_loss(binary, full))
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)

    logs = trainer.fit(x, y, batch_size=8, verbose=0).history
    assert logs["retention_loss"][0] == pytest.approx(penalty, rel=1e-4) and penalty > 1e-3
    assert logs["loss"][0] == pytest.approx(float(numpy(plain)) + penalty, rel=1e-4)


def test_fit_trains_student_and_gamma_only():
    student, teacher = networks()
    trainer = compiled(LipschitzRetention(student, teacher, alpha=8e4))
    assert [v.name for v in trainer.trainable_variables if v is trainer.gamma] == ["gamma"]
    assert len(trainer.trainable_variables) == len(student.trainable_variables) + 1
    assert not any(variable is trainer.gamma for variable in student.weights)
    before = [numpy(v).copy() for v in (*student.weights, trainer.gamma)]
    frozen = [numpy(v).copy() for v in teacher.weights]
    x, y = data()
    trainer.fit(x, y, epochs=2, verbose=0)
    for variable, value in zip((*student.weights, trainer.gamma), before, strict=True):
        assert not np.array_equal(numpy(variable), value), variable.path
    for variable, value in zip(teacher.weights, frozen, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
    np.testing.assert_array_equal(trainer.predict(x, verbose=0), student.predict(x, verbose=0))
    assert trainer.evaluate(x, y, verbose=0, return_dict=True).keys() >= {"loss", "accuracy"}


def test_teacher_in_training_mode_tracks_statistics_only():
    student, teacher = networks()
    trainer = compiled(LipschitzRetention(student, teacher, teacher_training=True))
    before = {v.path: numpy(v).copy() for v in teacher.weights}
    x, y = data()
    trainer.fit(x, y, verbose=0)
    for variable in teacher.weights:
        moved = not np.array_equal(numpy(variable), before[variable.path])
        assert moved == ("moving" in variable.name), variable.path


def test_without_alpha_it_is_the_student(monkeypatch):
    x, y = data()
    ends = []
    for wrapped in (False, True):
        keras.utils.set_random_seed(3)
        student, teacher = networks()
        model = LipschitzRetention(student, teacher, alpha=0) if wrapped else student
        compiled(model).fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
        ends.append(student.get_weights())
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        student, teacher = networks()
        trainer = LipschitzRetention(student, teacher, alpha=100.0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert trainer.gamma.dtype == "float32"
    x, y = data()
    logs = compiled(trainer).fit(x, y, verbose=0).history
    assert np.isfinite(logs["loss"]).all() and logs["retention_loss"][0] > 0


class _Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_resumed_training_equals_the_uninterrupted(tmp_path):
    from bnnkeras.callbacks import EDESchedule
    from bnnkeras.datasets import Batches

    def trainer():
        keras.utils.set_random_seed(5)
        return compiled(LipschitzRetention(*networks(), alpha=8e3, teacher_training=True), 0.01)

    def run(model, folder, *callbacks):
        batches = Batches(*data(16), 8)
        schedule = EDESchedule(t_max=1.0)
        return fit_resumable(model, batches, 4, folder, callbacks=[schedule, *callbacks], verbose=0)

    straight = trainer()
    wanted = run(straight, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(trainer(), tmp_path / "b", _Stop())
    assert json.loads((tmp_path / "b/state.json").read_text())["epoch"] == 2
    resumed = trainer()
    history = run(resumed, tmp_path / "b")
    for key in ("loss", "retention_loss", "ede_t"):
        np.testing.assert_allclose(history[key], wanted[key], rtol=1e-4)
    for one, other in zip(resumed.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_save_and_load(tmp_path):
    trainer = LipschitzRetention(*networks(), alpha=3.0, iterations=2, form="paper", beta=1.5)
    trainer.gamma.assign([0.25, 4.0])
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert (loaded.alpha, loaded.iterations, loaded.form, loaded.beta) == (3.0, 2, "paper", 1.5)
    np.testing.assert_array_equal(numpy(loaded.gamma), [0.25, 4.0])
    x, _ = data()
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(trainer(x)))
    assert len(loaded.weights) == len(trainer.weights)
    assert not loaded.teacher.trainable_variables


def test_taps_by_name():
    student, teacher = networks()
    trainer = LipschitzRetention(student, teacher)
    assert trainer.student_taps == ("stage1_output", "stage2_output")
    named = LipschitzRetention(
        student,
        teacher,
        student_taps=["stage2_output", "stage1_output"],
        teacher_taps=["stage1_output", "stage2_output"],
        stage_scales=False,
    )
    assert named.gamma is None and named.student_taps == ("stage2_output", "stage1_output")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"alpha": -1}, ValueError, "`alpha` must be .*Received: alpha=-1"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be .*Received: batch_size=0"),
        ({"iterations": 1.5}, ValueError, "`iterations` must be .*Received: iterations=1.5"),
        ({"beta": 0}, ValueError, "`beta` must be .*Received: beta=0"),
        ({"form": "other"}, ValueError, "`form` must be .*Received: form='other'"),
        ({"student_taps": ["none"]}, ValueError, r"`student_taps` must be .*\['none'\]"),
        ({"teacher_taps": ["stage1_output"]}, ValueError, "must be equally many"),
        ({"teacher": keras.Sequential([])}, TypeError, "`teacher` must be a functional"),
    ],
)
def test_bad_arguments(change, error, message):
    student, teacher = networks()
    with pytest.raises(error, match=message):
        LipschitzRetention(**{"student": student, "teacher": teacher, **change})
