"""Fixtures for models whose every weight counts."""

from collections.abc import Callable

import keras
import numpy as np
import pytest


def _randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        name = variable.path.rpartition("/")[2]
        values = generator.normal(size=variable.shape)
        variable.assign(np.abs(values) + 0.3 if name == "moving_variance" else values)
    return model


@pytest.fixture(scope="session")
def randomized() -> Callable[..., keras.Model]:
    """`randomized(model, seed=0)`: the model with random values in all of its variables.

    As built, a model has zero biases, unit scales and statistics of 0 and 1: dropping one of
    them would change nothing.
    """
    return _randomized
