"""One cycle of the learning rate up and down, against which the momentum goes."""

import math
from dataclasses import dataclass

import keras

from bnnkeras.registration import register
from bnnkeras.training.rates import EpochRates, _Rates


@dataclass(frozen=True)
class OneCycle(_Rates):
    """From base / 25 up to `base` over 30 % of the epochs, and down to base / 250,000, by cosines.

    With E epochs the peak is at a = 0.3 E - 1. Stepped once per epoch, as BiDense's training does.

    Args:
        base: Float, the largest rate.

    Example:
        >>> from bnnkeras.training.onecycle import OneCycle
        >>> [round(OneCycle(1.0).rate(epoch, 10), 4) for epoch in (0, 2, 9)]
        [0.04, 1.0, 0.0]

    Reference:
        Smith and Topin, Super-Convergence (2017); PyTorch's `OneCycleLR`.
    """

    def rate(self, epoch, epochs):
        return self._between(epoch, epochs, self.base / 25, self.base, self.base / 250_000)

    def momentum(self, epoch: int, epochs: int) -> float:
        """Adam's first beta of the epoch: 0.95 down to 0.85 at the peak of the rate, and back."""
        return self._between(epoch, epochs, 0.95, 0.85, 0.95)

    @staticmethod
    def _between(epoch, epochs, start, peak, end):
        top = 0.3 * epochs - 1
        if epoch <= top:
            share, first, last = epoch / top if top > 0 else 1.0, start, peak
        else:
            share, first, last = (epoch - top) / (epochs - 1 - top), peak, end
        return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


@register
class OneCycleAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate and first beta follow `OneCycle`.

    The bias correction takes the present beta to the power of the step, as PyTorch's does.

    Args:
        peak_rate: Float, the largest learning rate.
        epochs: Positive integer.
        steps_per_epoch: Positive integer.
        weight_decay: Float, on all weights. Defaults to 0.01.
        **kwargs: As `keras.optimizers.AdamW`, without `learning_rate` and `beta_1`.

    Example:
        >>> from bnnkeras.training import OneCycleAdamW
        >>> optimizer = OneCycleAdamW(1e-4, epochs=50, steps_per_epoch=100)
        >>> round(float(optimizer.beta_1), 3)
        0.95

    Reference:
        Yin et al., BiDense (2024), released code.
    """

    def __init__(
        self,
        peak_rate: float,
        epochs: int,
        steps_per_epoch: int,
        weight_decay=0.01,
        epsilon=1e-8,
        name="one_cycle_adamw",
        **kwargs,
    ):
        cycle = OneCycle(peak_rate)
        super().__init__(
            cycle.schedule(epochs, steps_per_epoch),
            weight_decay=weight_decay,
            epsilon=epsilon,
            name=name,
            **kwargs,
        )
        self.peak_rate = peak_rate
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        momenta = [cycle.momentum(epoch, epochs) for epoch in range(epochs)]
        self._momenta = EpochRates(momenta, steps_per_epoch)

    @property
    def beta_1(self):
        """The first beta of the present step."""
        return self._momenta(self.iterations)

    @beta_1.setter
    def beta_1(self, value):
        # The base class sets its default; the schedule decides.
        del value

    def get_config(self):
        config = super().get_config()
        del config["learning_rate"], config["beta_1"]
        return {
            **config,
            "peak_rate": self.peak_rate,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
        }
