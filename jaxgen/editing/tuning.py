"""Pivotal tuning: what no latent decodes to, a decoder learns (Roich, Mokady, Bermano and Cohen-Or 2022)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgen import network
from jaxgen.arguments import check_function


class Tuned(NamedTuple):
    """A tuned decoder.

    variables: of the form of those that were given.
    images: [B, H, W, C], what the pivots are decoded to now.
    losses: [num_steps], before each update.
    """

    variables: Any
    images: jax.Array
    losses: jax.Array


def pivotal_tuning(
    decode: Callable[[Any, Any], jax.Array],
    variables: Any,
    pivots: Any,
    target: jax.Array,
    *,
    num_steps: int = 350,
    optimizer: optax.GradientTransformation | None = None,
    distance: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    others: Any = None,
    locality: float = 1.0,
) -> Tuned:
    """Tunes the parameters of a decoder so that it makes an image of its pivot, which is not changed.

        mean over images of (mean over pixels of (decode(pivot) - image)^2 + distance)
            + locality * mean over others of mean over pixels of (decode(other) - what it was decoded to before)^2

    One image alone is usual; several share a decoder. After 0 steps it is what it was, to the bit.

    Args:
      decode: (variables, latents with leaves [n, ...]) -> images [n, H, W, C].
      variables: of the decoder. What stands under a key "params" is tuned, or all where there is no such key; batch
        statistics and whatever else there is stay.
      pivots: latents [B, ...], such as `invert` finds.
      target: [B, H, W, C].
      num_steps: updates.
      optimizer: any optax transformation; Adam with a rate of 3e-4 by default, as published.
      distance: (images, targets) -> [B], added to the objective, such as a perceptual one.
      others: latents [n, ...] whose images are to stay as they are; None: none.
      locality: their weight.

    Returns:
      `Tuned`.

    Raises:
      ValueError: for images of another shape than the targets, or less than 0 steps.

    Deviations: the published locality takes points between the pivot and new latents, here any that are given; and the
    published descent ends at a distance, here after a number of steps.
    """
    optimizer = optax.adam(3e-4) if optimizer is None else optimizer
    network.check_optimizer(optimizer)
    if distance is not None:
        check_function(distance, "images, target", "distance", "distance=functools.partial(found.distance, weights)")
    if num_steps < 0:
        raise ValueError(f"a decoder is tuned in at least 0 steps, not {num_steps}")
    params, with_params = _split(variables)
    before = None if others is None else lax.stop_gradient(decode(variables, others))

    def loss_of(params):
        tuned = with_params(params)
        images = decode(tuned, pivots)
        if images.shape != target.shape:
            raise ValueError(f"the pivots are decoded to images of {list(images.shape)}, not to {list(target.shape)}")
        loss = jnp.mean((images - target) ** 2)
        if distance is not None:
            loss = loss + jnp.mean(distance(images, target))
        return loss if others is None else loss + locality * jnp.mean((decode(tuned, others) - before) ** 2)

    def update(carry, _):
        params, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = lax.scan(update, (params, optimizer.init(params)), length=num_steps)
    tuned = with_params(params)
    return Tuned(tuned, decode(tuned, pivots), losses)


def _split(variables):
    """Leaves that are tuned, as a list, and the function that puts such a list back among the others."""
    paths, tree = jax.tree_util.tree_flatten_with_path(variables)
    named = [any(getattr(part, "key", None) == "params" for part in path) for path, _ in paths]
    real = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for _, leaf in paths]
    chosen = [(name or not any(named)) and is_real for name, is_real in zip(named, real, strict=True)]

    def with_params(params):
        own = iter(params)
        leaves = [next(own) if one else leaf for one, (_, leaf) in zip(chosen, paths, strict=True)]
        return tree.unflatten(leaves)

    return [jnp.asarray(leaf) for one, (_, leaf) in zip(chosen, paths, strict=True) if one], with_params
