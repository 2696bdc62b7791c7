"""Numbers as a person reads them, one way on screens and pages.

format_number(4256213540.2)            # 4.256e9
say_against(7.0, 10.0)                 # 30 % better
"""

import math

# Beyond these a number has an exponent: so none takes more than nine letters.
LEAST_FIXED, MOST_FIXED = 1e-4, 1e6


def format_number(value: float | None, digits: int = 4) -> str:
    """`value` to `digits` significant digits, thousands apart; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.{digits - 1}e}")
    if not LEAST_FIXED <= abs(rounded) < MOST_FIXED:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:,.{max(decimals, 0)}f}"


def format_share(value: float) -> str:
    """A share as a percentage: `0.034` is `3.4 %`."""
    return f"{format_number(100 * value, 3)} %"


def format_change(value: float, base: float) -> str:
    """What became of `base` > 0: a signed percentage, or `12 times` from a tenfold on."""
    ratio = value / base
    if ratio >= 10:
        return _count_times(ratio)
    return f"{100 * (ratio - 1):+.0f} %".replace("-", "\N{MINUS SIGN}")


def say_against(error: float, other: float) -> str:
    """How an error compares with another > 0: `30 % better`, `12 times worse` or `equal`."""
    amount, relation = split_against(error, other)
    return f"{amount} {relation}".removesuffix(" than").removesuffix(" to")


def split_against(error: float, other: float) -> tuple[str, str]:
    """The same before the other's name: `30 %`, `better than`; `equal`, `to`."""
    ratio = error / other
    relation = "worse than" if ratio > 1 else "better than"
    if ratio >= 10 or 0 < ratio <= 0.1:
        return _count_times(max(ratio, 1 / ratio)), relation
    percent = f"{abs(100 * (ratio - 1)):.0f}"
    return ("equal", "to") if percent == "0" else (f"{percent} %", relation)


def _count_times(ratio: float) -> str:
    return f"{ratio:.3g} times" if ratio < 999.5 else f"{format_number(ratio, 3)} times"


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
