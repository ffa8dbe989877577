"""The curves of a run's metrics: which share a panel, and each panel as inline SVG."""

import collections
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxgen import report_page as page

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
      (section, names) pairs. The section is the first part of the names, or the parts joined when they differ, or
      "other" for a part that has one panel only. In this order: eval, mixed, by their first metric, other.
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
        sections = dict.fromkeys(name.partition("/")[0] for name in members)
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


def sections(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """The HTML of all curves, a section for each group of panels; name -> (steps, values)."""
    if not series:
        return '<section><h2>Curves</h2><p class="hint">No metrics were logged yet.</p></section>'
    arranged = panels(list(series))
    last_step = max(int(steps.max()) for steps, _ in series.values())
    first_step = min(0, min(int(steps.min()) for steps, _ in series.values()))
    parts, section = [], None
    for index, (title, names) in enumerate(arranged[:MAX_PANELS]):
        if title != section:
            parts.append(
                ("</div></section>" if section else "") + f"<section><h2>{page.text(_title(title, section))}</h2>"
            )
            parts.append('<div class="panels">')
            section = title
        parts.append(_panel(index, names, series, first_step, last_step))
    parts.append("</div></section>")
    if len(arranged) > MAX_PANELS:
        left = len(arranged) - MAX_PANELS
        parts.append(f'<p class="hint">{left} more panels were not drawn; their numbers are under All metrics.</p>')
    return "".join(parts)


def _title(section: str, previous: str | None) -> str:
    if section == "eval":
        return "Evaluation"
    if section == "other" and previous in (None, "eval"):
        return "Training"
    return (section[:1].upper() + section[1:]).replace("_", " ")


def _panel(index: int, names: Sequence[str], series: Mapping, first_step: int, last_step: int) -> str:
    curves = [
        (
            series[name][0],
            _within_float32(series[name][1]),
            COLOURS[i % len(COLOURS)],
            name.startswith("eval/"),
            next((series[name + ending] for ending in SPREADS if name + ending in series), None),
        )
        for i, name in enumerate(names)
    ]
    finite = np.concatenate([values[np.isfinite(values)] for _, values, *_ in curves])
    is_log = _is_log(names, finite)
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{page.name(name)} <b>{page.value(series[name][1][-1])}</b></span>'
        for name, colour in zip(names, COLOURS, strict=False)
    )
    drawing = '<p class="hint">no finite value</p>'
    if len(finite):
        drawing = _svg(index, curves, first_step, last_step, is_log)
    scale = " <em>log scale</em>" if is_log else ""
    label = page.text(", ".join(names))
    return (
        f'<figure class="panel"><figcaption>{legend}{scale}</figcaption>'
        f'<div role="img" aria-label="{label}">{drawing}</div></figure>'
    )


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


def _svg(index: int, curves: Sequence[tuple], first_step: int, last_step: int, is_log: bool) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    # No pyplot: it would keep figures, choose a GUI backend and disturb the notebook that calls this.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxgen", "path.simplify_threshold": 0.3}):
        figure = Figure(figsize=(4.9, 2.4), facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.125, 0.125, 0.855, 0.84), facecolor="none")
        for steps, values, colour, is_evaluation, spread in curves:
            steps, values = _last_of_each_step(steps, values)
            kept = np.isfinite(values)
            if is_evaluation or kept.sum() == 1:
                axes.plot(steps[kept], values[kept], color=colour, linewidth=1.2, marker="o", markersize=4.0)
                if is_evaluation and spread is not None:
                    radius = dict(zip(*_last_of_each_step(*spread), strict=True))
                    radii = np.nan_to_num([radius.get(step, 0.0) for step in steps[kept]], posinf=0.0, neginf=0.0)
                    axes.errorbar(steps[kept], values[kept], np.abs(radii), color=colour, linestyle="", capsize=2)
            elif len(values) < SMOOTH_FROM:
                axes.plot(steps, values, color=colour, linewidth=1.4, marker="o" if len(values) < 25 else "", ms=3)
            else:
                axes.plot(*_thinned(steps, values), color=colour, linewidth=0.7, alpha=0.3, zorder=2)
                axes.plot(*_smoothed(steps, values), color=colour, linewidth=1.7, zorder=3)
        span = max(last_step - first_step, 1)
        axes.set_xlim(first_step - 0.01 * span, last_step + 0.02 * span)
        if is_log:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
            low, high = axes.get_ylim()
            if high / low < 30:  # a single power of ten in sight would leave a single label
                axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: _tick(value)))
        else:
            finite = np.concatenate([values[np.isfinite(values)] for _, values, *_ in curves])
            size = float(np.abs(finite).max()) or 1.0
            if float(finite.max()) - float(finite.min()) <= 1e-6 * size:  # constant but for rounding: no zoom into it
                axes.set_ylim(finite[0] - 0.1 * size, finite[0] + 0.1 * size)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _step_tick(value)))
        axes.grid(True, which="major", color=page.FRAME, linewidth=0.6)
        axes.tick_params(which="both", length=0, labelsize=9.5, labelcolor=page.INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(page.FRAME)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Inside HTML the namespaces are known, and a page without addresses is one that cannot load anything.
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # the style sheet decides
    # Identifiers are unique in a figure, not in a page of figures.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>p{index}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return svg.replace(page.INK, "currentColor").replace(page.FRAME, "var(--line)")


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
