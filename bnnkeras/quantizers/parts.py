"""The base class of the three replaceable parts of a `Binarizer`."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from bnnkeras import registration


class Products(NamedTuple):
    """What a layer multiplies its kernel with: two functions of a kernel.

    Attributes:
        real: The layer's product of its real-valued inputs with a kernel.
        quantized: The layer's product of its quantized inputs with a kernel.
    """

    real: Callable
    quantized: Callable


class Part:
    """A threshold, a scale or a gradient estimator.

    Parts are plain objects. One that owns variables creates them in `build` through
    `binarizer.add_weight`, so that the binarizer tracks, trains and saves them, and belongs to one
    binarizer. Constructor arguments must be kept in attributes of the same name.

    Attributes:
        static: Whether the part computes the same for every input, so that it is a constant once
            training is over.
    """

    static = False
    _owner = None

    def claim(self, binarizer) -> None:
        """Notes whose part this is.

        Raises:
            ValueError: If it has variables and belongs to another binarizer.
        """
        if self._owner not in (None, binarizer) and type(self).build is not Part.build:
            raise ValueError(
                f"A {type(self).__name__} has variables and belongs to one quantizer; give each "
                f"its own. Received: one of {self._owner.name!r} for {binarizer.name!r}"
            )
        self._owner = binarizer

    def build(self, binarizer, input_shape) -> None:
        """Creates the variables of this part for inputs of shape `input_shape`."""

    def observe(self, x, products: Products | None) -> None:
        """Sets state from data; called first in every training call.

        Args:
            x: What the part is computed from in this call.
            products: For the kernel of a layer the layer's products, else `None`.
        """

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return constructor_arguments(self)

    @classmethod
    def from_config(cls, config: dict):
        return cls(**{name: registration.deserialize(value) for name, value in config.items()})


def constructor_arguments(instance) -> dict[str, Any]:
    """The constructor's arguments by name, read from the attributes, as JSON-serializable values.

    An argument without an attribute is left out: a class that stores it otherwise extends
    `get_config` itself.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: _serializable(getattr(instance, name))
        for name, parameter in inspect.signature(type(instance)).parameters.items()
        if parameter.kind in kinds and hasattr(instance, name)
    }


def _serializable(value):
    return registration.serialize(value) if hasattr(value, "get_config") else value
