"""Traversals: what one latent after the other changes in an image, those first that tell images apart most."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.loading import Trained

REACH, STEPS = 3.0, 11
"""A latent goes from -3 to 3, in 11 images."""


def most_active(codes: ArrayLike) -> np.ndarray:
    """Units in the order of how much their codes vary over images, [D]; of equals the first comes first.

    Args:
      codes: [N, D].
    """
    return np.argsort(-np.var(np.asarray(codes, np.float64), axis=0), kind="stable")


def traverse(
    trained: Trained,
    codes: ArrayLike,
    units: Sequence[int] | np.ndarray,
    *,
    values: ArrayLike | None = None,
    label: ArrayLike | None = None,
) -> np.ndarray:
    """Images of codes in which one unit takes other values, the rest staying as it is.

    Args:
      trained: a run that decodes vectors.
      codes: [N, D], such as `trained.encode(batch)`; zeros for the middle of a standard normal prior.
      units: which of the D, each a row; see `most_active`.
      values: [V] for all units, or [len(units), V], such as quantiles of each; 11 from -3 to 3 by default.
      label: [N] of a class-conditional run.

    Returns:
      [N, len(units), V, H, W, C] in [-1, 1].

    Raises:
      MissingCapability: for a run that decodes nothing.
      ValueError: for codes that are no vectors, units that there are not, or values of another shape.
    """
    trained.system.need("decode", "a traversal")
    codes = np.asarray(codes)
    if codes.ndim != 2 or not jnp.issubdtype(codes.dtype, jnp.floating):
        raise ValueError(f"a traversal goes along numbers of vectors [N, D], not {codes.dtype} {list(codes.shape)}")
    if wrong := [unit for unit in units if not 0 <= unit < codes.shape[1]]:
        raise ValueError(f"there is no unit {wrong[0]}: codes have the units 0 to {codes.shape[1] - 1}")
    walk = np.asarray(np.linspace(-REACH, REACH, STEPS) if values is None else values, codes.dtype)
    if walk.ndim not in (1, 2) or (walk.ndim == 2 and len(walk) != len(units)):
        raise ValueError(f"values are [V] or [{len(units)}, V], a row for each unit, not {list(walk.shape)}")
    walk = np.broadcast_to(walk, (len(units), walk.shape[-1]))
    found = []
    for i, code in enumerate(codes):
        moved = np.tile(code, (*walk.shape, 1))
        for row, unit in enumerate(units):
            moved[row, :, unit] = walk[row]
        told: dict[str, Any] = {}
        if label is not None:
            told["label"] = jnp.full(walk.size, np.asarray(label)[i], jnp.int32)
        images = jax.device_get(trained.decode(jnp.asarray(moved.reshape(-1, codes.shape[1])), **told))
        found.append(images.reshape(*walk.shape, *images.shape[1:]))
    return np.stack(found)


def table(trained: Trained, batch: Any, units: Sequence[int] | np.ndarray) -> np.ndarray:
    """The traversals of images as one table: [N (1 + len(units)) V, H, W, C], in rows of V = 11.

    Of each image a first row with itself and with what is decoded of its code, then a row for each unit.

    Args:
      trained: a run that encodes to vectors and decodes them.
      batch: with the images, and their labels where the run is told labels.
      units: as for `traverse`.
    """
    codes = np.asarray(trained.encode(batch))
    label = batch.get("label") if "label" in trained.system.choices else None
    told = {} if label is None else {"label": label}
    heads = np.ones((len(codes), STEPS, *trained.image_shape), np.float32)
    heads[:, 0] = batch["image"]
    heads[:, 1] = trained.decode(jnp.asarray(codes), **told)
    rows = traverse(trained, codes, units, label=label)
    return np.concatenate([heads[:, None], rows], axis=1).reshape(-1, *trained.image_shape)
