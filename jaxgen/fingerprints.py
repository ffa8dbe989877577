"""Digests of data, weights and settings as people read them: first in words what they are of, then their beginning.

Files hold digests as they are. Here are the words for pages and printed tables.
"""

from collections.abc import Mapping
from typing import Any

NUM_DIGITS = 12
"""Hexadecimal digits that are shown: enough to tell any two apart, and to find the rest in a file."""

ENTRIES = {
    "reference_sha256": "the reference's images",
    "fake_sha256": "the evaluated images",
    "train_sha256": "the training images",
    "backbone_sha256": "the backbone's weights",
    "config_sha256": "the settings but the seed",
    "classifier_digest": "the classifier's weights",
}
"""Entries of a protocol that are digests, and of what."""


def short(value: object) -> str:
    """A value as text, a sha256 by its beginning.

    >>> short("ab" * 32), short(500)
    ('abababababab...', '500')
    """
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"{text[:NUM_DIGITS]}..." if is_digest else text


def after(words: str, what: str, digest: object) -> str:
    """What has this digest in words, and the digest, shortened, after them.

    >>> after("mnist/train", "the data", "0123456789abcdef")
    'mnist/train (fingerprint of the data: 0123456789ab...)'
    """
    text = str(digest)
    told = f"fingerprint of {what}: {text[:NUM_DIGITS]}{'...' if len(text) > NUM_DIGITS else ''}"
    return f"{words} ({told})" if words else told


def label(name: str) -> str:
    """An entry of a protocol by a name that says what its digest is of; all other names as they are."""
    return f"fingerprint of {ENTRIES[name]}" if name in ENTRIES else name


def entry(name: str, protocol: Mapping[str, Any]) -> str:
    """The value of an entry of a protocol as text; of a digest what it is of in the words of the other entries first.

    >>> mnist = {"reference": "mnist", "reference_split": "test", "n_real": 10000, "reference_sha256": "ab" * 32}
    >>> entry("reference_sha256", mnist)
    "10,000 images of mnist:test (fingerprint of the reference's images: abababababab...)"
    >>> entry("n_real", mnist), entry("seed", mnist)
    ('10000', 'not stated')
    """
    value = protocol.get(name)
    if value is None:
        return "not stated"
    return after(_words(name, protocol), ENTRIES[name], value) if name in ENTRIES else short(value)


def _words(name: str, protocol: Mapping[str, Any]) -> str:
    """What a digest is of, as far as its protocol says it."""
    if name == "reference_sha256":
        data = protocol.get("data")  # of a run by itself: the settings of its data
        known = data.get("name") if isinstance(data, Mapping) else None
        split = protocol.get("reference_split", protocol.get("split"))
        return _images(protocol.get("reference", known), protocol.get("n_real"), split, protocol.get("image_shape"))
    if name == "fake_sha256":
        return _images(protocol.get("fake"), protocol.get("n_fake"), None, protocol.get("image_shape"))
    return str(protocol.get(_BESIDE[name]) or "")


_BESIDE = {
    "train_sha256": "train",
    "backbone_sha256": "backbone",
    "config_sha256": "preset",
    "classifier_digest": "classifier",
}


def _images(name: object, number: object, split: object, shape: object) -> str:
    text = str(name or "images")
    if split and split != "all of it":
        text += f":{split}"
    if isinstance(number, int):
        text = f"{number:,} images of {text}" if name else f"{number:,} images"
    if isinstance(shape, list | tuple) and len(shape) == 3:
        text += f", {shape[0]} × {shape[1]} pixels"
    return text
