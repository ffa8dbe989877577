"""Numbers, durations and names as pages write them."""

import math
import re

from markupsafe import Markup, escape


def breakable(name: object) -> Markup:
    """A dotted or slashed name as HTML that may break after these signs, and not in the middle of a word."""
    return Markup(re.sub(r"(?<=\w)([./_]+)(?=\w)", r"\1<wbr>", str(escape(name))))


def number(value: float) -> str:
    """With four digits, or as a whole number."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", "−")
    return (f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}").replace("-", "−")


def marked(value: float) -> Markup:
    """A number as HTML, marked when it is not finite."""
    return Markup("{}" if math.isfinite(value) else '<b class="bad">{}</b>').format(number(value))


def duration(seconds: float) -> str:
    """Its two largest units: "1 d 2 h", "3 h 20 min", "3 min 0 s", "40 s"."""
    seconds = int(seconds)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def formula(text: str) -> Markup:
    """Text as HTML in which eta_G, s^2 and the like look as they should."""
    found = str(escape(text))
    for name, letter in (("gamma", "γ"), ("eta", "η"), ("theta", "θ"), ("psi", "ψ"), ("beta", "β")):
        found = re.sub(rf"\b{name}(?=_[A-Z]|\b)", letter, found)
    found = re.sub(r"_([A-Z0-9t]|\(i\))(?![a-z])", r"<sub>\1</sub>", found)
    return Markup(re.sub(r"\^(\d)", r"<sup>\1</sup>", found))
