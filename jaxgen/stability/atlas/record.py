"""What a plate of the atlas is: numbers, claims that were checked, and a figure."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STABLE, UNSTABLE, INK, SOFT = "#2166ac", "#b2182b", "#1d2126", "#8a9099"
LINES = ("#2f80ed", "#e8710a", "#1a9c6b", "#b455d6", "#d6336c", "#8a8f00", "#0f9fb5", "#8c6d5a")
LAW_COLOURS = {"decay": "#2166ac", "cycle": "#92c5de", "square-root growth": "#f4a582", "exponential": "#b2182b"}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence with its numbers, and whether it held. None: a measurement, of which theory says nothing."""

    text: str
    agrees: bool | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """A plate.

    name, title, question: of the plate.
    theory: paragraphs of what is known, with its source.
    claims: what was computed, as sentences.
    cells, disagreeing: how many comparisons of theory with simulation were made, and how many failed.
    numbers: everything behind the figure.
    figure: of Matplotlib; None for a plate that was read.
    """

    name: str
    title: str
    question: str
    theory: Sequence[str]
    claims: Sequence[Claim]
    cells: int
    disagreeing: int
    numbers: dict[str, Any]
    figure: Any


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **arguments: Any) -> tuple[Any, Any]:
    """(figure, axes [rows, columns]) outside of pyplot, which would keep figures and may open windows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **arguments)
    for one in axes.ravel():
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
        one.title.set_fontsize(10)
        one.xaxis.label.set_fontsize(9)
        one.yaxis.label.set_fontsize(9)
    return figure, axes


def near_boundary(classes: np.ndarray) -> np.ndarray:
    """Cells of a map with another class among their eight neighbours: a band around every boundary, one cell wide."""
    padded = np.pad(classes, 1, mode="edge")
    rows, columns = classes.shape
    near = np.zeros(classes.shape, bool)
    for i in range(3):
        for j in range(3):
            near |= padded[i : i + rows, j : j + columns] != classes
    return near


def edges(centres: np.ndarray) -> np.ndarray:
    """Edges of cells around logarithmic centres."""
    logs = np.log(centres)
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middle[0]], middle, [2 * logs[-1] - middle[-1]]]))


def finish(figure: Any) -> None:
    """Logarithmic axes with labels at powers of ten, or at round numbers where fewer than two of those are in sight."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            if axis.get_scale() != "log":
                continue
            low, high = sorted(limits)
            if np.floor(np.log10(high)) - np.ceil(np.log10(low)) < 1:
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def folder(run: Mapping | None, name: str) -> dict[str, Any]:
    """Arguments of `sweep.run`, with a folder of its own for one of the sweeps of a plate."""
    run = dict(run or {})
    if run.get("directory") is not None:
        run["directory"] = Path(run["directory"]) / name
    return run
