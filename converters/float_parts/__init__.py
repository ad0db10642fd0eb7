"""Float parts of a binary network in fewer bits: float16 or int8 weights, or int8 throughout."""

from bnnkeras.converters.float_parts.cost import QuantizationCost, measured_cost
from bnnkeras.converters.float_parts.recipe import MODES, Recipe, make_recipe, recipe_of
from bnnkeras.converters.float_parts.representative import representative_inputs

__all__ = [
    "MODES",
    "QuantizationCost",
    "Recipe",
    "make_recipe",
    "measured_cost",
    "recipe_of",
    "representative_inputs",
]
