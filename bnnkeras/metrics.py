"""Training metrics of quantized layers."""

import math

import keras
from keras import ops
from keras.src.backend import in_stateless_scope

from bnnkeras.registration import register


@register
class FlipRatio(keras.metrics.Metric):
    """The mean share of the values of a tensor that changed since the update before.

    With v_t the values at update t = 0, 1, ..., T: sum of mean(v_t != v_(t-1)) over t >= 1, / T.

    `kernel_quantizer=SteSign(metrics=["flip_ratio"])`, or building a model inside
    `bnnkeras.context.metrics_scope(["flip_ratio"])`, keeps one per kernel: `fit` reports it as
    `flip_ratio/<name of the quantizer>`. Flips of 1-bit and ternary kernels are changes of sign,
    whatever their scale; of more bits, changes of value. On JAX `fit` knows the value at the end
    of an epoch only, and logs NaN for the steps.

    Args:
        values_dtype: Values are compared in this dtype. Defaults to `"int8"`.
        name: String. Defaults to `"flip_ratio"`.
        dtype: Dtype of the result. Defaults to `keras.config.floatx()`.

    Call arguments:
        values: A tensor of the same shape at every update.

    Raises:
        ValueError: If the shape is not fixed, or changes between updates.

    Example:
        >>> from bnnkeras.metrics import FlipRatio
        >>> metric = FlipRatio()
        >>> metric.update_state([1, 1])
        >>> metric.update_state([2, 2])
        >>> metric.update_state([1, 2])
        >>> float(metric.result())
        0.75

    Reference:
        Helwegen et al., Latent Weights Do Not Exist (NeurIPS 2019), section 5.1.
    """

    def __init__(self, values_dtype="int8", name="flip_ratio", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.values_dtype = keras.backend.standardize_dtype(values_dtype)
        self.built = False

    def build(self, input_shape):
        """Creates the variables for values of shape `input_shape`; the first update does it too."""
        shape = tuple(input_shape)
        if None in shape:
            raise ValueError(
                "The flip ratio needs values of a fixed shape, such as a kernel's. "
                f"Received: input_shape={shape}"
            )
        self.previous_values = self._add_variable(shape, self.values_dtype, "previous_values")
        self.total = self._add_variable((), self.dtype, "total")
        self.count = self._add_variable((), self.dtype, "count")
        self.built = True

    def _add_variable(self, shape, dtype, name):
        return self.add_variable(
            shape, "zeros", dtype=dtype, name=name, aggregation="only_first_replica"
        )

    def update_state(self, values, sample_weight=None):
        """Counts the values that differ from those of the update before.

        `sample_weight` is there for Keras and has no effect.
        """
        values = ops.stop_gradient(ops.cast(values, self.values_dtype))
        if not self.built:
            self.build(values.shape)
        if tuple(values.shape) != tuple(self.previous_values.shape):
            raise ValueError(
                "The shape of `values` must not change between updates: expected "
                f"{tuple(self.previous_values.shape)}. Received: shape {tuple(values.shape)}"
            )
        changed = ops.cast(ops.not_equal(self.previous_values, values), self.dtype)
        flip_ratio = ops.sum(changed) / max(math.prod(values.shape), 1)
        # Before the first update there is nothing to compare with, and count is 0.
        self.total.assign_add(flip_ratio * ops.sign(self.count))
        self.count.assign_add(ops.ones((), self.dtype))
        self.previous_values.assign(values)

    def result(self):
        if not self.built:
            return ops.zeros((), self.dtype)
        return ops.divide_no_nan(self.total, ops.relu(self.count - 1))

    def reset_state(self):
        """Starts a new mean. Its first update is not counted, as in Larq."""
        if self.built:
            for variable in (self.total, self.count):
                variable.assign(ops.zeros((), self.dtype))

    def get_config(self) -> dict:
        return {**super().get_config(), "values_dtype": self.values_dtype}


class LayerFlipRatio(FlipRatio):
    """A `FlipRatio` that a layer updates in its call, and whose variables are state of that layer.

    JAX: `stateless_call` gives values to the variables of layers only, so a metric with variables
    of its own cannot be updated during `fit`. The metric reads them back where they are known, at
    the end of an epoch.
    """

    @property
    def variables(self):
        return []

    @property
    def layer_variables(self):
        """What the layer must list among its non-trainable variables."""
        return list(self._variables)

    def result(self):
        # The metrics phase of a JAX training step knows metric variables only: reading others
        # would compile this step's value into all steps.
        if in_stateless_scope():
            return ops.full((), math.nan, self.dtype)
        return super().result()
