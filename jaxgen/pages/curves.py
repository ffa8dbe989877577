"""The curves of metrics: which of a run share a panel, and each panel as inline SVG."""

import collections
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

INK = "#0a0b0c"  # stands for the page's text colour, which pictures take from CSS
FRAME = "#0d0e0f"
MAX_PANELS = 60
MAX_CURVES = 8
RAW_BINS = 150  # two points a bin; a panel is some 400 pixels wide
SMOOTH_POINTS = 150
SMOOTH_FROM = 100  # fewer points than this are drawn as they are
SPREADS = ("_std", "_standard_error")  # how the names of error bars end

# Mid tones that read on white and on near-black; the first two differ for every kind of colour vision.
COLOURS = ("#2f80ed", "#e8710a", "#1a9c6b", "#b455d6", "#d6336c", "#8a8f00", "#0f9fb5", "#8c6d5a")


def panels(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Sorts metrics into panels of related curves.

    The first rule that applies: the same last part in several groups (generator/loss and discriminator/loss); real_ and
    fake_ of one thing; names that differ only in digits. Everything else gets its own panel. A spread (eval/fid_std
    beside eval/fid) gets none: it is drawn as the error bar of what it belongs to.

    Args:
      names: metric names.

    Returns:
      (section, names) pairs. The section is the first part of the names ("training" for names without parts), or the
      parts joined when they differ, or "other" for a part that has one panel only. In this order: eval, mixed, by their
      first metric, other.
    """
    names = [name for name in names if not (is_spread(name) and name.removesuffix("_std") in names)]
    groups: dict[str, set[str]] = {}
    for name in names:
        group, slash, _ = name.partition("/")
        groups.setdefault(name.split("/")[-1], set()).add(group if slash else "")
    found: dict[tuple, list[str]] = {}
    for name in names:
        first, slash, rest = name.partition("/")
        last = name.split("/")[-1]
        if len(groups[last]) > 1:
            key = ("", last)
        elif re.match(r"(real|fake)_", last):
            key = (first, re.sub(r"(real|fake)_", "±_", last))
        else:
            key = (first, re.sub(r"\d+", "#", rest) if slash else "")
        found.setdefault(key, []).append(name)
    result = []
    for members in found.values():
        sections = dict.fromkeys(name.partition("/")[0] if "/" in name else "training" for name in members)
        for start in range(0, len(members), MAX_CURVES):
            result.append((" and ".join(sections), members[start : start + MAX_CURVES]))
    count = collections.Counter(section for section, _ in result)
    result = [
        (section if count[section] > 1 or section == "eval" or " and " in section else "other", members)
        for section, members in result
    ]
    order = {section: index for index, section in enumerate(dict.fromkeys(section for section, _ in result))}
    return sorted(
        result, key=lambda item: (item[0] == "other", item[0] != "eval", " and " not in item[0], order[item[0]])
    )


def is_spread(name: str) -> bool:
    """Whether a metric is the error bar of another one."""
    return name.startswith("eval/") and name.endswith(SPREADS)


class Curve(NamedTuple):
    """A line of a panel.

    label: in the legend.
    steps, values: [n] int64 and float64, in the order of the log.
    spread: (steps, radii) of error bars, or None.
    is_evaluation: measured now and then: drawn with a dot for each value, and not smoothed.
    """

    label: str
    steps: np.ndarray
    values: np.ndarray
    spread: tuple[np.ndarray, np.ndarray] | None = None
    is_evaluation: bool = False


class Panel(NamedTuple):
    """A drawn panel.

    label: what it shows, in words.
    legend: (colour, label, last value) of each curve.
    is_log: whether its axis of values is logarithmic.
    svg: the drawing; None where no value is finite.
    """

    label: str
    legend: list[tuple[str, str, float]]
    is_log: bool
    svg: Markup | None


def curve(series: Mapping[str, tuple[np.ndarray, np.ndarray]], name: str, label: str | None = None) -> Curve:
    """The curve of a metric, with its error bars where they were logged; `series` is name -> (steps, values)."""
    spread = next((series[name + ending] for ending in SPREADS if name + ending in series), None)
    return Curve(name if label is None else label, *series[name], spread, name.startswith("eval/"))


def sections(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[list[tuple[str, list[Panel]]], int]:
    """All curves of a run as (title, panels) of each section, and how many panels were too many to be drawn."""
    arranged = panels(list(series))
    span = extent(series.values())
    found: list[tuple[str, list[Panel]]] = []
    previous = None
    for index, (section, names) in enumerate(arranged[:MAX_PANELS]):
        if section != previous:
            found.append((_title(section, previous), []))
            previous = section
        found[-1][1].append(panel(f"p{index}", ", ".join(names), [curve(series, name) for name in names], span))
    return found, max(len(arranged) - MAX_PANELS, 0)


def extent(series: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[int, int]:
    """The first and the last step of all (steps, values); from 0 on."""
    first_last = [(int(steps.min()), int(steps.max())) for steps, _ in series]
    return min([0, *(first for first, _ in first_last)]), max([0, *(last for _, last in first_last)])


def _title(section: str, previous: str | None) -> str:
    if section == "eval":
        return "Evaluation"
    if section == "other" and previous in (None, "eval"):
        return "Training"
    title = re.sub(r"\beval\b", "evaluation", section)
    return (title[:1].upper() + title[1:]).replace("_", " ")


def panel(prefix: str, label: str, curves: Sequence[Curve | None], span: tuple[int, int]) -> Panel:
    """Draws curves into one panel.

    Args:
      prefix: of the drawing's identifiers, which must be unique in a page.
      label: what the panel shows.
      curves: at most MAX_CURVES, each in the colour of its place; None leaves a place empty.
      span: the first and the last step that are shown.
    """
    placed = [(colour, one) for colour, one in zip(COLOURS, curves, strict=False) if one is not None]
    legend = [(colour, one.label, float(one.values[-1])) for colour, one in placed]
    placed = [(colour, one._replace(values=_within_float32(one.values))) for colour, one in placed]
    finite = np.concatenate([one.values[np.isfinite(one.values)] for _, one in placed])
    is_log = _is_log(label.split(", "), finite)
    return Panel(label, legend, is_log, _svg(prefix, placed, finite, span, is_log) if len(finite) else None)


def _within_float32(values: np.ndarray) -> np.ndarray:
    """Keeps magnitudes that metrics of a float32 run cannot have out of Matplotlib, whose axes overflow on them."""
    clipped = np.clip(values, -1e38, 1e38)
    return np.where(np.isfinite(values), np.where(np.abs(clipped) < 1e-38, 0.0, clipped), values)


def _is_log(names: Sequence[str], finite: np.ndarray) -> bool:
    """Whether a logarithmic axis reads better: positive values over orders of magnitude, norms a little earlier."""
    if not len(finite) or finite.min() <= 0:
        return False
    ratio = finite.max() / finite.min()
    return ratio > (30 if all("norm" in name for name in names) else 1000)


def _svg(prefix: str, placed: Sequence[tuple[str, Curve]], finite: np.ndarray, span, is_log: bool) -> Markup:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    with drawing():
        figure = Figure(figsize=(4.9, 2.4), facecolor="none")
        axes = figure.add_axes((0.125, 0.125, 0.855, 0.84), facecolor="none")
        for colour, one in placed:
            _draw(axes, one, colour)
        width = max(span[1] - span[0], 1)
        axes.set_xlim(span[0] - 0.01 * width, span[1] + 0.02 * width)
        if is_log:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
            low, high = axes.get_ylim()
            if high / low < 30:  # a single power of ten in sight would leave a single label
                axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: _tick(value)))
        else:
            size = float(np.abs(finite).max()) or 1.0
            if float(finite.max()) - float(finite.min()) <= 1e-6 * size:  # constant but for rounding: no zoom into it
                axes.set_ylim(finite[0] - 0.1 * size, finite[0] + 0.1 * size)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _step_tick(value)))
        axes.grid(True, which="major", color=FRAME, linewidth=0.6)
        axes.tick_params(which="both", length=0, labelsize=9.5, labelcolor=INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(FRAME)
        return inline(figure, prefix)


def _draw(axes, one: Curve, colour: str) -> None:
    steps, values = _last_of_each_step(one.steps, one.values)
    kept = np.isfinite(values)
    if one.is_evaluation or kept.sum() == 1:
        axes.plot(steps[kept], values[kept], color=colour, linewidth=1.2, marker="o", markersize=4.0)
        if one.is_evaluation and one.spread is not None:
            radius = dict(zip(*_last_of_each_step(*one.spread), strict=True))
            radii = np.nan_to_num([radius.get(step, 0.0) for step in steps[kept]], posinf=0.0, neginf=0.0)
            axes.errorbar(steps[kept], values[kept], np.abs(radii), color=colour, linestyle="", capsize=2)
    elif len(values) < SMOOTH_FROM:
        axes.plot(steps, values, color=colour, linewidth=1.4, marker="o" if len(values) < 25 else "", ms=3)
    else:
        axes.plot(*_thinned(steps, values), color=colour, linewidth=0.7, alpha=0.3, zorder=2)
        axes.plot(*_smoothed(steps, values), color=colour, linewidth=1.7, zorder=3)


def drawing() -> AbstractContextManager:
    """Settings of Matplotlib under which `inline` works: letters stay letters, and a drawing is the same every time."""
    from matplotlib import rc_context

    return rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxgen", "path.simplify_threshold": 0.3})


def inline(figure: Any, prefix: str) -> Markup:
    """A figure of Matplotlib as SVG for the middle of a page, in the page's colours; within `drawing`.

    What is INK or black takes the colour of the text around it, what is FRAME that of the page's lines. `prefix` makes
    its identifiers unique. No pyplot: it would keep figures, choose a GUI backend and disturb the notebook that calls.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Inside HTML the namespaces are known, and a page without addresses is one that cannot load anything.
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # the style sheet decides
    # Identifiers are unique in a figure, not in a page of figures.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = svg.replace(INK, "currentColor").replace("#000000", "currentColor").replace(FRAME, "var(--line)")
    return Markup(svg)  # Matplotlib escapes the words in it


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _step_tick(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _last_of_each_step(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps in order and one value a step, the one written last."""
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    last = np.append(steps[1:] != steps[:-1], True)
    return steps[last], values[last]


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest value of each of RAW_BINS stretches, so that no spike is lost; NaN stays a gap."""
    if len(values) <= 2 * RAW_BINS:
        return steps, values
    chosen = []
    for indices in np.array_split(np.arange(len(values)), RAW_BINS):
        finite = indices[np.isfinite(values[indices])]
        if len(finite):
            chosen.extend(sorted((finite[np.argmin(values[finite])], finite[np.argmax(values[finite])])))
        else:
            chosen.append(indices[0])
    kept = np.unique(chosen)
    return steps[kept], values[kept]


def _smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A centred moving mean of the finite values over 1/40 of the curve; NaN where the window holds none."""
    half = max(1, len(values) // 80)
    at = np.unique(np.linspace(0, len(values) - 1, min(SMOOTH_POINTS, len(values))).round().astype(int))
    # Window by window: differences of one cumulative sum would lose every digit after a single spike of 1e30.
    windows = (values[max(index - half, 0) : index + half + 1] for index in at)
    finite = (window[np.isfinite(window)] for window in windows)
    return steps[at], np.array([window.mean() if len(window) else np.nan for window in finite])
