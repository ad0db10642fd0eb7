"""One lowering rule per layer class, and per operation of `keras.ops`."""

from collections.abc import Callable

import keras

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering.intent import is_binary

_RULES: dict[type, Callable] = {}
# By the name of the class: Keras exports the functions, not the classes of their nodes.
_OPERATION_RULES: dict[str, Callable] = {}
_ALTERNATIVES: dict[type, str] = {}


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


def operation_rule(*names: str) -> Callable:
    """`lowering_rule` for nodes of `keras.ops`, by the name of their class such as `"Reshape"`."""

    def decorate(rule):
        for name in names:
            _OPERATION_RULES[name] = rule
        return rule

    return decorate


def refuse(alternative: str, *layer_classes: type):
    """Registers what to say of layer classes that have no deploy form."""
    for layer_class in layer_classes:
        _ALTERNATIVES[layer_class] = alternative


def supported_layers() -> list[type]:
    """The layer classes that have a rule."""
    return list(_RULES)


def lower(builder, operation, *args, **kwargs):
    """The deploy form of one operation of a graph.

    Raises:
        UnsupportedLayerError: If the layer's class has no rule.
    """
    builder.begin(operation.name, is_binary(operation))
    # Keras records these two for some layers; a deploy form has one mode and no masks.
    kwargs = {key: kwargs[key] for key in kwargs if key not in ("mask", "training")}
    if isinstance(operation, keras.layers.Layer):
        rule = _RULES.get(type(operation))
        if rule is None:
            raise UnsupportedLayerError(operation, _reason(type(operation)))
    else:
        name = type(operation).__name__
        rule = _OPERATION_RULES.get(name)
        if rule is None:
            raise UnsupportedLayerError(
                operation,
                f"nothing is known of how LCE computes the operation {name} of keras.ops. Known: "
                f"{', '.join(sorted(_OPERATION_RULES))}",
            )
    return rule(builder, operation, *args, **kwargs)


def _reason(layer_class) -> str:
    for refused, alternative in _ALTERNATIVES.items():
        if issubclass(layer_class, refused):
            return alternative
    return (
        "there is no lowering rule for this class. Supported: "
        f"{', '.join(sorted(cls.__name__ for cls in _RULES))}. Add a rule with "
        "bnnkeras.converters.lowering.lowering_rule"
    )
