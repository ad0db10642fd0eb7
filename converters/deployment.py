"""The deploy form: the same function, out of layers that Larq Compute Engine runs right."""

import dataclasses

import keras

from bnnkeras.converters import graph
from bnnkeras.converters.labels import Labels
from bnnkeras.converters.lowering import Builder, Call, lower


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A deploy form, and how the training form's layers came to be in it.

    Attributes:
        model: The deploy form.
        calls: What became of each call of a layer.
        notes: What differs from the training form on purpose, by layer.
        labels: Which layers the deploy form's operations come from.
    """

    model: keras.Model
    calls: list[Call]
    notes: dict[str, str]
    labels: Labels

    @property
    def binary_calls(self) -> list[Call]:
        """The calls of layers that the user built as binary."""
        return [call for call in self.calls if call.binary]

    @property
    def float_reasons(self) -> dict[str, str]:
        """Layers of 1-bit inputs and kernel that run in float, and why."""
        return {call.layer: call.float_reason for call in self.calls if call.float_reason}


def deploy(model: keras.Model, dtype: str = "float32", *, exact_zeros: bool = False) -> keras.Model:
    """Rebuilds a trained model as its deploy form.

    The result computes the same function (outside training) out of a few plain layers: every sign
    is a `Sign`, every binary kernel a `Conv2D` whose variable holds exactly +-1, every scale and
    bias an `Affine` behind it with BatchNorm folded in, every padding one that LCE computes right.
    It is an ordinary Keras model: run it, compare it, save it, look at it.

    Args:
        model: A functional or Sequential model with static input sizes; nested models are inlined.
        dtype: `"float32"`, or `"float64"` to compare it with a float64 model to the last bits.
        exact_zeros: Whether a layer built with `sign_of_zero=0` becomes two binary convolutions,
            so that inputs of exactly 0 count as 0. By default they count as +1.

    Returns:
        A functional `keras.Model` with the same inputs and outputs, named `<model>_deploy`.

    Raises:
        UnsupportedLayerError: If a layer has no lowering rule, or an argument LCE cannot follow.
        TypeError: If `model` is no Keras model.
        ValueError: If it is a subclassed model, a Sequential one that is not built, has open input
            sizes, or weights that are not finite.

    Example:
        >>> from bnnkeras import converters
        >>> from bnnkeras.zoo import BiRealNet18
        >>> deployed = converters.deploy(BiRealNet18(input_shape=(32, 32, 3), classes=10))
        >>> sum(layer.name.endswith("_sign") for layer in deployed.layers)
        16
    """
    return deployment_of(model, dtype, exact_zeros).model


def deployment_of(model, dtype: str = "float32", exact_zeros: bool = False) -> Deployment:
    """`deploy`, with its record."""
    model = graph.as_functional(model)
    dynamic = {graph.input_name(x): tuple(x.shape) for x in model.inputs if None in x.shape[1:]}
    if dynamic:
        raise ValueError(
            "`model` must have fixed input sizes: give `input_size` to convert, or build the model "
            "with them and load its weights. "
            f"Received: {dynamic}"
        )
    builder = Builder(dtype, exact_zeros)

    def new_input(tensor):
        is_float = "float" in keras.backend.standardize_dtype(tensor.dtype)
        return keras.Input(
            batch_shape=tensor.shape,
            dtype=dtype if is_float else tensor.dtype,
            name=builder.name(graph.input_name(tensor)),
        )

    labels = Labels({}, {})
    read_once = graph.read_once(model)

    def lowered(operation, *args, **kwargs):
        outputs = lower(builder, operation, *args, **kwargs)
        # (A layer that does nothing here returns what others may read as well.)
        is_new = not any(outputs is value for value in keras.tree.flatten((args, kwargs)))
        if id(operation) in read_once and is_new and isinstance(outputs, keras.KerasTensor):
            builder.own(outputs)
        _label(labels, operation.name, outputs)
        return outputs

    inputs = keras.tree.map_structure(new_input, model.input)
    outputs = graph.replay(model, inputs, lowered)
    deployed = keras.Model(inputs, outputs, name=f"{model.name}_deploy")
    return Deployment(deployed, builder.calls, builder.notes, labels)


def _label(labels: Labels, layer: str, outputs):
    """Notes that what leads up to `outputs`, as far as it is new, was made for `layer`."""
    ahead = [graph.producer(tensor) for tensor in keras.tree.flatten(outputs)]
    for operation, _ in ahead:
        # A layer that computes nothing in deployment returns what the one before it computed.
        labels.results.setdefault(operation.name, layer)
    while ahead:
        operation, inputs = ahead.pop()
        if operation.name not in labels.origins and inputs:
            labels.origins[operation.name] = layer
            ahead += [graph.producer(tensor) for tensor in inputs]
