"""PyTorch's SGD, which published recipes of LCR-BNN and IR-Net were made with."""

import keras
from keras import ops

from bnnkeras.registration import register


@register
class CoupledSGD(keras.optimizers.Optimizer):
    """SGD whose weight decay is part of the gradient, as PyTorch's.

        g := g + weight_decay w;   m := momentum m + g;   w := w - rate m
        (nesterov: w := w - rate (g + momentum m))

    Keras's `SGD` decays weights apart from the gradient and keeps the rate inside of m, which
    differs where the rate changes.

    Args:
        learning_rate: Float, schedule or callable. Defaults to 0.01.
        momentum: Float in [0, 1). Defaults to 0.
        nesterov: Whether to use Nesterov's momentum.
        weight_decay: Float; applies to all variables. Defaults to 0.
        **kwargs: As `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If `momentum` or `weight_decay` is out of range.

    Example:
        >>> import keras
        >>> from bnnkeras.training import CoupledSGD
        >>> variable = keras.Variable([1.0])
        >>> optimizer = CoupledSGD(0.1, weight_decay=0.5)
        >>> optimizer.apply([keras.ops.ones(1)], [variable])
        >>> round(float(variable[0]), 3)
        0.85

    Reference:
        torch.optim.SGD.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        name="sgd",
        **kwargs,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        if not weight_decay >= 0:
            raise ValueError(
                f"`weight_decay` must be a number of at least 0. Received: {weight_decay=}"
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        # Not `weight_decay`, which Keras applies by itself and in its own way.
        self.coupled_decay = weight_decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.momenta = [
            self.add_variable_from_reference(variable, name="momentum") for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        gradient = gradient + self.coupled_decay * variable
        momentum = self.momenta[self._get_variable_index(variable)]
        moving = self.momentum * momentum + gradient
        self.assign(momentum, moving)
        step = gradient + self.momentum * moving if self.nesterov else moving
        self.assign_sub(variable, rate * step)

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.coupled_decay,
        }
