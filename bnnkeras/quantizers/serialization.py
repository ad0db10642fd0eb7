"""Quantizers by name and as configurations."""

from collections.abc import Callable

import keras

from bnnkeras import context
from bnnkeras.quantizers import levels, multibit, presets, published
from bnnkeras.quantizers.base import Quantizer

# String id -> class. The class name is accepted as well.
NAMED: dict[str, type[Quantizer]] = {
    "approx_sign": presets.ApproxSign,
    "bivit_kernel": published.BiViTKernel,
    "contextual_sign": published.ContextualSign,
    "dab": published.DAB,
    "dorefa_quantizer": multibit.DoReFa,
    "ede_sign": presets.EDESign,
    "int8": multibit.UniformQuantizer,
    "libra_kernel": published.LibraKernel,
    "lsq": multibit.LSQ,
    "lsr_kernel": published.LSRKernel,
    "magnitude_aware_sign": presets.MagnitudeAwareSign,
    "rsign": published.RSign,
    "ste_heaviside": levels.SteHeaviside,
    "ste_sign": presets.SteSign,
    "ste_tern": levels.SteTern,
    "swish_sign": presets.SwishSign,
    "xnor_input": published.XNORInput,
    "xnor_kernel": published.XNORKernel,
}
# Also the names without an id, which configurations of Larq hold.
_CLASS_NAMES: dict[str, type[Quantizer]] = {
    **{cls.__name__: cls for cls in NAMED.values()},
    "DoReFaQuantizer": multibit.DoReFa,
    "NoOp": levels.NoOp,
    "NoOpQuantizer": levels.NoOp,
}


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
    if isinstance(identifier, (str, dict)):
        return deserialize(identifier)
    if identifier is None or (callable(identifier) and not isinstance(identifier, type)):
        return identifier
    raise ValueError(
        "A quantizer must be None, a name, a configuration or a callable such as an instance of "
        f"bnnkeras.quantizers.Quantizer. Received: {identifier!r}"
    )


def get_kernel_quantizer(identifier) -> Callable | None:
    """`get` for the quantizer of a kernel: without metrics, it keeps those of the `metrics_scope`.

    Args:
        identifier: As for `get`.

    Raises:
        ValueError: If there is no such quantizer.

    Example:
        >>> import bnnkeras
        >>> with bnnkeras.context.metrics_scope(["flip_ratio"]):
        ...     quantizer = bnnkeras.quantizers.get_kernel_quantizer("ste_sign")
        >>> type(quantizer.flip_ratio).__name__
        'LayerFlipRatio'
    """
    quantizer = get(identifier)
    if isinstance(quantizer, Quantizer) and quantizer.flip_ratio is None:
        quantizer.add_training_metrics(context.get_training_metrics())
    return quantizer


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
        if cls is None and config in keras.saving.get_custom_objects():
            custom = keras.saving.get_custom_objects()[config]
            return custom() if isinstance(custom, type) else custom
        if cls is None:
            raise ValueError(
                f"Unknown quantizer name. Known names: {', '.join(sorted(NAMED))}. "
                f"Received: {config!r}"
            )
        return cls()
    if isinstance(config, dict) and "module" not in config:
        # A configuration of Larq names the class without a package.
        cls = _CLASS_NAMES.get(config.get("class_name", ""))
        if cls is not None:
            return cls.from_config(config.get("config", {}))
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
