"""The trainer of LCR-BNN: a binary network that retains what its real-valued teacher retains."""

import re
from collections.abc import Sequence

import keras
from keras import ops

from bnnkeras import activations, registration
from bnnkeras.registration import register
from bnnkeras.training.retention import FORMS, lipschitz_retention_loss, widened


@register
class LipschitzRetention(keras.Model):
    """A student with LCR-BNN's regularizer, for `compile`, `fit` and `evaluate` as any model.

    loss = the compiled loss + alpha / (10,000 batch_size) * LCR, with LCR the
    `lipschitz_retention_loss` of features that both networks compute from the batch: the student's
    are gamma_i clip(x, -1, 1), the teacher's relu(x). gamma is trained with the student and belongs
    to this trainer. Outside training only the student runs; it is what is saved and converted:
    `trainer.student`.

    Creating a trainer freezes the teacher's variables. The logs gain `retention_loss`, the summand
    of the loss.

    Args:
        student: A functional model.
        teacher: A functional model of the same inputs.
        student_taps: Names of the student's layers whose outputs are compared, first stage first.
            Defaults to `stage1_output`, `stage2_output`, ... as the zoo's residual networks have.
        teacher_taps: Likewise, of the teacher.
        alpha: Float, the weight. Defaults to 8. With 0 there are no gamma and no teacher running.
        batch_size: Positive integer, a constant of the loss. Defaults to 128.
        form: `"code"` (default, as released) or `"paper"`.
        iterations: Positive integer, of the power iteration. Defaults to 1, as released.
        normalize_start: Whether the power iteration starts with length 1. Defaults to `False`.
        beta: Positive float, of the paper's form.
        stage_scales: Whether there is a gamma. Defaults to `True`, as released.
        teacher_training: `False` (default) runs the teacher in inference mode. `True` is the
            released behaviour: its batch normalization uses and tracks the batch's statistics.
        student_activation: Applied to the student's taps: a function, name, or `None`. Defaults to
            `"hard_tanh"`.
        teacher_activation: Applied to the teacher's taps. Defaults to `"relu"`.

    Raises:
        ValueError: If an argument is out of range, or a tap is no layer of its network.
        TypeError: If a network is no functional model.

    Example:
        >>> import numpy as np
        >>> from bnnkeras import zoo
        >>> from bnnkeras.training import LipschitzRetention
        >>> shape = {"input_shape": (16, 16, 3), "classifier_activation": None}
        >>> trainer = LipschitzRetention(zoo.LCRResNet20(**shape), zoo.ResNet20(**shape))
        >>> trainer.compile("sgd", "mse")
        >>> x = np.zeros((2, 16, 16, 3), "float32")
        >>> history = trainer.fit(x, np.ones((2, 10)), verbose=0).history
        >>> sorted(history)
        ['loss', 'retention_loss']

    Reference:
        Shang et al., LCR-BNN (ECCV 2022), section 3, and the released code.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        student_taps: Sequence[str] | None = None,
        teacher_taps: Sequence[str] | None = None,
        alpha: float = 8.0,
        batch_size: int = 128,
        form: str = "code",
        iterations: int = 1,
        normalize_start: bool = False,
        beta: float = 2.0,
        stage_scales: bool = True,
        teacher_training: bool = False,
        student_activation="hard_tanh",
        teacher_activation="relu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not alpha >= 0:
            raise ValueError(f"`alpha` must be a number of at least 0. Received: alpha={alpha}")
        for name, value in (("batch_size", batch_size), ("iterations", iterations)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        if not beta > 0:
            raise ValueError(f"`beta` must be a positive number. Received: beta={beta}")
        if form not in FORMS:
            raise ValueError(f"`form` must be one of {FORMS}. Received: form={form!r}")
        self.student, self.teacher = student, teacher
        self.student_taps, call_student = _tapped("student", student, student_taps)
        self.teacher_taps, call_teacher = _tapped("teacher", teacher, teacher_taps)
        if len(self.student_taps) != len(self.teacher_taps) or len(self.student_taps) < 2:
            raise ValueError(
                "`student_taps` and `teacher_taps` must be equally many, and two or more. "
                f"Received: {list(self.student_taps)} and {list(self.teacher_taps)}"
            )
        # Bound methods: as attributes the models would be saved a second time.
        self._call_student, self._call_teacher = call_student, call_teacher
        self.alpha = alpha
        self.batch_size = batch_size
        self.form = form
        self.iterations = iterations
        self.normalize_start = normalize_start
        self.beta = beta
        self.stage_scales = stage_scales
        self.teacher_training = teacher_training
        self.student_activation = activations.get(student_activation)
        self.teacher_activation = activations.get(teacher_activation)
        # Not `teacher.trainable`, which would also force batch normalization into inference mode.
        for variable in teacher.variables:
            variable.trainable = False
        self.gamma = None
        if stage_scales and alpha:
            self.gamma = self.add_weight(
                name="gamma", shape=(len(self.student_taps),), initializer="ones", autocast=False
            )
        self._retention_tracker = keras.metrics.Mean(name="retention_loss") if alpha else None
        self.built = True

    def call(self, inputs, training=None):
        if not training or not self.alpha:
            return self.student(inputs, training=training)
        found = self._call_student(inputs, training=True)
        student_features = [self.student_activation(x) for x in found["taps"]]
        if self.gamma is not None:
            student_features = [
                ops.cast(self.gamma[index], x.dtype) * x
                for index, x in enumerate(map(widened, student_features))
            ]
        taps = self._call_teacher(inputs, training=self.teacher_training)["taps"]
        teacher_features = [ops.stop_gradient(self.teacher_activation(x)) for x in taps]
        retention = lipschitz_retention_loss(
            student_features,
            teacher_features,
            form=self.form,
            iterations=self.iterations,
            normalize_start=self.normalize_start,
            beta=self.beta,
        )
        self.add_loss(self.alpha / (self.batch_size * 1e4) * retention)
        return found["outputs"]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training and self._retention_tracker is not None:
            # The losses of a layer itself come before those of the layers inside.
            self._retention_tracker.update_state(self.losses[0])
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def get_config(self) -> dict:
        names = ("alpha", "batch_size", "form", "iterations", "normalize_start", "beta")
        return {
            **super().get_config(),
            "student": registration.serialize(self.student),
            "teacher": registration.serialize(self.teacher),
            "student_taps": list(self.student_taps),
            "teacher_taps": list(self.teacher_taps),
            **{name: getattr(self, name) for name in names},
            "stage_scales": self.stage_scales,
            "teacher_training": self.teacher_training,
            "student_activation": keras.activations.serialize(self.student_activation),
            "teacher_activation": keras.activations.serialize(self.teacher_activation),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for name in ("student", "teacher"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        for name in ("student_activation", "teacher_activation"):
            if isinstance(config[name], dict):
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return cls(**config)


def _tapped(role: str, model, names):
    """The names of the taps, and a call that returns the outputs and the taps of a network."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            f"`{role}` must be a functional keras.Model. Received: {type(model).__name__}"
        )
    layers = {layer.name: layer for layer in model.layers}
    if names is None:
        stages = [re.fullmatch(r"stage(\d+)_output", name) for name in layers]
        names = [m.string for m in sorted(filter(None, stages), key=lambda m: int(m.group(1)))]
    unknown = [name for name in names if name not in layers]
    if unknown or not names:
        raise ValueError(
            f"`{role}_taps` must be names of layers of the {role}. "
            f"Received: {role}_taps={list(names)} for {model.name!r}, whose layers are "
            f"{list(layers)}"
        )
    taps = [layers[name].output for name in names]
    tapped = keras.Model(model.inputs, {"outputs": model.output, "taps": taps})
    return tuple(names), tapped.__call__
