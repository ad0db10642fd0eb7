"""Registers classes with Keras under the package name `bnnkeras`."""

import keras


def register(entry):
    """Makes a class or function serializable by Keras as `"bnnkeras>Name"`; a decorator."""
    return keras.saving.register_keras_serializable(package="bnnkeras")(entry)


def serialize(value):
    """The JSON-serializable form of a registered object; `None` stays `None`."""
    return None if value is None else keras.saving.serialize_keras_object(value)


def deserialize(value):
    """The inverse of `serialize`; an object that is no configuration is returned as it is."""
    return keras.saving.deserialize_keras_object(value) if isinstance(value, dict) else value
