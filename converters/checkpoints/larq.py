"""Weight files of Larq and Larq Zoo: legacy Keras HDF5, by the order of the layers."""

import functools
import itertools
import os
from pathlib import Path

import keras
import numpy as np

from bnnkeras.converters.checkpoints import arrays, hdf5
from bnnkeras.converters.checkpoints.names import variables_by_path
from bnnkeras.converters.checkpoints.report import LoadReport, enumerate_briefly

# float64, the widest type that is read.
_BYTES_PER_VALUE = 8
# Weights that must not be taken for each other although their shapes agree.
_ROLES = frozenset({"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"})


def load_larq(model: keras.Model, path: str | os.PathLike) -> LoadReport:
    """Fills a model with a weight file of Larq or Larq Zoo.

    These are legacy Keras `.h5` files (`save_weights("x.h5")` or `save("x.h5")` of `tf.keras`).
    Weights go by the order of the layers, as in Keras 2, so that names don't matter; layers without
    weights don't count. Number, shape and role of all weights are checked before the first variable
    changes. The file is read in a child process of bounded time and memory.

    A network of Larq differs from its PyTorch original where the layers' arguments say so: Larq Zoo
    pads with `"same"` and normalises with `epsilon=1e-3` and `momentum` 0.8 to 0.99.

    Args:
        model: A built model of the same architecture, its layers made in the same order.
        path: Path of the `.h5` file.

    Returns:
        A `LoadReport`; its names are `layer/weight` as in the file.

    Raises:
        ValueError: If the file is damaged or of another kind, or its weights are not this model's:
            the layers are listed side by side.
        TypeError: If `model` is no Keras model.
        FileNotFoundError: If there is no such file.

    Example:
        ```python
        # 63.3 % on ImageNet: larq_zoo's QuickNet, rebuilt with bnnkeras.layers
        converters.load_larq(quicknet, "quicknet_weights.h5")
        ```
    """
    count = sum(int(np.prod(v.shape)) for v in variables_by_path(model).values())
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}")
    theirs, data = _read(path, count * _BYTES_PER_VALUE)
    ours = [(layer, weights) for layer in model.layers if (weights := _legacy_weights(layer))]
    differences = [
        difference
        for position, pair in enumerate(itertools.zip_longest(ours, theirs))
        if (difference := _difference(position, *pair)) is not None
    ]
    if differences:
        raise ValueError(
            f"The weights of the file are not those of {model.name!r}, layer by layer; nothing was "
            f"loaded. {len(differences)} layers differ:{enumerate_briefly(differences)}\n"
            f"Received: {str(path)!r} with {len(theirs)} layers of weights, for {len(ours)} in the "
            "model"
        )

    variables = [variable for _, weights in ours for variable in weights]
    stored = [weight for layer in theirs for weight in layer["weights"]]
    names = [f"{layer['name']}/{weight['name']}" for layer in theirs for weight in layer["weights"]]
    values = []
    unusable = []
    for variable, weight, name, array in zip(variables, stored, names, data, strict=True):
        entry = arrays.StoredArray(
            array.shape, weight["dtype"], functools.partial(np.asarray, array)
        )
        try:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            values.append(arrays.cast(arrays.checked(entry), dtype))
        except ValueError as error:
            unusable.append(f"{name!r} {error}")
    if unusable:
        raise ValueError(
            f"{len(unusable)} weights cannot be used, and nothing was loaded: "
            f"{enumerate_briefly(unusable)}\nReceived: {str(path)!r}"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return LoadReport(source=repr(str(path)), loaded=tuple(names))


def _legacy_weights(layer) -> list:
    """The order in which Keras 2 saves the weights of a layer or nested model."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _difference(position, our, their) -> str | None:
    """How one layer differs on both sides; `None` if its weights fit."""
    our_weights = [] if our is None else [(v.name, tuple(v.shape)) for v in our[1]]
    their_weights = [] if their is None else [_described(weight) for weight in their["weights"]]
    if len(our_weights) == len(their_weights) and all(
        a[1] == b[1] and (a[0] == b[0] or not {a[0], b[0]} <= _ROLES)
        for a, b in zip(our_weights, their_weights, strict=True)
    ):
        return None
    file = "nothing" if their is None else f"{their['name']!r} {_text(their_weights)}"
    model = "nothing" if our is None else f"{our[0].name!r} {_text(our_weights)}"
    return f"\n  #{position}: file {file} | model {model}"


def _described(weight):
    return weight["name"].rpartition("/")[2].partition(":")[0], tuple(weight["shape"])


def _text(weights):
    return "[" + enumerate_briefly(f"{name} {shape}" for name, shape in weights) + "]"


def _read(path: Path, limit_bytes: int) -> tuple[list[dict], list[np.ndarray]]:
    """What the file holds, and its arrays unless they are larger than the model's.

    Raises:
        ValueError: If the child process finds the file unreadable, or did not survive it.
    """
    try:
        answer, body = hdf5.ask(path, limit_bytes)
    except hdf5.UnreadableFile as error:
        raise _unreadable(path, error) from None
    data = []
    if answer["within"]:
        offset = 0
        for layer in answer["layers"]:
            for weight in layer["weights"]:
                dtype = np.dtype(weight["dtype"]).newbyteorder("<")
                size = int(np.prod(weight["shape"], dtype=np.int64)) * dtype.itemsize
                part = body[offset : offset + size]
                if len(part) != size:
                    raise _unreadable(path, f"{weight['name']!r} ends early")
                data.append(np.frombuffer(part, dtype).reshape(weight["shape"]))
                offset += size
    return answer["layers"], data


def _unreadable(path, reason) -> ValueError:
    return ValueError(
        "The weight file cannot be read: it is damaged or no legacy Keras .h5 file "
        f"({reason}). Received: {str(path)!r}"
    )
