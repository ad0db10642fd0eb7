"""Plots every quantizer with its pseudo-gradient into one sheet, examples/plots/quantizers.png.

    python examples/plot_quantizers.py [--output FILE]

The gradient is that of the sum of the outputs, by the backend's own automatic differentiation, so
the sheet shows what training sees. Quantizers of kernels see the grid as one output channel; where
they centre it, the gradient is that of the centred values less its mean.
"""

import argparse
import math
from pathlib import Path

import keras
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from bnnkeras import quantizers

POINTS = np.linspace(-2, 2, 801).astype("float32")
# Without a zero and with the same number of points on both sides, means are those of the plot.
POINTS = POINTS[POINTS != 0]

SHEET = {
    "SteSign()": quantizers.SteSign(),
    "ApproxSign()": quantizers.ApproxSign(),
    "SwishSign()": quantizers.SwishSign(),
    "EDESign(), first epoch": quantizers.EDESign(k=1000, t=1e-3),
    "EDESign(k=1, t=1)": quantizers.EDESign(k=1, t=1),
    "EDESign(k=1, t=4)": quantizers.EDESign(k=1, t=4),
    "RSign(), threshold 0.5": quantizers.RSign(),
    "ContextualSign(), threshold -0.5": quantizers.ContextualSign(),
    "DAB()": quantizers.DAB(),
    "MagnitudeAwareSign()": quantizers.MagnitudeAwareSign(),
    "XNORKernel()": quantizers.XNORKernel(),
    "XNORInput()": quantizers.XNORInput(axes="all"),
    "LibraKernel(k=1, t=1)": quantizers.LibraKernel(k=1, t=1),
    "LSRKernel()": quantizers.LSRKernel(),
    "BiViTKernel()": quantizers.BiViTKernel(),
    "SteHeaviside()": quantizers.SteHeaviside(),
    "SteTern(0.5)": quantizers.SteTern(0.5),
    "NoOp(precision=1)": quantizers.NoOp(precision=1),
    "DoReFa(2)": quantizers.DoReFa(2),
    'DoReFa(2, "weights")': quantizers.DoReFa(2, "weights"),
    "LSQ(bits=3, signed=True)": quantizers.LSQ(bits=3, signed=True),
    "UniformQuantizer(bits=3)": quantizers.UniformQuantizer(bits=3),
}


def prepare(quantizer, shape) -> None:
    """Builds the quantizer, and sets what would be trained where the start shows nothing."""
    quantizer.build(shape)
    if isinstance(quantizer, quantizers.RSign):
        quantizer.threshold.value.assign([0.5])
    elif isinstance(quantizer, quantizers.ContextualSign):
        quantizer.threshold.value.assign([-0.5])
    elif isinstance(quantizer, quantizers.DAB):
        quantizer.threshold.b.assign([0.25])
        quantizer.scale.alpha.assign([0.5])
    elif isinstance(quantizer, quantizers.LSQ):
        quantizer.step.assign(0.4)


def value_and_gradient(quantizer, x):
    """q(x), and the gradient of its sum with respect to x."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensor = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = quantizer(tensor)
        return value.numpy(), tape.gradient(value, tensor).numpy()
    if backend == "torch":
        import torch

        tensor = torch.tensor(x, requires_grad=True)
        value = quantizer(tensor)
        value.sum().backward()
        return value.detach().numpy(), tensor.grad.numpy()
    import jax

    return np.asarray(quantizer(x)), np.asarray(jax.grad(lambda x: quantizer(x).sum())(x))


def plot(path: Path) -> None:
    columns = 6
    rows = math.ceil(len(SHEET) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(15, 2.5 * rows), sharex=True)
    for axis in axes.flat[len(SHEET) :]:
        axis.axis("off")
    for axis, (title, quantizer) in zip(axes.flat, SHEET.items(), strict=False):
        x = POINTS.reshape(1, -1, 1)
        prepare(quantizer, x.shape)
        value, gradient = value_and_gradient(quantizer, x)
        axis.plot(POINTS, gradient.ravel(), color="tab:orange", label="pseudo-gradient")
        axis.plot(POINTS, value.ravel(), color="tab:blue", label="q(x)")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=7)
    lines, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].legend(lines, labels, loc="center")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = Path(__file__).parent / "plots" / "quantizers.png"
    parser.add_argument("--output", type=Path, default=default)
    plot(parser.parse_args().output)
