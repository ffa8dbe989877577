"""Patches of an image and of its translation: each is to be known again among the others (Park et al. 2020)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen import turns


def patch_nce(queries: jax.Array, keys: jax.Array, temperature: float = 0.07) -> jax.Array:
    """-log of the share of patch i's own key in the softmax of q_i . k_j / temperature over all j, in nats.

        mean_i [ log sum_j exp(q_i . k_j / t) - q_i . k_i / t ]

    The other patches of the same image are the negatives. log P for equal vectors throughout; 0.000159 for P = 256,
    orthogonal patches and t = 0.07.

    Args:
      queries: unit vectors [B, P, D] of the translation.
      keys: of the same places of the source, the same shape; constants to differentiation.
      temperature: t.

    Returns:
      [B], never negative.

    Raises:
      ValueError: for other shapes.

    Oord et al. 2018 (InfoNCE); Park et al. 2020, eq. 3, without the masked diagonal that their code adds.
    """
    if queries.shape != keys.shape or queries.ndim != 3:
        raise ValueError(
            f"queries and keys are [B, P, D], one of each for a patch, not {list(queries.shape)} and {list(keys.shape)}"
        )
    products = jnp.einsum("bpd,bqd->bpq", queries, lax.stop_gradient(keys)) / temperature
    own = jnp.diagonal(products, axis1=1, axis2=2)
    return jnp.mean(jax.nn.logsumexp(products, axis=-1) - own, axis=-1)


def patches_known_again(
    weight: float | Callable[[jax.Array], jax.Array] = 1.0,
    *,
    num_patches: int = 256,
    temperature: float = 0.07,
    identity: bool = True,
    method: str = "patches",
) -> turns.Term:
    """weight * E NCE(source, G(source)), the mean over maps, of the generator; with `identity` also of real images.

    With `identity` it is the mean of that and of NCE(x, G(x)) for images x of the target domain, which G should leave
    as they are. The generator is told an image, or {"image": images, "mirrored": [B]}: then maps of the output are
    turned back where the source was mirrored, and compared with those of the source as it is (FastCUT).

    Args:
      weight: 1 in CUT, 10 in FastCUT.
      num_patches: of each map, the same places in all images and on both sides.
      temperature: as for `patch_nce`.
      identity: as above; in FastCUT not.
      method: of the generator: `(images, key, num_patches, mirrored, train=) -> [unit vectors [B, P, D], ...]`.

    Park et al. 2020, eq. 4 and 5.
    """

    def compared(turn, image, output, mirrored=None):
        keys = turn.generator(image, turn.key, num_patches, method=method)
        queries = turn.generator(output, turn.key, num_patches, mirrored, method=method)
        return sum(patch_nce(q, k, temperature) for q, k in zip(queries, keys, strict=True)) / len(keys)

    def patches_known_again(turn):
        (told,) = turn.inputs
        mirrored = told.get("mirrored") if isinstance(told, dict) else None
        found = compared(turn, turn.batch["source"], turn.fake, mirrored)
        if identity:
            same = turn.generator(turn.real)
            found = 0.5 * (found + compared(turn, turn.real, same))
        return found

    return turns.term(patches_known_again, name="nce", weight=weight)
