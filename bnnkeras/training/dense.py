"""Losses of dense prediction: one value for each pixel."""

import keras
from keras import ops

from bnnkeras.registration import register


@register
class PixelCrossentropy(keras.losses.Loss):
    """The mean cross-entropy over all pixels of a batch but those to ignore.

    -sum over valid pixels of log p(label) / (number of valid pixels)

    Unlike Keras's own, it is 0 where no pixel is valid, and never a mean of means.

    Args:
        ignored: Integer, the label to ignore; `None` (default) for the last of the logits, as in
            BiDense. Labels outside of the logits are ignored too.
        **kwargs: As `keras.losses.Loss`.

    Call arguments:
        y_true: `(batch, height, width)`, integers.
        y_pred: `(batch, height, width, classes)`, logits.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.training import PixelCrossentropy
        >>> labels, logits = np.array([[[0, 2]]]), np.array([[[[0.0, 2.0, 0.0]] * 2]])
        >>> round(float(PixelCrossentropy()(labels, logits)), 4)
        2.2395

    Reference:
        Yin et al., BiDense (2024), released code.
    """

    def __init__(self, ignored: int | None = None, name="pixel_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.ignored = ignored

    def call(self, y_true, y_pred):
        classes = y_pred.shape[-1]
        labels = ops.cast(y_true, "int32")
        ignored = classes - 1 if self.ignored is None else self.ignored
        valid = (labels >= 0) & (labels < classes) & (labels != ignored)
        wanted = ops.one_hot(ops.where(valid, labels, 0), classes, dtype=y_pred.dtype)
        losses = -ops.sum(wanted * ops.log_softmax(y_pred, axis=-1), axis=-1)
        return _mean(losses, valid)

    def get_config(self):
        return {**super().get_config(), "ignored": self.ignored}


@register
class ScaleInvariantLogLoss(keras.losses.Loss):
    """10 sqrt(mean d^2 - 0.85 (mean d)^2), d = ln(prediction + 1e-7) - ln(depth + 1e-7).

    The means are over the pixels of the batch whose true depth is above `minimum`.

    Args:
        minimum: Float, in metres. Defaults to 0.1 (NYUv2; 1.0 for KITTI).
        focus: Float in [0, 1]: how much of a common factor is forgiven. Defaults to 0.85.
        **kwargs: As `keras.losses.Loss`.

    Call arguments:
        y_true: `(batch, height, width, 1)`, depths; 0 where there is none.
        y_pred: Likewise, positive.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.training import ScaleInvariantLogLoss
        >>> depth = np.array([[[[1.0], [4.0]]]])
        >>> round(float(ScaleInvariantLogLoss()(depth, 2 * depth)), 3)
        2.685

    Reference:
        Eigen et al., Depth Map Prediction from a Single Image (NIPS 2014); Yin et al., BiDense
        (2024), released code.
    """

    def __init__(self, minimum=0.1, focus=0.85, name="scale_invariant_log_loss", **kwargs):
        if not minimum >= 0:
            raise ValueError(f"`minimum` must not be negative. Received: minimum={minimum!r}")
        if not 0 <= focus <= 1:
            raise ValueError(f"`focus` must be in [0, 1]. Received: focus={focus!r}")
        super().__init__(name=name, **kwargs)
        self.minimum = minimum
        self.focus = focus

    def call(self, y_true, y_pred):
        valid = y_true > self.minimum
        difference = ops.log(y_pred + 1e-7) - ops.log(ops.where(valid, y_true, 1.0) + 1e-7)
        square = _mean(ops.square(difference), valid)
        inside = square - self.focus * ops.square(_mean(difference, valid))
        # The root of 0 has no gradient: there is nothing to learn from a perfect prediction.
        positive = inside > 0
        return ops.where(positive, 10 * ops.sqrt(ops.where(positive, inside, 1.0)), 0.0)

    def get_config(self):
        return {**super().get_config(), "minimum": self.minimum, "focus": self.focus}


def _mean(values, valid):
    weights = ops.cast(valid, values.dtype)
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1)
