"""Quantizers by name and as configurations."""

from collections.abc import Callable

import keras

from bnnkeras.quantizers import presets

# String id -> class. The class name is accepted as well.
NAMED: dict[str, type] = {
    "approx_sign": presets.ApproxSign,
    "magnitude_aware_sign": presets.MagnitudeAwareSign,
    "ste_sign": presets.SteSign,
}
_CLASS_NAMES = {cls.__name__: cls for cls in NAMED.values()}


def get(identifier) -> Callable | None:
    """A quantizer from its name, configuration or itself.

    Args:
        identifier: `None`, a string id or class name (`"ste_sign"`, `"SteSign"`), a configuration
            as `serialize` makes it, or any callable, which is returned as it is.

    Raises:
        ValueError: If there is no such quantizer.

    Example:
        >>> from bnnkeras import quantizers
        >>> quantizers.get("magnitude_aware_sign").precision
        1
    """
    if isinstance(identifier, str):
        return deserialize(identifier)
    if isinstance(identifier, dict):
        return deserialize(identifier)
    if identifier is None or (callable(identifier) and not isinstance(identifier, type)):
        return identifier
    raise ValueError(
        "A quantizer must be None, a name, a configuration or a callable such as an instance of "
        f"bnnkeras.quantizers.Quantizer. Received: {identifier!r}"
    )


def serialize(quantizer) -> dict | None:
    """The configuration of a quantizer, to be read by `deserialize`; `None` stays `None`."""
    return None if quantizer is None else keras.saving.serialize_keras_object(quantizer)


def deserialize(config, custom_objects: dict | None = None):
    """The quantizer of a configuration or name.

    Raises:
        ValueError: If a name is unknown.
    """
    if isinstance(config, str):
        cls = NAMED.get(config) or _CLASS_NAMES.get(config)
        if cls is None:
            raise ValueError(
                f"Unknown quantizer name. Known names: {', '.join(sorted(NAMED))}. "
                f"Received: {config!r}"
            )
        return cls()
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
