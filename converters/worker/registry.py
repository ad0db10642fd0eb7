"""Which module of the deploy worker answers which command."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Handler = Callable[..., tuple[dict[str, Any], Arrays]]

# The child imports a module when the first of its commands is asked for.
COMMAND_MODULES: dict[str, str] = {
    "environment": "bnnkeras.converters.worker.running",
    "load": "bnnkeras.converters.worker.running",
    "predict": "bnnkeras.converters.worker.running",
    "benchmark": "bnnkeras.converters.worker.timing",
    "operator_latency": "bnnkeras.converters.worker.timing",
    "memory": "bnnkeras.converters.worker.timing",
    "convert_saved_model": "bnnkeras.converters.worker.converting",
    "describe": "bnnkeras.converters.reporting.facts",
    "convert": "bnnkeras.converters.export",
    "convert_float": "bnnkeras.converters.export",
    "verify": "bnnkeras.converters.checks",
    "probe": "bnnkeras.converters.checks",
}

_handlers: dict[str, Handler] = {}


def command(name: str) -> Callable[[Handler], Handler]:
    """Registers the function that answers a command.

    The function is called in the child as `handler(arrays, **parameters)` and returns
    `(result, arrays)`: a dict of JSON values and a dict of arrays.

    Args:
        name: String. The command; `COMMAND_MODULES` must name the function's module for it.

    Returns:
        A decorator that returns the function unchanged.
    """

    def register(handler: Handler) -> Handler:
        _handlers[name] = handler
        return handler

    return register


def find(name: str, modules: Mapping[str, str] = COMMAND_MODULES) -> Handler:
    """Returns the function that answers a command, importing its module if necessary.

    Args:
        name: String. The command.
        modules: Mapping from command to module name.

    Raises:
        ValueError: If no module is known for the command, or it does not register it.
    """
    if name not in modules:
        raise ValueError(f"`command` must be one of {sorted(modules)}. Received: {name!r}")
    importlib.import_module(modules[name])
    if name not in _handlers:
        raise ValueError(f"`{modules[name]}` does not register this command. Received: {name!r}")
    return _handlers[name]
