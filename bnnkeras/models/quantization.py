"""Turns a model of plain Keras layers into its quantized twin."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from bnnkeras import layers, quantizers
from bnnkeras.layers.base import QuantizedLayer
from bnnkeras.models.plain_weights import layer_quantizers
from bnnkeras.models.tracing import Trace, functional_graph, trace

_log = logging.getLogger("bnnkeras.models")

TWINS: dict[type[keras.layers.Layer], type[QuantizedLayer]] = {
    getattr(keras.layers, name): getattr(layers, f"Quant{name}")
    for name in (
        "Conv1D",
        "Conv1DTranspose",
        "Conv2D",
        "Conv2DTranspose",
        "Conv3D",
        "Conv3DTranspose",
        "Dense",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
        "SeparableConv1D",
        "SeparableConv2D",
    )
}

_NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus")
# What they return is not negative if what they are given is not.
_KEEP_SIGNS = (
    "Add|AveragePooling1D|AveragePooling2D|AveragePooling3D|Concatenate|Cropping1D|Cropping2D|"
    "Cropping3D|Dropout|Flatten|GlobalAveragePooling1D|GlobalAveragePooling2D|"
    "GlobalAveragePooling3D|GlobalMaxPooling1D|GlobalMaxPooling2D|GlobalMaxPooling3D|MaxPooling1D|"
    "MaxPooling2D|MaxPooling3D|Permute|Reshape|SpatialDropout1D|SpatialDropout2D|UpSampling1D|"
    "UpSampling2D|UpSampling3D|ZeroPadding1D|ZeroPadding2D|ZeroPadding3D"
).split("|")

_OF_EVERY_KERNEL = ("kernel_quantizer", "kernel_constraint")

Policy = Mapping[str | type, Mapping[str, Any] | None] | Callable


def quantize(
    model: keras.Model,
    policy: Policy | None = None,
    *,
    input_quantizer="ste_sign",
    kernel_quantizer="ste_sign",
    kernel_constraint="weight_clip",
) -> keras.Model:
    """The quantized twin of a plain model: the same graph, names and weights, other layers.

    `Dense`, `Conv1D/2D/3D`, `DepthwiseConv1D/2D`, `SeparableConv1D/2D` and `Conv1D/2D/3DTranspose`
    become their `Quant` twins where the policy says so; all other layers, and subclasses of these
    classes, are copied as they are. Nested functional and Sequential models are entered. The first
    layers (those that no other such layer feeds) and the last ones (which feed no other) stay real,
    as is the custom. A compiled model's twin is compiled alike.

    A warning is logged where an input that is never negative, such as that of a ReLU, meets a sign
    with the threshold 0, which makes all of it +1: such a layer learns nothing. Pass
    `"activation": None` for the layer before, or an input quantizer with a threshold (`"rsign"`).

    Args:
        model: A built functional or Sequential model; it is not changed.
        policy: Which layers become quantized, and with which arguments. `None` (default) for all
            but the first and last. A function of a layer that returns arguments, or `None` to
            leave the layer real: it decides for every layer, the first and last included. Or a
            mapping from layer names, which decide for any layer, and layer classes, which decide
            for all but the first and last; layers without an entry stay real.
            Arguments are a dictionary: `{}` for the three below, or any argument of the twin in
            their place: `{"kernel_quantizer": "magnitude_aware_sign", "pad_values": 1.0}`.
        input_quantizer: Of every quantized layer, unless the policy has another one.
        kernel_quantizer: Likewise, of every kernel of the layer: also of a depthwise and a
            pointwise one, whose own arguments (`depthwise_quantizer`) take precedence. A
            `Quantizer` is copied for each layer.
        kernel_constraint: Likewise, for kernels that have a quantizer.

    Returns:
        A new model. Variables of its quantizers, such as thresholds, are at their start.

    Raises:
        TypeError: If `model` is no Keras model or `policy` is of another type.
        ValueError: If the model is subclassed or not built, the policy names a layer that is not
            there or has no twin, an argument is wrong, or no layer is quantized.

    Example:
        >>> import keras
        >>> from bnnkeras import models
        >>> plain = keras.Sequential([
        ...     keras.Input((8, 8, 3)),
        ...     keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(),
        ...     keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(),
        ...     keras.layers.Flatten(), keras.layers.Dense(2, name="classes"),
        ... ])
        >>> twin = models.quantize(plain, kernel_quantizer="magnitude_aware_sign")
        >>> [type(layer).__name__ for layer in twin.layers if "Conv" in type(layer).__name__]
        ['Conv2D', 'QuantConv2D']
        >>> twin = models.quantize(plain, {keras.layers.Conv2D: {}, "classes": None})
    """
    _check_model(model)
    defaults = {
        "input_quantizer": input_quantizer,
        "kernel_quantizer": kernel_quantizer,
        "kernel_constraint": kernel_constraint,
    }
    calls = trace(model)
    chosen = {
        id(layer): {**defaults, **arguments} for layer, arguments in _chosen(model, policy, calls)
    }
    if not chosen:
        raise ValueError(
            "No layer was quantized: the policy chose none of the layers "
            f"{[layer.name for layer in _plain_layers(model)]}, of which the first and last stay "
            f"real unless a policy names them. Received: policy={policy!r}"
        )
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def clone(operation):
        if not isinstance(operation, keras.layers.Layer):
            return operation
        if id(operation) in chosen:
            copy = _twin(operation, chosen[id(operation)])
        else:
            copy = type(operation).from_config(operation.get_config())
        pairs.append((operation, copy))
        return copy

    quantized = keras.models.clone_model(model, clone_function=clone, recursive=True)
    for original, copy in pairs:
        _copy_weights(original, copy)
    _warn_of_constant_signs(calls, dict((id(layer), copy) for layer, copy in pairs))
    return quantized


def _check_model(model) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}")
    if functional_graph(model) is None and not isinstance(model, keras.Sequential):
        raise ValueError(
            "`model` must be functional or Sequential: a subclassed model builds its layers in "
            f"code of its own. Received: {model.name!r} of class {type(model).__name__}"
        )
    if not model.built:
        raise ValueError(
            "`model` must be built, so that it has weights: give it a keras.Input or call it. "
            f"Received: {model.name!r}, which is not built"
        )


def _plain_layers(model) -> list[keras.layers.Layer]:
    return [layer for layer in model._flatten_layers() if type(layer) in TWINS]


def _chosen(model, policy, calls: Trace):
    """The layers to quantize, each with its arguments."""
    plain = _plain_layers(model)
    if policy is None or isinstance(policy, Mapping):
        decide = _decider({cls: {} for cls in TWINS} if policy is None else policy, plain, calls)
    elif callable(policy) and not isinstance(policy, type):
        decide = policy
    else:
        raise TypeError(
            "`policy` must be None, a function of a layer or a mapping from names or classes of "
            f"layers to arguments. Received: policy={policy!r}"
        )
    for layer in plain:
        arguments = decide(layer)
        if arguments is None:
            continue
        if not isinstance(arguments, Mapping):
            raise TypeError(
                "The policy must give a dictionary of arguments or None for a layer. "
                f"Received: {arguments!r} for {layer.name!r}"
            )
        yield layer, arguments


def _decider(policy: Mapping, plain, calls: Trace) -> Callable:
    names = {layer.name for layer in plain}
    for key in policy:
        if key not in names and key not in TWINS:
            raise ValueError(
                f"`policy` must name layers that have a quantized twin, here {sorted(names)}, or "
                f"their classes {[cls.__name__ for cls in TWINS]}. Received: {key!r}"
            )
    outer = _first_and_last(calls)

    def decide(layer):
        if layer.name in policy:
            return policy[layer.name]
        return None if id(layer) in outer else policy.get(type(layer))

    return decide


def _first_and_last(calls: Trace) -> set[int]:
    """`id`s of the layers with a kernel that no other one feeds, or that feed no other one."""
    if calls.error is not None:
        raise ValueError(f"The model's graph cannot be followed: {calls.error}")
    leaves = [call for call in calls.calls if functional_graph(call.operation) is None]

    def reached_first(leaves, sources: str, targets: str) -> set[int]:
        reached: set[int] = set()
        first: dict[int, bool] = {}
        for call in leaves:
            fed = any(tensor.number in reached for tensor in getattr(call, sources))
            kernel = isinstance(call.operation, tuple(TWINS))
            if kernel:
                # A shared layer is a first one only if each of its calls is.
                key = id(call.operation)
                first[key] = first.get(key, True) and not fed
            if fed or kernel:
                reached.update(tensor.number for tensor in getattr(call, targets))
        return {key for key, is_first in first.items() if is_first}

    return reached_first(leaves, "inputs", "outputs") | reached_first(
        leaves[::-1], "outputs", "inputs"
    )


def _twin(layer, arguments: dict) -> QuantizedLayer:
    cls = TWINS[type(layer)]
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        raise ValueError(
            "A layer that keras quantized already, or that has LoRA enabled, has no quantized twin:"
            f" its kernel is in several variables. Received: {layer.name!r}"
        )
    own = {name: value for name, value in arguments.items() if name not in _OF_EVERY_KERNEL}
    for argument in cls.kernel_quantizers.values():
        constraint = argument.replace("_quantizer", "_constraint")
        own.setdefault(argument, arguments["kernel_quantizer"])
        if own[argument] is not None:
            own.setdefault(constraint, arguments["kernel_constraint"])
    own = {
        name: _copied(value) if name.endswith("_quantizer") else value
        for name, value in own.items()
    }
    config = {**layer.get_config(), "dtype": layer.dtype_policy, **own}
    try:
        # Not `from_config`, which logs no warning of starved weights.
        return cls(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The layer {layer.name!r} cannot become a {cls.__name__}: {error} "
            f"Received: {dict(arguments)}"
        ) from error


def _copied(quantizer):
    """A quantizer without the variables and the name of the one that is given."""
    quantizer = quantizers.get(quantizer)
    if not isinstance(quantizer, quantizers.Quantizer):
        return quantizer
    config = quantizer.get_config()
    del config["name"]
    return type(quantizer).from_config(config)


def _copy_weights(original, copy) -> None:
    new = set()
    if type(copy) is TWINS.get(type(original)):
        new = {id(v) for quantizer in layer_quantizers(copy) for v in quantizer.variables}
    targets = [variable for variable in copy.variables if id(variable) not in new]
    for source, target in zip(original.variables, targets, strict=True):
        # Through NumPy: two variables of JAX must not share an array, which `predict` deletes.
        target.assign(ops.convert_to_numpy(source))


def _warn_of_constant_signs(calls: Trace, copies: dict) -> None:
    """Logs the layers whose input is never negative, and so always +1 once quantized."""
    never_negative: set[int] = set()
    for call in calls.calls:
        layer = copies.get(id(call.operation), call.operation)
        fed = bool(call.inputs) and all(x.number in never_negative for x in call.inputs)
        if fed and type(call.operation) in TWINS and _is_sign(layer):
            _log.warning(
                "The input of %r is never negative: its sign is always +1. Remove the activation "
                'before it (policy: {"activation": None}) or give it a quantizer with a threshold.',
                layer.name,
            )
        activation = getattr(getattr(layer, "activation", None), "__name__", None)
        passes = fed and type(layer).__name__ in _KEEP_SIGNS
        if isinstance(layer, keras.layers.ReLU) or activation in _NEVER_NEGATIVE or passes:
            never_negative.update(x.number for x in call.outputs)


def _is_sign(layer) -> bool:
    quantizer = getattr(layer, "input_quantizer", None)
    return isinstance(quantizer, quantizers.Binarizer) and quantizer.threshold is None
