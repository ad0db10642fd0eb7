"""Trained values that start from the first batch of training data."""

import keras
from keras import ops

from bnnkeras.quantizers.reductions import tensor, wide


class StartedValue:
    """value = start + offset: `start` is set once from data, `offset` is trained from 0.

    The sum has the gradient and the optimizer step of a single trained value. `start` is set by the
    first training call, inside `fit` as much as in any loop, from the statistics of the global
    batch: on TensorFlow's replicas and PyTorch's process groups they are summed over all, and
    JAX's sharded arrays are global by themselves. Saved with the model, `start` stays as it is.

    Args:
        layer: The layer that owns the three variables.
        name: Prefix of their names.
        shape: Shape of the value.
    """

    def __init__(self, layer, name: str, shape: tuple[int, ...] = ()):
        fixed = {"trainable": False, "aggregation": "only_first_replica"}
        self.start = layer.add_weight(
            name=f"{name}_start", shape=shape, initializer="zeros", **fixed
        )
        self.offset = layer.add_weight(name=f"{name}_offset", shape=shape, initializer="zeros")
        self.started = layer.add_weight(
            name=f"{name}_started", shape=(), initializer="zeros", dtype="bool", **fixed
        )

    def value(self, otherwise):
        """start + offset, with `otherwise` for a start that is not set yet."""
        otherwise = ops.stop_gradient(ops.cast(otherwise, self.start.dtype))
        start = ops.where(tensor(self.started), tensor(self.start), otherwise)
        return start + tensor(self.offset)

    def observe(self, size: int, statistics, value_of) -> None:
        """Sets `start`, unless it is set.

        Args:
            size: Length of the vector of statistics.
            statistics: Function without arguments: a vector of sums over the batch. Only the first
                call computes it.
            value_of: Function of that vector, or of zeros, whose result is not used: the start.
        """

        def measured():
            return ops.stop_gradient(ops.cast(statistics(), self.start.dtype))

        def nothing():
            return ops.zeros((size,), self.start.dtype)

        # Replicas may not communicate inside of a condition.
        started = tensor(self.started)
        sums = sum_over_replicas(ops.cond(started, nothing, measured))
        start = ops.cast(value_of(sums), self.start.dtype)
        self.start.assign(ops.where(started, tensor(self.start), start))
        self.started.assign(ops.ones((), "bool"))

    def assign(self, value) -> None:
        """Makes `value` the present one, for example that of a checkpoint. 0 means: not set."""
        value = ops.broadcast_to(ops.cast(value, self.start.dtype), self.start.shape)
        self.start.assign(value)
        self.offset.assign(ops.zeros_like(value))
        self.started.assign(ops.any(value != 0))


def sum_over_replicas(x):
    """The sum of `x` over the replicas of data-parallel training; `x` itself on one."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, x)
    elif backend == "torch":
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            x = x.clone()
            torch.distributed.all_reduce(x)
    return x


def moments(x):
    """A vector (count, sum, sum of squares about the mean, count times squared mean) of `x`."""
    x = wide(x)
    number = ops.cast(ops.size(x), x.dtype)
    total = ops.sum(x)
    average = total / number
    return ops.stack(
        [number, total, ops.sum(ops.square(x - average)), number * ops.square(average)]
    )


def deviation(sums):
    """The standard deviation of what a sum of `moments` describes."""
    number, total, within, between = (sums[index] for index in range(4))
    number = ops.maximum(number, 1)
    variance = (within + between - ops.square(total) / number) / number
    return ops.sqrt(ops.maximum(variance, 0))
