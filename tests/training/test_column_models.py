"""Models of many columns: what Keras does for each input does not grow with their number."""

from pathlib import Path
from typing import Any

import keras
import pytest
from keras.src.layers.layer import Layer
from keras.src.ops import function
from keras.src.utils import tracking

from dnnjob.training.column_models import columns_as_inputs
from dnnjob.training.export import save_model


def make_model(num_columns: int) -> keras.Model:
    inputs = {f"c{place}": keras.Input((1,)) for place in range(num_columns)}
    with columns_as_inputs():
        return keras.Model(inputs, keras.layers.Concatenate()(list(inputs.values())))


def count_flattened(num_columns: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Leaves that Keras has flattened to make a model."""
    flattened = 0

    def flatten(structure: Any) -> list[Any]:
        nonlocal flattened
        leaves: list[Any] = keras.tree.flatten(structure)
        flattened += len(leaves)
        return leaves

    with monkeypatch.context() as patched:
        patched.setattr(function.tree, "flatten", flatten)
        make_model(num_columns)
    return flattened


def test_twice_the_columns_are_twice_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    once, twice = (count_flattened(count, monkeypatch) for count in (50, 100))

    assert twice <= 2.2 * once


def count_tracked(num_columns: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Values that Keras has asked for variables to make a model."""
    tracked, track = 0, tracking.Tracker.track

    def count(tracker: tracking.Tracker, value: Any) -> Any:
        nonlocal tracked
        tracked += 1
        return track(tracker, value)

    with monkeypatch.context() as patched:
        patched.setattr(tracking.Tracker, "track", count)
        make_model(num_columns)
    return tracked


def test_attributes_of_an_input_are_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    few, more = (count_tracked(count, monkeypatch) for count in (10, 60))

    assert more - few <= 5 * 50


def test_an_input_keeps_what_it_is_made_of() -> None:
    layer = keras.layers.InputLayer((3,), dtype="int32", name="codes")

    again = keras.layers.InputLayer.from_config(layer.get_config())

    assert (again.name, again.dtype, again.batch_shape) == ("codes", "int32", (None, 3))
    assert again.built
    assert again.weights == []


class Scaled(keras.layers.InputLayer):
    """An input of someone else's, which has a weight."""

    def __init__(self, factor: float) -> None:
        super().__init__((1,))
        self.scale = self.add_weight(shape=(), name="scale")
        self.factor = factor


def test_what_others_derive_from_an_input_stays_a_layer_as_keras_has_it() -> None:
    layer = Scaled(2.0)

    assert [one.name for one in layer.weights] == ["scale"]
    assert layer._auto_config.config == {"factor": 2.0}


def test_saving_makes_no_layer_for_each_column(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, made, begin = make_model(40), [], Layer.__init__
    save_model(tmp_path / "first.keras", model)
    monkeypatch.setattr(
        Layer, "__init__", lambda self, **given: (made.append(1), begin(self, **given))[1]
    )

    save_model(tmp_path / "model.keras", model)

    assert not made


def test_loading_is_measured_of_few_columns_alone(tmp_path: Path) -> None:
    few, many = (
        save_model(tmp_path / f"{count}.keras", make_model(count), is_to_be_loaded=True)
        for count in (2, 257)
    )

    assert few.load_s is not None
    assert many.load_s is None
