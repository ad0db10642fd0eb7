"""Which layers the user built as binary."""

from bnnkeras import layers

SEPARABLE = (layers.QuantSeparableConv1D, layers.QuantSeparableConv2D)
NO_BINARY_OPERATION = {
    layers.QuantDepthwiseConv1D: "LCE has no depthwise binary convolution",
    layers.QuantDepthwiseConv2D: "LCE has no depthwise binary convolution",
    layers.QuantConv3D: "LCE has no 3-D binary convolution",
    layers.QuantConv3DTranspose: "LCE has no 3-D binary convolution",
}


def is_binary(layer) -> bool:
    """Whether the user built this layer as one that LCE has a binary operation for."""
    if type(layer) in NO_BINARY_OPERATION:
        return False
    places = ("intermediate", "pointwise") if isinstance(layer, SEPARABLE) else ("input", "kernel")
    quantized = (getattr(layer, f"{place}_quantizer", None) for place in places)
    return all(getattr(quantizer, "precision", 32) == 1 for quantizer in quantized)
