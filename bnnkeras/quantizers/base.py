"""`Quantizer`, the base of every quantizer, and `Binarizer`, which composes the parts of a sign."""

import keras
from keras import ops

from bnnkeras import context, registration
from bnnkeras.metrics import LayerFlipRatio
from bnnkeras.quantizers.estimators import ClippedIdentity, Estimator
from bnnkeras.quantizers.parts import constructor_arguments
from bnnkeras.quantizers.scales import Scale
from bnnkeras.quantizers.signs import surrogate_sign
from bnnkeras.quantizers.thresholds import Threshold


class Quantizer(keras.layers.Layer):
    """Base class of quantizers: a Keras layer that maps a tensor to one of few values.

    Subclasses define `call(inputs)` and set `precision`. Any callable can serve as a quantizer of a
    layer; this class adds a name, a configuration and the number of bits. Constructor arguments
    kept in attributes of the same name are part of the configuration without further code.

    The output has the dtype of the input, whatever the dtype policy: a quantizer inside a
    `mixed_float16` layer works on float16 activations and on float32 kernels.

    Args:
        metrics: Names of training metrics to keep of the output (`["flip_ratio"]`), or `None`:
            quantizers of kernels then keep those of `bnnkeras.context.metrics_scope`.
        **kwargs: As `keras.layers.Layer`.

    Attributes:
        precision: Bits per value; 32 unless a subclass says otherwise.
        uses_products: Whether a layer should pass its `Products` when it quantizes its kernel.
        flip_ratio: The `FlipRatio` of the output, or `None`.
    """

    precision = 32
    uses_products = False

    def __init__(self, metrics=None, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self._state: list[keras.Variable] = []
        self.flip_ratio: LayerFlipRatio | None = None
        if metrics is not None:
            self.add_training_metrics(metrics)

    def add_training_metrics(self, names) -> None:
        """Keeps the metrics of these names from now on. Only before the first use."""
        if "flip_ratio" in context.check_metrics(names):
            if self.built:
                raise ValueError(
                    "A quantizer that is built already cannot start to keep metrics; create it "
                    f"with `metrics`. Received: metrics={list(names)} for {self.name!r}"
                )
            self.flip_ratio = LayerFlipRatio(name=f"flip_ratio/{self.name}")

    def build_metrics(self, shape) -> None:
        """Creates the variables of the metrics, for outputs of shape `shape`."""
        if self.flip_ratio is not None:
            if self.flip_ratio.built:
                raise ValueError(
                    "A quantizer with metrics serves one kernel; give each layer its own. "
                    f"Received: {self.name!r} a second time"
                )
            # A scale changes at each step; a flip of -1, 0 or 1 is a change of sign.
            self.flip_ratio.values_dtype = "int8" if self.precision <= 2 else "float32"
            self.flip_ratio.build(shape)

    @property
    def variables(self):
        # State, but not weights: checkpoints are the same with and without metrics.
        metric = self.flip_ratio
        return super().variables + ([] if metric is None else metric.layer_variables)

    def __call__(self, inputs, *args, **kwargs):
        if isinstance(inputs, (list, tuple, float, int)):
            inputs = ops.convert_to_tensor(inputs, keras.config.floatx())
        outputs = super().__call__(inputs, *args, **kwargs)
        if self.flip_ratio is not None and not isinstance(outputs, keras.KerasTensor):
            values = outputs[0] if isinstance(outputs, tuple) else outputs
            if not self.flip_ratio.built:
                self.build_metrics(values.shape)
            self.flip_ratio.update_state(ops.sign(values) if self.precision <= 2 else values)
        return outputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs, *args, **kwargs):
        # Keras would take the dtype from the policy.
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def add_weight(self, *args, **kwargs):
        # A scale of 1e-9 or a mean of many values has no float16.
        return super().add_weight(*args, **{"autocast": False, **kwargs})

    def add_state(self, name: str, value: float) -> keras.Variable:
        """A scalar variable that shapes gradients only, such as a scheduled temperature.

        It is saved with the model, but it is no weight: `weights`, `get_weights`, parameter counts
        and checkpoints made without it do not know it.
        """
        variable = self.add_weight(
            name=name,
            shape=(),
            # `Constant` would round to float32 on TensorFlow.
            initializer=lambda shape, dtype: ops.convert_to_tensor(value, dtype),
            trainable=False,
        )
        self._state.append(variable)
        return variable

    @property
    def weights(self):
        hidden = {id(variable) for variable in self._state}
        return [variable for variable in super().weights if id(variable) not in hidden]

    def save_own_variables(self, store):
        for index, variable in enumerate(self.weights):
            store[str(index)] = variable
        for variable in self._state:
            store[variable.name] = variable

    def load_own_variables(self, store):
        state = {variable.name: variable for variable in self._state}
        stored, weights = set(store.keys()) - set(state), self.weights
        if len(stored) != len(weights):
            raise ValueError(
                f"Quantizer {self.name!r} expected {len(weights)} variables: "
                f"{[variable.name for variable in weights]}. Received: {len(stored)}"
            )
        for index, variable in enumerate(weights):
            variable.assign(store[str(index)])
        for name, variable in state.items():
            if name in store.keys():
                variable.assign(store[name])

    def get_config(self) -> dict:
        # Keras knows its own arguments, and `Layer.metrics` holds objects, not names.
        config = {**constructor_arguments(self), **super().get_config()}
        config.pop("metrics", None)
        return config if self.flip_ratio is None else {**config, "metrics": ["flip_ratio"]}


@registration.register
class Binarizer(Quantizer):
    """q(x) = s(x) sign(x - t(x)); dq/dx := estimator.derivative(x - t(x)) (times s(x), or not).

    Every 1-bit quantizer of the package is this class with three parts filled in. Gradients of t
    and s with respect to their own variables follow by the chain and the product rule.

    NaN becomes -1 (with `sign_of_zero=1`), so a NaN of the activations does not show in the
    output; +-inf becomes +-1, and receives no gradient from a bounded estimator. Thresholds and
    scales that are means become infinite or NaN with their input.

    Args:
        threshold: A `Threshold` t, or `None` for 0.
        scale: A `Scale` s, or `None` for 1.
        estimator: An `Estimator`. Defaults to `ClippedIdentity(1.0)`.
        scale_gradient: Whether dq/dx is multiplied by s (the product rule). `False` needs a scale
            without variables, because it gives the scale no gradient either.
        sign_of_zero: 1 (default; Larq, LCE) or 0 (PyTorch's sign).

    Call arguments:
        inputs: A floating-point tensor. The output has the same shape and dtype.
        products: `Products` of the layer whose kernel `inputs` is; a scale may start from them.
        apart: Whether to return sign(x - t) and s(x), whose product is q(x), as a pair. Only with
            a scale.
        training: Whether parts may set their state from `inputs`.

    Raises:
        ValueError: If `sign_of_zero` is neither 0 nor 1.
        TypeError: If a part has the wrong type.

    Example:
        >>> import keras
        >>> from bnnkeras import quantizers
        >>> quantizer = quantizers.Binarizer(
        ...     scale=quantizers.MeanMagnitude(), estimator=quantizers.Triangle()
        ... )
        >>> keras.ops.convert_to_numpy(quantizer([[1.0], [-3.0]])).tolist()
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
        self.uses_products = self.scale is not None and self.scale.uses_products

    def build(self, input_shape):
        for part in (self.threshold, self.scale, self.estimator):
            if part is not None:
                part.claim(self)
        if self.scale is not None:
            self.scale.build(self, input_shape)
            if self.trainable_variables and not self.scale_gradient:
                # `surrogate` cuts the gradient of its gain: the scale would never learn.
                raise ValueError(
                    "`scale_gradient=False` needs a scale without trainable variables. "
                    f"Received: scale={type(self.scale).__name__}"
                )
        for part in (self.threshold, self.estimator):
            if part is not None:
                part.build(self, input_shape)

    def centre(self, inputs):
        """x - t(x), or what the threshold makes of x: the value whose sign counts."""
        return inputs if self.threshold is None else self.threshold.centre(inputs)

    def components(self, inputs):
        """(x - t(x), s(x)): what q is made of; s is `None` where it is 1.

        s has the dtype of x and broadcasts against it.
        """
        centred = self.centre(inputs)
        if self.scale is None:
            return centred, None
        scale = self.scale(centred if self.scale.of_centred else inputs)
        return centred, ops.cast(scale, inputs.dtype)

    def embed(self, inputs):
        """What a layer adds to the products of these inputs once quantized; `None` for nothing."""
        embedding = None if self.threshold is None else self.threshold.embed(inputs)
        return None if embedding is None else ops.cast(embedding, inputs.dtype)

    def call(self, inputs, products=None, apart=False, training=None):
        if training and self.scale is not None:
            self.scale.observe(self.centre(inputs) if self.scale.of_centred else inputs, products)
        centred, scale = self.components(inputs)
        gain = None if self.scale_gradient else scale
        if apart:
            return surrogate_sign(centred, self.estimator, self.sign_of_zero, divisor=gain), scale
        signs = surrogate_sign(centred, self.estimator, self.sign_of_zero, gain)
        return signs if scale is None or gain is not None else scale * signs


def _part(argument: str, part, kind: type):
    """`part`, revived if it is a configuration, checked to be a `kind` or `None`."""
    part = registration.deserialize(part)
    if part is not None and not isinstance(part, kind):
        raise TypeError(f"`{argument}` must be a {kind.__name__} or None. Received: {part!r}")
    return part
