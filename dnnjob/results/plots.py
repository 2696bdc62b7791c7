"""The pictures of a run, drawn with seaborn and matplotlib, free of pyplot's global state.

draw_plots(paths.plots, PlotData(target="MEDV", features=names, x=x, y=y, ...))
"""

import hashlib
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import boxplot_stats
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)
from matplotlib.transforms import Bbox

from dnnjob.latest import Latest
from dnnjob.results.importance import Importance
from dnnjob.results.intervals import Intervals
from dnnjob.results.report import PlotName
from dnnjob.results.tick_labels import label_ticks
from dnnjob.runs import write_bytes
from dnnjob.text import counted
from dnnjob.training.history import History

MAX_ROWS = 20_000
MAX_COLUMNS = 120
MAX_BARS = 40
MAX_UPRIGHT_COLUMNS = 16
MAX_UPRIGHT_LETTERS = 80
FAR = 15.0
MARGIN = 7
HALF_PAGE = (5.2, 4.4)
INK = "#22303c"
BLUE = "#2b6a99"
PALE_BLUE = "#a9cbe2"
RED = "#c2502e"
GREY = "#8b96a1"
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    # Where it stands anyway, unless a picture has ticks above: finding that out is a fifth of all.
    "axes.titley": 1.0,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.color": "#e6eaee",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    # A column may be called "$x" or "a$b$"; neither is mathematics.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
Array = npt.NDArray[Any]
# What tells the boxes drawn last from others, and their picture.
_boxes = Latest[tuple[bytes, bytes]](most=1)


@dataclass(frozen=True)
class PlotData:
    """What the pictures show: all rows of the table, in any one order."""

    target: str
    features: tuple[str, ...]
    x: Array
    """Features, shape `(num_rows, num_features)`, as the table has them."""
    y: Array
    """Targets, shape `(num_rows,)`, target units, NaN where unlabelled."""
    mean: Array | None
    """Means of the z-scores, shape `(num_features + 1,)`, the target's last; None takes those of
    the rows drawn."""
    std: Array | None
    """Standard deviations of the z-scores, as `mean`."""
    y_pred: Array
    """Predictions, shape `(num_rows,)`, target units."""
    is_test: Array
    """Whether a row is of the test split, shape `(num_rows,)`."""
    history: History
    importance: tuple[Importance, ...] = ()
    """What shuffling each column does, the most important first; without any, no picture."""
    intervals: Intervals | None = None
    """Around the predictions; without any, no picture."""
    seed: int = 0
    """Seed of the rows drawn of a huge table and of the confidence band."""


@dataclass(frozen=True)
class _TestRows:
    """Labelled test rows, at most `MAX_ROWS`, and a title that counts them."""

    y_true: Array
    y_pred: Array
    title: str


def draw_plots(folder: Path, data: PlotData) -> None:
    """Replaces the PNG files of `folder`; equal data give equal bytes.

    Without labelled test rows there is nothing to draw predictions against.
    """
    draw: dict[PlotName, Callable[[PlotData], Figure]] = {
        "boxplot": draw_boxplot,
        "loss": draw_loss,
    }
    if (data.is_test & np.isfinite(data.y)).any():
        draw |= {"regplot": draw_regplot, "residuals": draw_residuals}
        if data.intervals is not None:
            draw["intervals"] = draw_intervals
    if data.importance:
        draw["importance"] = draw_importance
    # From the defaults, so that no matplotlibrc of a user changes a run's files.
    with context(["default", STYLE]), warnings.catch_warnings():
        # Names in scripts that the bundled font lacks show boxes; nothing a user could act on.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Earlier versions know no other word than `vert`, deprecated since matplotlib 3.11.
        warnings.filterwarnings("ignore", message="vert: bool was deprecated")
        # A column may have no value among the rows drawn.
        warnings.filterwarnings("ignore", message="Mean of empty slice|Degrees of freedom")
        for name, make_figure in draw.items():
            if name == "boxplot":
                content = _draw_once(make_figure, data)
            else:
                content = _to_png(make_figure(data))
            write_bytes(folder / f"{name}.png", content)


def _draw_once(make_figure: Callable[[PlotData], Figure], data: PlotData) -> bytes:
    """The boxes of a table, which points of a sweep share that share its z-scores."""
    columns, title = _take_columns(data)
    digest = hashlib.sha256(repr((title, [*columns])).encode())
    for column in columns.values():
        digest.update(np.ascontiguousarray(column).tobytes() + b"|")
    key = digest.digest()
    found = _boxes.find(lambda boxes: boxes[0] == key)
    return (found or _boxes.keep((key, _to_png(make_figure(data)))))[1]


def _to_png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    _fit_margins(figure)
    figure.savefig(picture, format="png", pil_kwargs={"compress_level": 3})
    return picture.getvalue()


def draw_regplot(data: PlotData) -> Figure:
    """Predicted against actual targets of the test rows, the fitted line and its 95 % band."""
    rows = _take_test_rows(data)
    figure = Figure(figsize=HALF_PAGE)
    axes = figure.subplots()
    _draw_identity(axes, rows)
    sns.regplot(
        x=rows.y_true,
        y=rows.y_pred,
        ax=axes,
        # A band of 20,000 rows is thinner than its line: more resamples would not be seen.
        n_boot=500 if len(rows.y_true) <= 2000 else 100,
        seed=data.seed,
        scatter_kws=_dots(rows),
        line_kws={"color": RED, "linewidth": 1.8, "label": "fitted line, 95 % band"},
    )
    axes.set(
        xlabel=f"Actual Values ({_shorten(data.target)})",
        ylabel=f"Predicted Values ({_shorten(data.target)})",
        title=rows.title,
    )
    axes.legend(loc="upper left")
    label_ticks(axes.xaxis, axes.yaxis)
    return figure


def draw_boxplot(data: PlotData) -> Figure:
    """Every column's z-scores as a box: features in order, then the target."""
    columns, title = _take_columns(data)
    names = [_shorten(name) for name in columns]
    upright = len(names) <= MAX_UPRIGHT_COLUMNS and sum(map(len, names)) <= MAX_UPRIGHT_LETTERS
    height = 1.0 + (0.28 if len(names) <= 40 else 0.165) * len(names)
    figure = Figure(figsize=(8.4, 4.6) if upright else (7.6, height))
    axes = figure.subplots()
    _draw_boxes(axes, list(columns.values()), upright=upright)
    _label_columns(axes, names, upright=upright)
    largest = max(float(np.abs(z).max(initial=0)) for z in columns.values())
    _show_z(axes, largest, upright=upright)
    axes.set_title(title)
    return figure


def draw_loss(data: PlotData) -> Figure:
    """Training and validation loss of each epoch, the best epoch marked."""
    history = data.history
    figure = Figure(figsize=(8.4, 3.2))
    axes = figure.subplots()
    _draw_curve(axes, history.loss, color=BLUE, label="train")
    if history.val_loss is not None:
        _draw_curve(axes, history.val_loss, color=RED, label="validation")
        _mark_best(axes, history.val_loss)
        axes.legend(loc="upper right")
    curves = [history.loss] if history.val_loss is None else [history.loss, history.val_loss]
    _scale_loss(axes, np.concatenate(curves))
    num_epochs = len(history.loss)
    margin = max(0.5, 0.02 * num_epochs)
    axes.set_xlim(1 - margin, num_epochs + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set(
        xlabel="Epoch",
        ylabel="Mean squared error, trained scale",
        title=_count(num_epochs, num_epochs, "epoch"),
    )
    return figure


def draw_residuals(data: PlotData) -> Figure:
    """Actual minus predicted targets of the test rows against the prediction, with a histogram."""
    rows = _take_test_rows(data)
    residuals = rows.y_true - rows.y_pred
    figure = Figure(figsize=HALF_PAGE)
    axes, margin = figure.subplots(
        1, 2, sharey=True, gridspec_kw={"width_ratios": (3, 1), "wspace": 0.06}
    )
    axes.axhline(0, color=RED, linewidth=1.2)
    axes.scatter(rows.y_pred, residuals, **_dots(rows))
    margin.axhline(0, color=RED, linewidth=1.2)
    margin.hist(residuals, bins=_num_bins(residuals), orientation="horizontal", color=PALE_BLUE)
    axes.set(
        xlabel=f"Predicted Values ({_shorten(data.target)})",
        ylabel="Actual minus predicted",
        title=rows.title,
    )
    label_ticks(axes.xaxis, axes.yaxis)
    margin.set_xlabel("Rows")
    margin.tick_params(left=False)
    # A zero would run into the last number of the axis beside it.
    margin.xaxis.set_major_locator(MaxNLocator(nbins=2, integer=True, prune="lower"))
    return figure


def draw_intervals(data: PlotData) -> Figure:
    """Test rows in the order of their predictions, each with its target and the band around it."""
    rows = _take_test_rows(data)
    order = np.argsort(rows.y_pred, kind="stable")
    y_true, y_pred = rows.y_true[order], rows.y_pred[order]
    figure = Figure(figsize=(8.4, 3.8))
    axes = figure.subplots()
    if data.intervals is not None:
        lower, upper = data.intervals.bounds(y_pred)
        within = (lower <= y_true) & (y_true <= upper)
        places = np.arange(1, len(order) + 1)
        label = f"{100 * data.intervals.level:g} % interval"
        axes.fill_between(places, lower, upper, color=PALE_BLUE, alpha=0.55, lw=0, label=label)
        axes.plot(places, y_pred, color=BLUE, linewidth=1.4, label="predicted")
        for rows_of, color, what in ((within, INK, "within"), (~within, RED, "outside")):
            style = _dots(rows) | {"color": color, "label": f"actual, {what}"}
            axes.scatter(places[rows_of], y_true[rows_of], **style)
        axes.set_title(f"{rows.title}, {100 * np.mean(within):.1f} % within")
    margin = max(0.5, 0.01 * len(order))
    axes.set_xlim(1 - margin, len(order) + margin)
    axes.set(xlabel="Test rows by prediction", ylabel=_shorten(data.target))
    axes.legend(loc="upper left")
    label_ticks(axes.yaxis)
    return figure


def draw_importance(data: PlotData) -> Figure:
    """What the test error gains where a column is shuffled, a bar a column."""
    shown = data.importance[:MAX_BARS]
    figure = Figure(figsize=(7.6, 1.0 + 0.28 * len(shown)))
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    axes.barh(
        range(len(shown)),
        [one.mse_increase for one in shown],
        xerr=[one.mse_increase_std for one in shown],
        color=PALE_BLUE,
        ecolor=INK,
        error_kw={"linewidth": 0.9},
        height=0.62,
    )
    axes.set_yticks(range(len(shown)), [_shorten(one.column) for one in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"Increase of the mean squared error ({_shorten(data.target)} squared)")
    label_ticks(axes.xaxis)
    title = "Each column shuffled among the test rows"
    if len(shown) < len(data.importance):
        title += f"; the {len(shown)} most important of {len(data.importance)}"
    axes.set_title(title)
    return figure


def _fit_margins(figure: Figure) -> None:
    # One measurement, where matplotlib's layout engines take several and a second drawing: of
    # the time of all plots that is a third.
    FigureCanvasAgg(figure)
    inner = Bbox.union([axes.bbox for axes in figure.axes])
    # What is drawn inside the axes is clipped to them.
    boxes = (axes.get_tightbbox(bbox_extra_artists=[]) for axes in figure.axes)
    outer = Bbox.union([box for box in boxes if box])
    outer = outer.padded(MARGIN)
    width, height = figure.bbox.size
    figure.subplots_adjust(
        left=(inner.x0 - outer.x0) / width,
        right=1 - (outer.x1 - inner.x1) / width,
        bottom=(inner.y0 - outer.y0) / height,
        top=1 - (outer.y1 - inner.y1) / height,
    )


def _take_test_rows(data: PlotData) -> _TestRows:
    labelled = np.flatnonzero(data.is_test & np.isfinite(data.y))
    rows = _sample(labelled, data.seed)
    return _TestRows(
        y_true=data.y[rows],
        y_pred=data.y_pred[rows],
        title=_count(len(rows), len(labelled), "test row"),
    )


def _take_columns(data: PlotData) -> tuple[dict[str, Array], str]:
    num_rows, num_columns = len(data.y), len(data.features) + 1
    rows = _sample(np.arange(num_rows), data.seed)
    first = min(num_columns, MAX_COLUMNS) - 1
    values = np.column_stack([data.x[rows, :first], data.y[rows]])
    picked = [*range(first), num_columns - 1]
    mean = np.nanmean(values, axis=0) if data.mean is None else data.mean[picked]
    std = np.nanstd(values, axis=0) if data.std is None else data.std[picked]
    z = (values - mean) / np.where(std > 0, std, 1)
    names = [*data.features[:first], data.target]
    title = _count(len(rows), num_rows, "row")
    if len(names) < num_columns:
        title += f"; the first {first} of {num_columns - 1} features, then the target"
    return {name: z[np.isfinite(z[:, i]), i] for i, name in enumerate(names)}, title


def _sample(rows: Array, seed: int) -> Array:
    if len(rows) <= MAX_ROWS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))


def _count(drawn: int, of: int, noun: str) -> str:
    what = counted(of, noun)
    return what if drawn == of else f"{drawn:,} of {what}, drawn at random"


def _draw_identity(axes: Axes, rows: _TestRows) -> None:
    ends = [np.min(rows.y_true), np.max(rows.y_true)] if len(rows.y_true) else [0, 0]
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label="predicted = actual")


def _draw_curve(axes: Axes, losses: Array, *, color: str, label: str) -> None:
    epochs = np.arange(1, len(losses) + 1)
    marker = "o" if len(losses) <= 30 else ""
    axes.plot(epochs, losses, color=color, label=label, linewidth=1.3, marker=marker, markersize=3)


def _mark_best(axes: Axes, val_losses: Array) -> None:
    if not np.isfinite(val_losses).any():
        return
    best = int(np.nanargmin(val_losses))
    axes.axvline(best + 1, color=GREY, linewidth=1, linestyle=":")
    label = f"best epoch, {best + 1:,}"
    axes.plot(best + 1, val_losses[best], "o", color=RED, markersize=6, label=label)


def _scale_loss(axes: Axes, losses: Array) -> None:
    losses = losses[np.isfinite(losses)]
    if not len(losses) or losses.min() <= 0 or losses.max() < 10 * losses.min():
        label_ticks(axes.yaxis)
        return
    decades = math.log10(losses.max() / losses.min())
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _label_columns(axes: Axes, names: list[str], *, upright: bool) -> None:
    axis = axes.xaxis if upright else axes.yaxis
    axis.set_ticks(range(len(names)), names, fontsize=10 if len(names) <= 40 else 7.5)
    axis.grid(visible=not upright)


def _show_z(axes: Axes, largest: float, *, upright: bool) -> None:
    axis = axes.yaxis if upright else axes.xaxis
    axis.set_label_text("z-score")
    axis.grid(visible=True)
    if largest > FAR:
        # A few far outliers would press every box flat.
        (axes.set_yscale if upright else axes.set_xscale)("symlog", linthresh=3)
        axes.autoscale_view()
        powers = [10.0**power for power in range(math.ceil(math.log10(largest)))]
        axis.set_major_locator(FixedLocator([*(-z for z in reversed(powers)), 0, *powers]))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


def _dots(rows: _TestRows) -> dict[str, Any]:
    many = len(rows.y_true) > 2000
    return {"s": 6 if many else 16, "color": BLUE, "alpha": 0.25 if many else 0.6, "linewidths": 0}


def _draw_boxes(axes: Axes, columns: list[Array], *, upright: bool) -> None:
    """Boxes as seaborn draws them, which takes three times as long for the same."""
    line = {"color": INK, "linewidth": 0.9 if upright else 0.7}
    axes.bxp(
        [boxplot_stats(column)[0] for column in columns],
        positions=range(len(columns)),
        vert=upright,
        widths=0.62,
        patch_artist=True,
        manage_ticks=False,
        showcaps=upright,
        boxprops={"facecolor": PALE_BLUE, "edgecolor": INK, "linewidth": line["linewidth"]},
        medianprops=line,
        whiskerprops=line,
        capprops=line,
        flierprops=_outliers(upright=upright),
    )
    (axes.set_xlim if upright else axes.set_ylim)(-0.5, len(columns) - 0.5)
    if not upright:
        axes.invert_yaxis()


def _outliers(*, upright: bool) -> dict[str, Any]:
    size = 3.5 if upright else 2
    return {"marker": "o", "markersize": size, "markerfacecolor": GREY, "markeredgewidth": 0}


def _num_bins(values: Array) -> int:
    return int(np.clip(2 * np.cbrt(len(values)), 5, 60))


def _shorten(name: str, width: int = 28) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
