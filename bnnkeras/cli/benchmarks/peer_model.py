"""Builds Larq Zoo's network and saves it for LCE's converter, in the peer's environment.

Started by path (`python -P peer_model.py SPECIFICATION`), written for the peer's packages alone.
"""

import importlib
import json
import sys


def main(specification: dict) -> None:
    """Saves a SavedModel whose one input has a fixed shape.

    Args:
        specification: `model` (a function of `larq_zoo.literature`), `input_shape` with the batch
            axis, `classes` and the `folder` to write.
    """
    import tensorflow

    # Only the peer environment has it.
    literature = importlib.import_module("larq_zoo.literature")
    build = getattr(literature, specification["model"])
    shape = specification["input_shape"]
    model = build(input_shape=tuple(shape[1:]), weights=None, num_classes=specification["classes"])
    # LCE's converter needs a fixed batch size.
    signature = tensorflow.TensorSpec(shape, "float32", name="images")
    function = tensorflow.function(
        lambda images: model(images, training=False), input_signature=[signature]
    )
    tensorflow.saved_model.save(model, specification["folder"], signatures=function)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
