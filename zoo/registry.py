"""The list of models in the zoo: each model function registers itself under a name."""

import functools
from collections.abc import Callable

import keras

from bnnkeras.layers.latent import starved_weights_known

_MODELS: dict[str, Callable[..., keras.Model]] = {}


def register_model(function: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    """Adds a model function to the zoo under its lower-case name; used as a decorator.

    Its layers log no warning of starved weights: published networks train as published.
    """

    @functools.wraps(function)
    def build(*args, **kwargs):
        with starved_weights_known():
            return function(*args, **kwargs)

    _MODELS[function.__name__.lower()] = build
    return build


def list_models() -> list[str]:
    """The names that `get` accepts, sorted.

    Example:
        >>> from bnnkeras import zoo
        >>> "birealnet18" in zoo.list_models()
        True
    """
    return sorted(_MODELS)


def get(name: str, /, **kwargs) -> keras.Model:
    """Builds the model of that name.

    Args:
        name: One of `list_models()`; upper or lower case.
        **kwargs: Arguments of the model function.

    Raises:
        ValueError: If there is no such model.
    """
    function = _MODELS.get(str(name).lower())
    if function is None:
        raise ValueError(f"`name` must be one of {list_models()}. Received: name={name!r}")
    return function(**kwargs)
