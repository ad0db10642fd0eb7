"""Gradients on any Keras backend, and the comparison with golden arrays."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops


class Gradients(NamedTuple):
    """An output, and the gradients of its loss as NumPy arrays."""

    value: np.ndarray
    inputs: list[np.ndarray]
    variables: dict[str, np.ndarray]  # Trainable variables only, by `variable.path`.


def gradients(
    function: Callable,
    arrays: Sequence,
    upstream=None,
    loss: Callable | None = None,
    training: bool | None = None,
) -> Gradients:
    """Gradients of sum(output * upstream), or of `loss(output)`, by the backend's own means.

    Args:
        function: A layer or model, or a function of tensors. Of a layer the gradients of the
            trainable variables are returned too, and its other variables are updated.
        arrays: The inputs. Their dtype is kept.
        upstream: The gradient that arrives at the output. Defaults to ones.
        loss: A scalar function of the output instead of `upstream`.
        training: Passed to `function` unless it is `None`.
    """
    layer = function if isinstance(function, keras.layers.Layer) else None
    if layer is not None and not layer.built:
        layer.build(*(x.shape for x in arrays))
    variables = [] if layer is None else layer.trainable_variables
    arguments = {} if training is None else {"training": training}
    tensors = [ops.convert_to_tensor(x, dtype=np.asarray(x).dtype.name) for x in arrays]

    def scalar(output):
        if loss is not None:
            return loss(output)
        if upstream is None:
            return ops.sum(output)
        return ops.sum(output * ops.cast(upstream, output.dtype))

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = function(*tensors, **arguments)
            total = scalar(output)
        found = tape.gradient(total, tensors + [variable.value for variable in variables])
    elif keras.backend.backend() == "torch":
        import torch

        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        output = function(*tensors, **arguments)
        sources = tensors + [variable.value for variable in variables]
        found = torch.autograd.grad(scalar(output), sources, allow_unused=True)
    else:
        output, found = _jax_gradients(function, layer, tensors, arguments, scalar)

    # None: the loss does not depend on it.
    found = [
        np.zeros(source.shape) if gradient is None else ops.convert_to_numpy(gradient)
        for source, gradient in zip([*tensors, *variables], found, strict=True)
    ]
    paths = [variable.path for variable in variables]
    count = len(tensors)
    return Gradients(
        ops.convert_to_numpy(output),
        found[:count],
        dict(zip(paths, found[count:], strict=True)),
    )


def _jax_gradients(function, layer, tensors, arguments, scalar):
    import jax

    def stateless(tensors, trainable):
        if layer is None:
            output, state = function(*tensors, **arguments), []
        else:
            fixed = [variable.value for variable in layer.non_trainable_variables]
            output, state = layer.stateless_call(trainable, fixed, *tensors, **arguments)
        return scalar(output), (output, state)

    trainable = [] if layer is None else [variable.value for variable in layer.trainable_variables]
    differentiate = jax.jit(jax.grad(stateless, argnums=(0, 1), has_aux=True))
    (of_tensors, of_variables), (output, state) = differentiate(tensors, trainable)
    if layer is not None:
        for variable, value in zip(layer.non_trainable_variables, state, strict=True):
            variable.assign(value)
    return output, [*of_tensors, *of_variables]


def assert_close(actual, expected, tolerance: float = 1e-9, label: str = "") -> None:
    """Fails where they differ by more than `tolerance` times the largest expected magnitude."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, label
    # Not `>`: a NaN anywhere must fail.
    difference = np.max(np.abs(actual - expected), initial=0.0)
    bound = tolerance * np.max(np.abs(expected), initial=0.0)
    assert difference <= bound, f"{label}: differs by {difference:.3g}, allowed is {bound:.3g}"
