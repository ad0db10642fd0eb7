"""`convert`: from a trained Keras model to a verified `.tflite` file."""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from bnnkeras.converters import graph
from bnnkeras.converters.deployment import deploy, deployment_of
from bnnkeras.converters.errors import ConversionError
from bnnkeras.converters.float_parts import (
    QuantizationCost,
    make_recipe,
    measured_cost,
    representative_inputs,
)
from bnnkeras.converters.metadata import file_metadata
from bnnkeras.converters.models import load_model, with_input_size
from bnnkeras.converters.reporting import Report, inspect, plain_values
from bnnkeras.converters.verification import (
    KERNELS,
    Verification,
    named_inputs,
    verify_deployment,
)
from bnnkeras.converters.worker import get_worker
from bnnkeras.files import check_writable, replacing

# Of representative data: `verify` looks at every value inside the file.
_VERIFIED_SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What `convert` made.

    Attributes:
        flatbuffer: The bytes of the `.tflite` file.
        path: Where it was written, or `None`.
        verification: What `verify` found; without `verify`, its structural part.
        notes: Sentences about layers whose deploy form differs on purpose, by layer name.
        quantization: What float parts in fewer bits cost; `None` without `quantize`.
    """

    flatbuffer: bytes = dataclasses.field(repr=False)
    path: Path | None
    verification: Verification
    notes: dict[str, str]
    quantization: QuantizationCost | None = None

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return len(self.flatbuffer)

    @functools.cached_property
    def report(self) -> Report:
        """What the file consists of and what was verified: print it, or save it as a page."""
        report = inspect(self.flatbuffer, verification=self.verification)
        cost = self.quantization
        return dataclasses.replace(
            report,
            file=report.file if self.path is None else self.path.name,
            quantization=None if cost is None else plain_values(cost),
        )


def convert(
    model_or_path: keras.Model | str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    quantize: str | None = None,
    representative_data=None,
    keep_float: Sequence[str] = (),
    strict: bool = True,
    verify: bool = True,
    inputs=None,
    batch_size: int = 1,
    input_size=None,
    exact_zeros: bool = False,
    class_names: Sequence[str] | None = None,
    preprocessing: str | Mapping | None = None,
    timeout_seconds: float = 600.0,
) -> Conversion:
    """Converts a model to a `.tflite` file for Larq Compute Engine, and proves it right.

    The conversion runs in a child process (see `bnnkeras.converters.worker`), under TensorFlow
    whatever the backend of this process is.

    Args:
        model_or_path: A functional or Sequential Keras model, or the path of a `.keras` file; of
            any backend and dtype policy.
        output: Path to write to, or `None` to keep the bytes only. The file appears when all checks
            have passed.
        quantize: How the float parts are stored and computed. `None`: in float32.

            - `"float16"`: float kernels take half the bytes, and are turned into float32 when the
              file is loaded. Latency and memory at run time stay as they are.
            - `"int8-weights"`: float kernels take a quarter. Float 2-D convolutions and dense
              layers multiply integers, their inputs rounded to 8 bits on the fly, with a range of
              its own for each sample; other float kernels are turned into float32 when the file is
              loaded.
            - `"int8"`: float layers, and the poolings and additions between them, run in 8 bits,
              with ranges measured on `representative_data`. Outputs of binary convolutions that pad
              with zeros stay in float32, because LCE writes them as int8 under its reference kernel
              only: a network that pads with ones, or not at all, is int8 throughout. Inputs and
              outputs of the file are float32 as ever.

            Whatever rounds before a sign turns some signs; the cost, measured on the data given, is
            in `Conversion.quantization`. Kernels of few weights, and biases, stay in float32.
        representative_data: Real inputs, as for `inputs`: some hundred samples, prepared as for
            training. Needed for `"int8"`. The cost is measured on them, or else on `inputs`, or
            else on noise.
        keep_float: Names of layers that `quantize` leaves in float32, such as a stem whose output
            is binarized.
        strict: Whether a model that is not verified, or of which a binary layer would run in float,
            is an error. `False` reports it in the `Conversion` instead.
        verify: Whether to run all of `bnnkeras.converters.verify` on the result, or only its
            structural part.
        inputs: Real inputs for `verify`; `None` for a few of `representative_data`, or else noise.
        batch_size: Batch size of the file. Defaults to 1.
        input_size: Spatial sizes, such as `(224, 224)`, or shapes without the batch axis; a dict by
            input name where the model has several. Needed where the model leaves sizes open.
        exact_zeros: Whether a layer built with `sign_of_zero=0` becomes two binary convolutions,
            so that inputs of exactly 0 count as 0. By default they count as +1.
        class_names: Names of the classes, stored in the file.
        preprocessing: What an application has to do to its inputs, in words or as JSON values;
            stored in the file.
        timeout_seconds: Bound for each request to the child process.

    Returns:
        A `Conversion`. `converters.Interpreter(file).metadata` holds what is stored in the file
        beside the network: versions, the layer of each operator, paddings, notes and the above.

    Raises:
        UnsupportedLayerError: If a layer has no deploy form.
        ConversionError: If `strict` and the file is not what the model says.
        ValueError: If an argument is out of range, naming it.
        OSError: If the output cannot be written.

    Example:
        ```python
        conversion = converters.convert(model, "model.tflite")
        print(conversion.file_bytes, conversion.verification.passed)

        small = converters.convert(
            model, "small.tflite", quantize="int8-weights", representative_data=images
        )
        print(small.quantization)
        ```
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}")
    model = with_input_size(graph.as_functional(load_model(model_or_path)), input_size)
    deployment = deployment_of(model, exact_zeros=exact_zeros)
    representative = None
    if representative_data is not None:
        representative = representative_inputs(model, representative_data)
        if inputs is None:
            inputs = {name: value[:_VERIFIED_SAMPLES] for name, value in representative.items()}
    recipe = make_recipe(deployment, quantize, representative, keep_float)
    measured_on = "noise" if inputs is None else "inputs"
    inputs = named_inputs(model, inputs)
    metadata = file_metadata(model, deployment, class_names, preprocessing)
    if output is not None:
        check_writable(Path(output).parent)
    flatbuffer = float32 = _converted(deployment, metadata, batch_size, timeout_seconds)
    if recipe is not None:
        deployment = recipe.applied(deployment)
        metadata["quantize"] = recipe.as_metadata()
        flatbuffer = _converted(deployment, metadata, batch_size, timeout_seconds)
    # Without `verify` the structure is still read: a layer left in float must not go unnoticed.
    verification = verify_deployment(
        model,
        deployment,
        flatbuffer,
        inputs,
        kernels=KERNELS if verify else (),
        run_probe=verify,
        timeout_seconds=timeout_seconds,
    )
    if strict and not verification.passed:
        raise ConversionError(
            f"The file made of {model.name!r} is not right, and was not written:\n  "
            + "\n  ".join(verification.problems)
        )
    quantization = None
    if recipe is not None:
        if representative is None:
            representative = inputs
        else:
            measured_on = "representative_data"
        quantization = measured_cost(
            recipe, flatbuffer, float32, representative, measured_on, timeout_seconds
        )
    if output is not None:
        with replacing(output) as temporary:
            temporary.write_bytes(flatbuffer)
    path = None if output is None else Path(output)
    return Conversion(flatbuffer, path, verification, deployment.notes, quantization)


def convert_float(model: keras.Model, batch_size: int = 1, timeout_seconds: float = 600.0) -> bytes:
    """The same network as an ordinary float32 `.tflite` file, to compare sizes and speed with.

    Args:
        model: As for `convert`.
        batch_size: Batch size of the file. Defaults to 1.
        timeout_seconds: Bound for the request to the child process.

    Returns:
        The bytes of a file that stock TensorFlow Lite runs; its binary kernels are float32.
    """
    return _in_worker("convert_float", deploy(model), batch_size, timeout_seconds)


def _converted(deployment, metadata, batch_size, timeout_seconds) -> bytes:
    return _in_worker(
        "convert",
        deployment.model,
        batch_size,
        timeout_seconds,
        origins=deployment.labels.origins,
        results=deployment.labels.results,
        metadata=metadata,
    )


def _in_worker(command, deployed, batch_size, timeout_seconds, **parameters) -> bytes:
    with tempfile.TemporaryDirectory(prefix="bnnkeras-") as folder:
        path = Path(folder, "deploy.keras")
        deployed.save(path)
        _, arrays = get_worker().request(
            command,
            model_path=path,
            batch_size=batch_size,
            timeout_seconds=timeout_seconds,
            **parameters,
        )
    return arrays["flatbuffer"].tobytes()
