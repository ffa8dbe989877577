"""What to look at of a run's codes: traversals, what each latent says of each factor, reconstructions."""

import jax
import numpy as np

from jaxgen import images, loading, traversal
from jaxgen.evaluation.pictures import Picture, reconstructions
from jaxgen.evaluation.representation import Represented

MOST_UNITS = 10  # rows of traversals
MOST_CELLS = 40  # latents of a table


def pictures(trained: loading.Trained, found: Represented) -> list[Picture]:
    """Traversals of the first test image, tables of factors where there are any, and reconstructions.

    Args:
      trained: the run.
      found: its numbers.
    """
    shown = []
    if "decode" in trained.can and found.is_flat:
        shown.append(_traversals(trained, found))
    if found.tables:
        shown.append(_tables(found))
    return shown + reconstructions(trained, found.test)


def _traversals(trained, found) -> Picture:
    units = found.units[:MOST_UNITS]
    batch = found.test.prepare(found.test.fetch(np.arange(1)), jax.random.key(0))
    drawn = traversal.table(trained, batch, units)
    caption = (
        f"An image of {found.test.name}, what is decoded of its code, and below it one latent from "
        f"-{traversal.REACH:g} to {traversal.REACH:g} in each row, the others as they are: units "
        f"{', '.join(map(str, units))}, those first whose codes vary most over images."
    )
    return Picture("Traversals", caption, images.grid(drawn, columns=traversal.STEPS, upscale=None))


def _tables(found) -> Picture:
    """Dark where a latent says much of a factor, on a scale from 0 to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    units = found.units[:MOST_CELLS]
    size = (3.2 * len(found.tables), 1.0 + 0.28 * len(units))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (title, table) in zip(
        np.ravel(figure.subplots(1, len(found.tables), squeeze=False)), found.tables.items(), strict=True
    ):
        axes.imshow(table[units], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(found.names)), found.names, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(units)), [f"unit {unit}" for unit in units], fontsize=8)
        axes.set_title(title, fontsize=9)
    canvas.draw()
    caption = (
        "What each latent says of each factor, dark where it says all: one dark cell in each column, and no two in one "
        "row, is a latent for each factor."
    )
    return Picture("Latents and factors", caption, np.asarray(canvas.buffer_rgba())[..., :3].copy())
