"""Small helpers under the names that Larq gives them."""

from collections.abc import Callable

import keras


def memory_as_readable_str(num_bits: int) -> str:
    """An amount of memory in B, KiB, MiB or GiB (powers of 1024), with two decimals.

    Args:
        num_bits: The amount in bits.

    Example:
        >>> from bnnkeras import utils
        >>> utils.memory_as_readable_str(8 * 1536)
        '1.50 KiB'
    """
    amount = num_bits / 8
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:,.2f} {unit}"
        amount /= 1024
    return f"{amount:,.2f} GiB"


def register_keras_custom_object(cls):
    """Makes a class or function known to Keras under its own name; a decorator.

    Saved models that hold it can be loaded without `custom_objects`, and the name can be given to
    layers of this package: `kernel_quantizer="MyQuantizer"`.

    Example:
        >>> import bnnkeras
        >>> @bnnkeras.utils.register_keras_custom_object
        ... class Identity(bnnkeras.quantizers.Quantizer):
        ...     def call(self, inputs):
        ...         return inputs
        >>> type(bnnkeras.quantizers.get("Identity")).__name__
        'Identity'
    """
    keras.saving.get_custom_objects()[cls.__name__] = cls
    return cls


def register_alias(name: str) -> Callable:
    """Makes a class or function known to Keras under another name; a decorator.

    Args:
        name: The alias.

    Example:
        >>> import bnnkeras
        >>> @bnnkeras.utils.register_alias("halve")
        ... def half(x):
        ...     return x / 2
        >>> bnnkeras.quantizers.get("halve") is half
        True
    """

    def register(cls):
        keras.saving.get_custom_objects()[name] = cls
        return cls

    return register


def set_precision(precision: int = 32) -> Callable:
    """Tags a quantizer function with the bits per value of its output; a decorator.

    Args:
        precision: Positive integer. Defaults to 32.

    Raises:
        ValueError: If `precision` is not a positive integer.

    Example:
        >>> import keras
        >>> import bnnkeras
        >>> @bnnkeras.utils.set_precision(1)
        ... def binarize(x):
        ...     return bnnkeras.math.sign(x)
        >>> binarize.precision
        1
    """
    if isinstance(precision, bool) or not isinstance(precision, int) or precision < 1:
        raise ValueError(f"`precision` must be a positive integer. Received: {precision!r}")

    def tag(function):
        function.precision = precision
        return function

    return tag
