"""Bop, the binary optimizer."""

import numbers

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from bnnkeras import math
from bnnkeras.registration import deserialize, register, serialize


@register
def is_binary_variable(var) -> bool:
    """Whether `var.precision == 1`, as for the kernel of a layer with a 1-bit quantizer."""
    return getattr(var, "precision", 32) == 1


@register
class Bop(keras.optimizers.Optimizer):
    """Flips binary weights by a moving average of their gradient; no latent weights.

    m := m + gamma (g - m)
    w := -w if w m > threshold else w

    A weight that is not yet -1 or +1 becomes its sign in the first step, and +1 where
    w m = threshold exactly (Larq's rule). There is no learning rate: `gamma` plays its part.

    Mark kernels that have no latent weights with `kernel_quantizer=NoOp(precision=1)`.

    Args:
        threshold: Float or `LearningRateSchedule`, the average gradient that flips a weight.
            Defaults to 1e-8.
        gamma: Float or `LearningRateSchedule`, the rate of the moving average, between 0 and 1.
            Defaults to 1e-4.
        name: String. Defaults to `"Bop"`.
        **kwargs: Arguments of `keras.optimizers.Optimizer` other than `learning_rate`.

    Attributes:
        threshold: The variable, or the value at the current iteration if it is a schedule.
        gamma: Likewise. Assign a number to change it, also during training.

    Raises:
        TypeError: If `threshold` or `gamma` is neither a number nor a schedule.
        ValueError: If a `learning_rate` is given.

    Example:
        >>> import keras
        >>> import bnnkeras
        >>> weights = keras.Variable([1.0, -1.0])
        >>> optimizer = bnnkeras.optimizers.Bop(threshold=0.1, gamma=0.5)
        >>> optimizer.apply([keras.ops.convert_to_tensor([1.0, 1.0])], [weights])
        >>> weights.numpy().tolist()
        [-1.0, -1.0]

    Reference:
        Helwegen et al., Latent Weights Do Not Exist (NeurIPS 2019), algorithm 1.
    """

    def __init__(self, threshold=1e-8, gamma=1e-4, name="Bop", **kwargs):
        if "learning_rate" in kwargs:
            raise ValueError(
                "Bop has no learning rate; set `gamma` and `threshold`. "
                f"Received: learning_rate={kwargs['learning_rate']}"
            )
        # Keras requires a learning rate; `update_step` does not read it.
        super().__init__(learning_rate=1.0, name=name, **kwargs)
        self._threshold = self._hyperparameter("threshold", threshold)
        self._gamma = self._hyperparameter("gamma", gamma)

    def _hyperparameter(self, name, value):
        """`value` as a variable, so that compiled training steps see when it changes."""
        if isinstance(value, dict):
            value = deserialize(value)
        if isinstance(value, LearningRateSchedule):
            return value
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(
                f"`{name}` must be a number or a keras.optimizers.schedules.LearningRateSchedule. "
                f"Received: {name}={value!r}"
            )
        return self.add_variable(
            shape=(),
            initializer=keras.initializers.Constant(value),
            aggregation="only_first_replica",
            name=name,
        )

    def _current(self, value):
        return value(self.iterations) if isinstance(value, LearningRateSchedule) else value

    def _set(self, name, value):
        variable = getattr(self, f"_{name}")
        if isinstance(variable, LearningRateSchedule):
            raise TypeError(
                f"`{name}` follows a schedule and cannot be assigned. Received: {name}={value!r}"
            )
        variable.assign(value)

    @property
    def threshold(self):
        return self._current(self._threshold)

    @threshold.setter
    def threshold(self, value):
        self._set("threshold", value)

    @property
    def gamma(self):
        return self._current(self._gamma)

    @gamma.setter
    def gamma(self, value):
        self._set("gamma", value)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient, variable, learning_rate):
        momentum = self._momentums[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        gamma = ops.cast(self.gamma, variable.dtype)
        threshold = ops.cast(self.threshold, variable.dtype)
        average = momentum + gamma * (gradient - momentum)
        self.assign(momentum, average)
        self.assign(variable, math.sign(-ops.sign(variable * average - threshold) * variable))

    is_binary_variable = staticmethod(is_binary_variable)

    def get_config(self) -> dict:
        config = super().get_config()
        del config["learning_rate"]
        for name, value in (("threshold", self._threshold), ("gamma", self._gamma)):
            schedule = isinstance(value, LearningRateSchedule)
            config[name] = serialize(value) if schedule else float(value.numpy())
        return config
