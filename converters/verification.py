"""`verify`: whether a `.tflite` file computes what the model computes."""

import dataclasses
import os
import tempfile
from pathlib import Path

import keras
import numpy as np

from bnnkeras.converters import graph, layerwise, probe
from bnnkeras.converters.deployment import Deployment, deploy, deployment_of
from bnnkeras.converters.flatbuffer import metadata
from bnnkeras.converters.float_parts import recipe_of
from bnnkeras.converters.worker import WorkerCrash, get_worker

KERNELS = ("default", "reference", "indirect")


@dataclasses.dataclass(frozen=True)
class KernelResult:
    """What one of LCE's kernels made of the file.

    Attributes:
        binary_error_over_bound: Largest error of a binary convolution on the file's own inputs, in
            units of the bound (4 K |multiplier| + 2 |bias|) 2^-23; right if at most 1.
        float_relative_error: Largest error of the float operations between two binary
            convolutions, relative to the largest value; right if at most 1e-5. Where they are int8,
            what is beyond one step of each scale on the way.
        argmax_agreement: Share of the samples with the same largest output as the deploy form.
        largest_output_difference: Largest difference at the outputs. No test: see `verify`.
        probe_difference: Largest difference in the dyadic probe; right if exactly 0.
        int8_error_over_bound: Largest error of an operator with int8 weights on the file's own
            inputs, in units of what its rounding allows; right if at most 1. `None` without such.
    """

    binary_error_over_bound: float
    float_relative_error: float
    argmax_agreement: float
    largest_output_difference: float
    probe_difference: float | None
    int8_error_over_bound: float | None = None


@dataclasses.dataclass(frozen=True)
class Verification:
    """The outcome of `verify`.

    Attributes:
        passed: Whether every check passed.
        problems: One sentence for each that did not.
        binary_layers_total: 1-bit layers of the training form, counted by calls.
        binary_layers_converted: Those of them that are an LceBconv2d with the right bits.
        binary_layers_left: Names of the others.
        float_reasons: Layers of 1-bit inputs and kernel that run in float, and why: those that LCE
            has no operation for (depthwise, 3-D), which are not counted above, and those left.
        probe_max_difference: Largest difference of the dyadic probe over all kernels; `None` if
            the probe was not run.
        kernels: One `KernelResult` for each kernel of LCE that was run.
        probe_cuts: What the probe left out because it rounds, and why, by layer.
        probe_replaced: Layers that the probe ran with another quantizer, and why.
    """

    passed: bool
    problems: tuple[str, ...]
    binary_layers_total: int
    binary_layers_converted: int
    binary_layers_left: tuple[str, ...]
    float_reasons: dict[str, str]
    probe_max_difference: float | None
    kernels: dict[str, KernelResult]
    probe_cuts: dict[str, str] = dataclasses.field(default_factory=dict)
    probe_replaced: dict[str, str] = dataclasses.field(default_factory=dict)


def verify(
    model: keras.Model,
    flatbuffer: bytes | str | os.PathLike,
    inputs=None,
    *,
    kernels: tuple[str, ...] = KERNELS,
    run_probe: bool = True,
    exact_zeros: bool = False,
    timeout_seconds: float = 600.0,
) -> Verification:
    """Checks that a `.tflite` file is the deploy form of a model, on every kernel of LCE.

    1. Lowering: each layer's deploy form computes what the layer computes, with its real weights.
    2. Structure: each binary layer is one LceBconv2d with the same bits, multiplier, bias, stride,
       dilation and padding; nothing binary runs in float.
    3. Local check: each layer, evaluated on the file's own intermediate values, is within the bound
       that float32 allows.
    4. Dyadic probe: the architecture with weights that never round differs by exactly 0 from the
       training form. It converts the architecture anew, in float32: the bits of this file are
       step 2's.
    5. Agreement end to end, reported and not judged: an activation of 1e-7 that changes its sign is
       no error, but moves the outputs of a binary network visibly.

    A file made with `quantize` is compared with what it promises: the deploy form with the weights
    rounded as the file stores them, or with values rounded to the ranges that the file carries.
    Operators with int8 weights are checked one by one on the file's own inputs, rounded as the
    operator rounds them.

    Args:
        model: The training form: a functional or Sequential Keras model.
        flatbuffer: The bytes of the file, or its path.
        inputs: Real inputs for steps 3 and 5: an array, or a dict by input name. `None` takes four
            samples of Gaussian noise.
        kernels: Kernels of LCE to run.
        run_probe: Whether to run step 4.
        exact_zeros: As given to `convert`.
        timeout_seconds: Bound for each request to the deploy worker.

    Returns:
        A `Verification`; `passed` says the outcome. A wrong file is no exception.

    Raises:
        ValueError: If the file is damaged or an argument is wrong.
        ImportError: If the `deploy` extra is missing.
    """
    model = graph.as_functional(model)
    if not isinstance(flatbuffer, (bytes, str, os.PathLike)):
        raise TypeError(
            "`flatbuffer` must be the bytes of a .tflite file or a path. "
            f"Received: {type(flatbuffer).__name__}"
        )
    data = flatbuffer if isinstance(flatbuffer, bytes) else Path(flatbuffer).read_bytes()
    deployment = deployment_of(model, exact_zeros=exact_zeros)
    recipe = recipe_of(metadata(data))
    if recipe is not None:
        deployment = recipe.applied(deployment)
    return verify_deployment(
        model,
        deployment,
        data,
        inputs,
        kernels=kernels,
        run_probe=run_probe,
        timeout_seconds=timeout_seconds,
    )


def verify_deployment(
    model: keras.Model,
    deployment: Deployment,
    data: bytes,
    inputs,
    *,
    kernels: tuple[str, ...],
    run_probe: bool,
    timeout_seconds: float,
) -> Verification:
    """`verify`, of a functional model whose deploy form is at hand."""
    inputs = named_inputs(model, inputs)
    with tempfile.TemporaryDirectory(prefix="bnnkeras-") as folder:
        path = Path(folder, "deploy.keras")
        deployment.model.save(path)
        arrays = {f"input/{name}": value for name, value in inputs.items()}
        arrays["flatbuffer"] = np.frombuffer(data, np.uint8)

        def request(kernels):
            found, _ = get_worker().request(
                "verify",
                arrays,
                model_path=path,
                kernels=list(kernels),
                timeout_seconds=timeout_seconds,
            )
            return found

        try:
            found = request(kernels)
        except WorkerCrash as crash:
            # LCE checks nothing and dies of what does not fit; the structure tells why.
            found = request(())
            found["structure_problems"].append(str(crash).splitlines()[0])
    found["structure_problems"] += layerwise.differences(model)
    probed = _run_probe(model, kernels, timeout_seconds) if run_probe else None
    return _judge(deployment, found, probed)


def named_inputs(model: keras.Model, inputs) -> dict[str, np.ndarray]:
    """Inputs as float32 arrays by name; noise for `None`.

    Raises:
        ValueError: If the names or shapes are not those of the model.
    """
    wanted = {graph.input_name(tensor): tuple(tensor.shape[1:]) for tensor in model.inputs}
    if inputs is None:
        generator = np.random.default_rng(0)
        return {
            name: generator.normal(size=(4, *shape)).astype("float32")
            for name, shape in wanted.items()
        }
    if not isinstance(inputs, dict):
        if len(wanted) != 1:
            raise ValueError(
                f"`inputs` must be a dict with the keys {[*wanted]}. "
                f"Received: {type(inputs).__name__}"
            )
        inputs = {next(iter(wanted)): inputs}
    inputs = {name: np.asarray(value, "float32") for name, value in inputs.items()}
    shapes = {name: value.shape[1:] for name, value in inputs.items()}
    if shapes != wanted:
        raise ValueError(
            f"`inputs` must have these shapes, behind the batch axis: {wanted}. Received: {shapes}"
        )
    return inputs


def _run_probe(model, kernels, timeout_seconds):
    # On the CPU: accelerators multiply with fewer bits than float32 has.
    with keras.device("cpu"):
        dyadic = probe.dyadic_probe(model)
        twin = dyadic.twin
        if twin is None:
            nothing = {"kernels": {}, "rounding": 0, "deploy_difference": 0, "layer_problems": []}
            return {**nothing, "cuts": dyadic.cuts, "replaced": dyadic.replaced}
        inputs = probe.dyadic_inputs(twin, samples=2)
        expected, problems = probe.compared(twin, inputs)
    arrays = {f"input/{name}": value for name, value in inputs.items()}
    for number, value in enumerate(expected):
        arrays[f"expected/{number}"] = value
    with tempfile.TemporaryDirectory(prefix="bnnkeras-") as folder:
        path = Path(folder, "probe.keras")
        deploy(twin).save(path)
        result, _ = get_worker().request(
            "probe",
            arrays,
            model_path=path,
            kernels=list(kernels),
            batch_size=1,
            timeout_seconds=timeout_seconds,
        )
    result["layer_problems"] = problems
    return {**result, "cuts": dyadic.cuts, "replaced": dyadic.replaced}


def _judge(deployment: Deployment, found, probed) -> Verification:
    problems = list(found["structure_problems"])
    converted = set(found["binary_layers_converted"])
    left = []
    for call in deployment.binary_calls:
        if call.float_reason is not None:
            left.append(call.layer)
            problems.append(f"{call.layer} runs in float: {call.float_reason}")
        elif not call.convolutions or not converted.issuperset(call.convolutions):
            left.append(call.layer)
            problems.append(f"{call.layer} runs in float")
    total = len(deployment.binary_calls)
    if left:
        problems.append(f"{total - len(left)} of {total} binary layers are LceBconv2d")
    for kernel, result in found["kernels"].items():
        problems += [f"{kernel} kernel: {text}" for text in result.pop("local_problems")]
    if probed is not None:
        problems += probed["layer_problems"]
        if probed["rounding"] != 0:
            problems.append(f"the probe is void: it rounds ({probed['rounding']:.3g})")
        if probed["deploy_difference"] != 0:
            problems.append(
                f"probe: deploy and training form differ by {probed['deploy_difference']:.3g}"
            )
        problems += [
            f"probe: {kernel} kernel differs by {difference:.3g}"
            for kernel, difference in probed["kernels"].items()
            if difference != 0
        ]
    differences = {} if probed is None else probed["kernels"]
    return Verification(
        passed=not problems,
        problems=tuple(problems),
        binary_layers_total=total,
        binary_layers_converted=total - len(left),
        binary_layers_left=tuple(left),
        float_reasons=deployment.float_reasons,
        probe_max_difference=max(differences.values()) if differences else None,
        kernels={
            kernel: KernelResult(**result, probe_difference=differences.get(kernel))
            for kernel, result in found["kernels"].items()
        },
        probe_cuts={} if probed is None else probed["cuts"],
        probe_replaced={} if probed is None else probed["replaced"],
    )
