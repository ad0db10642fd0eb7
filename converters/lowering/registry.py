"""One lowering rule per layer class."""

from collections.abc import Callable

import keras

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering.intent import is_binary

_RULES: dict[type, Callable] = {}


def lowering_rule(*layer_classes: type) -> Callable:
    """Registers `rule(builder, layer, *args, **kwargs)` for layer classes; used as a decorator.

    The rule returns the symbolic outputs of the layer's deploy form. A rule covers exactly the
    classes named: a subclass may compute something else, so it needs a rule of its own.
    """

    def decorate(rule):
        for layer_class in layer_classes:
            _RULES[layer_class] = rule
        return rule

    return decorate


def supported_layers() -> list[type]:
    """The layer classes that have a rule."""
    return list(_RULES)


def lower(builder, operation, *args, **kwargs):
    """The deploy form of one operation of a graph.

    Raises:
        UnsupportedLayerError: If the layer's class has no rule.
    """
    builder.begin(operation.name, is_binary(operation))
    rule = _RULES.get(type(operation))
    if rule is not None:
        _check_activation(operation)
        # Keras records these two for some layers; a deploy form has one mode and no masks.
        kwargs = {key: kwargs[key] for key in kwargs if key not in ("mask", "training")}
        return rule(builder, operation, *args, **kwargs)
    if isinstance(operation, keras.layers.Layer):
        raise UnsupportedLayerError(
            operation,
            "there is no lowering rule for this class. Supported: "
            f"{', '.join(sorted(cls.__name__ for cls in _RULES))}. Add a rule with "
            "bnnkeras.converters.lowering.lowering_rule",
        )
    # A keras.ops operation: it has no weights and no dtype, so it is its own deploy form.
    return builder.copy_operation(operation)(*args, **kwargs)


def _check_activation(layer):
    activation = getattr(layer, "activation", None)
    if activation is None:
        return
    reason = None
    name = getattr(activation, "__name__", type(activation).__name__)
    if isinstance(activation, keras.layers.Layer):
        reason = f"its activation is a layer ({name}): call that layer on the outputs instead"
    elif activation is keras.activations.gelu:
        reason = "LCE has no exact gelu: call keras.ops.gelu(x, approximate=True) on the outputs"
    elif activation is keras.activations.softsign:
        reason = "LCE has no softsign: tanh is the nearest that it has"
    elif not activation.__module__.startswith(("keras.", "bnnkeras.")):
        reason = f"its activation {name} is not one of Keras's or bnnkeras's functions"
    if reason is not None:
        raise UnsupportedLayerError(layer, reason)
