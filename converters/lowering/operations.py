"""Rules of `keras.ops` nodes, such as `x + y` and `ops.reshape` in a functional model."""

import math

import keras
import numpy as np

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering.registry import operation_rule

# Measured: LCE loads each of these and computes it right. It has no form of the other ones
# (argmax, erf, tan, ...).
_KEPT = """
Absolute Any All AveragePool BroadcastTo Cast Ceil Celu Clip Concatenate Cos Cumsum Diff Einsum Elu
Equal Exp ExpandDims Expm1 Flip Floor FloorDivide GetItem Glu Greater GreaterEqual HardSilu HardTanh
Hstack LeakyRelu Less LessEqual Log LogSigmoid LogSoftmax LogicalAnd LogicalNot Logsumexp Max
MaxPool Maximum Mean Min Minimum Mod Moveaxis Negative Normalize NotEqual Power Prod Reciprocal Relu
Relu6 Repeat Reshape Resize Roll Round Rsqrt Selu Sigmoid Sign Silu Sin Softmax Softplus Split Sqrt
Square Squeeze Stack Std StopGradient Sum Swapaxes Take Tanh Tensordot Tile Transpose Unstack Var
Vstack Where
""".split()


@operation_rule(*_KEPT)
def keep_operation(builder, operation, *args, **kwargs):
    """The operation has no weights and no dtype, so it is its own deploy form."""
    return builder.copy_operation(operation)(*args, **kwargs)


@operation_rule("Matmul")
def multiply_matrices(builder, operation, x, y):
    """TensorFlow Lite unrolls products of matrices into an operator for each of a sample.

    Where these are more than their inner size, as with a small matrix for each point, the columns
    of one times the rows of the other are added up.
    """
    size = x.shape[-1]
    if not (_is_tensor(x) and _is_tensor(y)) or math.prod(x.shape[1:-2]) <= size:
        return keep_operation(builder, operation, x, y)
    terms = [x[..., k : k + 1] * y[..., k : k + 1, :] for k in range(size)]
    return builder.sum(terms, operation.name)


@operation_rule("Add")
def add(builder, operation, x, y):
    if _is_tensor(x) and _is_tensor(y):
        return keep_operation(builder, operation, x, y)
    tensor, constant = _operands(operation, x, y)
    return builder.affine_by_position(tensor, 1.0, constant, operation.name)


@operation_rule("Subtract")
def subtract(builder, operation, x, y):
    if _is_tensor(x) and _is_tensor(y):
        return keep_operation(builder, operation, x, y)
    tensor, constant = _operands(operation, x, y)
    scale, bias = (1.0, -constant) if _is_tensor(x) else (-1.0, constant)
    return builder.affine_by_position(tensor, scale, bias, operation.name)


@operation_rule("Multiply")
def multiply(builder, operation, x, y):
    if _is_tensor(x) and _is_tensor(y):
        return keep_operation(builder, operation, x, y)
    tensor, constant = _operands(operation, x, y)
    return builder.affine_by_position(tensor, constant, 0.0, operation.name)


@operation_rule("Divide", "TrueDivide")
def divide(builder, operation, x, y):
    if _is_tensor(y):
        return keep_operation(builder, operation, x, y)
    tensor, constant = _operands(operation, x, y)
    return builder.affine_by_position(tensor, 1 / constant, 0.0, operation.name)


@operation_rule("Log1p")
def log1p(builder, operation, x):
    """The 1 as an affine map: LCE would merge it into a binary convolution all the same."""
    one = np.ones(x.shape[-1])
    return keras.ops.log(builder.affine(x, one, one, operation.name))


@operation_rule("Pad")
def pad(builder, operation, x, constant_values=None):
    """Zeros around a map as a layer, whose far side is trimmed before a strided convolution."""
    widths = [tuple(pair) for pair in operation.pad_width]
    is_map = len(widths) in (3, 4) and not any((*widths[0], *widths[-1]))
    if is_map and operation.mode == "constant" and not constant_values:
        return builder.pad(x, widths[1:-1], operation.name)
    return keep_operation(builder, operation, x, constant_values)


def _is_tensor(value) -> bool:
    return isinstance(value, keras.KerasTensor)


def _operands(operation, x, y):
    """The tensor and the constant (float64, without the batch axis) of two operands."""
    tensor, constant = (x, y) if _is_tensor(x) else (y, x)
    if "float" not in keras.backend.standardize_dtype(tensor.dtype):
        raise UnsupportedLayerError(operation, f"its operand is {tensor.dtype}, not a float")
    constant = np.asarray(keras.ops.convert_to_numpy(constant), "float64")
    # The deploy form has one constant for all samples.
    if constant.ndim == len(tensor.shape) and constant.shape[0] == 1:
        constant = constant[0]
    if constant.ndim >= len(tensor.shape):
        raise UnsupportedLayerError(
            operation,
            f"its constant of shape {constant.shape} does not fit behind the batch axis of an "
            f"operand of shape {tuple(tensor.shape)}",
        )
    return tensor, constant
