"""The pictures: there, legible, the same every time."""

import dataclasses
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnnjob.results import plots
from dnnjob.results.importance import Importance
from dnnjob.results.intervals import Intervals
from dnnjob.results.plots import PlotData, draw_plots
from dnnjob.results.report import PlotName
from dnnjob.results.tick_labels import format_tick
from dnnjob.training.history import History

FILES = ["boxplot.png", "loss.png", "regplot.png", "residuals.png"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures by the name of their file, once `draw_plots` has run."""
    figures: dict[str, Figure] = {}

    def keeping(name: PlotName, draw: Callable[[PlotData], Figure]) -> Callable[..., Figure]:
        def keep(data: PlotData) -> Figure:
            figures[name] = draw(data)
            return figures[name]

        return keep

    for name in get_args(PlotName):
        monkeypatch.setattr(plots, f"draw_{name}", keeping(name, getattr(plots, f"draw_{name}")))
    return figures


def _make_data(num_rows: int = 60, num_features: int = 3, **changes: Any) -> PlotData:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, num_features))
    y = 20 + 5 * x[:, :1].sum(axis=1) + rng.normal(size=num_rows)
    losses = np.geomspace(1, 0.01, 40)
    data = PlotData(
        target="MEDV",
        features=tuple(f"feature_{i}" for i in range(num_features)),
        x=x,
        y=y,
        mean=None,
        std=None,
        y_pred=y + rng.normal(size=num_rows),
        is_test=np.arange(num_rows) % 3 == 0,
        history=History(loss=losses, val_loss=None, learning_rate=losses, seconds=losses),
    )
    return dataclasses.replace(data, **changes)


def _size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def _labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]


def test_the_importance_of_columns_is_a_bar_each(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    columns = tuple(
        Importance(column=f"c{n}", mse_increase=50.0 - n, mse_increase_std=1.0) for n in range(50)
    )
    draw_plots(tmp_path, _make_data(importance=columns))

    (axes,) = drawn["importance"].axes
    assert [patch.get_width() for patch in axes.patches] == [50.0 - n for n in range(40)]
    assert _labels(axes)[-40:] == [f"c{n}" for n in range(40)]
    assert axes.get_title(loc="left").endswith("the 40 most important of 50")
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert min(_size(tmp_path / "importance.png")) >= 300


def test_a_table_without_numbers_has_a_box_for_its_target(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    draw_plots(tmp_path, _make_data(num_features=0, x=np.zeros((60, 0)), y=np.arange(60.0)))

    assert _labels(drawn["boxplot"].axes[0])[0] == "MEDV"


def test_without_test_rows_no_prediction_is_drawn(tmp_path: Path) -> None:
    draw_plots(tmp_path, _make_data(is_test=np.zeros(60, bool)))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxplot.png", "loss.png"]


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0, 1e6, 2.5e6], ["0", "1e6", "2.5e6"]),
        ([1_000_000.0, 1_000_000.25], ["1,000,000", "1,000,000.25"]),
        ([20, 22.5, 25], ["20", "22.5", "25"]),
        ([-100_000, -50_000, 1e-11], ["-100,000", "-50,000", "0"]),
        ([1e-9, 1.5e-9], ["1e-9", "1.5e-9"]),
        ([0.002, 0.0025], ["0.002", "0.0025"]),
        ([3], ["3"]),
    ],
)
def test_a_tick_says_all_of_its_value(ticks: list[float], labels: list[str]) -> None:
    assert [format_tick(value, np.array(ticks)) for value in ticks] == labels


@pytest.mark.parametrize(
    "scale", [1e-9, *(pytest.param(one, marks=pytest.mark.long) for one in (1.0, 1e6)), 1e12]
)
def test_no_power_of_ten_floats_in_a_corner(
    tmp_path: Path, drawn: dict[str, Figure], scale: float
) -> None:
    data = _make_data()
    importance = (Importance(column="a", mse_increase=scale**2, mse_increase_std=0.1),)
    draw_plots(
        tmp_path,
        dataclasses.replace(
            data,
            y=data.y * scale,
            y_pred=data.y_pred * scale,
            importance=importance,
            history=dataclasses.replace(data.history, loss=data.history.loss * scale),
        ),
    )

    for figure in drawn.values():
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                assert axis.get_offset_text().get_text() == ""


def test_four_pictures_are_drawn_and_nothing_else(tmp_path: Path) -> None:
    draw_plots(tmp_path / "plots", _make_data())

    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == FILES
    assert all(min(_size(tmp_path / "plots" / name)) >= 300 for name in FILES)


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_plots(tmp_path / name, _make_data())

    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_boxes_are_drawn_once_for_runs_of_the_same_z_scores(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    data = _make_data()
    draw_plots(tmp_path / "a", data)
    first = drawn.pop("boxplot")
    draw_plots(tmp_path / "b", dataclasses.replace(data, y_pred=data.y))
    assert "boxplot" not in drawn
    assert (tmp_path / "b/boxplot.png").read_bytes() == (tmp_path / "a/boxplot.png").read_bytes()

    draw_plots(tmp_path / "c", dataclasses.replace(data, mean=np.ones(4), std=np.ones(4)))
    assert drawn["boxplot"] is not first
    assert (tmp_path / "c/boxplot.png").read_bytes() != (tmp_path / "a/boxplot.png").read_bytes()


def test_a_matplotlibrc_changes_nothing_and_is_left_as_it_was(tmp_path: Path) -> None:
    draw_plots(tmp_path / "a", _make_data())
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        draw_plots(tmp_path / "b", _make_data())
        assert mpl.rcParams["font.size"] == 20

    assert (tmp_path / "a/loss.png").read_bytes() == (tmp_path / "b/loss.png").read_bytes()


def test_regplot_names_the_target_and_draws_the_test_rows(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    data = _make_data()
    draw_plots(tmp_path, data)

    axes = drawn["regplot"].axes[0]
    points = np.asarray(axes.collections[0].get_offsets())
    assert axes.get_xlabel() == "Actual Values (MEDV)"
    assert axes.get_ylabel() == "Predicted Values (MEDV)"
    assert axes.get_title(loc="left") == "20 test rows"
    np.testing.assert_array_equal(points[:, 0], data.y[data.is_test])
    np.testing.assert_array_equal(points[:, 1], data.y_pred[data.is_test])


def test_the_fitted_line_is_that_of_least_squares(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    data = _make_data()
    draw_plots(tmp_path, data)

    line = drawn["regplot"].axes[0].lines[-1]
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    slope, intercept = np.polyfit(data.y[data.is_test], data.y_pred[data.is_test], 1)
    np.testing.assert_allclose(y, slope * x + intercept)


def test_boxplot_shows_every_column_and_the_target(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    data = _make_data(num_features=12, features=tuple("ABCDEFGHIJKL"))
    draw_plots(tmp_path, data)

    axes = drawn["boxplot"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [*"ABCDEFGHIJKL", "MEDV"]


def test_boxplot_of_a_hundred_features_lies_down_and_keeps_its_names_apart(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    draw_plots(tmp_path, _make_data(num_features=100))

    axes = drawn["boxplot"].axes[0]
    names = axes.get_yticklabels()
    boxes = [name.get_window_extent() for name in names]
    assert [name.get_text() for name in names] == [*(f"feature_{i}" for i in range(100)), "MEDV"]
    assert all(float(name.get_fontsize()) >= 7 for name in names)
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0


def test_boxplot_says_which_columns_it_leaves_out(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    draw_plots(tmp_path, _make_data(num_features=130))

    axes = drawn["boxplot"].axes[0]
    assert len(axes.get_yticks()) == plots.MAX_COLUMNS
    assert "the first 119 of 130 features" in axes.get_title(loc="left")


def test_boxplot_uses_the_z_scores_of_the_run(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    data = _make_data(num_features=1, mean=np.array([100.0, 20.0]), std=np.array([1.0, 5.0]))
    draw_plots(tmp_path, data)

    median = np.asarray(drawn["boxplot"].axes[0].lines[4].get_ydata())
    np.testing.assert_allclose(median, np.median(data.x[:, 0]) - 100)


def test_the_counts_of_residuals_keep_off_the_axis_beside_them(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    draw_plots(tmp_path, _make_data())
    counts = drawn["residuals"].axes[1].xaxis.get_major_locator()()
    assert len(counts) > 0
    assert min(counts) > 0


def test_a_huge_table_is_sampled_and_says_so(
    tmp_path: Path, drawn: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "MAX_ROWS", 50)
    draw_plots(tmp_path, _make_data(num_rows=3000))

    titles = {name: figure.axes[0].get_title(loc="left") for name, figure in drawn.items()}
    assert titles["regplot"] == "50 of 1,000 test rows, drawn at random"
    assert titles["residuals"] == titles["regplot"]
    assert titles["boxplot"] == "50 of 3,000 rows, drawn at random"
    assert len(np.asarray(drawn["regplot"].axes[0].collections[0].get_offsets())) == 50


def test_the_sample_follows_the_seed() -> None:
    rows = np.arange(100_000)

    assert (plots._sample(rows, 1) == plots._sample(rows, 1)).all()
    assert (plots._sample(rows, 1) != plots._sample(rows, 2)).any()
    assert len(np.unique(plots._sample(rows, 1))) == plots.MAX_ROWS


def test_loss_falls_on_a_log_scale_and_marks_the_best_epoch(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    losses = np.geomspace(1, 0.01, 40)
    val_losses = np.where(np.arange(40) == 24, 0.005, losses)
    history = History(loss=losses, val_loss=val_losses, learning_rate=losses, seconds=losses)
    draw_plots(tmp_path, _make_data(history=history))

    axes = drawn["loss"].axes[0]
    legend = axes.get_legend()
    assert axes.get_yscale() == "log"
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "train",
        "validation",
        "best epoch, 25",
    ]


@pytest.mark.parametrize(
    "losses",
    [[0.0, 0.0], *(pytest.param(few, marks=pytest.mark.long) for few in ([1.0], [1.0, 0.9, 0.8]))],
)
def test_loss_that_hardly_falls_stays_linear(
    tmp_path: Path, drawn: dict[str, Figure], losses: list[float]
) -> None:
    values = np.array(losses)
    history = History(loss=values, val_loss=None, learning_rate=values, seconds=values)
    draw_plots(tmp_path, _make_data(history=history))

    assert drawn["loss"].axes[0].get_yscale() == "linear"


def test_a_far_outlier_does_not_press_the_boxes_flat(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    data = _make_data(mean=np.zeros(4), std=np.ones(4))
    data.x[0, 0] = 1e6
    draw_plots(tmp_path, data)

    assert drawn["boxplot"].axes[0].get_yscale() == "symlog"


def test_names_are_no_mathematics_and_long_ones_are_cut(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    data = _make_data(target="$\\frac$ 価格 " + "x" * 60, features=("a" * 60, "$", "b_c"))
    draw_plots(tmp_path, data)

    assert max(map(len, _labels(drawn["boxplot"].axes[0]))) <= 28
    assert drawn["regplot"].axes[0].get_xlabel().startswith("Actual Values ($\\frac$ 価格")


ODD: dict[str, dict[str, Any]] = {
    "one test row": {"is_test": np.arange(60) == 3},
    "unlabelled test rows": {"y": np.where(np.arange(60) % 6 == 0, np.nan, 1.5)},
    "constant predictions": {"y_pred": np.ones(60)},
    "a missing column": {"x": np.full((60, 3), np.nan)},
    "a constant column": {"x": np.ones((60, 3))},
    "validation never computed": {
        "history": History(np.ones(3), np.full(3, np.nan), np.ones(3), np.ones(3))
    },
}


@pytest.mark.parametrize(
    "case",
    [*list(ODD)[:3], *(pytest.param(case, marks=pytest.mark.long) for case in list(ODD)[3:])],
)
def test_odd_tables_are_drawn_too(tmp_path: Path, case: str) -> None:
    draw_plots(tmp_path, _make_data(**ODD[case]))

    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_intervals_are_drawn_where_there_are_some(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    intervals = Intervals(level=0.9, method="split", half_width=1.0, num_rows=20)
    data = _make_data(intervals=intervals)
    draw_plots(tmp_path, data)

    (axes,) = drawn["intervals"].axes
    held = np.abs(data.y - data.y_pred)[data.is_test] <= 1.0
    assert axes.get_title(loc="left") == f"20 test rows, {100 * held.mean():.1f} % within"
    inside, outside = (np.asarray(dots.get_offsets()) for dots in axes.collections[1:])
    assert (len(inside), len(outside)) == (held.sum(), (~held).sum())
    (band,) = axes.collections[0].get_paths()
    height = np.ptp(band.vertices[:, 1])
    assert height == pytest.approx(np.ptp(data.y_pred[data.is_test]) + 2.0)
