"""What goes wrong when a model is deployed."""


class UnsupportedLayerError(ValueError):
    """A layer, or an argument of it, that has no deploy form."""

    def __init__(self, layer, reason: str):
        super().__init__(
            f"Layer {layer.name!r} ({type(layer).__name__}) cannot be deployed: {reason}"
        )


class ConversionError(RuntimeError):
    """LCE did not turn the deploy form into the file that was wanted."""
