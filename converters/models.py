"""Models as `convert` and the command take them: objects or `.keras` files, of a fixed size."""

import os
from collections.abc import Mapping
from pathlib import Path

import keras

from bnnkeras.converters import graph
from bnnkeras.converters.checkpoints.archives import check_keras_archive


def load_model(model_or_path: keras.Model | str | os.PathLike) -> keras.Model:
    """A model as it is, or from a `.keras` file, which is checked before Keras opens it.

    Args:
        model_or_path: The model, or the path of its file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, of another kind, holds code, or needs classes that are not
            registered.
        TypeError: If it is neither model nor path.
    """
    if isinstance(model_or_path, keras.Model):
        return model_or_path
    if not isinstance(model_or_path, (str, os.PathLike)):
        raise TypeError(
            "`model_or_path` must be a keras.Model or the path of a .keras file. "
            f"Received: {type(model_or_path).__name__}"
        )
    path = Path(model_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}")
    if path.suffix != ".keras":
        raise ValueError(
            "`model_or_path` must name a file that `model.save` wrote, ending in .keras. "
            f"Received: {str(path)!r}"
        )
    check_keras_archive(path)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever the foreign configuration leads to.
        raise ValueError(
            f"Keras cannot load the model: {type(error).__name__}: {str(error)[:1000]}\n"
            f"Received: {str(path)!r}"
        ) from error


def with_input_size(model: keras.Model, input_size) -> keras.Model:
    """The model on inputs of the given size.

    Args:
        model: A functional or Sequential model.
        input_size: `None` for the model's own; spatial sizes such as `(224, 224)` or a shape with
            channels for a model of one input; or a dict of them by input name.

    Raises:
        ValueError: If the sizes are no sizes, or do not fit the model.
    """
    if input_size is None:
        return model
    model = graph.as_functional(model)
    shapes = {graph.input_name(tensor): tuple(tensor.shape[1:]) for tensor in model.inputs}
    sizes = input_size
    if not isinstance(input_size, Mapping):
        if len(shapes) != 1:
            raise ValueError(
                f"`input_size` must be a dict with keys among {[*shapes]}, because the model has "
                f"several inputs. Received: {input_size!r}"
            )
        sizes = {next(iter(shapes)): input_size}
    if not set(sizes) <= set(shapes):
        raise ValueError(
            f"`input_size` must have keys among {[*shapes]}. Received: {sorted(sizes)}"
        )
    wanted = {**shapes, **{name: _shape(size, shapes[name]) for name, size in sizes.items()}}
    if wanted == shapes:
        return model
    try:
        return graph.with_input_shapes(model, wanted)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`input_size` does not fit the model {model.name!r}: {str(error)[:1000]}\n"
            f"Received: {input_size!r}"
        ) from error


def _shape(size, shape) -> tuple[int, ...]:
    """`size`, with the channels of `shape` where they are left out."""
    given = (size,) if isinstance(size, int) else tuple(size)
    if len(given) == len(shape) - 1:
        given = (*given, shape[-1])
    sizes = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given)
    if len(given) != len(shape) or not sizes or shape[-1] not in (None, given[-1]):
        raise ValueError(
            f"`input_size` must fit the model's input of shape {shape} (batch left out): positive "
            f"integers, with or without the channels. Received: {size!r}"
        )
    return given
