"""Distillation inside `fit`: the loss, what is trained, what is reported, what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras.datasets import Batches
from bnnkeras.training import Distiller, SoftCrossEntropy, fit_resumable


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def softmax(x):
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def networks(regularizer=None):
    """A student with two heads and the softmax of their mean, and a teacher that has dropout."""
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization(name="norm")(inputs)
    heads = [
        keras.layers.Dense(3, kernel_regularizer=regularizer, name=name)(x)
        for name in ("hard", "soft")
    ]
    mean = keras.layers.Average()(heads)
    student = keras.Model(inputs, keras.layers.Softmax()(mean), name="student")
    teacher = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)], name="teacher"
    )
    return student, teacher


def test_loss_and_gradient(numerics, float64):
    teacher, student = (random((5, 3), seed).astype("float64") for seed in (0, 1))
    for temperature in (1.0, 4.0):
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        criterion = SoftCrossEntropy(temperature)
        result = numerics.gradients(
            lambda z: z, [student], loss=lambda z, c=criterion: c(teacher, z)
        )
        numerics.assert_close(result.inputs[0], (q - p) / temperature / 5)
        value = numpy(criterion(teacher, student))
        numerics.assert_close(value, -(p * np.log(q)).sum(axis=-1).mean())
        copy = SoftCrossEntropy.from_config(criterion.get_config())
        assert copy.temperature == temperature


def test_the_teachers_logits_take_no_gradient(numerics):
    logits = random((5, 3), 1)
    result = numerics.gradients(
        # PyTorch differentiates nothing that does not depend on z at all.
        lambda z: z,
        [random((5, 3))],
        loss=lambda z: SoftCrossEntropy()(z, logits) + keras.ops.sum(0.0 * z),
    )
    assert not result.inputs[0].any()


@pytest.mark.parametrize("from_logits", [True, False])
def test_one_step(from_logits):
    """Against the same step written out."""
    student, teacher = networks(keras.regularizers.L2(0.1))
    if not from_logits:
        teacher.add(keras.layers.Softmax())
    distiller = Distiller(
        student, teacher, "hard", "soft", 0.3, 2.0, teacher_from_logits=from_logits
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
    x, y = random((8, 4)), np.arange(8) % 3
    before = {variable.path: numpy(variable).copy() for variable in student.weights}
    of_teacher = [numpy(variable).copy() for variable in teacher.weights]
    logs = distiller.fit(x, y, batch_size=8, verbose=0).history

    centred = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-3)
    kernels = {name: before[f"{name}/kernel"] for name in ("hard", "soft")}
    hard, soft = (centred @ kernels[name] for name in ("hard", "soft"))
    target = softmax(numpy(teacher(x)) if from_logits else np.log(numpy(teacher(x))))
    target = softmax(np.log(target) / 2)
    hard_loss = -np.log(softmax(hard)[np.arange(8), y]).mean()
    soft_loss = -4 * (target * np.log(softmax(soft / 2))).sum(axis=-1).mean()
    penalty = 0.1 * sum((kernel**2).sum() for kernel in kernels.values())
    np.testing.assert_allclose(logs["hard_loss"], hard_loss, rtol=1e-4)
    np.testing.assert_allclose(logs["soft_loss"], soft_loss, rtol=1e-4)
    total = 0.7 * hard_loss + 0.3 * soft_loss + penalty
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-4)
    accuracy = np.mean(((hard + soft) / 2).argmax(-1) == y)
    np.testing.assert_allclose(logs["accuracy"], accuracy, rtol=1e-6)

    wanted = {
        "hard": 0.7 * centred.T @ (softmax(hard) - np.eye(3)[y]) / 8,
        "soft": 0.3 * 4 * centred.T @ (softmax(soft / 2) - target) / 2 / 8,
    }
    for name, gradient in wanted.items():
        gradient = gradient + 0.2 * kernels[name]
        expected = kernels[name] - 0.5 * gradient
        found = numpy(student.get_layer(name).kernel)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(
        numpy(student.get_layer("norm").moving_mean), before["norm/moving_mean"]
    )
    for variable, value in zip(teacher.weights, of_teacher, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)


def test_evaluate_and_predict_look_at_the_students_output():
    student, teacher = networks()
    distiller = Distiller(student, teacher, "hard")
    distiller.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalCrossentropy(name="crossentropy")],
    )
    x, y = random((8, 4)), np.arange(8) % 3
    outputs = distiller.predict(x, verbose=0)
    np.testing.assert_allclose(outputs, numpy(student(x)), rtol=1e-5)
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    crossentropy = -np.log(outputs[np.arange(8), y]).mean()
    np.testing.assert_allclose(logs["crossentropy"], crossentropy, rtol=1e-5)
    assert sorted(logs) == ["crossentropy", "hard_loss", "loss", "soft_loss"]


def test_interrupted_training_goes_on(tmp_path):
    """The weights of a distiller are those of its parts, saved and restored."""
    x, y = random((8, 4)), np.arange(8) % 3
    results = []
    for epochs in ((2,), (1, 2)):
        keras.utils.set_random_seed(0)
        student, teacher = networks()
        start = student.get_weights()
        for stop in epochs:
            student.set_weights(start)
            distiller = Distiller(student, teacher, "hard", "soft")
            distiller.compile(
                keras.optimizers.Adam(0.1),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )

            class Interrupt(keras.callbacks.Callback):
                def on_epoch_begin(self, epoch, logs=None, stop=stop):
                    if epoch == stop:
                        raise KeyboardInterrupt

            try:
                fit_resumable(
                    distiller,
                    Batches(x, y, 4),
                    2,
                    tmp_path,
                    callbacks=[Interrupt()],
                    verbose=0,
                )
            except KeyboardInterrupt:
                assert stop < 2
        results.append(student.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"hard_layer": "top"}, ValueError, "`hard_layer` must be .*Received: hard_layer='top'"),
        ({"soft_layer": "top"}, ValueError, "`soft_layer` must be .*Received: soft_layer='top'"),
        ({"weight": 1.5}, ValueError, "`weight` must be .*Received: weight=1.5"),
        ({"temperature": 0}, ValueError, "`temperature` must be .*Received: temperature=0"),
        ({"teacher": np.zeros(3)}, TypeError, "`teacher` must be .*Received: ndarray"),
        ({"student": keras.Model()}, TypeError, "`student` must be .*Received: Model"),
    ],
)
def test_bad_arguments(arguments, error, message):
    student, teacher = networks()
    with pytest.raises(error, match=message):
        Distiller(**{"student": student, "teacher": teacher, "hard_layer": "hard", **arguments})
