"""`Quantizer`, the base of every quantizer, and `Binarizer`, which composes the parts of a sign."""

import keras
from keras import ops

from bnnkeras import registration
from bnnkeras.quantizers.estimators import ClippedIdentity, Estimator
from bnnkeras.quantizers.scales import Scale
from bnnkeras.quantizers.thresholds import Threshold


class Quantizer(keras.layers.Layer):
    """Base class of quantizers: a Keras layer that maps a tensor to one of few values.

    Subclasses define `call(inputs)` and set `precision`. Any callable can serve as a quantizer of a
    layer; this class adds a name, a configuration and the number of bits.

    The output has the dtype of the input, whatever the dtype policy: a quantizer inside a
    `mixed_float16` layer works on float16 activations and on float32 kernels.

    Attributes:
        precision: Bits per value; 32 unless a subclass says otherwise.
    """

    precision = 32

    def __init__(self, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs, *args, **kwargs):
        # Keras would take the dtype from the policy.
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def sign(x, sign_of_zero: int = 1):
    """-1 or +1 with the dtype of `x`; `sign_of_zero` at 0 and -0.

    With `sign_of_zero=1` NaN gives -1 (+1 inside LCE); with 0 it depends on the backend.
    """
    if sign_of_zero == 0:
        return ops.sign(x)
    one = ops.ones((), dtype=x.dtype)
    return ops.where(x >= 0, one, -one)


def surrogate_sign(x, estimator: Estimator, sign_of_zero: int = 1, gain=None):
    """`gain * sign(x)` forward, `upstream * estimator.derivative(x)` backward.

    Args:
        x: A tensor.
        estimator: The `Estimator` that gives the derivative of the sign.
        sign_of_zero: 1 or 0, the value at x = 0.
        gain: A tensor that broadcasts against `x` and that the gradient ignores; `None` means 1.
    """

    @ops.custom_gradient
    def forward(x):
        signs = sign(x, sign_of_zero)

        def backward(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return upstream * estimator.derivative(x)

        return signs if gain is None else signs * gain, backward

    # The cast turns a variable into a tensor, which TensorFlow's custom gradients need.
    return forward(ops.cast(x, keras.backend.standardize_dtype(x.dtype)))


@registration.register
class Binarizer(Quantizer):
    """q(x) = s(x) sign(x - t(x)); dq/dx := estimator.derivative(x - t(x)) (times s(x), or not).

    Every 1-bit quantizer of the package is this class with three parts filled in. Gradients of t
    and s with respect to their own variables follow by the chain and the product rule.

    Args:
        threshold: A `Threshold` t, or `None` for 0.
        scale: A `Scale` s, or `None` for 1.
        estimator: An `Estimator`. Defaults to `ClippedIdentity(1.0)`.
        scale_gradient: Whether dq/dx is multiplied by s (the product rule). `False` needs a scale
            without variables, because it gives the scale no gradient either.
        sign_of_zero: 1 (default; Larq, LCE) or 0 (PyTorch's sign).

    Call arguments:
        inputs: A floating-point tensor. The output has the same shape and dtype.

    Raises:
        ValueError: If `sign_of_zero` is neither 0 nor 1.
        TypeError: If a part has the wrong type.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(
        ...     scale=quantizers.MeanMagnitude(), estimator=quantizers.Triangle()
        ... )
        >>> keras.ops.convert_to_numpy(quantizer(np.array([[1.0], [-3.0]]))).tolist()
        [[2.0], [-2.0]]
    """

    precision = 1

    def __init__(
        self,
        threshold: Threshold | None = None,
        scale: Scale | None = None,
        estimator: Estimator | None = None,
        scale_gradient: bool = True,
        sign_of_zero: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if sign_of_zero not in (0, 1):
            raise ValueError(
                f"`sign_of_zero` must be 0 or 1. Received: sign_of_zero={sign_of_zero}"
            )
        self.threshold = _part("threshold", threshold, Threshold)
        self.scale = _part("scale", scale, Scale)
        self.estimator = _part("estimator", estimator, Estimator) or ClippedIdentity()
        self.scale_gradient = scale_gradient
        self.sign_of_zero = sign_of_zero

    def build(self, input_shape):
        if self.scale is not None:
            self.scale.build(self, input_shape)
            if self.trainable_variables and not self.scale_gradient:
                # `surrogate_sign` cuts the gradient of its gain: the scale would never learn.
                raise ValueError(
                    "`scale_gradient=False` needs a scale without trainable variables. "
                    f"Received: scale={type(self.scale).__name__}"
                )
        for part in (self.threshold, self.estimator):
            if part is not None:
                part.build(self, input_shape)

    def centre(self, inputs):
        """x - t(x): the value whose sign counts."""
        return inputs if self.threshold is None else inputs - self.threshold(inputs)

    def call(self, inputs):
        centred = self.centre(inputs)
        if self.scale is None:
            return surrogate_sign(centred, self.estimator, self.sign_of_zero)
        scale = self.scale(inputs)
        if self.scale_gradient:
            return scale * surrogate_sign(centred, self.estimator, self.sign_of_zero)
        return surrogate_sign(centred, self.estimator, self.sign_of_zero, gain=scale)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "threshold": registration.serialize(self.threshold),
            "scale": registration.serialize(self.scale),
            "estimator": registration.serialize(self.estimator),
            "scale_gradient": self.scale_gradient,
            "sign_of_zero": self.sign_of_zero,
        }


def _part(argument: str, part, kind: type):
    """`part`, revived if it is a configuration, checked to be a `kind` or `None`."""
    part = registration.deserialize(part)
    if part is not None and not isinstance(part, kind):
        raise TypeError(f"`{argument}` must be a {kind.__name__} or None. Received: {part!r}")
    return part
