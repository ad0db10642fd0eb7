"""Bi-Real Net without the scales of its binary kernels: in closed form, or by training BN."""

import keras
from keras import ops

from bnnkeras.layers import QuantConv2D
from bnnkeras.quantizers import Binarizer, MeanMagnitude


def absorb_scale(model: keras.Model) -> keras.Model:
    """The same function with latent kernels of -1 and +1, their scales inside BN's statistics.

    BN(s z + b) equals BN'(z + b / s) with mean' = mean / s and
    variance' = (variance + epsilon) / s^2 - epsilon.

    Args:
        model: A functional model whose kernels with the scale mean |W| are each followed by
            `BatchNormalization`, such as those of this family. It stays as it is.

    Returns:
        A new model.

    Raises:
        ValueError: If there is no such kernel, something else follows one, or one is all zero.

    Example:
        >>> import keras, numpy as np
        >>> from bnnkeras.zoo import BiRealNet18
        >>> from bnnkeras.zoo.birealnet import absorb_scale
        >>> model = absorb_scale(BiRealNet18(input_shape=(32, 32, 3), classes=10))
        >>> np.unique(model.get_layer("stage1_block0_conv").get_weights()[0]).tolist()
        [1.0]

    Reference:
        Liu et al., Bi-Real Net (IJCV 2020), section 3.4.2, in closed form instead of by training.
    """
    absorbed, pairs = _with_signs(model)
    for convolution, scale in pairs:
        norm = _batch_normalization_after(convolution)
        if convolution.bias is not None:
            convolution.bias.assign(ops.convert_to_numpy(convolution.bias) / scale)
        mean, variance = map(ops.convert_to_numpy, (norm.moving_mean, norm.moving_variance))
        # (Negative where s^2 > (variance + epsilon) / epsilon only; then gamma must give way.)
        rescaled = (variance + norm.epsilon) / scale**2 - norm.epsilon
        gain = 1.0
        if (rescaled < 0).any():
            rescaled = variance / scale**2
            gain = scale * ((rescaled + norm.epsilon) / (variance + norm.epsilon)) ** 0.5
        norm.moving_mean.assign(mean / scale)
        norm.moving_variance.assign(rescaled)
        norm.gamma.assign(ops.convert_to_numpy(norm.gamma) * gain)
    return absorbed


def bn_retraining(model: keras.Model) -> keras.Model:
    """The model of the last training stage: kernels of -1 and +1, all convolutions frozen.

    Compile and fit it for an epoch: batch normalization (and the classifier, which stays
    trainable) absorbs the scales that the kernels no longer have. `absorb_scale` does the same
    exactly and without data.

    Args:
        model: A functional model of this family. It stays as it is.

    Returns:
        A new model, not compiled.

    Raises:
        ValueError: If it has no kernel with the scale mean |W|.

    Example:
        >>> from bnnkeras.zoo import BiRealNet18
        >>> from bnnkeras.zoo.birealnet import bn_retraining
        >>> model = bn_retraining(BiRealNet18(input_shape=(32, 32, 3), classes=10))
        >>> sorted({v.name for v in model.trainable_variables})
        ['beta', 'bias', 'gamma', 'kernel']
        >>> sum(v.name == "kernel" for v in model.trainable_variables)  # The classifier's.
        1

    Reference:
        Liu et al., Bi-Real Net (IJCV 2020), section 3.4.2.
    """
    retrained, _ = _with_signs(model)
    for layer in retrained.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.trainable = False
    return retrained


def _with_signs(model):
    """A copy whose scaled kernels are their signs, and these layers with the scales taken away."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    pairs = []
    for layer in copy.layers:
        quantizer = getattr(layer, "kernel_quantizer", None)
        if not (
            isinstance(layer, QuantConv2D)
            and isinstance(quantizer, Binarizer)
            and isinstance(quantizer.scale, MeanMagnitude)
        ):
            continue
        before = _scale(layer)
        if not (before > 0).all():
            raise ValueError(
                "Every filter must have a positive scale mean |W|. "
                f"Received: layer {layer.name!r} with {int((before == 0).sum())} filters of zeros"
            )
        kernel = ops.convert_to_tensor(layer.kernel)
        layer.kernel.assign(ops.sign(quantizer(kernel)))
        # (Not 1 where sign(0) = 0 left zeros in the kernel.)
        pairs.append((layer, before / _scale(layer)))
    if not pairs:
        raise ValueError(
            "`model` must have quantized convolutions whose kernel quantizer has a MeanMagnitude "
            f'scale, such as "magnitude_aware_sign". Received: model {model.name!r} without any'
        )
    return copy, pairs


def _scale(layer):
    scale = layer.kernel_quantizer.scale(ops.convert_to_tensor(layer.kernel))
    return ops.convert_to_numpy(scale).reshape(-1)


def _batch_normalization_after(layer) -> keras.layers.BatchNormalization:
    consumers = [node.operation for node in layer._outbound_nodes]
    if len(consumers) != 1 or not isinstance(consumers[0], keras.layers.BatchNormalization):
        raise ValueError(
            "Each scaled convolution must feed a BatchNormalization and nothing else. "
            f"Received: layer {layer.name!r}, followed by {[layer.name for layer in consumers]}"
        )
    return consumers[0]
