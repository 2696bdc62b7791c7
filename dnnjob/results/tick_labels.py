"""What stands at the ticks of a picture's axes.

label_ticks(axes.xaxis, axes.yaxis)
format_tick(1_000_000.25, ticks)     # "1,000,000.25"
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axis import Axis, XAxis
from matplotlib.ticker import Formatter, MaxNLocator

Array = npt.NDArray[Any]


class _TickFormatter(Formatter):
    """Ticks that say all of their value: no power of ten or offset floats in a corner."""

    def format_ticks(self, values: Any) -> list[str]:
        """The labels of an axis's ticks."""
        return [format_tick(value, np.asarray(values)) for value in values]

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of one place on the axis."""
        del pos
        return f"{x:g}"


def format_tick(value: float, ticks: Array) -> str:
    """A tick with as many digits as tell it from its neighbours: `2.5e6`, `1,000,000.25`."""
    steps = np.diff(np.unique(ticks))
    if value == 0 or not len(steps) or not np.isfinite(value):
        return f"{value:g}"
    # Ticks that should be zero are off by a rounding error.
    if abs(value) < 1e-6 * steps.min():
        return "0"
    # Steps of 2.5 and 0.25 have two digits of their own.
    digits = 2 + max(0, math.ceil(math.log10(abs(value) / steps.min()) - 1e-9))
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    size = int(exponent)
    if -4 <= size < 6 or (size >= 6 and digits > size + 2):
        text = f"{value:,.{max(0, digits - 1 - size)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{size}"


def label_ticks(*axes: Axis) -> None:
    """Has the ticks of axes say all of their values, and not be too many beside each other."""
    for axis in axes:
        # Long labels beside each other need room.
        axis.set_major_locator(MaxNLocator(nbins=6 if isinstance(axis, XAxis) else 9))
        axis.set_major_formatter(_TickFormatter())
