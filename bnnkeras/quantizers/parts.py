"""The base class of the three replaceable parts of a `Binarizer`."""


class Part:
    """A threshold, a scale or a gradient estimator.

    Parts are plain objects. One that owns variables creates them in `build` through
    `binarizer.add_weight`, so that the binarizer tracks, trains and saves them.
    """

    def build(self, binarizer, input_shape) -> None:
        """Creates the variables of this part for inputs of shape `input_shape`."""

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)
