"""How one axis of a convolution is padded, and the form that LCE computes right.

n is the input size, extent the kernel's size with its dilation, p the padding before. Everything
here is measured: LCE silently computes SAME zero padding wrong where extent > n, and its converter
takes explicit pads for SAME whenever they look alike.
"""

import dataclasses

from bnnkeras.layers.padding import same_pads, symmetric_pads


@dataclasses.dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution with zero padding."""

    size: int
    extent: int
    stride: int
    before: int
    after: int

    @property
    def outputs(self) -> int:
        return (self.size + self.before + self.after - self.extent) // self.stride + 1

    @property
    def after_read(self) -> int:
        """The padding after that the last window really reads; the rest changes nothing."""
        read = (self.outputs - 1) * self.stride + self.extent - self.size - self.before
        return max(read, 0)

    @property
    def _same_total(self) -> int:
        return max((-(-self.size // self.stride) - 1) * self.stride + self.extent - self.size, 0)

    @property
    def _same_outputs(self) -> bool:
        return self.outputs == -(-self.size // self.stride)

    @property
    def is_same(self) -> bool:
        """Whether SAME is this padding, in LCE too."""
        fits = self._same_outputs and self.extent <= self.size
        return fits and self.before == self._same_total // 2

    @property
    def is_flipped_same(self) -> bool:
        """Whether SAME is this padding on the reversed axis."""
        total = self._same_total
        fits = self._same_outputs and self.extent <= self.size
        return fits and self.before == total - total // 2

    @property
    def is_appended_same(self) -> bool:
        """Whether SAME on one more row gives the same outputs, and one more to crop."""
        return self.extent == 3 and self.stride == 2 and self.size % 2 == 0 and self.before == 1

    @property
    def explicit(self) -> tuple[int, int]:
        """Pads for an own padding operation before VALID, the unread far padding trimmed.

        Untrimmed, LCE's converter takes pads such as (1, 1) at stride 2 for SAME's (0, 1). Trimmed,
        pads that look like SAME's have SAME's total, so that what it fuses is right.
        """
        return self.before, self.after_read


# An axis of size 1 that nothing slides along.
POINT = Axis(size=1, extent=1, stride=1, before=0, after=0)


def layer_axes(layer, sizes) -> list[Axis]:
    """The spatial axes of a quantized layer that slides a window over maps of these sizes."""
    result = []
    for size, kernel, stride, dilation in zip(
        sizes, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    ):
        extent = (kernel - 1) * dilation + 1
        if layer.padding == "symmetric":
            pads = symmetric_pads(extent)
        elif layer.padding == "same":
            pads = same_pads(size, extent, stride)
        elif layer.padding == "causal":
            pads = extent - 1, 0
        else:
            pads = 0, 0
        result.append(Axis(size, extent, stride, *pads))
    return result
