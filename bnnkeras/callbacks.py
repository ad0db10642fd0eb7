"""Callbacks for `model.fit`."""

import inspect
import math

import keras
from keras import ops

from bnnkeras import quantizers


class HyperparameterScheduler(keras.callbacks.Callback):
    """Sets a hyperparameter of an optimizer at the begin of each epoch or step.

    hyperparameter := schedule(t), or schedule(t, hyperparameter)

    The value is added to the logs of each epoch (`History`, TensorBoard).

    Args:
        schedule: Function of t, or of t and the current value, that returns the new value. t is the
            epoch, from 0, or with `update_freq="step"` the number of steps the optimizer has made.
        hyperparameter: Name of the optimizer's attribute, for example `"learning_rate"` or Bop's
            `"gamma"`. (`"lr"` means `"learning_rate"`.)
        optimizer: The optimizer that has it. Defaults to the model's; if that is wrapped for
            mixed precision, to the one inside.
        update_freq: `"epoch"` (default) or `"step"`.
        verbose: 0 for silence (default), 1 to print each new value.
        log_name: The name in the logs. Defaults to `hyperparameter`; needed where two optimizers'
            hyperparameters of one name are scheduled.

    Raises:
        ValueError: If `update_freq` is unknown; when training starts, if the optimizer has no such
            hyperparameter, or one that compiled training steps would not see change.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> import bnnkeras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", loss="mse")
        >>> scheduler = bnnkeras.callbacks.HyperparameterScheduler(
        ...     lambda epoch: 0.5**epoch, "learning_rate"
        ... )
        >>> x, y = np.ones((4, 2)), np.ones((4, 1))
        >>> model.fit(x, y, epochs=3, callbacks=[scheduler], verbose=0).history["learning_rate"]
        [1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        schedule,
        hyperparameter: str,
        optimizer=None,
        update_freq: str = "epoch",
        verbose: int = 0,
        log_name: str | None = None,
    ):
        super().__init__()
        if not callable(schedule):
            raise ValueError(f"`schedule` must be callable. Received: schedule={schedule!r}")
        if update_freq not in ("epoch", "step"):
            raise ValueError(
                f'`update_freq` must be "epoch" or "step". Received: update_freq={update_freq!r}'
            )
        self.schedule = schedule
        self.hyperparameter = hyperparameter
        self.optimizer = self._given_optimizer = optimizer
        self.update_freq = update_freq
        self.verbose = verbose
        self.log_name = log_name or hyperparameter
        self._takes_value = _takes_two_arguments(schedule)

    def set_model(self, model):
        super().set_model(model)
        self.optimizer = self._given_optimizer or model.optimizer
        if self.hyperparameter == "lr":
            self.hyperparameter = "learning_rate"
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            self.optimizer = self.optimizer.inner_optimizer
        if not hasattr(self.optimizer, self.hyperparameter):
            raise ValueError(
                f"The optimizer `{self.optimizer.name}` must have the attribute `hyperparameter`. "
                f"Received: hyperparameter={self.hyperparameter!r}"
            )
        compiled = not model.run_eagerly and (
            model.jit_compile or keras.backend.backend() == "tensorflow"
        )
        if compiled and not isinstance(self._variable, keras.Variable):
            raise ValueError(
                f"`{self.hyperparameter}` of `{self.optimizer.name}` is no variable: it is a "
                "constant of the compiled training step, or follows a schedule already. Constants "
                "can be scheduled with `model.compile(run_eagerly=True)`. "
                f"Received: hyperparameter={self.hyperparameter!r}"
            )

    @property
    def _variable(self):
        return getattr(self.optimizer, self.hyperparameter)

    @property
    def _value(self):
        return float(ops.convert_to_numpy(self._variable))

    def _update(self, t: int, unit: str) -> None:
        arguments = (t, self._value) if self._takes_value else (t,)
        setattr(self.optimizer, self.hyperparameter, self.schedule(*arguments))
        if self.verbose:
            print(f"{unit} {t}: {self.log_name} is now {self._value}.")

    def on_train_batch_begin(self, batch, logs=None):
        if self.update_freq != "step":
            return
        if keras.backend.backend() == "jax":
            # During an epoch `fit` keeps the state outside of the variables.
            self.model.jax_state_sync()
        # `batch` counts from the begin of the epoch only.
        self._update(int(ops.convert_to_numpy(self.optimizer.iterations)), "Batch")

    def on_epoch_begin(self, epoch, logs=None):
        if self.update_freq == "epoch":
            self._update(epoch, "Epoch")

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self.log_name] = self._value


class EDESchedule(keras.callbacks.Callback):
    """Sets k and t of the model's error decay estimators (EDE) at the begin of each epoch.

    t(e) = t_min (t_max / t_min)^((e + first_epoch) / epochs),  k(e) = max(1 / t(e), 1)

    e counts from 0, so t_max is not reached. The epoch alone decides: a resumed training (with
    `initial_epoch`) goes on where it stopped. The values are added to the logs as `ede_k`, `ede_t`.

    Args:
        t_min: Positive float. Defaults to 1e-3, as in LCR-BNN and IR-Net's ResNet-20; IR-Net's
            VGG-Small has 1e-1.
        t_max: Positive float. Defaults to 10.
        epochs: Positive integer, or `None` (default) for the epochs of `fit`.
        first_epoch: Integer, what the epoch is counted from. Defaults to 0; BiPointNet has 1.

    Raises:
        ValueError: If an argument is out of its range; when training starts, if no quantizer of
            the model has an `ErrorDecay` estimator.

    Example:
        >>> from bnnkeras.callbacks import EDESchedule
        >>> k, t = EDESchedule(t_min=0.1, t_max=10, epochs=4).values(3)
        >>> round(k, 4), round(t, 4)
        (1, 3.1623)

    Reference:
        Qin et al., IR-Net (CVPR 2020), section 3.3.
    """

    def __init__(
        self,
        t_min: float = 1e-3,
        t_max: float = 10.0,
        epochs: int | None = None,
        first_epoch: int = 0,
    ):
        super().__init__()
        for name, value in (("t_min", t_min), ("t_max", t_max)):
            if not value > 0:
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={value}")
        if epochs is not None and not epochs > 0:
            raise ValueError(f"`epochs` must be a positive integer or None. Received: {epochs=}")
        self.t_min = t_min
        self.t_max = t_max
        self.epochs = epochs
        self.first_epoch = first_epoch
        self._estimators: list[quantizers.ErrorDecay] = []

    def values(self, epoch: int) -> tuple[float, float]:
        """k and t of an epoch, counted from 0."""
        epochs = self.epochs or self.params["epochs"]
        low, high = math.log10(self.t_min), math.log10(self.t_max)
        t = 10 ** (low + (high - low) * (epoch + self.first_epoch) / epochs)
        return max(1 / t, 1), t

    def on_train_begin(self, logs=None):
        self._estimators = [
            layer.estimator
            for layer in self.model._flatten_layers()
            if isinstance(layer, quantizers.Binarizer)
            and isinstance(layer.estimator, quantizers.ErrorDecay)
        ]
        if not self._estimators:
            raise ValueError(
                "EDESchedule needs a model with quantizers that have an ErrorDecay estimator, such "
                f'as "ede_sign" or "libra_kernel". Received: model {self.model.name!r} without any'
            )

    def on_epoch_begin(self, epoch, logs=None):
        for estimator in self._estimators:
            estimator.assign(*self.values(epoch))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["ede_k"], logs["ede_t"] = self.values(epoch)


def _takes_two_arguments(schedule) -> bool:
    try:
        inspect.signature(schedule).bind(0, 0.0)
    except (TypeError, ValueError):  # One argument; or a builtin without a signature.
        return False
    return True
