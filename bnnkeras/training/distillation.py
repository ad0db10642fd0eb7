"""Distillation: a student that learns from labels and from a teacher's probabilities, in `fit`."""

import keras
from keras import ops

from bnnkeras.registration import register


@register
class SoftCrossEntropy(keras.losses.Loss):
    """-sum_c p_c log q_c, p = softmax(teacher / T), q = softmax(student / T), of logits.

    It is the Kullback-Leibler divergence plus the entropy of p. p takes no gradient.

    Args:
        temperature: Positive float T. Defaults to 1.
        name: Name of the loss.
        **kwargs: As `keras.losses.Loss`.

    Call arguments:
        y_true: The teacher's logits, `(batch, ..., classes)`; logarithms of probabilities serve as
            well.
        y_pred: The student's logits.

    Raises:
        ValueError: If `temperature` is not positive.

    Example:
        >>> import keras, numpy as np
        >>> from bnnkeras.training import SoftCrossEntropy
        >>> loss = SoftCrossEntropy()(np.array([[0.0, 0.0]]), np.array([[1.0, 1.0]]))
        >>> round(float(keras.ops.convert_to_numpy(loss)), 4)
        0.6931

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network (2015), section 2.
    """

    def __init__(self, temperature: float = 1.0, name="soft_cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        if not isinstance(temperature, (int, float)) or not temperature > 0:
            raise ValueError(
                f"`temperature` must be a positive number. Received: temperature={temperature!r}"
            )
        self.temperature = temperature

    def call(self, y_true, y_pred):
        probabilities = ops.stop_gradient(ops.softmax(y_true / self.temperature))
        return -ops.sum(probabilities * ops.log_softmax(y_pred / self.temperature), axis=-1)

    def get_config(self) -> dict:
        return {**super().get_config(), "temperature": self.temperature}


class Distiller(keras.Model):
    """Trains a student on labels and on a teacher: loss = (1 - w) hard + w T^2 soft.

    `hard` is the loss given to `compile`, of the logits of the layer `hard_layer`; `soft` is the
    `SoftCrossEntropy` of the layer `soft_layer` and the teacher. Both may be the same layer: with
    two, each learns from one source, and the student's output can be their mean. Metrics and
    `predict` look at the student's output. The teacher sees the same batches, in inference mode.

    `fit` trains the student itself: save, evaluate and convert that.

    Args:
        student: A functional or Sequential model with one output. It may end in a softmax, but both
            layers must return logits.
        teacher: A model on the same inputs, of one output with the shape of the logits. It is
            frozen: its `trainable` becomes `False`.
        hard_layer: Name of the student's layer of logits that learns from the labels.
        soft_layer: Name of the one that learns from the teacher. Defaults to `hard_layer`.
        weight: Float w from 0 to 1. Defaults to 0.5.
        temperature: Positive float T. Defaults to 1.
        teacher_from_logits: Whether the teacher returns logits (default), or probabilities, as
            models of `keras.applications` do unless built otherwise.
        **kwargs: As `keras.Model`.

    Raises:
        TypeError: If student or teacher is no model of the right kind.
        ValueError: If a layer does not exist, or a number is out of range.

    Example:
        >>> import keras, numpy as np
        >>> from bnnkeras.training import Distiller
        >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")])
        >>> distiller = Distiller(student, teacher, "logits")
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> distiller.compile("sgd", loss, metrics=["accuracy"])
        >>> history = distiller.fit(np.ones((6, 4)), np.zeros(6), epochs=2, verbose=0).history
        >>> sorted(history)
        ['accuracy', 'hard_loss', 'loss', 'soft_loss']

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network (2015), section 2.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        hard_layer: str,
        soft_layer: str | None = None,
        weight: float = 0.5,
        temperature: float = 1.0,
        teacher_from_logits: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(student, (keras.Sequential, keras.src.models.Functional)):
            raise TypeError(
                "`student` must be a functional or Sequential keras.Model. "
                f"Received: {type(student).__name__}"
            )
        if not isinstance(teacher, keras.Model):
            raise TypeError(f"`teacher` must be a keras.Model. Received: {type(teacher).__name__}")
        if not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
            raise ValueError(f"`weight` must be from 0 to 1. Received: weight={weight!r}")
        hard = _output_of(student, "hard_layer", hard_layer)
        soft = _output_of(student, "soft_layer", soft_layer or hard_layer)
        self.student = student
        # The same layers, with both logits beside the student's output.
        # A Sequential model knows its inputs, but has no `input` before its first call.
        inputs = student.inputs if isinstance(student, keras.Sequential) else student.input
        self._tapped = keras.Model(inputs, [student.outputs[0], hard, soft])
        self.teacher = teacher
        self.teacher.trainable = False
        self.teacher_from_logits = teacher_from_logits
        self.weight = weight
        self._soft_cross_entropy = SoftCrossEntropy(temperature)
        self.hard_loss = keras.metrics.Mean(name="hard_loss")
        self.soft_loss = keras.metrics.Mean(name="soft_loss")
        self.built = True

    def call(self, inputs, training=None) -> dict:
        """What the losses compare: the student's output, both of its logits, and the teacher's."""
        output, hard, soft = self._tapped(inputs, training=training)
        teacher = self.teacher(inputs, training=False)
        if not self.teacher_from_logits:
            teacher = ops.log(ops.maximum(teacher, keras.config.epsilon()))
        return {"output": output, "hard": hard, "soft": soft, "teacher": teacher}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """(1 - w) hard + w T^2 soft, and the student's own losses such as regularizers."""
        own = sum(map(ops.sum, self.losses), start=ops.zeros(()))
        hard = super().compute_loss(x, y, y_pred["hard"], sample_weight, training) - own
        criterion = self._soft_cross_entropy
        soft = criterion(y_pred["teacher"], y_pred["soft"], sample_weight)
        soft = soft * criterion.temperature**2
        size = ops.shape(y_pred["hard"])[0]
        self.hard_loss.update_state(hard, sample_weight=size)
        self.soft_loss.update_state(soft, sample_weight=size)
        return (1 - self.weight) * hard + self.weight * soft + own

    def compute_metrics(self, x, y, y_pred, sample_weight=None) -> dict:
        return super().compute_metrics(x, y, y_pred["output"], sample_weight)

    def predict(self, *args, **kwargs):
        """The student's outputs."""
        return self.student.predict(*args, **kwargs)


def _output_of(student, argument: str, name: str):
    names = [layer.name for layer in student.layers]
    if name not in names:
        raise ValueError(
            f"`{argument}` must be the name of a layer of the student {student.name!r}, whose last "
            f"ones are {names[-4:]}. Received: {argument}={name!r}"
        )
    return student.get_layer(name).output
