"""Bits per value of weights, inputs and tensors."""

import re

import keras


def dtype_bits(dtype: str) -> int:
    """Bits per value of a dtype's name; a bool is stored in 8."""
    digits = re.search(r"\d+", dtype)
    return int(digits.group()) if digits else 8


def quantizer_precision(quantizer) -> int | None:
    """`quantizer.precision`; `None` without a quantizer, or where it does not say."""
    return getattr(quantizer, "precision", None)


def input_precision(layer) -> int | None:
    """Bits per value of what the layer's input quantizer returns; `None` without one."""
    return quantizer_precision(getattr(layer, "input_quantizer", None))


def weight_bits(layer: keras.layers.Layer) -> dict[int, int]:
    """Bits per value of all quantized weights of `layer` and of what is in it, by `id`."""
    bits = {}
    for owner in layer._flatten_layers():
        # The owner's own weights: a quantizer inside may have a "kernel" of its own.
        for variable in owner._trainable_variables + owner._non_trainable_variables:
            precision = quantizer_precision(_quantizer_of(owner, variable.name))
            if precision is not None:
                bits[id(variable)] = min(precision, dtype_bits(variable.dtype))
    return bits


def _quantizer_of(layer, name: str):
    """The quantizer of the weight called `name`, by the argument names of the Quant* layers."""
    attributes = [f"{name.removesuffix('_kernel')}_quantizer"]
    if name == "kernel":
        attributes.append("depthwise_quantizer")
    quantizers = (getattr(layer, attribute, None) for attribute in attributes)
    return next((quantizer for quantizer in quantizers if quantizer is not None), None)
