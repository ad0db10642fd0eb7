"""The vision transformer of BiDense's DPT: DINOv2's layout, with BiViT's quantizers or real.

A form is a class that makes the layers; `backbone` puts them together.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from bnnkeras.layers import LayerScale, QuantDense
from bnnkeras.layers.resizing import _SeparableMap
from bnnkeras.quantizers import Binarizer, BiViTKernel, ClippedIdentity
from bnnkeras.registration import deserialize, register, serialize
from bnnkeras.zoo.bidense.blocks import layer_normalization, real_convolution

PATCH = 14
_GRID = 37


def bivit_sign(sign_of_zero, name=None):
    """sign(x), whose gradient is 1 for |x| < 1 and else 0."""
    estimator = ClippedIdentity(1.0, inclusive=False)
    return Binarizer(estimator=estimator, sign_of_zero=sign_of_zero, name=name)


@register
class PixelCentredResizing(_SeparableMap):
    """Bilinear resizing that maps the borders of the pixels onto each other, without smoothing.

    `keras.layers.Resizing` does the same, but on TensorFlow in float32 only.

    Args:
        height: Positive integer, the height of the output.
        width: Positive integer, its width.
    """

    def weights_of(self, size, target):
        positions = (np.arange(target) + 0.5) * size / target - 0.5
        positions = np.maximum(positions, 0)
        lower = np.minimum(np.floor(positions).astype(int), size - 1)
        upper = np.minimum(lower + 1, size - 1)
        weights = np.zeros((target, size))
        weights[np.arange(target), lower] += 1 - (positions - lower)
        weights[np.arange(target), upper] += positions - lower
        return weights


def bicubic_weights(target: int) -> np.ndarray:
    """The matrix `(target, 37)` that resizes one axis of the embeddings.

    Keys' cubic with A = -0.75 and taps clamped to the border; output i lies at (i + 0.5) 37 /
    (target + 0.1) - 0.5, with DINOv2's 0.1.
    """
    positions = (np.arange(target) + 0.5) * _GRID / (target + 0.1) - 0.5
    start = np.floor(positions).astype(int)
    weights = np.zeros((target, _GRID))
    for tap in range(-1, 3):
        distance = np.abs(positions - start - tap)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        columns = np.clip(start + tap, 0, _GRID - 1)
        np.add.at(weights, (np.arange(target), columns), np.where(distance <= 1, near, far))
    return weights


@register
class TokenEmbedding(keras.layers.Layer):
    """A class token in front of the patches, and an embedding of the position added to all.

    The embeddings of 37 x 37 positions are resized to the patches at hand.

    Args:
        rows: Patches along the height.
        columns: Patches along the width.

    Call arguments:
        inputs: `(batch, rows * columns, channels)`.
    """

    def __init__(self, rows, columns, **kwargs):
        super().__init__(**kwargs)
        self.rows = rows
        self.columns = columns

    def build(self, input_shape):
        channels = input_shape[-1]
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        self.cls_token = self.add_weight(
            name="cls_token",
            shape=(1, 1, channels),
            initializer=keras.initializers.RandomNormal(stddev=1e-6),
        )
        self.pos_embed = self.add_weight(
            name="pos_embed", shape=(1, 1 + _GRID**2, channels), initializer=normal
        )

    def positions(self):
        """The embedding of each token, `(1, 1 + rows * columns, channels)`."""
        embedding = ops.convert_to_tensor(self.pos_embed)
        if self.rows == self.columns == _GRID:
            return embedding
        channels = embedding.shape[-1]
        grid = ops.reshape(embedding[:, 1:], (_GRID, _GRID * channels))
        by_row, by_column = (
            ops.convert_to_tensor(bicubic_weights(count), dtype=embedding.dtype)
            for count in (self.rows, self.columns)
        )
        grid = ops.reshape(ops.matmul(by_row, grid), (self.rows, _GRID, channels))
        grid = ops.reshape(ops.matmul(by_column, grid), (1, -1, channels))
        return ops.concatenate([embedding[:, :1], grid], axis=1)

    def call(self, inputs):
        shape = (ops.shape(inputs)[0], 1, inputs.shape[-1])
        token = ops.broadcast_to(ops.convert_to_tensor(self.cls_token), shape)
        return ops.concatenate([token, inputs], axis=1) + self.positions()

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1 + self.rows * self.columns, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "rows": self.rows, "columns": self.columns}


class _Attention(keras.layers.Layer):
    """What both kinds of attention share: the heads apart, and together again.

    Args:
        heads: Positive integer.
    """

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def attended(self, inputs):
        """`mixed` of the queries, keys and values in `(batch, tokens, 3 * heads * d)`."""
        tokens, channels = inputs.shape[1], inputs.shape[2] // 3
        x = ops.reshape(inputs, (-1, tokens, 3, self.heads, channels // self.heads))
        # (B, N, 3, heads, d) -> 3 of (B, heads, N, d)
        x = ops.transpose(x, (2, 0, 3, 1, 4))
        y = ops.transpose(self.mixed(x[0], x[1], x[2]), (0, 2, 1, 3))
        return ops.reshape(y, (-1, tokens, channels))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 3)

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


@register
class SelfAttention(_Attention):
    """y = softmax(q k^T / sqrt(d)) v.

    Args:
        heads: Positive integer.

    Call arguments:
        inputs: `(batch, tokens, 3 * heads * d)`: q, k and v, each with all heads.

    Reference:
        Vaswani et al., Attention Is All You Need (NIPS 2017).
    """

    def call(self, inputs):
        return self.attended(inputs)

    def mixed(self, queries, keys, values):
        """What each head says, `(batch, heads, tokens, d)`."""
        scale = queries.shape[-1] ** -0.5
        logits = ops.matmul(queries * scale, ops.transpose(keys, (0, 1, 3, 2)))
        return ops.matmul(ops.softmax(logits, axis=-1), values)


@register
class BinaryAttention(_Attention):
    """y = P sign(v), P of 0 and 1: where softmax(sign(q) sign(k)^T / sqrt(d)) >= its maximum / 4.

    The gradient of P is that of the softmax. y holds integers.

    Args:
        heads: Positive integer.
        sign_of_zero: 1 (default) or 0.

    Call arguments:
        inputs: `(batch, tokens, 3 * heads * d)`: q, k and v, each with all heads.

    Reference:
        He et al., BiViT (ICCV 2023), released code, as used by BiDense.
    """

    def __init__(self, heads, sign_of_zero=1, quantizer=None, **kwargs):
        super().__init__(heads, **kwargs)
        self.sign_of_zero = sign_of_zero
        self.quantizer = deserialize(quantizer) or bivit_sign(sign_of_zero, name="sign")

    def call(self, inputs):
        return self.attended(self.quantizer(inputs))

    def mixed(self, queries, keys, values):
        """As `SelfAttention`'s, of signs."""
        logits = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))) * queries.shape[-1] ** -0.5
        probabilities = ops.softmax(logits, axis=-1)
        chosen = logits >= ops.max(logits, axis=-1, keepdims=True) - math.log(4)
        # A difference that is exactly 0 carries the gradient: the sums below stay integers.
        binary = ops.cast(chosen, logits.dtype) + (probabilities - ops.stop_gradient(probabilities))
        return ops.matmul(binary, values)

    def get_config(self):
        return {
            **super().get_config(),
            "sign_of_zero": self.sign_of_zero,
            "quantizer": serialize(self.quantizer),
        }


@dataclass(frozen=True)
class BinaryTokens:
    """BiViT: dense layers and attention of signs.

    Args:
        sign_of_zero: 1 or 0.
    """

    sign_of_zero: int = 1

    def dense(self, x, units, learned_scale, name):
        """sign(x) times s sign(W - mean W), s trained or the mean magnitude, plus a bias."""
        if learned_scale:
            initializer = keras.initializers.RandomUniform(-0.015, 0.015)
        else:
            initializer = keras.initializers.RandomNormal(stddev=1e-3)
        bound = 1 / math.sqrt(x.shape[-1])
        return QuantDense(
            units,
            input_quantizer=bivit_sign(self.sign_of_zero),
            kernel_quantizer=BiViTKernel(
                learned_scale, sign_of_zero=self.sign_of_zero, name="sign"
            ),
            kernel_initializer=initializer,
            bias_initializer=keras.initializers.RandomUniform(-bound, bound),
            name=name,
        )(x)

    def attend(self, x, heads, name):
        """Attention of signs."""
        return BinaryAttention(heads, self.sign_of_zero, name=name)(x)


@dataclass(frozen=True)
class RealTokens:
    """DINOv2's own layers, of full precision."""

    def dense(self, x, units, learned_scale, name):
        """x W + b."""
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        return layers.Dense(units, kernel_initializer=initializer, name=name)(x)

    def attend(self, x, heads, name):
        """Attention by softmax."""
        return SelfAttention(heads, name=name)(x)


def attention(x, heads, form, name):
    """Attention between two dense layers, whose scales are trained where they are binary."""
    channels = x.shape[-1]
    x = form.dense(x, 3 * channels, True, f"{name}_qkv")
    x = form.attend(x, heads, f"{name}_attention")
    return form.dense(x, channels, True, f"{name}_proj")


def mlp(x, form, name):
    """Two dense layers with GELU between them."""
    channels = x.shape[-1]
    x = form.dense(x, 4 * channels, False, f"{name}_fc1")
    x = layers.Activation("gelu", name=f"{name}_gelu")(x)
    return form.dense(x, channels, False, f"{name}_fc2")


def block(x, heads, form, name):
    """h = x + l1 attention(LN(x)); y = h + l2 mlp(LN(h))."""
    y = attention(layer_normalization(f"{name}_norm1")(x), heads, form, name)
    y = LayerScale(1.0, name=f"{name}_ls1")(y)
    x = layers.Add(name=f"{name}_add1")([x, y])
    y = mlp(layer_normalization(f"{name}_norm2")(x), form, name)
    y = LayerScale(1.0, name=f"{name}_ls2")(y)
    return layers.Add(name=f"{name}_add2")([x, y])


def backbone(image, channels, depth, heads, form):
    """The maps behind the last four blocks, a 14th of the image's size (rounded down to even)."""
    height, width = image.shape[1:3]
    rows, columns = height // (2 * PATCH) * 2, width // (2 * PATCH) * 2
    x = image
    if (height, width) != (rows * PATCH, columns * PATCH):
        x = PixelCentredResizing(rows * PATCH, columns * PATCH, name="image_resize")(x)
    x = real_convolution(x, channels, PATCH, "patch_embed", strides=PATCH)
    x = layers.Reshape((rows * columns, channels), name="patches")(x)
    x = TokenEmbedding(rows, columns, name="tokens")(x)
    norm = layer_normalization("norm")
    maps: list = []
    for index in range(depth):
        x = block(x, heads, form, f"block{index}")
        if index >= depth - 4:
            features = layers.Cropping1D((1, 0), name=f"features{len(maps)}_patches")(norm(x))
            features = layers.Reshape((rows, columns, channels), name=f"features{len(maps)}")(
                features
            )
            maps.append(features)
    return maps
