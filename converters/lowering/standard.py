"""Rules of the Keras layers that LCE runs as they are, or that do nothing outside training."""

import keras
from keras import layers

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering.activations import activated, check_activation, is_rewritten
from bnnkeras.converters.lowering.registry import lowering_rule, refuse

# Nothing outside training.
DROPPED = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.RandomBrightness,
    layers.RandomContrast,
    layers.RandomFlip,
    layers.RandomRotation,
    layers.RandomTranslation,
    layers.RandomZoom,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)


@lowering_rule(
    layers.Attention,
    layers.CenterCrop,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Dot,
    layers.ELU,
    layers.Flatten,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling3D,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.LeakyReLU,
    layers.Maximum,
    layers.Minimum,
    layers.MultiHeadAttention,
    layers.Multiply,
    layers.PReLU,
    layers.Permute,
    layers.ReLU,
    layers.RepeatVector,
    layers.Softmax,
    layers.Subtract,
    layers.UnitNormalization,
    layers.UpSampling1D,
    layers.UpSampling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)
def keep(builder, layer, *args, **kwargs):
    """LCE runs the layer as it is."""
    return builder.copy(layer)(*args, **kwargs)


@lowering_rule(layers.Dense)
def keep_dense(builder, layer, inputs):
    """(p + c) W + b = p W + (c W + b): a constant in front joins the bias."""
    x, constant = builder.carried(inputs)
    if constant is None:
        return kept(builder, layer, inputs)
    check_activation(layer)
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
    bias = 0.0 if layer.bias is None else keras.ops.convert_to_numpy(layer.bias)
    dense = layers.Dense(layer.units, name=builder.name(layer.name), dtype=builder.dtype)
    y = builder.place(dense, x, [kernel, bias + constant @ kernel])
    return activated(builder, layer, y)


@lowering_rule(layers.EinsumDense)
def keep_with_activation(builder, layer, inputs):
    return kept(builder, layer, inputs)


def kept(builder, layer, x, kind=None):
    """The layer as it is, except for an activation that LCE does not load in Keras's form."""
    check_activation(layer)
    if not is_rewritten(layer.activation):
        return builder.copy(layer, kind)(x)
    return activated(builder, layer, builder.copy(layer, kind, activation=None)(x))


@lowering_rule(layers.Reshape)
def reshape(builder, layer, inputs):
    return builder.reshape(inputs, layer.compute_output_shape(inputs.shape)[1:], layer.name)


@lowering_rule(layers.UpSampling2D, layers.Resizing)
def keep_resizing(builder, layer, inputs):
    if layer.interpolation not in ("nearest", "bilinear"):
        raise UnsupportedLayerError(
            layer, f"LCE does not resize with {layer.interpolation!r}: take bilinear or nearest"
        )
    return builder.copy(layer)(inputs)


@lowering_rule(*DROPPED)
def drop(builder, layer, inputs):
    """Nothing happens here outside training."""
    return inputs


refuse(
    "a Lambda hides a Python function: call keras.ops on the tensor in its place, or write a layer "
    "and a rule for it with bnnkeras.converters.lowering.lowering_rule",
    layers.Lambda,
)
refuse(
    "recurrent layers have no deploy form: take Conv1D or attention over the steps",
    layers.RNN,
    layers.Bidirectional,
)
refuse(
    "the deploy form has no integer inputs: look the vectors up in the program, and feed them",
    layers.Embedding,
)
refuse("a deploy form has no masks: multiply by a second input that holds the mask", layers.Masking)
refuse(
    "LCE has no 3-D pooling: reshape two axes into one, and pool in 2-D",
    layers.AveragePooling3D,
    layers.MaxPooling3D,
)
