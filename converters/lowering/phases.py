"""One axis of a transposed convolution, as ordinary convolutions of stride 1."""

import dataclasses

from bnnkeras.converters.lowering.geometry import Axis
from bnnkeras.converters.lowering.quantizers import CannotBeBinary


@dataclasses.dataclass(frozen=True)
class Phase:
    """The outputs at positions p, p + s, p + 2 s, ... of a transposed convolution of stride s.

    Attributes:
        taps: Indices into the kernel, in the order in which they meet the input.
        dilation: Distance of the inputs that two neighbouring taps meet.
        crop: Inputs to leave out at the start and at the end.
        axis: The convolution on the rest.
    """

    taps: list[int]
    dilation: int
    crop: tuple[int, int]
    axis: Axis


def phases(
    size: int, kernel: int, stride: int, dilation: int, outputs: int, same: bool
) -> list[Phase]:
    """The phases of one axis; each has ceil(outputs / stride) outputs.

    y[o] = sum over j of x[(o + before - dilation j) / stride] W[j], where the division leaves no
    rest and the position exists; `"same"` crops `before` outputs at the start.

    Raises:
        CannotBeBinary: If a phase has no tap: its outputs are 0, which is no sum of signs.
    """
    extent = (kernel - 1) * dilation + 1
    before = max((size - 1) * stride + extent - outputs, 0) // 2 if same else 0
    count = -(-outputs // stride)
    result = []
    for phase in range(stride):
        distances = {
            j: (phase + before - dilation * j) // stride
            for j in range(kernel)
            if (phase + before - dilation * j) % stride == 0
        }
        if not distances:
            raise CannotBeBinary(
                f"its kernel of extent {extent} has no tap at some outputs of stride {stride}"
            )
        taps = sorted(distances, key=distances.__getitem__)
        first, last = distances[taps[0]], distances[taps[-1]]
        step = (last - first) // (len(taps) - 1) if len(taps) > 1 else 1
        # Output q reads inputs q + first to q + last.
        start, end = max(first, 0), min(count + last, size)
        axis = Axis(
            end - start,
            last - first + 1,
            1,
            before=max(-first, 0),
            after=max(count + last - size, 0),
        )
        result.append(Phase(taps, step, (start, size - end), axis))
    return result
