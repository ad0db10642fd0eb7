"""The deploy forms of the transformer's own layers."""

import math

from keras import layers, ops

from bnnkeras.converters.lowering import lowering_rule
from bnnkeras.converters.lowering.maps import check_layout
from bnnkeras.zoo.bidense.vit import (
    BinaryAttention,
    PixelCentredResizing,
    SelfAttention,
    TokenEmbedding,
)


@lowering_rule(PixelCentredResizing)
def resize(builder, layer, inputs):
    """One RESIZE_BILINEAR, which computes where the pixels lie in float32."""
    check_layout(layer, inputs)
    return layers.Resizing(
        layer.height, layer.width, name=builder.name(layer.name), dtype=builder.dtype
    )(inputs)


@lowering_rule(TokenEmbedding)
def embed(builder, layer, inputs):
    """A row of zeros in front of the patches, and one constant per token and channel."""
    x = layers.ZeroPadding1D((1, 0), name=builder.name(layer.name), dtype=builder.dtype)(inputs)
    constant = ops.convert_to_numpy(layer.positions())[0].astype("float64")
    constant[0] += ops.convert_to_numpy(layer.cls_token)[0, 0]
    return builder.affine_by_position(x, 1.0, constant, layer.name)


@lowering_rule(SelfAttention)
def attend(builder, layer, inputs):
    """softmax(q k^T / sqrt(d)) v."""
    queries, keys, values = _heads(layer, inputs)
    scaled = ops.multiply(queries, queries.shape[-1] ** -0.5)
    logits = ops.matmul(scaled, ops.transpose(keys, (0, 1, 3, 2)))
    return _joined(builder, layer, ops.matmul(ops.softmax(logits, axis=-1), values))


@lowering_rule(BinaryAttention)
def attend_to_signs(builder, layer, inputs):
    """Both products are sums of -1, 0 and 1: exact integers, of activations alone.

    LCE has no product of two binary activations, so that these run in float. q k^T is compared
    without being divided: sqrt(d) ln 4 is no integer, so that there are no ties.
    """
    if layer.sign_of_zero == 0:
        builder.note(layer, "queries, keys and values that are exactly 0 become +1")
    # Not the sign that LCE packs into bits: these bits would be unpacked at once.
    ones = ops.cast(ops.greater_equal(inputs, 0.0), builder.dtype)
    queries, keys, values = _heads(layer, ops.subtract(ops.multiply(ones, 2.0), 1.0))
    products = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2)))
    margin = math.log(4) * queries.shape[-1] ** 0.5
    least = ops.subtract(ops.max(products, axis=-1, keepdims=True), margin)
    chosen = ops.cast(ops.greater_equal(products, least), builder.dtype)
    return _joined(builder, layer, ops.matmul(chosen, values))


def _heads(layer, x):
    """Queries, keys and values, `(batch, heads, tokens, d)` each."""
    tokens, channels = x.shape[1], x.shape[2] // 3
    pieces = []
    for piece in ops.split(x, 3, axis=-1):
        piece = ops.reshape(piece, (-1, tokens, layer.heads, channels // layer.heads))
        pieces.append(ops.transpose(piece, (0, 2, 1, 3)))
    return pieces


def _joined(builder, layer, x):
    """(B, heads, N, d) -> (B, N, heads d)."""
    x = ops.transpose(x, (0, 2, 1, 3))
    return builder.reshape(x, (x.shape[1], x.shape[2] * x.shape[3]), f"{layer.name}_joined")
