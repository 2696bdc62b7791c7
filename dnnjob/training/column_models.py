"""Keras models of one input for each column, in time that grows with their number.

with columns_as_inputs():
    model = keras.Model(inputs, outputs)          # or load_model
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.layers.core.input_layer import InputLayer
from keras.src.ops import function
from keras.src.saving import saving_lib


@contextmanager
def columns_as_inputs() -> Iterator[None]:
    """Inside, models are made of columns whose names have slashes, without Keras's warning.

    An input's name cannot have one, so it differs from the column's, the key of the dictionary.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        yield


def _flatten_inputs_once(sort_nodes: Callable[..., Any]) -> Callable[..., Any]:
    return lambda inputs, outputs: sort_nodes(_AnyOf(inputs), outputs)


class _AnyOf:
    """Stands for many tensors where all that is asked is whether another is among them."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tensors: Any) -> None:
        self._ids = {id(tensor) for tensor in keras.tree.flatten(tensors)}

    def __eq__(self, other: object) -> bool:
        return id(other) in self._ids


def _make_bare(make: Callable[..., Any]) -> Callable[..., Any]:
    """Makes an input without the arguments that Keras keeps of layers of no config."""

    def make_layer(cls: type, *args: Any, **arguments: Any) -> Any:
        if cls is not InputLayer:
            # What is derived from it may have a config of no kind, or variables.
            return make(cls, *args, **arguments)
        layer: Any = object.__new__(cls)
        layer._auto_config = None
        return layer

    return make_layer


def _set_untracked(track: Callable[..., None]) -> Callable[..., None]:
    """Sets an attribute of an input, which has no variables or layers to keep account of."""

    def set_attribute(layer: Any, name: str, value: Any) -> None:
        if type(layer) is not InputLayer:
            track(layer, name, value)
            return
        if name != "_tracker" and "_tracker" not in vars(layer):
            layer._initialize_tracker()
        object.__setattr__(layer, name, value)

    return set_attribute


def _pass_over_inputs(walk: Callable[..., Any]) -> Callable[..., Any]:
    return lambda layer: iter(()) if type(layer) is InputLayer else walk(layer)


def _replace(module: Any, name: str, change: Callable[..., Any]) -> None:
    # They are private: another Keras may not have them, and be as slow as it is.
    if hasattr(module, name):
        setattr(module, name, change(getattr(module, name)))


# Of 2,000 inputs these took two thirds of what making, saving and loading a model takes, and more
# of more. Keras lists the attributes of a bare layer for every layer again, since it keeps them
# under one name and looks under another; it flattens all inputs for each of them; and it looks
# through all attributes of an input for what has variables, as they are set and when it is saved.
_replace(saving_lib, "get_attr_skipset", functools.cache)
_replace(function, "_build_map", _flatten_inputs_once)
if keras.__version__.startswith("3.15."):
    # What a layer keeps of itself may be more in another one.
    _replace(saving_lib, "_walk_saveable", _pass_over_inputs)
    InputLayer.__new__ = staticmethod(_make_bare(InputLayer.__new__))
    InputLayer.__setattr__ = _set_untracked(InputLayer.__setattr__)
