"""The deploy worker's conversions: deploy form -> SavedModel -> converter -> bytes."""

import contextlib
import tempfile

import keras
import numpy as np

import bnnkeras
from bnnkeras.converters import (
    flatbuffer,
    graph,
    labels,
    layers,  # noqa: F401  (registers the deploy layers for loading)
    scheduling,
)
from bnnkeras.converters.float_parts import (
    fake_quantization,  # noqa: F401  (registers its layer for loading)
    recipe_of,
    storage,
)
from bnnkeras.converters.plan import output_names
from bnnkeras.converters.worker.registry import command
from bnnkeras.converters.worker.requirements import import_or_explain


@command("convert")
def convert(arrays, *, model_path: str, batch_size: int, origins, results, metadata):
    """Converts a saved deploy form; the result array "flatbuffer" holds the bytes of the file.

    `origins` and `results` are those of `labels.Labels`, `metadata` is stored in the file; with a
    recipe in it (`float_parts.recipe`), float kernels are stored in fewer bits.
    """
    model = keras.models.load_model(model_path, compile=False)
    with labels.tagged(model) as names:
        data = flatbuffer_of(model, batch_size)
    recipe = recipe_of(metadata)
    if recipe is not None and recipe.mode != "int8":
        data = storage.stored(data, model, recipe.mode, frozenset(recipe.keep_float))
    operations = [graph.producer(tensor)[0] for tensor in model.outputs]
    data, operator_layers = labels.labelled(
        data,
        names,
        labels.Labels(origins, results),
        [tensor.name for tensor in model.inputs],
        {
            name: (operation.name, type(operation).__name__)
            for name, operation in zip(output_names(model), operations, strict=True)
        },
        labels.fusable(model),
        labels.signed(model),
    )
    data = flatbuffer.with_metadata(
        data,
        {
            "bnnkeras_version": bnnkeras.__version__,
            "keras_version": keras.__version__,
            **metadata,
            "operator_layers": operator_layers,
        },
    )
    return {}, {"flatbuffer": np.frombuffer(data, np.uint8)}


def flatbuffer_of(model: keras.Model, batch_size: int) -> bytes:
    """The bytes that LCE's converter makes of a deploy form."""
    converter = import_or_explain("larq_compute_engine.mlir.python.converter")
    with _saved_model(model, batch_size) as folder:
        return scheduling.scheduled(converter.convert_saved_model(folder))


@contextlib.contextmanager
def _saved_model(model, batch_size):
    """A temporary SavedModel with static sizes."""
    # LCE's converter takes no dynamic sizes, and export drops the batch size of the inputs.
    signature = keras.tree.map_structure(
        lambda tensor: keras.InputSpec(
            shape=(batch_size, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name
        ),
        model.input,
    )
    with tempfile.TemporaryDirectory(prefix="bnnkeras-") as folder:
        model.export(folder, verbose=False, input_signature=[signature])
        yield folder


@command("convert_float")
def convert_float(arrays, *, model_path: str, batch_size: int):
    """The same model through the stock TFLite converter: every layer in float32."""
    tensorflow = import_or_explain("tensorflow")
    model = keras.models.load_model(model_path, compile=False)
    with _saved_model(model, batch_size) as folder:
        data = tensorflow.lite.TFLiteConverter.from_saved_model(folder).convert()
    return {}, {"flatbuffer": np.frombuffer(data, np.uint8)}
