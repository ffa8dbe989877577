"""What a sweep found, to look at: scores against rates, samples of each network, and a page of all."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxgen import files, images, pages
from jaxgen.pages import curves
from jaxgen.pages.pictures import Picture
from jaxgen.stability import sweep, sweep_report
from jaxgen.stability.atlas.record import INK, LINES, SOFT, UNSTABLE, finish, new_figure

STYLES = ("-", "--", ":", "-.")  # of lines: as many combinations of settings as these times colours can be told apart


def scores_figure(result: sweep.Result, scale: sweep_report.Scale, size: tuple[float, float] = (7.5, 4.2)) -> Any:
    """Scores against the rate, a line for each combination of the other settings; None where no rate was varied.

    Dots are members, lines the medians over seeds, crosses failures; at the lower edge those that are not finite. The
    size is in inches.
    """
    names = sweep_report.varied(result)
    rate = next((name for name in sweep_report.RATES if name in names), None)
    if rate is None or "final_score" not in result.table:
        return None
    others = [name for name in names if name != rate]
    rows = sweep.over_seeds(result.table, names, failed_below=scale.failed_below)
    columns = sorted({tuple(row[name] for name in others) for row in rows})
    figure, ((axes,),) = new_figure(*size)
    score = scale.of(np.where(result.table["finite"], result.table["final_score"], np.nan))
    failed = sweep.failures(result.table, scale.failed_below)
    floor = np.nanmin(score) if np.isfinite(score).any() else 0.0
    are_told_apart = len(columns) <= len(STYLES) * len(LINES)
    for index, column in enumerate(columns):
        colour = LINES[index % len(LINES)]
        chosen = np.all([result.settings[name] == value for name, value in zip(others, column, strict=True)], axis=0)
        chosen = np.broadcast_to(chosen, score.shape)
        x, y, bad = result.settings[rate][chosen], np.nan_to_num(score[chosen], nan=floor), failed[chosen]
        axes.scatter(x[~bad], y[~bad], s=14, color=colour)
        axes.scatter(x[bad], y[bad], s=30, color=colour, marker="x")
        line = sorted((r[rate], scale.of(r["median"])) for r in rows if tuple(r[n] for n in others) == column)
        if are_told_apart:
            style, label = STYLES[index // len(LINES)], sweep_report.label(others, column)
            axes.plot(*zip(*line, strict=True), color=colour, linestyle=style, label=label)
    if scale.failed_below is not None:
        axes.axhline(scale.of(scale.failed_below), color=UNSTABLE, linewidth=1, linestyle="--", label="fails below")
    if scale.is_quality:
        axes.axhline(100, color=SOFT, linewidth=1, label="real images")
        axes.set_ylabel("quality, %")
    else:
        axes.set_ylabel("final score")
    axes.set_xscale("log")
    axes.set_xlabel(rate.replace("_", " "))
    if axes.get_legend_handles_labels()[0]:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(columns) > len(LINES) else {}
        axes.legend(fontsize=6 if beside else 8, **beside)
    lines = "lines: medians, " if are_told_apart else ""
    axes.set_title(f"{len(score)} networks after {result.steps[-1]:,} steps; {lines}x: failed", color=INK)
    finish(figure)
    rates = np.unique(result.settings[rate])
    if len(rates) <= 8:
        axes.set_xticks(rates, [f"{value:g}" for value in rates])
        axes.set_xticks([], minor=True)
    return figure


def samples_figure(drawn: np.ndarray, real: np.ndarray | None, result: sweep.Result, scale: sweep_report.Scale) -> Any:
    """A row of samples for each member with its settings and score beside it, and one of real images above them.

    Args:
      drawn: [N, K, H, W, C] in [-1, 1].
      real: [K, H, W, C], or None.
      result: of the sweep.
      scale: of its scores.
    """
    labels = ["\n".join(words) for words in _of_members(result, scale)]
    rows = drawn if real is None else np.concatenate([real[None], drawn])
    labels = labels if real is None else ["real images", *labels]
    picture = images.grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1], upscale=None)
    height, width = picture.shape[:2]
    beside = 0.2 + 0.062 * max(
        len(line) for label in labels for line in label.split("\n")
    )  # inches for labels of size 7
    size = beside + width / 100, height / 100
    figure, ((axes,),) = new_figure(*size)
    figure.set_layout_engine("none")
    axes.set_position((beside / size[0], 0, width / 100 / size[0], 1))
    axes.imshow(picture, interpolation="nearest")
    each = height / len(labels)
    axes.set_yticks([each * (row + 0.5) for row in range(len(labels))], labels)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7)
    return figure


def _of_members(result: sweep.Result, scale: sweep_report.Scale) -> list[tuple[str, str]]:
    """(settings, score and whether it failed) of each member, in words."""
    names = [*sweep_report.varied(result), *(["seed"] if len(np.unique(result.settings["seed"])) > 1 else [])]
    failed = sweep.failures(result.table, scale.failed_below)
    found = []
    for member in range(len(failed)):
        setting = ", ".join(f"{name} {result.settings[name][member]:g}" for name in names)
        score = scale.text(float(result.table["final_score"][member])) if "final_score" in result.table else ""
        found.append((setting, f"{score}{', failed' if failed[member] else ''}"))
    return found


def write(
    path: Path,
    name: str,
    result: sweep.Result,
    scale: sweep_report.Scale,
    *,
    drawn: np.ndarray | None = None,
    real: np.ndarray | None = None,
    origin: str = "",
) -> Path:
    """One HTML file with what a sweep found: scores as curves and as a table, the largest rates, samples.

    Args:
      path: the page.
      name: of the sweep.
      result: of `sweep.run`.
      scale: of its scores.
      drawn, real: as in `samples_figure`; None for what draws no images.
      origin: where its settings come from, in a sentence.

    Raises:
      OSError: with the path and what to do, if it cannot be written.
    """
    figure = scores_figure(result, scale, (5.4, 3.6))
    grid = sweep_report.scores(result, scale)
    samples = []
    if drawn is not None:
        samples = [] if real is None else [(("real images", ""), _strip(real))]
        samples += list(zip(_of_members(result, scale), map(_strip, drawn), strict=True))
    rates = sweep_report.largest_rates(result, scale)
    page = pages.render(
        "sweep",
        title=f"Sweep of {name}",
        overview=sweep_report.overview(result),
        origin=origin,
        scores=None if figure is None else _inline(figure),
        grid=grid,
        ranking=sweep_report.ranking(result, scale) if grid is None else [],
        rates=[(line.startswith("  "), line.strip()) for line in rates],
        samples=samples,
    )
    files.write_atomically(path, page)
    return path


def _strip(row: np.ndarray) -> Picture:
    """Images [K, H, W, C] beside each other."""
    return Picture.of(images.png_bytes(images.grid(row, columns=len(row))))


def _inline(figure):
    """The figure in the colours of the page."""
    figure.patch.set_facecolor("none")
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.set_title("")  # the page says that
        if axes.get_legend() is not None:
            axes.get_legend().get_frame().set_facecolor("none")
    with curves.drawing():
        return curves.inline(figure, "scores")
