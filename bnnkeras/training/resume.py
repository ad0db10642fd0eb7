"""Training that continues where it was interrupted."""

import json
from pathlib import Path

import keras

from bnnkeras.files import replacing

_STATE = "state.json"


def fit_resumable(
    model: keras.Model, batches, epochs: int, folder, settings: dict | None = None, **fit_arguments
) -> dict[str, list[float]]:
    """`model.fit` that keeps its state after every epoch and continues from it when run again.

    Weights, optimizer and history are restored exactly, and `batches` (a
    `bnnkeras.datasets.Batches`) is told the epoch, so that an interrupted training ends with the
    numbers it would have had. The state is removed when the last epoch is done.

    Args:
        model: A compiled and built model.
        batches: `bnnkeras.datasets.Batches`, or any data whose `epoch` attribute decides its order.
        epochs: Integer, the epochs to train in all.
        folder: Where the state is kept; `None` keeps none.
        settings: JSON values that decide the result (seed, learning rate, ...). A state that was
            kept under other settings is not used, and replaced.
        **fit_arguments: Further arguments of `model.fit`.

    Returns:
        The history of all epochs: one list of floats for each metric.

    Raises:
        ValueError: If `epochs` is not positive.
        OSError: If the state cannot be written.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from bnnkeras.datasets import Batches
        >>> from bnnkeras.training import fit_resumable
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> batches = Batches(np.zeros((8, 2), "float32"), np.zeros((8, 1), "float32"), 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = fit_resumable(model, batches, 3, folder, verbose=0)
        >>> len(history["loss"])
        3
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"`epochs` must be a positive integer. Received: epochs={epochs!r}")
    keeper = _StateKeeper(
        None if folder is None else Path(folder), {"epochs": epochs, **(settings or {})}
    )
    state = keeper.load(model)
    if state["epoch"] < epochs:
        # Keras tells data, but not callbacks, of more epochs than it trains: it peeks, to build.
        teller = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: setattr(batches, "epoch", epoch)
        )
        callbacks = [teller, *fit_arguments.pop("callbacks", []), keeper]
        model.fit(
            batches,
            epochs=epochs,
            initial_epoch=state["epoch"],
            callbacks=callbacks,
            # The batches are in random order already, and in the same one when run again.
            shuffle=False,
            **fit_arguments,
        )
    keeper.remove()
    return keeper.history


class _StateKeeper(keras.callbacks.Callback):
    """Writes weights, then a small JSON file that names them: the moment when the state counts."""

    def __init__(self, folder: Path | None, settings: dict):
        super().__init__()
        self.folder = folder
        # As JSON gives them back, so that a tuple equals the list it was stored as.
        self.settings = json.loads(json.dumps(settings))
        self.history: dict[str, list[float]] = {}

    def load(self, model: keras.Model) -> dict:
        """Restores the model, if there is a state of the same settings."""
        if self.folder is None:
            return {"epoch": 0}
        path = self.folder / _STATE
        state = json.loads(path.read_text()) if path.is_file() else {}
        if state.get("settings") != self.settings:
            return {"epoch": 0}
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model.load_weights(self.folder / state["weights"])
        self.history = state["history"]
        return state

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        if self.folder is None:
            return
        name = f"epoch{epoch + 1}.weights.h5"
        with replacing(self.folder / name) as temporary:
            self.model.save_weights(temporary)
        state = {
            "epoch": epoch + 1,
            "weights": name,
            "history": self.history,
            "settings": self.settings,
        }
        with replacing(self.folder / _STATE) as temporary:
            temporary.write_text(json.dumps(state))
        for other in self.folder.glob("epoch*.weights.h5"):
            if other.name != name:
                other.unlink()

    def remove(self) -> None:
        if self.folder is None:
            return
        for path in [*self.folder.glob("epoch*.weights.h5"), self.folder / _STATE]:
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
