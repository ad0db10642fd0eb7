"""The mixin of quantized layers that slide a window over a padded map."""

import math
from numbers import Real

from keras import ops

from bnnkeras.layers.base import QuantizedLayer
from bnnkeras.layers.padding import (
    PADDINGS,
    pad_widths,
    padded_shape,
    padding_name,
    same_pads,
    symmetric_pads,
    window_count,
)


class PaddedLayer(QuantizedLayer):
    """Mixin of quantized layers that pad: adds `pad_values` and `padding="symmetric"`.

    Padding is applied to the *quantized* input. With `padding="symmetric"` each axis is padded by
    (k - 1) // 2 on both sides, k the kernel's extent with its dilation: PyTorch's alignment, which
    differs from `"same"` by one pixel where a stride meets an even size.

    Subclasses define `operation(inputs, kernel, padding)`, the Keras operation.
    """

    paddings: tuple[str, ...] = PADDINGS

    def __init__(self, *args, padding="valid", pad_values=0.0, **kwargs):
        padding = padding_name(padding, self.paddings)
        super().__init__(*args, padding="valid" if padding == "symmetric" else padding, **kwargs)
        self.padding = padding
        if not isinstance(pad_values, Real) or not math.isfinite(pad_values):
            raise ValueError(
                f"`pad_values` must be a finite number. Received: pad_values={pad_values!r}"
            )
        if pad_values and padding not in ("same", "symmetric"):
            raise ValueError(
                '`pad_values` other than 0 needs padding="same" or "symmetric". '
                f"Received: pad_values={pad_values}, padding={padding!r}"
            )
        self.pad_values = float(pad_values)

    def operation(self, inputs, kernel, padding: str):
        """The convolution of quantized, padded inputs; `padding` is `"valid"` or `"same"`."""
        raise NotImplementedError(f"{type(self).__name__} must define `operation`.")

    def call(self, inputs):
        return self.finish(self.product(inputs, self._convolve))

    def _convolve(self, inputs, kernel):
        inputs, padding = self._padded(inputs)
        return self.operation(inputs, kernel, padding)

    def _padded(self, inputs):
        """The inputs with explicit padding where needed, and the padding left to the operation."""
        extents = self._extents()
        # At stride 1 an odd kernel is padded alike on both sides, which "same" does for free.
        same_is_symmetric = max(self.strides) == 1 and all(extent % 2 for extent in extents)
        if self.padding == "causal":
            pads = [(extent - 1, 0) for extent in extents]
        elif self.padding == "symmetric" and not (same_is_symmetric and not self.pad_values):
            pads = [symmetric_pads(extent) for extent in extents]
        elif self.padding == "same" and self.pad_values:
            pads = [
                same_pads(size, extent, stride)
                for size, extent, stride in zip(
                    self._spatial(ops.shape(inputs)), extents, self.strides, strict=True
                )
            ]
        else:
            return inputs, "same" if self.padding == "symmetric" else self.padding
        widths = pad_widths(pads, self.data_format)
        return ops.pad(inputs, widths, constant_values=self.pad_values), "valid"

    def compute_output_shape(self, input_shape):
        if self.padding != "symmetric":
            return super().compute_output_shape(input_shape)
        extents = self._extents()
        widths = pad_widths([symmetric_pads(extent) for extent in extents], self.data_format)
        sizes = [
            window_count(size, extent, stride)
            for size, extent, stride in zip(
                self._spatial(padded_shape(input_shape, widths)), extents, self.strides, strict=True
            )
        ]
        if self.data_format == "channels_last":
            return (input_shape[0], *sizes, self.output_channels(input_shape[-1]))
        return (input_shape[0], self.output_channels(input_shape[1]), *sizes)

    def output_channels(self, input_channels: int) -> int:
        """The number of output channels."""
        return self.filters

    def _extents(self) -> list[int]:
        return [
            (size - 1) * dilation + 1
            for size, dilation in zip(self.kernel_size, self.dilation_rate, strict=True)
        ]

    def _spatial(self, shape):
        return shape[1:-1] if self.data_format == "channels_last" else shape[2:]

    def get_config(self) -> dict:
        return {**super().get_config(), "pad_values": self.pad_values}
