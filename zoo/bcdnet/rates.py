"""BCDNet's learning rates, which change with every step: linear warm-up, then a cosine to 0."""

import math
from dataclasses import dataclass

import keras
from keras import ops

from bnnkeras.registration import register


@register
class CosineBySteps(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from `base` to `peak` over the first steps, then a cosine to 0 at the last one.

    With t = step + 1, w = warmup_steps and T = total_steps: base + (peak - base) (t - 1) / (w - 1)
    where t < w, else peak (1 + cos(pi (t - w) / (T - w))) / 2.

    Args:
        base: Float, the first rate.
        total_steps: Positive integer T; from then on the rate is 0.
        peak: Float, the rate after the warm-up. Defaults to `base`.
        warmup_steps: Integer w, less than `total_steps`. Defaults to 0, no warm-up.

    Raises:
        ValueError: If `warmup_steps` is out of range.

    Example:
        >>> from bnnkeras.zoo.bcdnet import CosineBySteps
        >>> schedule = CosineBySteps(1e-3, 300_000, peak=4e-3, warmup_steps=15_000)
        >>> [round(float(schedule(step)), 6) for step in (0, 7_500, 14_999, 299_999)]
        [0.001, 0.0025, 0.004, 0.0]

    Reference:
        Xing et al., BCDNet (ECCV 2022), released configurations.
    """

    def __init__(
        self, base: float, total_steps: int, peak: float | None = None, warmup_steps: int = 0
    ):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "`warmup_steps` must be at least 0 and less than `total_steps`. Received: "
                f"warmup_steps={warmup_steps}, total_steps={total_steps}"
            )
        self.base = base
        self.total_steps = total_steps
        self.peak = base if peak is None else peak
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        t = ops.cast(step, keras.config.floatx()) + 1
        rising = (t - 1) / max(self.warmup_steps - 1, 1)
        warmup = self.base + (self.peak - self.base) * rising
        passed = (t - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        cosine = self.peak * (1 + ops.cos(math.pi * ops.minimum(passed, 1.0))) / 2
        return ops.where(t < self.warmup_steps, warmup, cosine)

    def get_config(self) -> dict:
        return {
            "base": self.base,
            "total_steps": self.total_steps,
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
        }


@dataclass(frozen=True)
class RatesBySteps:
    """`CosineBySteps` for trainings of any length, as a `Stage` of a recipe takes it.

    Args:
        base: Float, the first rate.
        rise: Float, the highest rate divided by the first. Defaults to 1.
        warmup: Share of all steps that are warm-up. Defaults to 0.

    Example:
        >>> from bnnkeras.zoo.bcdnet.rates import RatesBySteps
        >>> rates = RatesBySteps(1e-3, rise=4.0, warmup=0.05)
        >>> rates.schedule(10, 100).warmup_steps, rates.rate(0, 10)
        (50, 0.001)
    """

    base: float
    rise: float = 1.0
    warmup: float = 0.0

    def rate(self, epoch: int, epochs: int) -> float:
        """The rate when an epoch, counted from 0, begins."""
        passed = epoch / epochs
        if passed < self.warmup:
            return self.base * (1 + (self.rise - 1) * passed / self.warmup)
        turn = math.pi * (passed - self.warmup) / (1 - self.warmup)
        return self.base * self.rise * (1 + math.cos(turn)) / 2

    def schedule(self, epochs: int, steps_per_epoch: int) -> CosineBySteps:
        """The Keras schedule of a training of so many epochs."""
        steps = epochs * steps_per_epoch
        return CosineBySteps(self.base, steps, self.base * self.rise, round(self.warmup * steps))
