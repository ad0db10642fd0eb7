"""What is stored in a `.tflite` file beside the network."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from bnnkeras.converters.deployment import Deployment


def file_metadata(
    model: keras.Model,
    deployment: Deployment,
    class_names: Sequence[str] | None = None,
    preprocessing: str | Mapping | None = None,
) -> dict[str, Any]:
    """The JSON object that `convert` stores, but for what only the worker knows.

    Args:
        model: The training form, functional.
        deployment: Its deploy form.
        class_names: Names of the classes.
        preprocessing: A text or JSON values.

    Raises:
        ValueError: If `class_names` are not as many strings as the last output has channels.
        TypeError: If `preprocessing` holds something that JSON does not have.
    """
    if class_names is not None:
        class_names = [*class_names]
        classes = model.outputs[-1].shape[-1]
        if len(class_names) != classes or not all(isinstance(name, str) for name in class_names):
            raise ValueError(
                f"`class_names` must be {classes} strings, one for each channel of the last "
                f"output. Received: {len(class_names)} values, {class_names[:3]}"
            )
    try:
        json.dumps(preprocessing)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`preprocessing` must be a text or JSON values. Received: {preprocessing!r} ({error})"
        ) from error
    return {
        "model": model.name,
        "class_names": class_names,
        "preprocessing": preprocessing,
        "binary_layers": list(dict.fromkeys(call.layer for call in deployment.binary_calls)),
        "float_reasons": deployment.float_reasons,
        "paddings": _paddings(model),
        "notes": deployment.notes,
    }


def _paddings(model) -> dict[str, dict[str, Any]]:
    """How each binary layer pads: its mode and the value that stands for what is outside."""
    return {
        layer.name: {"padding": layer.padding, "pad_values": float(layer.pad_values)}
        for layer in model._flatten_layers()
        if hasattr(layer, "pad_values") and layer.padding != "valid"
    }
