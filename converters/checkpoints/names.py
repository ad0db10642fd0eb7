"""The map between a family's official parameter names and the variables of a Keras model.

A map is a list of rules, each readable in both directions, so that from a model follows every name
that its checkpoint must hold. Families register their maps; a model finds its own by the names of
its layers and variables, which survive saving, loading and renaming the model.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import keras

from bnnkeras.converters.checkpoints.layouts import STANDARD, Layout, Shape, Share

# Counters that only PyTorch keeps.
_ALWAYS_UNUSED = ("*num_batches_tracked",)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def _pattern(template: str) -> re.Pattern:
    """A template as a regular expression: each `{word}` stands for an integer."""
    parts = _PLACEHOLDER.split(template)
    # The odd parts are the placeholders.
    seen: set[str] = set()
    for index, part in enumerate(parts):
        if index % 2 == 0:
            parts[index] = re.escape(part)
        else:
            parts[index] = f"(?P={part})" if part in seen else rf"(?P<{part}>\d+)"
            seen.add(part)
    return re.compile("".join(parts), re.ASCII)


@dataclass(frozen=True)
class Rule:
    """Official names of one form, and the variables that they fill.

    Args:
        official: Template of the name in the state dict: `"layer{s}.{b}.bn1.weight"`. `{word}`
            stands for an integer, the same one in all templates of the rule.
        variables: Template of `layer/variable`, or a tuple where one array fills several.
        layout: How the array is laid out. Defaults to `STANDARD`.
        copies: Templates of names that hold the same array again, as PyTorch writes a shared
            module; they may be missing but not differ.
        optional: Whether a checkpoint may lack the name; the variables then keep their values.
    """

    official: str
    variables: str | tuple[str, ...]
    layout: Layout = STANDARD
    copies: tuple[str, ...] = ()
    optional: bool = False

    def __post_init__(self):
        if isinstance(self.variables, str):
            object.__setattr__(self, "variables", (self.variables,))
        expected = set(_PLACEHOLDER.findall(self.official))
        for template in (*self.variables, *self.copies):
            if set(_PLACEHOLDER.findall(template)) != expected:
                raise ValueError(
                    "All templates of a rule must have the same placeholders. "
                    f"Received: {self.official!r} and {template!r}"
                )


@dataclass(frozen=True)
class Entry:
    """One array of the checkpoint that a given model wants.

    Args:
        name: Its official name.
        copies: Names that may hold the same array.
        paths: `layer/variable` of what it fills.
        shapes: Shapes of these variables.
        layout: How the array is laid out.
        optional: Whether it may be missing.
    """

    name: str
    copies: tuple[str, ...]
    paths: tuple[str, ...]
    shapes: tuple[Shape, ...]
    layout: Layout
    optional: bool

    @property
    def official_shape(self) -> Shape:
        """Shape of the array in the checkpoint."""
        return tuple(self.layout.official_shape(*self.shapes))


class NameMap:
    """The official names of a family of models.

    Args:
        name: Name of the map, as the family is called.
        rules: Iterable of `Rule`; the first that fits counts, and with a `Share` all of them.
        unused: Iterable of patterns (`*` for anything) of names that a checkpoint may hold although
            this model has no use for them: auxiliary heads, or the classifier of a model that was
            built without its top. Counters `num_batches_tracked` always are.

    Example:
        >>> from bnnkeras.converters.checkpoints import NameMap, Rule
        >>> names = NameMap("lenet", [Rule("conv{i}.weight", "conv{i}/kernel")], unused=["aux.*"])
        >>> names.variables_of("conv2.weight")
        ('conv2/kernel',)
        >>> names.variables_of("aux.bias") is None
        True
    """

    def __init__(self, name: str, rules: Iterable[Rule], unused: Iterable[str] = ()):
        self.name = name
        self.rules = tuple(rules)
        self.unused = (*_ALWAYS_UNUSED, *unused)
        self._by_path = [(_pattern(rule.variables[0]), rule) for rule in self.rules]
        self._by_name = [
            (_pattern(template), rule)
            for rule in self.rules
            for template in (rule.official, *rule.copies)
        ]

    def variables_of(self, name: str) -> tuple[str, ...] | None:
        """The `layer/variable` paths that an official name fills; `None` if it is unused.

        Raises:
            KeyError: If the map does not know the name.
        """
        for pattern, rule in self._by_name:
            match = pattern.fullmatch(name)
            if match:
                return tuple(path.format(**match.groupdict()) for path in rule.variables)
        if self.is_unused(name):
            return None
        raise KeyError(name)

    def is_unused(self, name: str) -> bool:
        """Whether the name may be there without any use."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.unused)

    def entries(self, shapes: Mapping[str, Shape]) -> tuple[list[Entry], list[str]]:
        """What a checkpoint of a model with these variables holds.

        Args:
            shapes: `layer/variable` -> shape, for all variables of the model.

        Returns:
            The entries in the order of the variables, and the variables that no rule reaches.
        """
        entries = []
        reached: set[str] = set()
        for path in shapes:
            if path not in reached:
                fitting = list(self._fitting(path, shapes))
                is_shared = fitting and isinstance(fitting[0].layout, Share)
                chosen = fitting if is_shared else fitting[:1]
                entries.extend(chosen)
                for entry in chosen:
                    reached.update(entry.paths)
        return entries, [path for path in shapes if path not in reached]

    def _fitting(self, path, shapes) -> Iterator[Entry]:
        for pattern, rule in self._by_path:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            fields = match.groupdict()
            paths = tuple(template.format(**fields) for template in rule.variables)
            if all(other in shapes for other in paths):
                yield Entry(
                    name=rule.official.format(**fields),
                    copies=tuple(template.format(**fields) for template in rule.copies),
                    paths=paths,
                    shapes=tuple(shapes[other] for other in paths),
                    layout=rule.layout,
                    optional=rule.optional,
                )


def batch_normalization(official: str, layer: str, **options) -> list[Rule]:
    """The four rules of a batch normalization.

    Args:
        official: Template of the official module: `"layer{s}.{b}.bn1"`.
        layer: Template of the Keras layer.
        **options: Further arguments of every `Rule`.
    """
    names = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    return [
        Rule(f"{official}.{ours}", f"{layer}/{theirs}", **options) for ours, theirs in names.items()
    ]


def weight_and_bias(official: str, layer: str, **options) -> list[Rule]:
    """The rules of a convolution or dense layer: `weight` to `kernel`, `bias` to `bias`.

    Args:
        official: Template of the official module.
        layer: Template of the Keras layer; it may have no bias.
        **options: Further arguments of the kernel's `Rule`.
    """
    kernel = Rule(f"{official}.weight", f"{layer}/kernel", **options)
    return [
        kernel,
        dataclasses.replace(
            kernel, official=f"{official}.bias", variables=f"{layer}/bias", layout=Layout()
        ),
    ]


_MAPS: dict[str, NameMap] = {}


def register_name_map(name_map: NameMap) -> NameMap:
    """Makes a map known to `load_official`; returns it.

    Raises:
        ValueError: If another map has this name.
    """
    if _MAPS.setdefault(name_map.name, name_map) is not name_map:
        raise ValueError(f"There is a name map of this name already. Received: {name_map.name!r}")
    return name_map


def list_name_maps() -> list[str]:
    """The names of the registered maps, sorted; `import bnnkeras.zoo` registers the zoo's."""
    return sorted(_MAPS)


def variables_by_path(model: keras.Model) -> dict[str, keras.Variable]:
    """The variables of a model by `layer/variable`, those of nested models included.

    A trainer (`bnnkeras.training.LipschitzRetention`, `Distiller`) stands for its student and for
    what it has itself, by name: checkpoints hold no teacher.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or two variables have the same path.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if not model.built:
        raise ValueError(
            f"`model` must be built, so that it has weights. Received: {model.name!r}, not built"
        )
    found: dict[str, keras.Variable] = {}
    student = getattr(model, "student", None)
    network = student if isinstance(student, keras.Model) else model
    _collect(network, found)
    if len(found) != len(network.weights):
        raise ValueError(
            "All weights of `model` must belong to its layers. "
            f"Received: {network.name!r} with {len(network.weights) - len(found)} of its own"
        )
    if network is not model:
        inner = {id(variable) for layer in model.layers for variable in layer.weights}
        found.update({v.name: v for v in model.weights if id(v) not in inner})
    return found


def _collect(model, found) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _collect(layer, found)
            continue
        for variable in layer.weights:
            # The path may start with name scopes in which the layer was built.
            _, _, inner = f"/{variable.path}".partition(f"/{layer.name}/")
            path = f"{layer.name}/{inner or variable.name}"
            if found.setdefault(path, variable) is not variable:
                raise ValueError(
                    f"Layer names must be unique. Received: two variables {path!r}, one of them "
                    f"in {model.name!r}"
                )


def candidates(
    model: keras.Model, shapes: Mapping[str, Shape], name_map: str | NameMap | None
) -> list[tuple[NameMap, list[Entry]]]:
    """The maps that reach every variable of the model, with what they ask of a checkpoint.

    Args:
        model: The model, to name it in errors.
        shapes: The shapes of its variables by path.
        name_map: The one map to use, or its name; `None` for all registered ones.

    Raises:
        ValueError: If there is none.
    """
    if isinstance(name_map, str):
        if name_map not in _MAPS:
            raise ValueError(
                f"`name_map` must be one of {list_name_maps()} or a NameMap. "
                f"Received: name_map={name_map!r}"
            )
        name_map = _MAPS[name_map]
    if name_map is not None and not isinstance(name_map, NameMap):
        raise TypeError(
            f"`name_map` must be a string, a NameMap or None. Received: {type(name_map).__name__}"
        )
    maps = list(_MAPS.values()) if name_map is None else [name_map]
    tried = [(known, *known.entries(shapes)) for known in maps]
    found = [(known, entries) for known, entries, missed in tried if not missed]
    if not found:
        reasons = [
            f"{known.name!r} has no names for {len(missed)} of {len(shapes)} variables, "
            f"as {missed[0]!r}"
            for known, _, missed in sorted(tried, key=lambda item: len(item[2]))
        ]
        raise ValueError(
            "No map of official names covers this model; `import bnnkeras.zoo` registers those of "
            "the zoo, and layers added to a zoo model have none. "
            f"Received: {model.name!r}; {'; '.join(reasons) or 'no map is registered'}"
        )
    return found
