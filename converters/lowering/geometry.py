"""How one axis of a convolution is padded, and the form that LCE computes right.

n is the input size, extent the kernel's size with its dilation, p the padding before. Everything
here is measured: LCE silently computes SAME zero padding wrong where extent > n, and its converter
takes explicit pads for SAME whenever they look alike.
"""

import dataclasses


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


def axes(layer, input_shape) -> list[Axis]:
    """The two spatial axes of a QuantConv2D on inputs of that static shape."""
    result = []
    for size, kernel, stride, dilation in zip(
        input_shape[1:3], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    ):
        extent = (kernel - 1) * dilation + 1
        if layer.padding == "symmetric":
            before = after = (extent - 1) // 2
        elif layer.padding == "same":
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0
        result.append(Axis(size, extent, stride, before, after))
    return result
