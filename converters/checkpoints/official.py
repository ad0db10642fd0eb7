"""Official PyTorch checkpoints into Keras models, by name."""

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bnnkeras.converters.checkpoints import arrays, files
from bnnkeras.converters.checkpoints.arrays import StoredArray
from bnnkeras.converters.checkpoints.layouts import Share
from bnnkeras.converters.checkpoints.names import (
    Entry,
    NameMap,
    candidates,
    variables_by_path,
)
from bnnkeras.converters.checkpoints.report import LoadReport, enumerate_briefly

# Keys under which training scripts save the state dict, most telling first.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module")
# What DataParallel, DistributedDataParallel, Lightning modules and torch.compile put before names.
_PREFIXES = ("module.", "_orig_mod.")
_DEEPEST = 4


def load_official(
    model: keras.Model,
    source: str | os.PathLike | Mapping[str, Any],
    *,
    name_map: str | NameMap | None = None,
) -> LoadReport:
    """Fills a model with the weights of its authors' PyTorch checkpoint.

    All of the checkpoint is checked before the first variable changes: either every weight of the
    model is loaded, or none. No code in a file is run (`torch.load(weights_only=True)`). Wrapper
    dicts (`"state_dict"`, `"model"`, ...) are opened and the prefixes `module.` and `_orig_mod.`
    taken off. Values are cast to the type of their variable.

    Args:
        model: A built model, as of `bnnkeras.zoo`; its name does not matter. Of a trainer with a
            student and a teacher, the student and the trainer's own weights are filled.
        source: Path of a `.pth`, `.pt`, `.tar`, `.ckpt` or `.bin` file of PyTorch, an `.npz` or a
            `.safetensors` file; or a mapping from official names to arrays or tensors.
        name_map: The map of official names to use, or the name of a registered one. Defaults to
            the registered map that knows the names of this model's layers.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: If the file is damaged, holds code, or does not hold the weights of this model:
            missing, unexpected and mis-shaped names and unusable values are listed together.
        TypeError: If `model` is no Keras model, or `source` neither a path nor a mapping.
        FileNotFoundError: If there is no such file.
        ImportError: If PyTorch or safetensors, which reads the file, is not installed.

    Example:
        >>> from bnnkeras import converters, zoo
        >>> trained = zoo.BiRealNet18(input_shape=(32, 32, 3), classes=10)
        >>> checkpoint = {"state_dict": converters.official_state(trained)}
        >>> model = zoo.BiRealNet18(input_shape=(32, 32, 3), classes=10)
        >>> report = converters.load_official(model, checkpoint)
        >>> report.name_map, len(report.loaded)
        ('birealnet', 102)
    """
    variables = variables_by_path(model)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    found = candidates(model, shapes, name_map)
    label = repr(str(source)) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    state = _state(source, label)

    matches = [_Match(known, entries, state) for known, entries in found]
    fewest = min(match.count for match in matches)
    best = [match for match in matches if match.count == fewest]
    if len(best) > 1:
        raise ValueError(
            "Several maps of official names fit this model and checkpoint equally well: choose "
            f"with `name_map`. Received: {[match.name_map.name for match in best]}"
        )
    match = best[0]
    values = match.values(variables)
    if match.count:
        raise ValueError(match.message(model, label))
    for path, value in values.items():
        variables[path].assign(value)
    return LoadReport(
        source=label,
        loaded=tuple(match.found),
        unused=tuple(match.unused),
        kept=tuple(match.kept),
        notes=tuple(match.notes),
        name_map=match.name_map.name,
    )


def official_state(
    model: keras.Model, *, name_map: str | NameMap | None = None
) -> dict[str, np.ndarray]:
    """The weights of a model under their official names and in their official layouts.

    The inverse of `load_official`. Entries that have no use here, such as `num_batches_tracked`,
    are not among them: PyTorch takes the result with `load_state_dict(..., strict=False)`.

    Args:
        model: A built model.
        name_map: As for `load_official`.

    Returns:
        A dict from official names to NumPy arrays.

    Raises:
        ValueError: If no registered map, or more than one, knows the names of the model's layers.

    Example:
        >>> from bnnkeras import converters, zoo
        >>> state = converters.official_state(zoo.BiRealNet18(input_shape=(32, 32, 3)))
        >>> state["layer1.0.binary_conv.weights"].shape
        (36864, 1)
    """
    variables = variables_by_path(model)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    found = candidates(model, shapes, name_map)
    if len(found) > 1:
        raise ValueError(
            "Several maps of official names fit this model: choose with `name_map`. "
            f"Received: {[known.name for known, _ in found]}"
        )
    state = {}
    for entry in found[0][1]:
        values = [keras.ops.convert_to_numpy(variables[path]) for path in entry.paths]
        array = np.array(entry.layout.to_official(*values), order="C")
        state.update({name: array for name in (entry.name, *entry.copies)})
    return state


def _state(source, label) -> dict[str, StoredArray | None]:
    """The flat state dict in a source, without wrappers and prefixes.

    `None` stands for an entry that is no array.
    """
    if isinstance(source, Mapping):
        content = source
    elif isinstance(source, (str, os.PathLike)):
        content = files.open_file(source)
    else:
        raise TypeError(
            "`source` must be the path of a checkpoint or a mapping from names to arrays, as "
            f"`module.state_dict()` returns. Received: {type(source).__name__}"
        )
    for _ in range(_DEEPEST):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]

    state: dict[str, StoredArray | None] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            raise ValueError(f"Names of weights must be strings. Received: {key!r} in {label}")
        name = _without_prefixes(key)
        if name in state:
            raise ValueError(
                f"Names must differ without the prefixes {_PREFIXES}. Received: {key!r}, whose "
                f"{name!r} is there already, in {label}"
            )
        state[name] = value if isinstance(value, StoredArray) else arrays.from_value(value)
    return state


def _without_prefixes(name):
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


class _Match:
    """A checkpoint held against what a map wants: everything wrong with it, and the values."""

    def __init__(self, name_map: NameMap, entries: list[Entry], state):
        self.name_map = name_map
        self.state = state
        self.missing = []
        self.misshaped = []
        self.unusable: list[str] = []
        self.kept = []
        self.notes: list[str] = []
        self.found: dict[str, tuple[Entry, StoredArray]] = {}
        wanted = {name: entry for entry in entries for name in (entry.name, *entry.copies)}
        for name, entry in wanted.items():
            if name not in state:
                if entry.optional:
                    self.kept.append(name)
                elif name == entry.name:
                    self.missing.append(name)
                continue
            stored = state[name]
            expected = entry.layout.official_shape(*entry.shapes)
            if stored is None:
                self.unusable.append(f"{name!r} is no array")
            elif stored.shape != expected:
                self.misshaped.append(f"{name!r} (expected {expected}, received {stored.shape})")
            else:
                self.found[name] = (entry, stored)
        others = [name for name in state if name not in wanted]
        self.unused = [name for name in others if name_map.is_unused(name)]
        self.unexpected = [name for name in others if not name_map.is_unused(name)]

    @property
    def count(self) -> int:
        problems = (self.missing, self.unexpected, self.misshaped, self.unusable)
        return sum(len(kind) for kind in problems)

    def values(self, variables) -> dict[str, np.ndarray]:
        """The value of each variable; what cannot be used joins the problems."""
        values: dict[str, np.ndarray] = {}
        read: dict[str, np.ndarray] = {}
        for name, (entry, stored) in self.found.items():
            try:
                array = arrays.checked(stored)
                first = read.setdefault(entry.name, array)
                if first is not array:
                    if not np.array_equal(first, array):
                        raise ValueError(f"differs from {entry.name!r}, whose copy it is")
                    continue
                if (note := entry.layout.note(array)) is not None:
                    self.notes.append(f"{name}: {note}")
                parts = entry.layout.to_keras(array, *entry.shapes)
                parts = parts if isinstance(parts, tuple) else (parts,)
                for path, part in zip(entry.paths, parts, strict=True):
                    dtype = keras.backend.standardize_dtype(variables[path].dtype)
                    value = arrays.cast(np.asarray(part), dtype)
                    if isinstance(entry.layout, Share):
                        if path not in values:
                            known = keras.ops.convert_to_numpy(variables[path])
                            values[path] = known.astype(value.dtype)
                        chosen = entry.layout.slice_of(values[path].shape[-1])
                        values[path][..., chosen] = value
                    else:
                        values[path] = value
            except ValueError as error:
                self.unusable.append(f"{name!r} {error}")
        return values

    def message(self, model, label) -> str:
        kinds = {
            "missing": [repr(name) for name in self.missing],
            "unexpected": [repr(name) for name in self.unexpected],
            "of another shape": self.misshaped,
            "not usable": self.unusable,
        }
        lines = [
            f"\n  {len(names)} {kind}: {enumerate_briefly(names)}"
            for kind, names in kinds.items()
            if names
        ]
        return (
            f"The checkpoint does not hold the weights of {model.name!r} under the official names "
            f"of {self.name_map.name!r}; nothing was loaded:{''.join(lines)}\n"
            f"Received: {label} with {len(self.state)} entries"
        )
