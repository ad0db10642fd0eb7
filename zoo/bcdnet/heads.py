"""BCDNet's two classifiers, and the one that gives the same output."""

import keras

HEADS = ("classifier", "classifier_distilled")


def merge_heads(model: keras.Model) -> keras.Model:
    """The same function with one classifier: ((W1 + W2) / 2) x + (b1 + b2) / 2.

    For inference, and to count what it costs. `bnnkeras.converters.deploy` does the same by itself.

    Args:
        model: A model of this family with its top. It stays as it is.

    Returns:
        A new model, whose classifier is named `"classifier_merged"`.

    Raises:
        ValueError: If `model` does not have both classifiers.

    Example:
        >>> from bnnkeras.zoo import BCDNetA
        >>> from bnnkeras.zoo.bcdnet import merge_heads
        >>> model = BCDNetA(input_shape=(32, 32, 3), classes=10, width=0.25, mlp_blocks=1)
        >>> model.count_params() - merge_heads(model).count_params()
        2570
    """
    names = {layer.name for layer in model.layers}
    if not names.issuperset(HEADS):
        raise ValueError(
            f"`model` must have the layers {HEADS}. Received: {model.name!r}, which has "
            f"{sorted(names.intersection(HEADS)) or 'none of them'}"
        )
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    heads = [copy.get_layer(name) for name in HEADS]
    merged = keras.layers.Dense(
        heads[0].units, dtype=heads[0].dtype_policy, name="classifier_merged"
    )
    outputs = merged(heads[0].input)
    values = zip(*(head.get_weights() for head in heads), strict=True)
    merged.set_weights([(one + other) / 2 for one, other in values])
    if "predictions" in names:
        outputs = copy.get_layer("predictions")(outputs)
    return keras.Model(copy.input, outputs, name=model.name)
