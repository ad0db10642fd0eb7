"""Files in which a binary kernel takes one bit per weight.

Both kinds hold arrays named `<number>/<path of the variable>/<part>` and a header, JSON with the
weights in the order of the model: in an `.npz` the bytes of the array `header`, in a
`.safetensors` the metadata `header`. The parts are those of a `PackedKernel` (`signs`, `scale` and
perhaps `nonzero`) or `values`.
"""

import json
import logging
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from bnnkeras import files
from bnnkeras.models.packing import (
    PackedKernel,
    check_built,
    kernel_quantizers,
    latent_weights,
    quantized,
)

_log = logging.getLogger("bnnkeras.models")
_FORMAT = "bnnkeras packed weights 1"
SUFFIXES = (".npz", ".safetensors")


def save_packed(model: keras.Model, path: str | os.PathLike) -> None:
    """Saves the weights of a model with one bit per weight of its binary kernels.

    A kernel whose quantizer gives signs times a scale is stored as bits and scales; two bits if
    values may be 0, as those of `SteTern` and `SteHeaviside`. All other weights are stored as they
    are: BatchNorm statistics, real kernels, those of more bits. What is lost is the latent
    weights' magnitude. `load_packed` gives a model with exactly the same quantized kernels, and so
    the same predictions; before anything is written this is tried. A binary kernel that does not
    come back exactly (`XNORKernel`, whose scale depends on more than signs) is stored in floats,
    with a warning in the log.

    The file appears whole or not at all. No optimizer state is in it.

    Args:
        model: A built model.
        path: Ends in `.npz` or `.safetensors` (needs the package safetensors).

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built or the path has another suffix.
        ImportError: If safetensors is missing.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import keras
        >>> from bnnkeras import layers, models
        >>> layer = layers.QuantDense(
        ...     512, kernel_quantizer="ste_sign", kernel_constraint="weight_clip", use_bias=False
        ... )
        >>> model = keras.Sequential([keras.Input((512,)), layer])
        >>> before = models.quantized_weights(model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     models.save_packed(model, f"{folder}/weights.npz")
        ...     size = Path(f"{folder}/weights.npz").stat().st_size
        ...     models.load_packed(model, f"{folder}/weights.npz")
        >>> 512 * 512 // 8 <= size < 512 * 512 // 8 + 2048
        True
        >>> after = models.quantized_weights(model)
        >>> all((after[name] == before[name]).all() for name in before)
        True
    """
    check_built(model)
    path = _checked_path(path)
    quantizers = kernel_quantizers(model)
    weights, arrays = [], {}
    for number, variable in enumerate(model.weights):
        values = ops.convert_to_numpy(variable)
        quantizer = quantizers.get(id(variable))
        parts = {"values": _storable(values)}
        if quantizer is not None:
            packed = _packed(variable, values, quantizer)
            if packed is not None:
                parts = {"signs": packed.signs, "scale": _storable(packed.scale)}
                if packed.nonzero is not None:
                    parts["nonzero"] = packed.nonzero
            elif getattr(quantizer, "precision", 32) <= 2:
                _log.warning(
                    "The kernel %r is stored in floats: its quantizer would not give exactly the "
                    "same values again from bits.",
                    variable.path,
                )
        weights.append({**_description(variable), "parts": sorted(parts)})
        for part, array in parts.items():
            arrays[_key(number, variable.path, part)] = np.asarray(array, order="C")
    header = {"format": _FORMAT, "weights": weights, "crc32": _checksum(weights, arrays)}
    with files.replacing(path) as temporary:
        _write(temporary, json.dumps(header), arrays)


def load_packed(model: keras.Model, path: str | os.PathLike) -> None:
    """Loads what `save_packed` saved. The weights are found by their order, names and shapes.

    A binary kernel's latent weights become such that its quantizer gives exactly the saved values:
    mostly these values themselves. Training can go on from them.

    Args:
        model: A built model of the same structure. Its quantizers may be others, as long as they
            can give the saved values.
        path: A file that `save_packed` wrote.

    Raises:
        TypeError: If `model` is no Keras model.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind, does not fit the model, or a
            quantizer cannot give the saved values. Nothing is loaded then.
        ImportError: If safetensors is missing.
    """
    check_built(model)
    path = _checked_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}")
    try:
        header, arrays = _read(path)
        stored = _parts(header, arrays)
    except ImportError:
        raise
    except Exception as error:  # Whatever a parser raises on foreign bytes.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"The file is damaged or none that bnnkeras.models.save_packed wrote ({reason[:200]}). "
            f"Received: {str(path)!r}"
        ) from error
    _compare(model, header["weights"], path)
    quantizers = kernel_quantizers(model)
    values = [parts if isinstance(parts, np.ndarray) else parts.unpack() for parts in stored]
    # A kernel's quantizer may have variables of its own, which must have their new values first.
    state = [
        (variable, ops.convert_to_tensor(value, variable.dtype))
        for variable, value in zip(model.weights, values, strict=True)
        if id(variable) not in quantizers
    ]
    latents = []
    for variable, parts, value in zip(model.weights, stored, values, strict=True):
        quantizer = quantizers.get(id(variable))
        if isinstance(parts, PackedKernel) and quantizer is not None:
            latent = _latent(variable, value, parts, quantizer, state)
            if latent is None:
                raise ValueError(
                    f"The quantizer {quantizer!r} of {variable.path!r} cannot give the values in "
                    f"the file: it is another one than that of the saved model, or another backend "
                    f"rounds otherwise; nothing was loaded. Received: {str(path)!r}"
                )
            value = latent
        latents.append(value)
    for variable, value in zip(model.weights, latents, strict=True):
        variable.assign(value)


def _packed(variable, latent: np.ndarray, quantizer) -> PackedKernel | None:
    """The bits of a kernel, if its values come back exactly from them."""
    dtype = variable.dtype
    values = quantized(quantizer, latent, dtype)
    packed = PackedKernel.pack(values)
    if packed is None or _latent(variable, values, packed, quantizer) is None:
        return None
    return packed


def _latent(variable, values, packed: PackedKernel, quantizer, state=()) -> np.ndarray | None:
    return latent_weights(
        values, packed, lambda latent: quantized(quantizer, latent, variable.dtype, state)
    )


def _storable(array: np.ndarray) -> np.ndarray:
    # NumPy has no bfloat16 of its own; float32 holds its values.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _description(variable) -> dict[str, Any]:
    return {
        "path": variable.path,
        "name": variable.name,
        "shape": list(variable.shape),
        "dtype": keras.backend.standardize_dtype(variable.dtype),
    }


def _key(number: int, path: str, part: str) -> str:
    return f"{number}/{path}/{part}"


def _checksum(weights: list, arrays: dict[str, np.ndarray]) -> int:
    checksum = zlib.crc32(json.dumps(weights, sort_keys=True).encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].tobytes(), checksum)
    return checksum


def _checked_path(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"`path` must end in one of {SUFFIXES}. Received: path={str(path)!r}")
    return path


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "Files that end in .safetensors need safetensors. Install it with "
            '`pip install "bnnkeras[torch]"`, or choose a path that ends in .npz.'
        ) from error
    return safetensors


def _write(path: Path, header: str, arrays: dict[str, np.ndarray]) -> None:
    if path.suffix == ".safetensors":
        _safetensors().numpy.save_file(arrays, path, metadata={"header": header})
    else:
        named: dict[str, Any] = {"header": np.frombuffer(header.encode(), "uint8"), **arrays}
        np.savez(path, **named)


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The header and the arrays of a file that nobody vouches for."""
    if path.suffix == ".safetensors":
        with _safetensors().safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {})["header"]
            return json.loads(header), {name: file.get_tensor(name) for name in file.keys()}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if compressed or sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members take more bytes than the file has")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    header = arrays.pop("header").tobytes().decode()
    return json.loads(header), arrays


def _parts(header: dict, arrays: dict[str, np.ndarray]) -> list[np.ndarray | PackedKernel]:
    """What is stored of each weight, checked against the header."""
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']!r}, not {_FORMAT!r}")
    weights = header["weights"]
    if header["crc32"] != _checksum(weights, arrays):
        raise ValueError("its checksum differs")
    found: list[np.ndarray | PackedKernel] = []
    for number, weight in enumerate(weights):
        shape, names = tuple(weight["shape"]), weight["parts"]
        parts = {name: arrays[_key(number, weight["path"], name)] for name in names}
        if "values" in parts:
            if parts["values"].shape != shape:
                raise ValueError(f"{weight['path']} has another shape than its header says")
            found.append(parts["values"])
        else:
            packed = PackedKernel(shape, parts["signs"], parts.get("nonzero"), parts["scale"])
            packed.unpack()
            found.append(packed)
    return found


def _compare(model: keras.Model, weights: list[dict], path: Path) -> None:
    """Raises a `ValueError` with the first weights that differ between the file and the model."""

    def text(weight: dict) -> str:
        return f"{weight['path']} {tuple(weight['shape'])} {weight['dtype']}"

    def same(one: dict, other: dict) -> bool:
        return all(one[key] == other[key] for key in ("name", "shape", "dtype"))

    wanted = [_description(variable) for variable in model.weights]
    differences = [
        f"#{number}: file {text(one)} | model {text(other)}"
        for number, (one, other) in enumerate(zip(weights, wanted, strict=False))
        if not same(one, other)
    ]
    if differences or len(weights) != len(wanted):
        shown = "; ".join(differences[:5])
        raise ValueError(
            f"The file holds {len(weights)} weights, the model has {len(wanted)}; nothing was "
            f"loaded. {len(differences)} differ. {shown} Received: {str(path)!r}"
        )
