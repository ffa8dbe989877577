"""What to look at of an evaluation: samples, what they may be copies of, and the latents of a run."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import data, images, loading
from jaxgen.evaluation import see
from jaxgen.metrics import comparison, features
from jaxgen.opening import Images, first
from jaxgen.progress import Progress, no_progress

MAX_CLASSES = 16  # that get a row of samples each
IN_A_ROW = 8  # samples of a class


class Picture(NamedTuple):
    """Something to look at.

    title, caption: in words.
    image: uint8 [H, W, 3].
    rows: names of its rows, which are equally high; empty where they have none.
    """

    title: str
    caption: str
    image: np.ndarray
    rows: tuple[str, ...] = ()


def pictures(
    fake: Images,
    backbone: features.Backbone,
    train: data.Dataset,
    *,
    seen: comparison.Seen | None = None,
    held_out: bool = False,
    cache: str | os.PathLike | None = None,
    num: int = 24,
    progress: Progress = no_progress,
) -> list[Picture]:
    """What to look at: samples; those most like copies beside what they may be copies of; and, of a run, its latents.

    Args:
      fake: what is evaluated.
      backbone: in whose features images are near to each other.
      train: the images that may have been copied.
      seen: what the network sees in `fake`, where that is known already.
      held_out: they are the reference, since nobody said which images these ones were learnt from.
      cache: as in `compare`.
      num: samples whose neighbours are shown, those that are most like a copy first.
      progress: shows it.

    Returns:
      Pictures with their titles and captions.
    """
    found = [_samples(fake)]
    of_train = see(Images(train, train.name), backbone, cache=cache, progress=progress).features
    of_fake = (see(fake, backbone, progress=progress) if seen is None else seen).features
    index, distance = comparison.nearest_neighbours(of_fake, of_train)
    # Plain images are near to many others without being copies: so beside how near the neighbour has one of its own.
    _, around = comparison.nearest_neighbours(of_train[index], of_train, but=index)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(distance > 0, distance / around, 0.0)
    chosen = np.argsort(ratio, kind="stable")[:num]
    columns = [_floats(fake.dataset.fetch(chosen)["image"])]
    barred = np.zeros((len(chosen), 0), np.int64)
    for _ in range(min(3, train.num_examples)):
        index = _nearest_but(of_fake[chosen], of_train, barred)
        barred = np.concatenate([barred, index[:, None]], axis=1)
        columns.append(_floats(train.fetch(index)["image"]))
    pairs = np.stack(columns, axis=1)
    kind = "reference" if held_out else "training"
    caption = (
        f"Of {fake.dataset.num_examples:,} images the {len(chosen)} that are nearest to a {kind} image, for how near "
        f"others of {train.name} are to that one, each with the {len(columns) - 1} nearest right of it, in features of "
        f"{backbone.name}. A copy looks like its neighbour."
    )
    if held_out:
        caption += " --train names the images that these were learnt from; then copying is measured, too."
    found.append(Picture(f"Nearest {kind} images", caption, _groups(pairs, in_a_row=2)))
    return found + (_latents(fake.run) if fake.run is not None else [])


def _samples(fake: Images) -> Picture:
    """The first images; of a class-conditional run a row for each class, if there are not too many."""
    classes = tuple(fake.dataset.class_names) if fake.run is not None else ()
    in_a_row = min(IN_A_ROW, fake.dataset.num_examples // len(classes)) if 0 < len(classes) <= MAX_CLASSES else 0
    shown = first(fake, in_a_row * len(classes) if in_a_row else 64).dataset
    samples = _floats(shown.fetch(np.arange(shown.num_examples))["image"])
    if not in_a_row:
        return Picture("Samples", f"The first {len(samples)}.", images.grid(samples, upscale=None))
    # Labels come in turns, so that the first n images of each class are the first n of all classes.
    by_class = samples.reshape(in_a_row, len(classes), *samples.shape[1:]).swapaxes(0, 1).reshape(samples.shape)
    caption = f"The first {in_a_row} of each class."
    return Picture("Samples", caption, images.grid(by_class, columns=in_a_row, upscale=None), classes)


def _groups(groups, *, in_a_row):
    """A grid of groups [N, K, H, W, C] that stand apart, as does the first image of each from its others."""
    size = groups.shape[1]
    columns = min(in_a_row * size, len(groups) * size)
    padding = 2
    picture = images.grid(groups.reshape(-1, *groups.shape[2:]), columns=columns, padding=padding, upscale=None)
    cell = (picture.shape[1] - padding) // columns
    gaps = np.select([np.arange(columns) % size == 0, np.arange(columns) % size == 1], [24, 4], 0)
    gaps[0] = 0
    return np.insert(picture, np.repeat(padding + cell * np.arange(columns), gaps), 255, axis=1)


def _nearest_but(queries, points, barred):
    """The nearest of the points to each query, those of its row of `barred` left out."""
    distances = ((queries**2).sum(1)[:, None] - 2 * queries @ points.T) + (points**2).sum(1)
    np.put_along_axis(distances, barred, np.inf, axis=1)
    return distances.argmin(axis=1)


def _latents(trained: loading.Trained) -> list[Picture]:
    """Interpolations and traversals, where images are decoded from one vector each."""
    if "decode" not in trained.can or trained.system.latents is None:
        return []
    ends = trained.latents(jax.random.key(0), 16)
    if not isinstance(ends, jax.Array) or ends.ndim != 2 or not jnp.issubdtype(ends.dtype, jnp.floating):
        return []  # maps or codes: nobody knows what lies between them
    latent_dim = ends.shape[1]
    ends = np.asarray(ends).reshape(2, 8, latent_dim)
    num_labels = trained.system.choices.get("label", 0)

    def decode(latents, label):
        latents = latents.reshape(-1, latent_dim)
        told = {"label": jnp.broadcast_to(jnp.asarray(label, jnp.int32), len(latents))} if num_labels else {}
        return np.asarray(trained.decode(latents, **told))

    paths = np.stack([slerp(ends[0], ends[1], t) for t in np.linspace(0, 1, 10)], axis=1)
    caption = "Each row goes from one latent to another on the great circle between them"
    label = np.arange(8) % max(num_labels, 1)
    rows = tuple(_class_name(trained, c) for c in label) if num_labels else ()
    caption += "; of one class each." if rows else "."
    between = images.grid(decode(paths, np.repeat(label, 10)), columns=10, upscale=None)
    found = [Picture("Interpolations", caption, between, rows)]
    # The units that change an image most, measured and not guessed.
    origin, steps = ends[0, :1], np.linspace(-2.5, 2.5, 10)
    moved = np.repeat(origin, 2 * latent_dim, axis=0).reshape(2, latent_dim, -1)
    units = np.arange(latent_dim)
    moved[0, units, units], moved[1, units, units] = -2.0, 2.0
    low, high = decode(moved, 0).reshape(2, latent_dim, -1)
    chosen = np.argsort(-np.mean((high - low) ** 2, axis=1))[:8]
    walk = np.repeat(origin, len(chosen) * 10, axis=0).reshape(len(chosen), 10, -1)
    for row, unit in enumerate(chosen):
        walk[row, :, unit] = steps
    of_class = f" of class {_class_name(trained, 0)}" if num_labels else ""
    caption = f"One latent{of_class}, in which one unit goes from -2.5 to 2.5 in each row: units "
    caption += f"{', '.join(map(str, chosen))}, which change it most."
    return [*found, Picture("Traversals", caption, images.grid(decode(walk, 0), columns=10, upscale=None))]


def _class_name(trained, label) -> str:
    return trained.class_names[label] if label < len(trained.class_names) else str(label)


def reconstructions(trained: loading.Trained, held_out: data.Dataset) -> list[Picture]:
    """Images that a run was not trained on, each beside its reconstruction; nothing where it reconstructs none."""
    if "reconstruct" not in trained.can:
        return []
    rows = np.arange(min(32, held_out.num_examples))
    batch = held_out.prepare(held_out.fetch(rows), jax.random.key(0))
    pairs = np.stack([batch["image"], trained.reconstruct(batch)], axis=1)
    caption = f"Images of {held_out.name}, each with its reconstruction right of it."
    return [Picture("Reconstructions", caption, _groups(pairs, in_a_row=4))]


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """From a (t = 0) to b (t = 1) along the great circle, as far from the origin as Gaussian latents are. [..., D]."""
    cosine = np.sum(a * b, axis=-1, keepdims=True) / (
        np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    )
    angle = np.arccos(np.clip(cosine, -1, 1))
    straight = np.sin(angle) < 1e-6
    safe = np.where(straight, 1.0, np.sin(angle))
    return np.where(straight, (1 - t) * a + t * b, (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / safe)


def _floats(image) -> np.ndarray:
    return np.asarray(data.prepare_default({"image": np.asarray(image)})["image"])
