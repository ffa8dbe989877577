"""An evaluation in words, and as a page: its numbers with how to read them, its pictures and its protocol."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen import files, fingerprints, images, pages
from jaxgen.evaluation.pictures import Picture
from jaxgen.metrics import features
from jaxgen.pages import pictures
from jaxgen.report import numbers

CODES = {
    "probe_accuracy": "share of test images whose label a linear classifier names by their codes; it learnt from codes "
    "of training images",
    "neighbours_accuracy": "the same by the labels of the nearest training codes",
    "accuracy_by_chance": "share of the most frequent label",
    "mig": "mutual information gap: 1 where of each factor one latent knows all and no other anything; 0 where two "
    "know as much, or none",
    "dci_disentanglement": "1 where no latent serves two factors",
    "dci_completeness": "1 where no factor needs two latents",
    "dci_informativeness": "1 where all factors of test images can be told by their codes, 0 where none",
    "sap": "how much better the best latent alone predicts a factor than the second best: 1 at best",
    "latent_dim": "numbers of a code",
    "active_units": "latents whose posterior means vary over the data by more than 0.01",
    "elbo": "evidence lower bound of test images, nats an image: more is better",
    "importance_weighted_bound": "the same with the samples that the protocol names: nearer to the likelihood",
    "generalisation_gap": "by how much training images are better: 0 where nothing is learnt by heart",
    "elbo_of_encoder": "of the test images that were optimised, by the encoder's posteriors",
    "elbo_optimised": "of the same with a posterior of its own for each image, the decoder as it is",
    "amortisation_gap": "nats that one encoder for all images loses against these: a lower bound",
}
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
    "psnr": "peak signal-to-noise ratio in dB, the mean over images: more is better",
    "psnr_in_hole": "the same of missing pixels alone",
    "ssim": "structural similarity: 1 at best",
    "nll": "at most so many nats an image is minus the log-likelihood: less is better",
    "bits_per_dim": "the same in bits for each pixel and channel",
    "reconstruction_psnr": "of reconstructed test images, peak signal-to-noise ratio in dB, the mean over images",
    "reconstruction_ssim": "of the same, structural similarity: 1 at best",
    "reconstruction_fid": "distance between reconstructions and test images as sets: 0 at best",
    **CODES,
}
"""How to read a number."""


def in_words(record: Mapping[str, Any]) -> list[str]:
    """A record's numbers with how to read them, and what stands beside them, in lines of up to 120 characters."""
    lines, metrics = [], record["metrics"]
    in_table, table = _table_of_methods(metrics)
    for name, value in metrics.items():
        if name in in_table or any(name.removesuffix(end) in metrics for end in _BESIDE if name.endswith(end)):
            continue
        beside = "; ".join(
            text.format(_in_words(metrics[name + end])) for end, text in _BESIDE.items() if name + end in metrics
        )
        meaning = MEANINGS.get(name, "")
        text = f"{name:27s}{_in_words(value):>10s}   {f'({beside}) ' if beside else ''}{meaning}".rstrip()
        lines += textwrap.wrap(text, 120, subsequent_indent=40 * " ", drop_whitespace=True)
    told = next((x for x in (record["protocol"], *record.get("settings", {}).values()) if "backbone" in x), None)
    return lines + ([] if told is None else [f"features: {_of_backbone(told)}"]) + table


def _table_of_methods(metrics: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """The names of numbers such as `psnr_of_bicubic` beside a `psnr`, and these numbers as a table, a method a line."""
    ends = tuple(end for end in _BESIDE if "_of_" in end)
    cells = {
        name: name.partition("_of_")
        for name in metrics
        if "_of_" in name and not name.endswith(ends) and name not in MEANINGS and name.partition("_of_")[0] in metrics
    }
    methods = list(dict.fromkeys(method for _, _, method in cells.values()))
    titles = [title for title in dict.fromkeys(title for title, _, _ in cells.values()) if title in metrics]
    columns = [title for title in titles if not title.endswith("_standard_error")]

    def cell(title, end):
        if title + end not in metrics:
            return ""
        error = metrics.get(f"{title}_standard_error{end}")
        return _in_words(metrics[title + end]) + ("" if error is None else f" ± {error:.2g}")

    rows = [["", *columns]] + [
        [method.removeprefix("_of_").replace("_", " ") or "this run", *(cell(title, method) for title in columns)]
        for method in ["", *(f"_of_{method}" for method in methods)]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return set(cells), ["", *table] if methods else []


def _of_backbone(protocol) -> str:
    name = protocol["backbone"]
    if name in features.SHIPPED:
        return f"{name} of this package: comparable with other numbers of it, not with published ones"
    return fingerprints.after(name, "its weights", protocol["backbone_sha256"])


def write_page(path: Path, record: Mapping[str, Any], found: Sequence[Picture]) -> Path:
    """One HTML file with the pictures, the numbers and their protocol; nothing is loaded from elsewhere.

    Args:
      path: the page; its pictures are also written beside it, as PNG files.
      record: an evaluation, as it is stored.
      found: its pictures.

    Raises:
      OSError: with the path and what to do, if a file cannot be written.
    """
    shown = []
    for picture in found:
        slug = re.sub(r"[^a-z]+", "_", picture.title.lower())
        file = images.save_png(path.with_name(f"{path.stem}_{slug}.png"), picture.image)
        shown.append((picture, pictures.Picture.of(file.read_bytes())))
    page = pages.render(
        "evaluation",
        title=str(record["subject"]),
        tiles=_tiles(record["metrics"]),
        numbers=[
            (name, _in_words(value), MEANINGS.get(name, ""), _how(record, name))
            for name, value in record["metrics"].items()
        ],
        features=_of_backbone(record["protocol"]) if "backbone" in record["protocol"] else "",
        warnings=record.get("warnings", []),
        pictures=shown,
        protocol=_protocol(record["protocol"]),
    )
    files.write_atomically(path, page)
    return path


_BESIDE = {
    "_standard_error": "standard error {}",
    "_of_equal_sets": "{} of equal sets",
    "_of_train": "{} of training images",
    "_of_real": "{} of real images",
    "_of_test_images": "{} of test images",
}
"""Numbers that say how good a number can be, by how their names end, and how they stand beside it."""


def _tiles(metrics: Mapping[str, Any]) -> list[tuple[str, float, list[str]]]:
    """(name, value, lines beside it) of each number that is not itself one of those that stand beside another."""
    found = []
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not numbers.stands_alone(name):
            continue
        beside = [text.format(_in_words(metrics[name + end])) for end, text in _BESIDE.items() if name + end in metrics]
        found.append((name, value, beside))
    return found


def _how(record: Mapping[str, Any], name: str) -> str:
    """What a number depends on beyond the protocol."""
    told = record.get("settings", {}).get(name, {})
    return ", ".join(f"{entry} {_in_words(value)}" for entry, value in told.items() if entry != "train_sha256")


def _protocol(protocol: Mapping[str, Any]) -> dict[str, str]:
    """The protocol as text, its digests behind what they are of."""
    return {
        name: fingerprints.entry(name, protocol) if name in fingerprints.ENTRIES else _in_words(value)
        for name, value in protocol.items()
    }


def _in_words(value) -> str:
    if isinstance(value, list):
        return " ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
