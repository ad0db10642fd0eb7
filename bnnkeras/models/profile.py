"""Weights, memory and multiply-accumulates of layers and models."""

import math

import keras

from bnnkeras.models.lce import LceSupport, lce_support
from bnnkeras.models.macs import OperationProfile, compute_macs, quantizer_macs
from bnnkeras.models.memory import peak_activation_bits
from bnnkeras.models.tables import Row, readable_count
from bnnkeras.models.tracing import Call, Trace, children, functional_graph, trace
from bnnkeras.models.weights import WeightProfile, profile_weights
from bnnkeras.models.widths import input_precision
from bnnkeras.utils import memory_as_readable_str

_BITS_PER_KILOBYTE = 8 * 1024


class LayerProfile:
    """What one layer costs, with the attributes that Larq gives it.

    `ModelProfile` makes these. A layer that is called several times has one profile, at its first
    place: its weights count once, its multiply-accumulates (MACs) once per call. A model or
    composite layer is the sum of the profiles inside it and of weights that it holds itself.

    Args:
        layer: A built layer, or a `keras.ops` operation of a functional model.
        traced: The calls of the model that the layer is part of. Without them there are no shapes
            and no MACs.
        seen: `id`s of the variables and layers that other profiles hold; new ones are added.

    Attributes:
        name: The layer's name.
        class_name: The name of its class.
        layer_profiles: The profiles of what is inside it; empty for a plain layer.
        weight_profiles: A `WeightProfile` per weight, without those that deployment folds away.
        folded_weight_profiles: Those: gamma and beta of each `BatchNormalization`.
        op_profiles: An `OperationProfile` per precision, in ascending order.
        macs_known: Whether all MACs are in `op_profiles`.
        call_count: How often the model calls the layer.
        lce: An `LceSupport`, or `None` for a layer without a kernel.
    """

    def __init__(self, layer, traced: Trace | None = None, seen: set[int] | None = None):
        traced = Trace() if traced is None else traced
        seen = set() if seen is None else seen
        calls = traced.calls_of(layer)
        self._layer = layer
        self.name: str = layer.name
        self.class_name = type(layer).__name__
        self.call_count = len(calls)
        self.lce: LceSupport | None = lce_support(layer)
        self.layer_profiles: list[LayerProfile] = []
        parts = self._parts()
        # It may have none in its own place: all of them may be shared with earlier models.
        self._is_group = bool(parts)
        for part in parts:
            if id(part) not in seen:
                seen.add(id(part))
                self.layer_profiles.append(LayerProfile(part, traced, seen))
        self._add_weights(seen)
        self._add_operations(calls, traced)
        self._add_output_shape(calls, traced)

    def _parts(self) -> list[keras.Operation]:
        return children(self._layer)

    def _add_weights(self, seen: set[int]) -> None:
        inside = self.layer_profiles
        is_layer = isinstance(self._layer, keras.layers.Layer)
        own, folded = profile_weights(self._layer, seen) if is_layer else ([], [])
        self.weight_profiles: list[WeightProfile] = own + [
            weight for profile in inside for weight in profile.weight_profiles
        ]
        self.folded_weight_profiles: list[WeightProfile] = folded + [
            weight for profile in inside for weight in profile.folded_weight_profiles
        ]

    def _add_operations(self, calls: list[Call], traced: Trace) -> None:
        self.macs_known: bool
        if self._is_group:
            self.macs_known = all(profile.macs_known for profile in self.layer_profiles)
            found = [entry for profile in self.layer_profiles for entry in profile.op_profiles]
        else:
            per_call = [_macs(call) for call in calls]
            self.macs_known = None not in per_call if calls else traced.complete
            found = [entry for entries in per_call for entry in entries or ()]
        self.op_profiles: list[OperationProfile] = [
            OperationProfile(sum(x.n or 0 for x in found if x.precision == bits), bits)
            for bits in sorted({x.precision for x in found})
        ]

    def _add_output_shape(self, calls: list[Call], traced: Trace) -> None:
        shapes = {tuple(_shown(x.shape, traced) for x in call.outputs) for call in calls}
        self._output_shapes: tuple[tuple[int, ...], ...] = ()
        self.output_shape_str = "not called" if traced.complete else "?"
        if len(shapes) == 1:
            (self._output_shapes,) = shapes
            self.output_shape_str = str(self.output_shape)
        elif shapes:
            self.output_shape_str = "multiple"

    @property
    def memory(self) -> int:
        """Bits of the weights, each at its own width."""
        return sum(weight.memory for weight in self.weight_profiles)

    @property
    def unfolded_memory(self) -> int:
        """`memory` with the weights that deployment folds away."""
        return self.memory + sum(weight.memory for weight in self.folded_weight_profiles)

    @property
    def int8_fp_weights_memory(self) -> int:
        """Bits of the weights if all wider than 8 bits were stored in 8."""
        return sum(weight.int8_fp_weights_memory for weight in self.weight_profiles)

    @property
    def fp_equivalent_memory(self) -> int:
        """Bits of the weights if all were stored in 32."""
        return sum(weight.fp_equivalent_memory for weight in self.weight_profiles)

    def weight_count(
        self, bitwidth: int | None = None, trainable: bool | None = None, folded: bool = True
    ) -> int:
        """Number of weights.

        Args:
            bitwidth: Count only weights of so many bits. Defaults to all.
            trainable: Count only trainable weights, or only the others. Defaults to all.
            folded: Whether to leave out gamma and beta of each `BatchNormalization`, as Larq does:
                deployment folds them into the moving statistics. `False` counts as Keras does.
        """
        weights = self.weight_profiles + ([] if folded else self.folded_weight_profiles)
        return sum(
            weight.count
            for weight in weights
            if bitwidth in (None, weight.bitwidth) and trainable in (None, weight.trainable)
        )

    def op_count(self, op_type: str | None = None, precision: int | None = None) -> int | None:
        """Number of operations for one sample.

        Args:
            op_type: Must be `"mac"`.
            precision: Count only MACs whose wider operand has so many bits. Defaults to all.

        Returns:
            The number, or `None` if it is unknown. Of a model or composite layer, the sum of what
            is known.

        Raises:
            ValueError: If `op_type` is not `"mac"`.
        """
        if op_type != "mac":
            raise ValueError(f'`op_type` must be "mac". Received: op_type={op_type!r}')
        if not self.macs_known and not self._is_group:
            return None
        return self._known_macs(precision)

    def _known_macs(self, precision: int | None = None) -> int:
        return sum(x.n or 0 for x in self.op_profiles if precision in (None, x.precision))

    @property
    def input_precision(self) -> int | None:
        """Bits per value of the quantized input; `None` without an input quantizer."""
        return input_precision(self._layer)

    @property
    def output_shape(self) -> tuple[int, ...] | list[tuple[int, ...]] | None:
        """The output's shape, or a list of several; -1 stands for unknown sizes.

        `None` if nothing is known, or if the shape differs between the layer's calls.
        """
        shapes = self._output_shapes
        return shapes[0] if len(shapes) == 1 else list(shapes) or None

    @property
    def output_pixels(self) -> int | None:
        """Number of positions of one feature map: 1 for fully connected layers."""
        if len(self._output_shapes) != 1:
            return None
        (shape,) = self._output_shapes
        channels_first = getattr(self._layer, "data_format", None) == "channels_first"
        sizes = shape[2:] if channels_first else shape[1:-1]
        return None if -1 in sizes else math.prod(sizes)

    @property
    def unique_param_bitwidths(self) -> list[int]:
        """The bit widths of the weights, in ascending order."""
        return sorted({weight.bitwidth for weight in self.weight_profiles})

    @property
    def unique_op_precisions(self) -> list[int]:
        """The precisions of the MACs, in ascending order."""
        return [entry.precision for entry in self.op_profiles]

    def to_dict(self) -> dict:
        """All numbers as a dictionary that `json.dumps` takes. Units are in the names."""
        return {
            "name": self.name,
            "class_name": self.class_name,
            "call_count": self.call_count,
            "input_precision_bits": self.input_precision,
            "output_shapes": [list(shape) for shape in self._output_shapes],
            "weight_count": self.weight_count(),
            "trainable_weight_count": self.weight_count(trainable=True),
            "weight_count_by_bits": {
                str(bits): self.weight_count(bits) for bits in self.unique_param_bitwidths
            },
            "memory_bits": self.memory,
            "macs": self.op_count("mac"),
            "macs_known": self.macs_known,
            "macs_by_precision_bits": {str(x.precision): x.n for x in self.op_profiles},
            "lce_one_bit": None if self.lce is None else self.lce.one_bit,
            "lce_reason": None if self.lce is None else self.lce.reason,
            "layers": [profile.to_dict() for profile in self.layer_profiles],
        }


class ModelProfile(LayerProfile):
    """What a model costs: the sum of its layers, each with a profile of its own.

    Functional and Sequential models are read from their graph. Other models, and layers made of
    layers, are called on abstract tensors, which computes nothing. Layers inside nested models and
    composite layers have profiles too. All numbers are those of one sample.

    Args:
        model: A built `keras.Model`.
        input_shape: Its input shape with the batch axis, for example `(None, 224, 224, 3)`, or a
            list or dictionary of shapes as the model takes it. `None` (default) for the shape it
            was built with; give one if that leaves sizes open.

    Attributes:
        trace_error: Why the calls of the model could not be followed, or `None`. Without them
            there are no shapes, no MACs and no activations.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or `input_shape` does not fit it.

    Example:
        >>> import keras
        >>> from bnnkeras import layers, models
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 16)),
        ...     layers.QuantConv2D(
        ...         32, 3, use_bias=False, input_quantizer="ste_sign", kernel_quantizer="ste_sign"
        ...     ),
        ...     keras.layers.BatchNormalization(),
        ... ])
        >>> profile = models.ModelProfile(model)
        >>> profile.weight_count(bitwidth=1), profile.op_count("mac", 1), profile.memory
        (4608, 165888, 6656)
        >>> profile.peak_activation_memory_bytes
        9216
    """

    def __init__(self, model: keras.Model, input_shape=None):
        if not isinstance(model, keras.Model):
            raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
        if not model.built:
            raise ValueError(
                "`model` must be built: call it on data, call `model.build(input_shape)`, or begin "
                f"it with keras.Input. Received: model={model.name!r}, which is not built"
            )
        traced = trace(model, input_shape)
        self.trace_error = traced.error
        self._peak_activation_bits = peak_activation_bits(traced)
        super().__init__(model, traced)

    def _parts(self) -> list[keras.Operation]:
        # As in Larq, the inputs of a functional model have rows, those of a Sequential have none.
        graph = functional_graph(self._layer)
        if graph is None or isinstance(self._layer, keras.Sequential):
            return super()._parts()
        return [x._keras_history.operation for x in graph.inputs] + super()._parts()

    @property
    def input_precision(self) -> int | None:
        """The input precision of the first layer."""
        return self.layer_profiles[0].input_precision if self.layer_profiles else None

    @property
    def compression_ratio(self) -> float:
        """`memory` / `fp_equivalent_memory`."""
        return self.memory / max(1, self.fp_equivalent_memory)

    @property
    def peak_activation_memory_bytes(self) -> int | None:
        """The most that the activations of one sample take at any one time; `None` if unknown.

        Activations are counted at the widths of the training form: 1 bit for what only binary
        layers read, and else that of the dtype. See `bnnkeras.models.memory` for the rules.
        """
        bits = self._peak_activation_bits
        return None if bits is None else -(-bits // 8)

    @property
    def equivalent_operations(self) -> float:
        """OPs = (MACs that are not binary) + (binary MACs) / 64, the papers' measure of cost.

        Source: Liu et al., Bi-Real Net (ECCV 2018), section 4.4.
        """
        binary = self._known_macs(1)
        return self._known_macs() - binary + binary / 64

    def to_dict(self) -> dict:
        return {
            **super().to_dict(),
            "trainable_weight_count_unfolded": self.weight_count(trainable=True, folded=False),
            "weight_count_unfolded": self.weight_count(folded=False),
            "memory_bits_unfolded": self.unfolded_memory,
            "memory_bits_with_8_bit_floats": self.int8_fp_weights_memory,
            "memory_bits_in_float32": self.fp_equivalent_memory,
            "compression_ratio": self.compression_ratio,
            "equivalent_operations": self.equivalent_operations,
            "peak_activation_memory_bytes": self.peak_activation_memory_bytes,
            "trace_error": self.trace_error,
        }

    def generate_table(self, include_macs: bool = True) -> list[Row]:
        """The rows of the first table of `summary`: a header, the layers and the total."""
        widths = self.unique_param_bitwidths
        precisions = self.unique_op_precisions if include_macs else []
        if include_macs and not precisions and not self.macs_known:
            precisions = [32]  # For the question marks.
        header = [
            "Layer",
            "Input prec.\n(bit)",
            "Outputs",
            *(f"# {bits}-bit\nx 1" for bits in widths),
            "Memory\n(kB)",
            *(f"{bits}-bit MACs" for bits in precisions),
            "1-bit in LCE",
        ]

        def costs(profile: LayerProfile) -> Row:
            counts = (profile.op_count("mac", bits) for bits in precisions)
            return [
                *(profile.weight_count(bits) for bits in widths),
                profile.memory and profile.memory / _BITS_PER_KILOBYTE,
                *("?" if count is None else count for count in counts),
            ]

        def rows(profile: LayerProfile, depth: int) -> list[Row]:
            calls = f" ({profile.call_count} calls)" if profile.call_count > 1 else ""
            own = [
                "  " * depth + profile.name + calls,
                profile.input_precision or "-",
                profile.output_shape_str,
                *costs(profile),
                "-" if profile.lce is None else str(profile.lce),
            ]
            return [own, *_concatenated(rows(x, depth + 1) for x in profile.layer_profiles)]

        layers = _concatenated(rows(profile, 0) for profile in self.layer_profiles)
        return [header, *layers, ["Total", "", "", *costs(self), ""]]

    def generate_summary(self, include_macs: bool = True) -> list[Row]:
        """The rows of the second table of `summary`."""
        rows: list[Row] = [
            ["Total params", readable_count(self.weight_count())],
            ["Trainable params", readable_count(self.weight_count(trainable=True))],
            ["Non-trainable params", readable_count(self.weight_count(trainable=False))],
            ["Model size", memory_as_readable_str(self.memory)],
            ["Model size (8-bit FP weights)", memory_as_readable_str(self.int8_fp_weights_memory)],
            ["Float-32 Equivalent", memory_as_readable_str(self.fp_equivalent_memory)],
            ["Compression Ratio of Memory", self.compression_ratio],
        ]
        if include_macs:
            macs = self._known_macs()
            partly = "" if self.macs_known else ", without what is marked ?"
            rows.append(["Number of MACs", readable_count(macs) + partly])
            for bits, name in ((1, "binarized"), (2, "ternarized")):
                ratio = self._known_macs(bits) / max(1, macs)
                if ratio > 0:
                    rows.append([f"Ratio of MACs that are {name}", f"{ratio:.4f}"])
            operations = readable_count(self.equivalent_operations)
            rows.append(["OPs (1-bit MACs / 64)", operations + partly])
        peak = self._peak_activation_bits
        rows.append(
            ["Peak activation memory", "?" if peak is None else memory_as_readable_str(peak)]
        )
        if self.trace_error is not None:
            rows.append(["Shapes unknown", self.trace_error])
        return rows


def _macs(call: Call) -> list[OperationProfile] | None:
    """The MACs of one call; `None` if any of them is unknown."""
    inputs, outputs = (
        [tensor.shape for tensor in tensors] for tensors in (call.inputs, call.outputs)
    )
    macs = compute_macs(call.operation, inputs, outputs)
    if macs is None:
        return None
    macs = macs + quantizer_macs(call.operation, inputs)
    return None if any(entry.n is None for entry in macs) else macs


def _shown(shape: tuple, traced: Trace) -> tuple[int, ...]:
    """A shape as reports have it: -1 for unknown sizes, and the model's batch for the trace's 1."""
    return tuple(
        -1 if size is None else size for size in ((traced.batch_size, *shape[1:]) if shape else ())
    )


def _concatenated(lists) -> list:
    return [entry for entries in lists for entry in entries]
