"""What `convert(quantize=...)` does to a deploy form, as values that a file can carry.

A file holds its recipe, so that `verify` makes the same deploy form from the same model.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from bnnkeras.converters.deployment import Deployment
from bnnkeras.converters.float_parts import kernels, rounding
from bnnkeras.converters.float_parts.fake_quantization import (
    FakeQuantization,
    with_fake_quantization,
)
from bnnkeras.converters.float_parts.representative import observed_ranges
from bnnkeras.converters.labels import Labels
from bnnkeras.converters.plan import binary_units

MODES = ("float16", "int8-weights", "int8")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the float parts of a network are stored and computed.

    Attributes:
        mode: `"float16"`, `"int8-weights"` or `"int8"`.
        keep_float: Names of layers that stay in float32.
        ranges: Smallest and largest value of what is int8, by name; for `"int8"` only.
    """

    mode: str
    keep_float: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def applied(self, deployment: Deployment) -> Deployment:
        """The deployment with its float kernels rounded, or with fake quantizations.

        Raises:
            ValueError: If the ranges are those of another network.
        """
        if self.mode == "int8":
            folded = kernels.with_folded_scales(deployment.model)
            try:
                model = with_fake_quantization(
                    folded, dict(self.ranges), frozenset(self.keep_float)
                ).model
            except KeyError as error:
                raise ValueError(
                    "The file was quantized with the ranges of another network. Received: "
                    f"{error} is not among {sorted(self.ranges)}"
                ) from error
        else:
            model = kernels.with_folded_scales(deployment.model, self._rounded)
        return dataclasses.replace(deployment, model=model, labels=_labels(deployment, model))

    def as_metadata(self) -> dict[str, Any]:
        """JSON values, of which `recipe_of` makes the recipe again."""
        return {
            "mode": self.mode,
            "keep_float": [*self.keep_float],
            "ranges": {name: [*limits] for name, limits in self.ranges.items()},
        }

    def _rounded(self, layer, kernel: np.ndarray) -> np.ndarray:
        if layer.name in self.keep_float or not rounding.pays(kernel):
            return kernel
        rows = kernels.filters_first(layer, kernel)
        if self.mode == "float16":
            rows = rounding.rounded_to_float16(rows)
        else:
            rows = rounding.rounded_to_int8(rows, kernels.has_scale_per_filter(layer))
        return kernels.filters_in_place(layer, rows)


def _labels(deployment: Deployment, model: keras.Model) -> Labels:
    """The labels of a deploy form, and of the layers that were added to it."""
    labels = Labels({**deployment.labels.origins}, {**deployment.labels.results})
    for operation in model.operations:
        stem = re.sub(r"(_rounded)?(_int8)?(_\d+)?$", "", operation.name)
        stem = stem.removesuffix("_activation")
        if operation.name not in labels.origins and stem in labels.origins:
            labels.origins[operation.name] = labels.origins[stem]
    ends = {id(unit.epilogues[-1].output): unit.name for unit in binary_units(model)}
    for layer in model.layers:
        # An int8 output is named after the rounding: it is the convolution's all the same.
        if isinstance(layer, FakeQuantization) and id(layer.input) in ends:
            labels.origins[layer.name] = labels.origins[ends[id(layer.input)]]
    return labels


def recipe_of(metadata: Mapping[str, Any] | None) -> Recipe | None:
    """The recipe that a file's metadata holds; `None` for a file of float32.

    Raises:
        ValueError: If there is something else in its place.
    """
    stored = (metadata or {}).get("quantize")
    if stored is None:
        return None
    try:
        ranges = {name: (float(low), float(high)) for name, (low, high) in stored["ranges"].items()}
        recipe = Recipe(MODES[MODES.index(stored["mode"])], tuple(stored["keep_float"]), ranges)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The file's metadata must hold a recipe. Received: {stored!r}") from error
    return recipe


def make_recipe(
    deployment: Deployment,
    quantize: str | None,
    representative: Mapping[str, np.ndarray] | None,
    keep_float: Sequence[str] = (),
) -> Recipe | None:
    """The recipe for a deploy form; observes the ranges that `"int8"` needs.

    Args:
        deployment: The deploy form in float32.
        quantize: `None` or one of `MODES`.
        representative: Inputs by name (`representative.representative_inputs`).
        keep_float: Names of float layers that stay as they are.

    Raises:
        ValueError: If an argument is none of the allowed.
    """
    if quantize is not None and quantize not in MODES:
        raise ValueError(f"`quantize` must be None or one of {MODES}. Received: {quantize!r}")
    if isinstance(keep_float, str) or not all(isinstance(name, str) for name in keep_float):
        raise ValueError(
            f"`keep_float` must be a sequence of names of layers. Received: {keep_float!r}"
        )
    if quantize is None:
        if representative is not None:
            raise ValueError(
                "`representative_data` serves `quantize`, which is None; `verify` takes `inputs`. "
                f"Received: arrays for {[*representative]}"
            )
        if keep_float:
            raise ValueError(
                "`keep_float` names layers that `quantize` leaves as they are, and `quantize` is "
                f"None. Received: {keep_float!r}"
            )
        return None
    known = [layer.name for layer in kernels.float_layers(deployment.model)]
    unknown = [name for name in keep_float if name not in known]
    if unknown:
        raise ValueError(
            f"`keep_float` must name layers with a float kernel: {known}. Received: {unknown}"
        )
    if quantize != "int8":
        return Recipe(quantize, tuple(keep_float))
    if representative is None:
        raise ValueError(
            '`representative_data` is needed for quantize="int8": the range of each value is '
            "measured on it. Received: None"
        )
    folded = kernels.with_folded_scales(deployment.model)
    with keras.device("cpu"):
        ranges = observed_ranges(folded, dict(representative), frozenset(keep_float))
    return Recipe(quantize, tuple(keep_float), ranges)
