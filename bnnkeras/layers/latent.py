"""Latent weights: real-valued variables that a layer quantizes where it reads them."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import keras
from keras import ops

from bnnkeras import context
from bnnkeras.quantizers import NoOp

_log = logging.getLogger("bnnkeras.layers")
_warns = ContextVar("warns_of_starved_weights", default=True)


def mark_latent(variable: keras.Variable, quantizer: Callable) -> None:
    """Tags a kernel with its quantizer's `precision`, and lets `quantized_scope` apply to it.

    `variable.numpy()`, and so `get_weights`, gives q(W) inside `quantized_scope(True)`. Nothing
    that computes reads a variable through `numpy()`: training and optimizers see W.
    """
    latent_values = variable.numpy

    def numpy():
        if not context.should_quantize():
            return latent_values()
        # The scope drops what a quantizer would write: metrics, a start from the first batch.
        with keras.StatelessScope():
            return ops.convert_to_numpy(quantizer(ops.cast(variable, variable.dtype)))

    variable.precision = getattr(quantizer, "precision", 32)
    variable.numpy = numpy


class LatentStore(dict):
    """Takes what a layer saves, to be written by `write`, kernels as `quantized_scope` asks."""

    def write(self, store) -> None:
        for key, value in self.items():
            store[key] = value.numpy() if isinstance(value, keras.Variable) else value


def warn_of_starved_weights(quantizer, constraint, weight: str) -> None:
    """Logs a warning if a binary weight has no constraint, unless inside `starved_weights_known`.

    Args:
        quantizer: The quantizer of the weight, or `None`.
        constraint: Its constraint, or `None`.
        weight: `"kernel"`, `"depthwise"` or `"pointwise"`.
    """
    binary = getattr(quantizer, "precision", None) == 1 and not isinstance(quantizer, NoOp)
    if binary and constraint is None and _warns.get():
        _log.warning(
            "Using a binary weight quantizer without setting `%s_constraint` may result in starved "
            "weights (where the gradient is always zero).",
            weight,
        )


@contextlib.contextmanager
def starved_weights_known() -> Iterator[None]:
    """Layers created inside log no warning: their author, or a saved model, decided already."""
    token = _warns.set(False)
    try:
        yield
    finally:
        _warns.reset(token)
