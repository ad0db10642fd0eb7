"""`summary`: a model's costs as text."""

from collections.abc import Callable
from typing import Any

import keras

from bnnkeras.models.profile import ModelProfile
from bnnkeras.models.tables import draw_table


def summary(
    model: keras.Model,
    print_fn: Callable[[str], Any] | None = None,
    include_macs: bool = True,
    input_shape=None,
) -> None:
    """Prints what a model costs, layer by layer and in total.

    Per layer: precision of its input, output shape, number of weights by bit width, their memory
    (1 kB = 1024 bytes), number of multiply-accumulates (MACs) for one sample by the precision of
    their wider operand, and whether Larq Compute Engine (LCE) will run the layer on bits, or why
    not. What is inside a nested model or composite layer is indented below its sum. "?" stands for
    what can't be known.

    In total, beside sums: the model's size if float weights had 8 bits, and 32; "OPs", MACs with a
    binary one counting 1/64; and the most memory that the activations of one sample take at a time.

    A `BatchNormalization` counts 2 weights per channel, what is left of it after deployment; so
    "Total params" is not `model.count_params()`.

    Args:
        model: A built model.
        print_fn: Called with each of the two tables. Defaults to `print`.
        include_macs: Whether to count MACs. Defaults to `True`.
        input_shape: The input shape with the batch axis, if the model leaves sizes open.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or `input_shape` does not fit it.

    Example:
        >>> import keras
        >>> from bnnkeras import layers, models
        >>> binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
        >>> model = keras.Sequential([
        ...     keras.Input((64,)),
        ...     layers.QuantDense(32, use_bias=False, **binary),
        ...     keras.layers.Dense(10),
        ... ], name="small")
        >>> tables = []
        >>> models.summary(model, print_fn=tables.append)
        >>> print(tables[1])
        +small summary-------------------------------+
        | Total params                        2.38 k |
        | Trainable params                    2.38 k |
        | Non-trainable params                     0 |
        | Model size                        1.54 KiB |
        | Model size (8-bit FP weights)     586.00 B |
        | Float-32 Equivalent               9.29 KiB |
        | Compression Ratio of Memory           0.17 |
        | Number of MACs                      2.37 k |
        | Ratio of MACs that are binarized    0.8649 |
        | OPs (1-bit MACs / 64)                  352 |
        | Peak activation memory            392.00 B |
        +--------------------------------------------+
    """
    profile = ModelProfile(model, input_shape)
    print_fn = print_fn or print
    layers = profile.generate_table(include_macs)
    print_fn(draw_table(layers, f"{profile.name} stats", has_header=True))
    totals = profile.generate_summary(include_macs)
    print_fn(draw_table(totals, f"{profile.name} summary", has_header=False))
