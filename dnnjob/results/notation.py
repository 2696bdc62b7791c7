"""Numbers as a person reads them, one way on screens and pages.

format_number(4256213540.2)   # 4.256e9
format_change(7.0, 10.0)
"""

import math


def format_number(value: float | None, digits: int = 4) -> str:
    """`value` to `digits` significant digits, thousands apart; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    if decimals > 8 or decimals < -6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(decimals, 0)}f}"


def format_change(value: float, base: float) -> str:
    """What became of `base` > 0: a signed percentage, or `12 times` from a tenfold on."""
    ratio = value / base
    if ratio >= 10:
        return f"{ratio:.3g} times"
    return f"{100 * (ratio - 1):+.0f} %".replace("-", "\N{MINUS SIGN}")


def format_gain(value: float) -> str:
    """An increase with its sign."""
    text = format_number(abs(value))
    return f"\N{MINUS SIGN}{text}" if value < 0 else f"+{text}"


def format_seconds(value: float) -> str:
    """A duration as a person says it: `0.42 s`, `3 min 20 s`, `5 h 12 min`."""
    if round(value, 1) < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
