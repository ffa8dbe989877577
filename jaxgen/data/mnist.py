"""MNIST and Stacked MNIST, from the copy that ships with this package: no download."""

import functools
from collections.abc import Callable
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data import binarisation
from jaxgen.data.dataset import Dataset, fingerprint_of, from_arrays, function_name, prepare_default, read_only

MAX_IMAGE_SIZE = 64


@functools.cache
def load_mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the original arrays: images uint8 [N, 28, 28] and labels uint8 [N], for "train" or "test"."""
    if split not in ("train", "test"):
        raise ValueError(f'the splits of MNIST are "train" (60,000) and "test" (10,000), got {split!r}')
    with (resources.files("jaxgen.data") / "files" / "mnist.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as archive:
            return read_only(archive[f"{split}_images"]), read_only(archive[f"{split}_labels"])


def mnist(
    split: str = "train",
    *,
    image_size: int = 28,
    binarise: Callable[[jax.Array, jax.Array], jax.Array] = binarisation.none,
) -> Dataset:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, ink at 1 and paper at -1.

    Args:
        split: "train" or "test".
        image_size: 28, or an even number up to 64: zero padding (black), equally wide on all four sides. 32 suits
            networks that halve the size several times.
        binarise: `(image, key) -> image`, applied in `prepare`: a function of `jaxgen.data.binarisation`.

    Returns:
        A `Dataset` with `image` [N, image_size, image_size, 1] and `label` [N], the digit.

    Raises:
        ValueError: for an unknown split or an image size that padding cannot reach.

    Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition".
    """
    image, label = load_mnist(split)
    return from_arrays(
        f"mnist/{split}",
        _pad(image, image_size)[..., None],
        label,
        class_names=tuple("0123456789"),
        prepare=_prepare_with(binarise),
        fingerprint=fingerprint_of("mnist", split, image_size, function_name(binarise)),
    )


def stacked_mnist(
    split: str = "train",
    *,
    num_examples: int = 128_000,
    seed: int = 0,
    image_size: int = 28,
    binarise: Callable[[jax.Array, jax.Array], jax.Array] = binarisation.none,
) -> Dataset:
    """Stacked MNIST: three random digits as the red, green and blue channel, 1000 modes that can be counted.

    The label is `100 * red + 10 * green + blue`. Memory holds MNIST once and a table of three rows per example; the
    images are put together when a batch is gathered.

    Args:
        split: the part of MNIST that the digits come from, "train" or "test".
        num_examples: N. 128,000 is usual for training.
        seed: of the table; not of the training run.
        image_size: as for `mnist`.
        binarise: as for `mnist`.

    Returns:
        A `Dataset` with `image` [N, image_size, image_size, 3] and `label` [N] in 0..999.

    Raises:
        ValueError: as `mnist`, or for num_examples below 1.

    Source: Metz, Poole, Pfau, Sohl-Dickstein 2017, "Unrolled Generative Adversarial Networks"; the size of the set
    follows Lin, Khetan, Fanti, Oh 2018, "PacGAN".
    """
    if num_examples < 1:
        raise ValueError(f"num_examples must be at least 1, got {num_examples}")
    image, digit = load_mnist(split)
    # RandomState: its stream is frozen, so the table is the same under every NumPy version.
    seeds = np.random.SeedSequence([seed, ("train", "test").index(split)])
    rows = np.random.RandomState(np.random.MT19937(seeds)).randint(0, len(image), (num_examples, 3), dtype=np.int32)
    arrays = {
        "image": read_only(_pad(image, image_size)),
        "digit": read_only(digit.astype(np.int32)),
        "rows": read_only(rows),
    }
    return Dataset(
        name=f"stacked_mnist/{split}",
        num_examples=num_examples,
        image_shape=(image_size, image_size, 3),
        class_names=tuple(f"{i:03d}" for i in range(1000)),
        fingerprint=fingerprint_of("stacked_mnist", split, num_examples, seed, image_size, function_name(binarise)),
        arrays=arrays,
        gather=functools.partial(_gather_stacked, jnp),
        fetch=lambda indices: _gather_stacked(np, arrays, np.asarray(indices)),
        prepare=_prepare_with(binarise),
    )


def _gather_stacked(xp, arrays, indices):
    rows = xp.asarray(arrays["rows"])[indices]  # [B, 3]
    channels = xp.asarray(arrays["image"])[rows]  # [B, 3, H, W]
    digits = xp.asarray(arrays["digit"])[rows]
    return {
        "image": xp.moveaxis(channels, 1, -1),
        "label": digits[:, 0] * 100 + digits[:, 1] * 10 + digits[:, 2],
    }


def _pad(image: np.ndarray, image_size: int) -> np.ndarray:
    if not 28 <= image_size <= MAX_IMAGE_SIZE or image_size % 2:
        raise ValueError(
            f"MNIST images are 28x28 and are zero-padded equally on all sides: image_size must be an even number from "
            f"28 to {MAX_IMAGE_SIZE}, got {image_size}"
        )
    if image_size == 28:
        return image
    margin = (image_size - 28) // 2
    return np.pad(image, ((0, 0), (margin, margin), (margin, margin)))


def _prepare_with(binarise):
    def prepare(raw, key):
        batch = prepare_default(raw)
        return batch | {"image": binarise(batch["image"], key)}

    return prepare
