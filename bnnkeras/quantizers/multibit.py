"""Quantizers of several bits: DoReFa, LSQ and uniform (int8) fake quantization.

NaN stays NaN in all of them.
"""

from keras import ops

from bnnkeras.quantizers.base import Quantizer
from bnnkeras.quantizers.reductions import mean, resolve_axes, tensor, wide
from bnnkeras.quantizers.signs import surrogate
from bnnkeras.quantizers.starts import StartedValue
from bnnkeras.registration import register

MODES = ("activations", "weights")


@register
class DoReFa(Quantizer):
    """Uniform levels of k bits in [0, 1] (activations) or [-1, 1] (weights), n = 2^k - 1.

    Activations: q(x) = round(n clip(x, 0, 1)) / n, with dq/dx := 1 if 0 <= x <= 1 else 0.
    Weights: q(x) = 2 round(n (tanh(x) / (2 m) + 1/2)) / n - 1, m = max |tanh(x)| of the tensor,
    with dq/dx := (1 - tanh(x)^2) / m; m takes no gradient. Halves are rounded to even. An infinite
    weight counts as tanh = 1.

    Args:
        k_bit: Positive integer, the bits per value. Defaults to 2.
        mode: `"activations"` (default) or `"weights"`.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import DoReFa
        >>> keras.ops.convert_to_numpy(DoReFa(k_bit=1)([-1.0, 0.4, 0.6])).tolist()
        [0.0, 0.0, 1.0]

    Reference:
        Zhou et al., DoReFa-Net (2016), sections 2.3 and 2.5.
    """

    def __init__(self, k_bit: int = 2, mode: str = "activations", **kwargs):
        super().__init__(**kwargs)
        self.k_bit = _checked_bits("k_bit", k_bit, 1)
        self.mode = _checked_mode(mode)
        self.precision = k_bit

    def call(self, inputs):
        levels = 2**self.k_bit - 1
        x = wide(inputs)
        if self.mode == "activations":
            values = surrogate(
                x, lambda x: ops.round(ops.clip(x, 0, 1) * levels) / levels, _in_unit_interval
            )
        else:
            x = ops.tanh(x)
            largest = ops.stop_gradient(ops.max(ops.abs(x)))
            x = x / ops.where(largest > 0, 2 * largest, 1) + 0.5
            values = 2 * surrogate(x, lambda x: ops.round(x * levels) / levels, ops.ones_like) - 1
        return ops.cast(values, inputs.dtype)


DoReFaQuantizer = DoReFa


@register
class LSQ(Quantizer):
    """Learned step size: q(x) = s round(clip(x / s, -n, p)), s trained, per tensor or channel.

    dq/dx := 1 if -n < x / s < p else 0;  dq/ds := round(x / s) - x / s inside, -n and p outside,
    times 1 / sqrt(N p), N the number of weights or of activations per sample that share s. s starts
    at 2 mean |x| / sqrt(p), set from the first training call inside `fit`. Signed values have
    n = 2^(bits - 1), p = n - 1; unsigned ones n = 0, p = 2^bits - 1.

    Args:
        bits: Integer from 2 to 16. Defaults to 4.
        mode: `"activations"` (default) or `"weights"`: what N counts.
        signed: Boolean. Defaults to `None`: weights are, activations are not.
        per_channel: Whether each channel (last axis) has its own s. Defaults to `False`.

    Call arguments:
        inputs: A floating-point tensor; activations have their samples on the first axis.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import LSQ
        >>> quantizer = LSQ(bits=2, signed=True)
        >>> quantizer.build((4,))
        >>> quantizer.step.assign(0.5)
        >>> keras.ops.convert_to_numpy(quantizer([-3.0, -0.4, 0.1, 3.0])).tolist()
        [-1.0, -0.5, 0.0, 0.5]

    Reference:
        Esser et al., Learned Step Size Quantization (ICLR 2020), section 2.
    """

    def __init__(
        self,
        bits: int = 4,
        mode: str = "activations",
        signed: bool | None = None,
        per_channel: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bits = self.precision = _checked_bits("bits", bits, 2)
        self.mode = _checked_mode(mode)
        self.signed = mode == "weights" if signed is None else signed
        self.per_channel = per_channel
        self._lowest = -(2 ** (bits - 1)) if self.signed else 0
        self._highest = 2 ** (bits - 1) - 1 if self.signed else 2**bits - 1

    def build(self, input_shape):
        self.step = StartedValue(self, "step", (input_shape[-1],) if self.per_channel else ())

    def call(self, inputs, training=None):
        x = wide(inputs)
        if training:
            self._observe(x)
        step = self.step.value(self._start(x))
        gradient_scale = self._gradient_scale(x)
        fixed = ops.stop_gradient(step)
        step = fixed + (step - fixed) * gradient_scale
        # A step that training brought to 0 would divide by it.
        step = ops.where(ops.abs(step) < 1e-30, ops.full_like(step, 1e-30), step)
        ratio = x / step
        inside = ops.where(ratio < self._highest, ratio, self._highest)
        clipped = ops.where(ratio > self._lowest, inside, self._lowest)
        return ops.cast(surrogate(clipped, ops.round, ops.ones_like) * step, inputs.dtype)

    def _start(self, x):
        magnitude = ops.stop_gradient(mean(ops.abs(x), "kernel" if self.per_channel else "all"))
        return ops.reshape(2 * magnitude / self._highest**0.5, self.step.start.shape)

    def _observe(self, x):
        def statistics():
            # Replicas have batches of one size: the last sum is their number.
            return ops.concatenate([ops.reshape(self._start(x), (-1,)), ops.ones((1,), x.dtype)])

        def start(sums):
            average = sums[:-1] / ops.maximum(sums[-1], 1)
            return ops.reshape(average, self.step.start.shape)

        self.step.observe(1 + self._channels(x), statistics, start)

    def _channels(self, x) -> int:
        return x.shape[-1] if self.per_channel else 1

    def _gradient_scale(self, x):
        number = ops.cast(ops.size(x), x.dtype) / self._channels(x)
        if self.mode == "activations":
            number = number / ops.cast(ops.shape(x)[0], x.dtype)
        return ops.rsqrt(number * self._highest)


@register
class UniformQuantizer(Quantizer):
    """Fake quantization to integers: q(x) = s (clip(round(x / s) + z, lowest, highest) - z).

    dq/dx := 1 where the integer needed no clipping, else 0; s and z take no gradient. Symmetric:
    z = 0, integers -(2^(bits-1) - 1) to 2^(bits-1) - 1, s from max |x|. Affine: -2^(bits-1) to
    2^(bits-1) - 1, s and z from min x and max x, with 0 an exact value. Halves are rounded to even.
    Weights take the range of the tensor itself; activations an exponential moving average over the
    training calls, that starts at the first one's range. These are TensorFlow Lite's int8 schemes.

    Args:
        bits: Integer from 2 to 16. Defaults to 8.
        mode: `"weights"` (default) or `"activations"`.
        symmetric: Boolean. Defaults to `None`: weights are, activations are not.
        per_channel: Whether each channel (last axis) has its own range. Defaults to `False`.
        momentum: Float from 0 to 1, the share of the average that stays. Defaults to 0.99.

    Call arguments:
        inputs: A floating-point tensor of any shape.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras
        >>> from bnnkeras.quantizers import UniformQuantizer
        >>> quantizer = UniformQuantizer(bits=3)
        >>> keras.ops.convert_to_numpy(quantizer([-3.0, -0.4, 1.2, 3.0])).tolist()
        [-3.0, 0.0, 1.0, 3.0]

    Reference:
        Jacob et al., Quantization and Training of Neural Networks (CVPR 2018), section 3.
    """

    def __init__(
        self,
        bits: int = 8,
        mode: str = "weights",
        symmetric: bool | None = None,
        per_channel: bool = False,
        momentum: float = 0.99,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bits = self.precision = _checked_bits("bits", bits, 2)
        self.mode = _checked_mode(mode)
        self.symmetric = mode == "weights" if symmetric is None else symmetric
        self.per_channel = per_channel
        if not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must be from 0 to 1. Received: momentum={momentum}")
        self.momentum = momentum

    def build(self, input_shape):
        if self.mode == "weights":
            return
        shape = (input_shape[-1],) if self.per_channel else ()
        self.lowest, self.highest = (
            self.add_weight(
                name=name, shape=shape, initializer="zeros", trainable=False, aggregation="mean"
            )
            for name in ("lowest", "highest")
        )
        self.observed = self.add_weight(
            name="observed",
            shape=(),
            initializer="zeros",
            dtype="bool",
            trainable=False,
            aggregation="only_first_replica",
        )

    def call(self, inputs, training=None):
        x = wide(inputs)
        lowest, highest = self._range(x, training)
        top = 2 ** (self.bits - 1) - 1
        if self.symmetric:
            bottom = -top
            scale = _positive(ops.maximum(ops.abs(lowest), ops.abs(highest)) / top)
            zero = ops.zeros_like(scale)
        else:
            bottom = -top - 1
            lowest, highest = ops.minimum(lowest, 0), ops.maximum(highest, 0)
            # Each is divided first: their difference may overflow.
            scale = _positive(highest / (top - bottom) - lowest / (top - bottom))
            zero = ops.clip(ops.round(bottom - lowest / scale), bottom, top)

        def integers(x):
            return ops.round(x / scale) + zero

        def forward(x):
            return (ops.clip(integers(x), bottom, top) - zero) * scale

        def derivative(x):
            value = integers(x)
            return ops.cast((value >= bottom) & (value <= top), x.dtype)

        return ops.cast(surrogate(x, forward, derivative), inputs.dtype)

    def _range(self, x, training):
        axes = resolve_axes("kernel" if self.per_channel else "all", len(x.shape))
        x = ops.stop_gradient(x)
        present = ops.min(x, axis=axes), ops.max(x, axis=axes)
        if self.mode == "weights":
            return present
        averages, observed = [], tensor(self.observed)
        for variable, value in zip((self.lowest, self.highest), present, strict=True):
            average = ops.cast(variable, x.dtype)
            if training:
                moved = self.momentum * average + (1 - self.momentum) * value
                value = ops.where(observed, moved, value)
                variable.assign(ops.cast(value, variable.dtype))
            else:
                value = ops.where(observed, average, value)
            averages.append(value)
        if training:
            self.observed.assign(ops.ones((), "bool"))
        return averages


def _in_unit_interval(x):
    return ops.cast((x >= 0) & (x <= 1), x.dtype)


def _positive(scale):
    """`scale`, with 1 for 0: a tensor of zeros has no range."""
    return ops.where(scale > 0, scale, ops.ones_like(scale))


def _checked_bits(argument: str, bits: int, lowest: int) -> int:
    if type(bits) is not int or not lowest <= bits <= 16:
        raise ValueError(
            f"`{argument}` must be an integer from {lowest} to 16. Received: {argument}={bits!r}"
        )
    return bits


def _checked_mode(mode: str) -> str:
    if mode not in MODES:
        raise ValueError(f'`mode` must be "activations" or "weights". Received: mode={mode!r}')
    return mode
