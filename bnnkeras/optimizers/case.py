"""An optimizer that gives each variable to one of several optimizers."""

import warnings
from collections.abc import Callable

import keras

from bnnkeras.registration import register, serialize


@register
class CaseOptimizer(keras.optimizers.Optimizer):
    """Trains each variable with the optimizer whose predicate claims it.

    A variable that no predicate claims goes to `default_optimizer`; without one it is not trained.
    Gradient clipping, weight decay, averages and constraints act per optimizer, on its variables.
    For mixed precision wrap this optimizer as a whole in `LossScaleOptimizer` (as `compile` does).

    Registered predicates (`Bop.is_binary_variable`, or any function with
    `@keras.saving.register_keras_serializable()`) are saved with the model. Of others, such as
    lambdas, the outcome is saved: which optimizer each variable went to, by `variable.path`.

    Args:
        *predicate_optimizer_pairs: Pairs `(predicate, optimizer)`. `predicate(variable)` is called
            once per trainable `keras.Variable` and returns whether the optimizer claims it.
        default_optimizer: The optimizer of all other variables, or `None`. Keyword only.
        name: String. Defaults to `"optimizer_case"`.

    Attributes:
        optimizers: The optimizers in order, ending with the default one.
        var_opt_mapping: `variable.path` -> index in `optimizers`; `None` before the first step.
        learning_rate: That of the default optimizer.

    Raises:
        TypeError: If an argument is no pair, no callable or no optimizer.
        ValueError: At the first step, if a variable is claimed twice or an optimizer claims none;
            at once, if an optimizer is used twice or scales the loss.

    Example:
        >>> import keras
        >>> import bnnkeras
        >>> from bnnkeras.optimizers import Bop, CaseOptimizer
        >>> optimizer = CaseOptimizer(
        ...     (Bop.is_binary_variable, Bop(threshold=1e-6, gamma=1e-3)),
        ...     default_optimizer=keras.optimizers.Adam(0.01),
        ... )
        >>> kernel, bias = keras.Variable([[1.0]]), keras.Variable([0.0])
        >>> kernel.precision = 1  # As a layer with a 1-bit kernel quantizer does.
        >>> optimizer.build([kernel, bias])
        >>> sorted(optimizer.var_opt_mapping.values())
        [0, 1]

    Reference:
        Geiger et al., Larq: An Open-Source Library for Training Binarized Neural Networks
        (JOSS 2020).
    """

    def __init__(
        self,
        *predicate_optimizer_pairs,
        default_optimizer: keras.optimizers.Optimizer | None = None,
        name: str = "optimizer_case",
    ):
        for index, pair in enumerate(predicate_optimizer_pairs):
            _check_pair(pair, f"predicate_optimizer_pairs[{index}]")
        if default_optimizer is not None:
            _check_optimizer(default_optimizer, "default_optimizer")
        optimizers = [optimizer for _, optimizer in predicate_optimizer_pairs]
        optimizers += [] if default_optimizer is None else [default_optimizer]
        if not optimizers or len({id(optimizer) for optimizer in optimizers}) < len(optimizers):
            raise ValueError(
                "CaseOptimizer needs at least one optimizer, and each only once. "
                f"Received: {[optimizer.name for optimizer in optimizers]}"
            )
        # As in LossScaleOptimizer, this learning rate is not used.
        super().__init__(learning_rate=0.0, name=name)
        self.predicates = [predicate for predicate, _ in predicate_optimizer_pairs]
        self.optimizers = optimizers
        self.default = default_optimizer
        self.var_opt_mapping: dict[str, int] | None = None
        # Index in `optimizers` of each variable, by its position in `build`; `None`: not trained.
        self._claims: list[int | None] = []
        # (variable path, index) where predicates could not be saved: see `from_config`.
        self._saved_claims: list[tuple[str, int | None]] | None = None

    def build(self, variables):
        if self.built:
            return
        variables = list(variables)
        if self._saved_claims is None:
            self._claims = [self._claim(variable) for variable in variables]
        else:
            self._claims = _recall(self._saved_claims, [variable.path for variable in variables])
        for index, optimizer in enumerate(self.optimizers[: len(self.predicates)]):
            if index not in self._claims:
                raise ValueError(
                    f"Optimizer `{optimizer.name}` did not claim any variables. "
                    f"Received: {[variable.path for variable in variables]}"
                )
        super().build(variables)
        self.var_opt_mapping = {
            variable.path: index
            for variable, index in zip(variables, self._claims, strict=True)
            if index is not None
        }
        for index, optimizer in enumerate(self.optimizers):
            optimizer.build(self._claimed(index, variables))

    def _claim(self, variable) -> int | None:
        claims = [index for index, claims in enumerate(self.predicates) if claims(variable)]
        if len(claims) > 1:
            names = [self.optimizers[index].name for index in claims]
            raise ValueError(
                f"Variable `{variable.path}` claimed by multiple optimizers. Received: {names}"
            )
        if claims:
            return claims[0]
        if self.default is not None:
            return len(self.predicates)
        warnings.warn(
            f"No `default_optimizer` provided to train variable `{variable.path}`.", stacklevel=2
        )
        return None

    def _claimed(self, index, variables):
        return [
            variable
            for variable, claim in zip(variables, self._claims, strict=True)
            if claim == index
        ]

    @property
    def variables(self):
        inner = [variable for optimizer in self.optimizers for variable in optimizer.variables]
        return self._variables + inner

    def apply(self, grads, trainable_variables=None):
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            if not self.built:
                raise ValueError(
                    "Without `trainable_variables` the optimizer must be built already: call "
                    "`optimizer.build(trainable_variables)` first. "
                    "Received: trainable_variables=None"
                )
            trainable_variables = self._trainable_variables
        else:
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
            self._check_variables_are_known(trainable_variables)
        if all(gradient is None for gradient in grads):
            raise ValueError(
                f"No gradients provided for any variable. Received: {len(grads)} times None"
            )
        shares: list[tuple[list, list]] = [([], []) for _ in self.optimizers]
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            claim = self._claims[self._get_variable_index(variable)]
            if claim is not None:
                shares[claim][0].append(gradient)
                shares[claim][1].append(variable)
        for optimizer, (gradients, variables) in zip(self.optimizers, shares, strict=True):
            if any(gradient is not None for gradient in gradients):
                optimizer.apply(gradients, variables)
        self._iterations.assign_add(1)

    def finalize_variable_values(self, var_list):
        for index, optimizer in enumerate(self.optimizers):
            optimizer.finalize_variable_values(self._claimed(index, self._trainable_variables))

    @property
    def learning_rate(self):
        return self._default_optimizer().learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self._default_optimizer().learning_rate = learning_rate

    def _default_optimizer(self) -> keras.optimizers.Optimizer:
        if self.default is None:
            raise AttributeError("A CaseOptimizer without default optimizer has no learning rate.")
        return self.default

    def save_own_variables(self, store):
        # Keras saves the inner optimizers by itself, as attributes of this one.
        for index, variable in enumerate(self._variables):
            store[str(index)] = variable.numpy()

    def load_own_variables(self, store):
        for index, variable in enumerate(self._variables):
            variable.assign(store[str(index)])

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "predicates": [
                serialize(predicate) if _is_registered(predicate) else None
                for predicate in self.predicates
            ],
            "optimizers": [serialize(optimizer) for optimizer in self.optimizers],
            "claims": self._claims_to_save(),
        }

    def _claims_to_save(self) -> list | None:
        if all(map(_is_registered, self.predicates)):
            return None
        if not self.built:
            return None if self._saved_claims is None else [list(c) for c in self._saved_claims]
        paths = [variable.path for variable in self._trainable_variables]
        return [list(claim) for claim in zip(paths, self._claims, strict=True)]

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        def revive(entry):
            # Not by `keras.optimizers.deserialize`: that one changes the configuration it reads.
            return keras.saving.deserialize_keras_object(entry, custom_objects=custom_objects)

        predicates = [
            _not_saved if entry is None else revive(entry) for entry in config["predicates"]
        ]
        optimizers = [revive(entry) for entry in config["optimizers"]]
        default = optimizers.pop() if len(optimizers) > len(predicates) else None
        pairs = zip(predicates, optimizers, strict=True)
        optimizer = cls(*pairs, default_optimizer=default, name=config["name"])
        optimizer._saved_claims = config["claims"]
        return optimizer


def _recall(saved, paths: list[str]) -> list[int | None]:
    """The saved optimizer index of each variable."""
    claims = dict(saved)
    if all(path in claims for path in paths):
        return [claims[path] for path in paths]
    # A loaded Sequential model's paths lack its name. Its variables keep their order and names.
    saved_names = [path.split("/")[-1] for path, _ in saved]
    if saved_names == [path.split("/")[-1] for path in paths]:
        return [claim for _, claim in saved]
    raise ValueError(
        "The predicates of this CaseOptimizer were not saved, because they are not registered, and "
        f"the model it was saved with had other variables: {list(claims)}. Received: {paths}"
    )


def _not_saved(variable) -> bool:
    raise ValueError(
        "This CaseOptimizer was saved before its first step with a predicate that is not "
        "registered. Decorate the predicate with @keras.saving.register_keras_serializable(). "
        f"Received: {variable.path}"
    )


def _is_registered(predicate: Callable) -> bool:
    return keras.saving.get_registered_name(predicate) != getattr(predicate, "__name__", None)


def _check_pair(pair, argument: str) -> None:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"`{argument}` must be a pair (predicate, optimizer). Received: {pair!r}")
    predicate, optimizer = pair
    if not callable(predicate):
        raise TypeError(f"`{argument}[0]` must be a callable predicate. Received: {predicate!r}")
    _check_optimizer(optimizer, f"{argument}[1]")


def _check_optimizer(optimizer, argument: str) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`{argument}` must be a keras.optimizers.Optimizer. Received: {optimizer!r}"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor:
        raise ValueError(
            f"`{argument}` cannot scale the loss, which all optimizers share; wrap the "
            f"CaseOptimizer in keras.optimizers.LossScaleOptimizer. Received: {optimizer.name}"
        )
