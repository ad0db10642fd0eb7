"""Who takes part in a training benchmark."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Zoo model -> the function of `larq_zoo.literature` that builds the same network.
LARQ_MODELS = {"birealnet18": "BiRealNet"}


class ContenderError(RuntimeError):
    """A contender's process failed."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One model in one environment.

    Args:
        name: What tables call it.
        kind: `"zoo"` (this package) or `"larq"` (Larq Zoo on legacy Keras).
        model: Name of the model's function.
        backend: The Keras backend.
        dtype: The dtype policy.
        python: The interpreter that has its packages.
    """

    name: str
    kind: str
    model: str
    backend: str = "tensorflow"
    dtype: str = "float32"
    python: str = sys.executable

    def environment(self) -> dict[str, str]:
        """The environment variables of its process."""
        variables = {**os.environ, "KERAS_BACKEND": self.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        variables.pop("TF_USE_LEGACY_KERAS", None)
        if self.kind == "larq":
            # Packages of this environment must not reach the peer's.
            variables.pop("PYTHONPATH", None)
            variables["TF_USE_LEGACY_KERAS"] = "1"
        return variables


def zoo_contenders(
    models: Sequence[str], backends: Sequence[str], dtypes: Sequence[str]
) -> list[Contender]:
    """This package's models, each once for each pair of backend and dtype policy."""
    return [
        Contender(f"{model}, {backend}, {dtype}", "zoo", model, backend, dtype)
        for model in dict.fromkeys(models)
        for backend in dict.fromkeys(backends)
        for dtype in dict.fromkeys(dtypes)
    ]


def larq_contender(model: str, python: Path) -> Contender:
    """Larq Zoo's model on legacy tf-keras, in float32.

    Args:
        model: A function of `larq_zoo.literature`, as `peer_of` names it.
        python: The interpreter of the peer environment.
    """
    return Contender(
        f"Larq Zoo's {model}, legacy tf-keras, float32", "larq", model, python=str(python)
    )


def peer_of(models: Sequence[str]) -> str:
    """The name of Larq Zoo's function for the first of the zoo's models that it has as well.

    Raises:
        ValueError: If Larq Zoo has none of them.
    """
    for model in models:
        if model.lower() in LARQ_MODELS:
            return LARQ_MODELS[model.lower()]
    raise ValueError(
        f"`peers` needs a `model` out of {sorted(LARQ_MODELS)}, the networks that Larq Zoo has as "
        f"well. Received: model={', '.join(models)}"
    )
