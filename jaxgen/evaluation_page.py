"""An evaluation on one page: numbers with how to read them, what images look like, and what they may be copies of."""

import base64
import html
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import data, files, images, loading
from jaxgen.console import Progress, no_progress
from jaxgen.evaluation import see
from jaxgen.metrics import comparison, features
from jaxgen.opening import Images, first

Picture = tuple[str, str, np.ndarray]
"""(title, caption, uint8 [H, W, 3])."""

MAX_CLASSES = 16  # that get a column of samples each


# Pictures -------------------------------------------------------------------------------------------------------------


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
    found.append((f"Nearest {kind} images", caption, _groups(pairs, in_a_row=2)))
    return found + (_latents(fake.run) if fake.run is not None else [])


def _samples(fake: Images) -> Picture:
    """The first images; of a class-conditional run a column for each class, if there are not too many."""
    classes = fake.dataset.class_names if fake.run is not None else ()
    columns = len(classes) if 0 < len(classes) <= MAX_CLASSES else None
    shown = first(fake, 64 // columns * columns if columns else 64).dataset
    caption = f"The first {shown.num_examples}."
    if columns:
        caption += f" Columns are classes: {', '.join(classes)}."
    samples = _floats(shown.fetch(np.arange(shown.num_examples))["image"])
    return "Samples", caption, images.grid(samples, columns=columns, upscale=None)


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
    if num_labels:
        caption += f"; of one class each: {', '.join(_class_name(trained, c) for c in label)}"
    between = images.grid(decode(paths, np.repeat(label, 10)), columns=10, upscale=None)
    found = [("Interpolations", f"{caption}.", between)]
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
    return [*found, ("Traversals", caption, images.grid(decode(walk, 0), columns=10, upscale=None))]


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
    return [("Reconstructions", caption, _groups(pairs, in_a_row=4))]


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


# Words ----------------------------------------------------------------------------------------------------------------

MEANINGS = {
    "fid": "distance between the features' means and covariances: 0 at best. Comparable under one protocol only",
    "fid_standard_error": "of the FID, had the generator drawn other images. Two generators differ by more than chance "
    "where their FIDs do by more than twice the root of both squared errors added up",
    "fid_of_equal_sets": "about what two sets of these sizes have that come from the reference's own distribution",
    "fid_of_train": "of as many training images: what a generator that learnt their distribution perfectly has. Where "
    "it is far above that of equal sets, training images and reference are not of one kind",
    "fid_floor": "the FID between two random halves of the reference: fewer images have a larger one",
    "kid": "like the FID, but 0 in the mean for no difference with any number of images, and so sometimes negative",
    "kid_standard_error": "of the KID, had the generator drawn other images: use as that of the FID",
    "kid_of_equal_sets": "how far from 0 two sets of these sizes from one distribution typically are",
    "kid_of_train": "of as many training images",
    "kid_standard_deviation": "between subsets, as is usual to report; no error of the KID",
    "precision": "share of the images that lie among the real ones: quality, more is better; copies of real images "
    "have a high one, too",
    "precision_of_equal_sets": "about what sets from the reference's own distribution have",
    "precision_of_train": "of as many training images",
    "recall": "share of the real images that lie among these: variety, more is better; too few images raise it, clumps "
    "of near copies lower it",
    "recall_of_equal_sets": "about what sets from the reference's own distribution have",
    "recall_of_train": "of as many training images",
    "density": "how densely real images surround these: about 1 for equal sets, and not better above it",
    "density_of_train": "of as many training images",
    "coverage": "share of the real images that have one of these near by: quality and variety, more is better",
    "coverage_of_equal_sets": "what sets from the reference's own distribution have",
    "coverage_of_train": "of as many training images",
    "inception_score": "sure and varied classes: more is better, up to the number of classes",
    "inception_score_of_real": "the same of the real images",
    "inception_score_standard_deviation": "over the splits",
    "confident_share": "share of images of whose class the network is sure (over 0.9); compare with the real ones",
    "confident_share_of_real": "the same of the real images",
    "as_asked": "share of images that the network takes for members of the class that they were asked for: 1 is best, "
    "and 1 over the number of classes is chance",
    "as_asked_of_real": "the same of the reference's images, classes in the same shares: what a perfect generator has. "
    "Low where the network does not know these classes, or in another order",
    "fid_within_classes": "mean over classes of the FID between the images of each: with so few images a class it is "
    "larger than the FID, and to be compared with that of training images",
    "fid_within_classes_of_train": "of as many training images of each class: what a generator has that learnt all of "
    "them perfectly",
    "class_shares": "how often the network sees each class",
    "swd": "sliced Wasserstein distance of the features: 0 at best",
    "nearest_ratio": "distance to the nearest training image, the median over that of the reference's images, which "
    "were held out: 1 is good, 0 is copies, and above 1 images are unlike the training images, blurred perhaps",
    "nearer_share": "share of images nearer to a training image than 1 % of the reference's: 0.01 is good, 1 is copies",
    "nearer_share_by_chance": "up to this that share may be without copies",
    "logit_of_train": "the discriminator's mean logit of images that it was trained on",
    "logit_of_held_out": "of real images that it was not",
    "logit_of_fake": "of generated images",
    "discriminator_overfitting": "0: held-out images look as real to the discriminator as those of the training; "
    "1: as fake as generated ones",
}
"""How to read a number."""


def in_words(record: Mapping[str, Any]) -> list[str]:
    """A record's numbers with how to read them, in lines of up to 120 characters."""
    lines = []
    for name, value in record["metrics"].items():
        text = f"{name:27s}{_in_words(value):>10s}   {MEANINGS.get(name, '')}".rstrip()
        lines += textwrap.wrap(text, 120, subsequent_indent=40 * " ", drop_whitespace=True)
    return [*lines, f"features: {_of_backbone(record['protocol'])}"] if "backbone" in record["protocol"] else lines


def _of_backbone(protocol) -> str:
    name = protocol["backbone"]
    if name in features.SHIPPED:
        return f"{name} of this package: comparable with other numbers of it, not with published ones"
    return f"{name}, {protocol['backbone_sha256'][:12]}..."


def write_page(path: Path, record: Mapping[str, Any], found: Sequence[Picture]) -> Path:
    """One HTML file with the pictures, the numbers and their protocol; nothing is loaded from elsewhere."""
    sections = []
    for title, caption, picture in found:
        file = images.save_png(path.with_name(f"{path.stem}_{re.sub(r'[^a-z]+', '_', title.lower())}.png"), picture)
        source = base64.b64encode(file.read_bytes()).decode()
        sections.append(
            f'<h2>{html.escape(title)}</h2><p>{html.escape(caption)}</p><img alt="{html.escape(title)}" '
            f'src="data:image/png;base64,{source}">'
        )
    rows = {"metrics": "", "protocol": ""}
    settings = record.get("settings", {})
    for title in rows:
        for name, value in record[title].items():
            told = settings.get(name, {}) if title == "metrics" else {}
            how = ", ".join(f"{entry} {_in_words(found)}" for entry, found in told.items() if entry != "train_sha256")
            cells = (str(name), _in_words(value), MEANINGS.get(name, ""), how)
            rows[title] += f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
    tables = [f"<h2>{title.capitalize()}</h2><table>{text}</table>" for title, text in rows.items()]
    told = f"<p>Features: {html.escape(_of_backbone(record['protocol']))}.</p>"
    told += "".join(f"<p><b>Note:</b> {html.escape(text)}.</p>" for text in record.get("warnings", []))
    style = "body{font:15px sans-serif;max-width:920px;margin:2em auto}td{padding:2px 12px 2px 0}img{max-width:100%}"
    name = html.escape(str(record["subject"]))
    text = f"<!doctype html><meta charset=utf-8><title>{name}</title><style>{style}</style><h1>{name}</h1>"
    files.write_atomically(path, (text + tables[0] + told + "".join(sections) + tables[1] + "\n").encode())
    return path


def _in_words(value) -> str:
    if isinstance(value, list):
        return " ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
