"""Context managers: which metrics quantizers keep, and whether weights are read quantized.

Each holds in the thread (or asynchronous task) that entered it, and ends with the block, also when
the block raises.
"""

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

AVAILABLE_METRICS = ("flip_ratio",)

_should_quantize: ContextVar[bool] = ContextVar("should_quantize", default=False)
_outside_of_scopes: set[str] = set()
_training_metrics: ContextVar[set[str]] = ContextVar("training_metrics", default=_outside_of_scopes)


@contextlib.contextmanager
def quantized_scope(quantize: bool) -> Iterator[bool]:
    """Whether the weights of quantized layers are given out quantized or latent.

    Inside `quantized_scope(True)`, `get_weights()` of layers and models, `variable.numpy()` of a
    kernel, `model.save` and `model.save_weights` see q_kernel(W) in place of the latent real-valued
    kernel W. What is computed never depends on the scope: training, optimizers and predictions read
    W, and quantize it where the layer does.

    Args:
        quantize: `True` for quantized weights, `False` for latent ones (as outside of any scope).

    Example:
        >>> import bnnkeras
        >>> layer = bnnkeras.layers.QuantDense(
        ...     1, kernel_quantizer="ste_sign", kernel_initializer=lambda shape, dtype: [[-0.5]],
        ...     kernel_constraint="weight_clip", use_bias=False,
        ... )
        >>> layer.build((None, 1))
        >>> layer.get_weights()[0].tolist()
        [[-0.5]]
        >>> with bnnkeras.context.quantized_scope(True):
        ...     layer.get_weights()[0].tolist()
        [[-1.0]]
    """
    token = _should_quantize.set(bool(quantize))
    try:
        yield quantize
    finally:
        _should_quantize.reset(token)


def should_quantize() -> bool:
    """Whether the innermost `quantized_scope` is one of `True`; `False` outside of all."""
    return _should_quantize.get()


@contextlib.contextmanager
def metrics_scope(metrics: Iterable[str] = ()) -> Iterator[set[str]]:
    """Adds training metrics to the kernel quantizers of layers that are created inside.

    A quantizer that was given `metrics` of its own keeps those.

    Args:
        metrics: Names; `"flip_ratio"` is the only one (`bnnkeras.metrics.FlipRatio`).

    Raises:
        ValueError: If a name is unknown.

    Example:
        >>> import bnnkeras
        >>> with bnnkeras.context.metrics_scope(["flip_ratio"]):
        ...     layer = bnnkeras.layers.QuantDense(
        ...         8, kernel_quantizer="ste_sign", kernel_constraint="weight_clip"
        ...     )
        >>> len(layer.metrics)
        1
    """
    token = _training_metrics.set(_training_metrics.get() | set(check_metrics(metrics)))
    try:
        yield _training_metrics.get()
    finally:
        _training_metrics.reset(token)


def get_training_metrics() -> set[str]:
    """The set of metric names of the innermost `metrics_scope`.

    It is live: `get_training_metrics().add("flip_ratio")` outside of all scopes switches the metric
    on for all kernel quantizers created later.

    Example:
        >>> import bnnkeras
        >>> with bnnkeras.context.metrics_scope(["flip_ratio"]):
        ...     bnnkeras.context.get_training_metrics()
        {'flip_ratio'}
        >>> bnnkeras.context.get_training_metrics()
        set()
    """
    return _training_metrics.get()


def check_metrics(metrics: Iterable[str]) -> list[str]:
    """The names in `metrics`.

    Raises:
        ValueError: If one is unknown, or `metrics` is a bare string.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in AVAILABLE_METRICS]
    if unknown or isinstance(metrics, str):
        raise ValueError(
            f"`metrics` must be a list of names out of {list(AVAILABLE_METRICS)}. "
            f"Unknown training metric or no list. Received: metrics={metrics!r}"
        )
    return names
