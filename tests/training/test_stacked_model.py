"""The members of a model side by side, against each of them alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dnnjob.config import ModelConfig
from dnnjob.data.encoding import CategoryColumn
from dnnjob.training.export import build_export
from dnnjob.training.model import build_encoded_dnn
from dnnjob.training.stacked_model import build_stacked_dnn
from tests.training.conftest import predict_rows
from tests.training.test_numeric_embedding import COLUMNS, TARGET, make_encoding


@pytest.mark.parametrize(
    ("kind", "embeds"),
    [
        ("none", True),
        ("piecewise", False),
        ("periodic", True),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (("none", False), ("piecewise", True), ("periodic", False))
        ),
    ],
)
def test_members_side_by_side_predict_what_each_does_alone(kind: Any, embeds: bool) -> None:
    encoding = make_encoding()
    if embeds:
        names = tuple(f"c{number}" for number in range(9))
        column = CategoryColumn("category", "text", names, others_trained=True, units=3)
        encoding = replace(encoding, columns=(*encoding.columns, column))
    model = ModelConfig(
        hidden_units=(6, 5), activation="tanh", numeric_embedding=kind, dropout_rate=0.3
    )
    members = [
        build_encoded_dnn(model, encoding, seed=seed, precision="float32") for seed in (1, 2, 3)
    ]
    random = np.random.default_rng(7)
    for dnn in members:
        # Pieces and biases begin at zero.
        for variable in dnn.trainable_variables:
            variable.assign(variable + random.normal(size=variable.shape))
    x = np.random.default_rng(5).normal(size=(40, encoding.num_inputs)).astype(np.float32)
    if embeds:
        x[:, -1] = np.arange(40) % 10
    expected = np.stack([predict_rows(dnn, x) for dnn in members], axis=1)

    weights = [dnn.get_weights() for dnn in members]
    stacked = build_stacked_dnn(
        model, encoding, weights=weights, precision="float32", name="members"
    )

    found = np.asarray(stacked(x))
    np.testing.assert_allclose(found[:, :, 0], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 0.01


def test_each_member_is_clipped_to_the_range_before_the_mean() -> None:
    encoding = make_encoding()
    model = ModelConfig(hidden_units=())
    dnn = build_encoded_dnn(model, encoding, seed=1, precision="float32")
    kernel, bias = dnn.get_weights()
    weights = [[kernel * 0, bias + 10.0], [kernel * 0, bias - 0.5]]
    encoding = replace(encoding, target=replace(TARGET, bounds=(0.0, 30.0)))

    exported = build_export(model, encoding=encoding, weights=weights, precision="float32")

    columns = {name: values[:3].astype(np.float32)[:, None] for name, values in COLUMNS.items()}
    # 20 + 5 * 10 is clipped to 30; 20 - 5 * 0.5 is 17.5.
    np.testing.assert_allclose(exported.predict(columns, verbose=0)[:, 0], 23.75)
