"""Learning rates of published recipes, by epoch, as data; and the Keras schedule that runs them."""

import math
from dataclasses import dataclass

import keras
from keras import ops

from bnnkeras.registration import register


@register
class EpochRates(keras.optimizers.schedules.LearningRateSchedule):
    """A constant learning rate within each epoch; after the last epoch its rate stays.

    It follows the optimizer's own count of steps, so a resumed training goes on exactly.

    Args:
        rates: Sequence of floats, one per epoch.
        steps_per_epoch: Positive integer.

    Raises:
        ValueError: If `rates` is empty or `steps_per_epoch` not positive.

    Example:
        >>> from bnnkeras.training.rates import EpochRates
        >>> schedule = EpochRates([0.5, 0.25], steps_per_epoch=3)
        >>> [float(schedule(step)) for step in (0, 2, 3, 99)]
        [0.5, 0.5, 0.25, 0.25]
    """

    def __init__(self, rates, steps_per_epoch: int):
        self.rates = [float(rate) for rate in rates]
        self.steps_per_epoch = int(steps_per_epoch)
        if not self.rates or self.steps_per_epoch < 1:
            raise ValueError(
                "`rates` must not be empty and `steps_per_epoch` be positive. "
                f"Received: rates={rates}, steps_per_epoch={steps_per_epoch}"
            )

    def __call__(self, step):
        epoch = ops.floor_divide(ops.cast(step, "int32"), self.steps_per_epoch)
        epoch = ops.minimum(epoch, len(self.rates) - 1)
        return ops.take(ops.convert_to_tensor(self.rates, keras.config.floatx()), epoch)

    def get_config(self):
        return {"rates": self.rates, "steps_per_epoch": self.steps_per_epoch}


@dataclass(frozen=True)
class _Rates:
    """The base of all: `rate(epoch, epochs)` for epochs from 0."""

    base: float

    def rate(self, epoch: int, epochs: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} must define `rate(epoch, epochs)`.")

    def schedule(self, epochs: int, steps_per_epoch: int):
        """The Keras schedule of a training of so many epochs."""
        return EpochRates([self.rate(e, epochs) for e in range(epochs)], steps_per_epoch)


@dataclass(frozen=True)
class LinearDecay(_Rates):
    """base (1 - (e + 1) / epochs): Bi-Real Net's schedule, whose last epoch has the rate 0.

    Args:
        base: Float.
        per_step: Whether the rate falls with each step instead, from `base` to 0.

    Example:
        >>> from bnnkeras.training.rates import LinearDecay
        >>> [LinearDecay(1.0).rate(epoch, 4) for epoch in range(4)]
        [0.75, 0.5, 0.25, 0.0]
    """

    per_step: bool = False

    def rate(self, epoch, epochs):
        return self.base * (1 - (epoch + (0 if self.per_step else 1)) / epochs)

    def schedule(self, epochs, steps_per_epoch):
        if not self.per_step:
            return super().schedule(epochs, steps_per_epoch)
        return keras.optimizers.schedules.PolynomialDecay(
            self.base, epochs * steps_per_epoch, end_learning_rate=0.0
        )


@dataclass(frozen=True)
class CosineDecay(_Rates):
    """base (1 + cos(pi e / epochs)) / 2.

    Args:
        base: Float.

    Example:
        >>> from bnnkeras.training.rates import CosineDecay
        >>> [round(CosineDecay(1.0).rate(epoch, 4), 4) for epoch in range(4)]
        [1.0, 0.8536, 0.5, 0.1464]
    """

    def rate(self, epoch, epochs):
        return self.base * (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass(frozen=True)
class WarmupCosine(_Rates):
    """base (e + 1) / warmup at first, then a cosine.

    Args:
        base: Float.
        warmup: Integer, epochs of the linear part.
        official: `True` (default) for LCR-BNN's, whose cosine starts shifted: with w = warmup - 1
            and c(i) = 1 + cos(pi i / (epochs - w)) it is base c(e - 2 w) / c(w), rises a little
            further, and does not end near 0. `False` for a cosine from `base` to 0.

    Example:
        >>> from bnnkeras.training.rates import WarmupCosine
        >>> round(WarmupCosine(0.1).rate(8, 100), 5)
        0.10043
    """

    warmup: int = 5
    official: bool = True

    def rate(self, epoch, epochs):
        if epoch < self.warmup:
            return self.base * (epoch + 1) / self.warmup
        if not self.official:
            return CosineDecay(self.base).rate(epoch - self.warmup, epochs - self.warmup)
        shift = self.warmup - 1

        def cosine(index):
            return 1 + math.cos(math.pi * index / (epochs - shift))

        return self.base * cosine(epoch - 2 * shift) / cosine(shift)


@dataclass(frozen=True)
class StepDecay(_Rates):
    """base factor^n after n of the boundaries.

    Args:
        base: Float.
        boundaries: Fractions of the training, so that a scaled recipe keeps its shape.
        factor: Float. Defaults to 0.1.

    Example:
        >>> from bnnkeras.training.rates import StepDecay
        >>> [StepDecay(1.0, (0.5, 0.75), factor=0.5).rate(epoch, 4) for epoch in range(4)]
        [1.0, 1.0, 0.5, 0.25]
    """

    boundaries: tuple[float, ...] = ()
    factor: float = 0.1

    def rate(self, epoch, epochs):
        # (Boundaries that are whole epochs must not be missed by rounding.)
        passed = sum(epoch >= boundary * epochs - 1e-9 for boundary in self.boundaries)
        return self.base * self.factor**passed


@dataclass(frozen=True)
class WarmupStepDecay(StepDecay):
    """`StepDecay` by steps, whose rate rises linearly from `start` base to base at first.

    Args:
        base: Float.
        boundaries: Fractions of the training.
        factor: Float. Defaults to 0.1.
        warmup: Fraction of the training in which the rate rises. Defaults to 0.04.
        start: Float, the first rate as a share of `base`. Defaults to 0.25.

    Example:
        >>> from bnnkeras.training.rates import WarmupStepDecay
        >>> schedule = WarmupStepDecay(0.8, (0.5,), warmup=0.2).schedule(10, steps_per_epoch=2)
        >>> [round(float(schedule(step)), 4) for step in (0, 2, 4, 9, 10)]
        [0.2, 0.5, 0.8, 0.8, 0.08]
    """

    warmup: float = 0.04
    start: float = 0.25

    def rate(self, epoch, epochs):
        rate = super().rate(epoch, epochs)
        share = epoch / (self.warmup * epochs) if self.warmup else 1.0
        return rate * min(1.0, self.start + (1 - self.start) * share)

    def schedule(self, epochs, steps_per_epoch):
        steps = epochs * steps_per_epoch
        ends = [math.ceil(boundary * steps - 1e-9) for boundary in self.boundaries]
        values = [self.base * self.factor**passed for passed in range(len(ends) + 1)]
        return WarmupStepRates(values, ends, self.warmup * steps, self.start)


@register
class WarmupStepRates(keras.optimizers.schedules.LearningRateSchedule):
    """values[n] after n of the boundaries; times start + (1 - start) step / warmup at first.

    Args:
        values: Sequence of floats, one more than `boundaries`.
        boundaries: Ascending steps from which the next value holds.
        warmup: Float, steps of the linear rise.
        start: Float, the first factor.

    Raises:
        ValueError: If `values` are not one more than `boundaries`.

    Example:
        >>> from bnnkeras.training.rates import WarmupStepRates
        >>> schedule = WarmupStepRates([1.0, 0.5], [4], warmup=2, start=0.0)
        >>> [float(schedule(step)) for step in range(6)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(self, values, boundaries, warmup: float, start: float):
        self.values, self.boundaries = [float(v) for v in values], [int(b) for b in boundaries]
        self.warmup, self.start = float(warmup), float(start)
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                "`values` must be one more than `boundaries`. "
                f"Received: values={values}, boundaries={boundaries}"
            )

    def __call__(self, step):
        dtype = keras.config.floatx()
        step = ops.cast(step, dtype)
        passed = sum((ops.cast(step >= end, "int32") for end in self.boundaries), 0)
        rate = ops.take(ops.convert_to_tensor(self.values, dtype), passed)
        if not self.warmup:
            return rate
        return rate * ops.minimum(1.0, self.start + (1 - self.start) * step / self.warmup)

    def get_config(self):
        names = ("values", "boundaries", "warmup", "start")
        return {name: getattr(self, name) for name in names}
