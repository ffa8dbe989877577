"""A discriminator that also draws what it sees: the term by which FastGAN's learns to describe whole images.

terms = [autoencoding.autoencoding()]
step = gan.make_train_step(..., discriminator_terms=terms)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import sharding, turns
from jaxgen.losses.terms import Weight, l1
from jaxgen.models.resampling import averaged
from jaxgen.turns import Term


def autoencoding(
    weight: Weight = 1.0,
    distance: Callable = l1,
    *,
    features: Callable[[Any, jax.Array], Any] | None = None,
    axis_name: str | None = None,
) -> Term:
    """weight * sum_v E distance(decoder_v(maps_v(x)), x_v) of real images, of the discriminator.

    It returns `network.Output(logits, maps)`, a dict of maps, of which its method `decode` draws pictures under the
    same names. x_v is the image as it saw it, in the size of that picture; under the name "part" one quarter of the
    image, drawn for each, and of the map the same quarter. Collections of the decoders are kept.

    Args:
      weight: of the sum.
      distance: `(drawn, target)` -> one or many numbers for each image, which are averaged.
      features: `(turn.frozen, images [B, H, W, C]) -> ` maps [B, ...], a tree: the distance between those of both is
        added, the mean over each map's numbers. Of a network that is not trained: a perceptual distance.
      axis_name: of the per-device view.

    Liu et al. 2021, eq. 2, whose distance is that of a network trained on ImageNet (LPIPS).

    Raises:
      TypeError: for a distance that is no function.
      ValueError: at trace time, for a discriminator that returns no maps.
    """
    if not callable(distance):
        raise TypeError(f"distance must be a function such as terms.l1, not {distance!r}")

    def autoencoding(turn):
        if not isinstance(turn.real_aux, dict):
            raise ValueError(
                "the term 'autoencoding' draws pictures from the discriminator's maps, but it returns none: let it "
                "return network.Output(logits, {name: map})"
            )
        maps, shown = dict(turn.real_aux), dict.fromkeys(turn.real_aux, turn.real_seen)
        if "part" in maps:

            def sampler(key, shape):
                return jax.random.randint(key, shape, 0, 4)

            which = sharding.draw(sampler, turn.key, turn.real_seen.shape[:1], axis_name=axis_name)
            maps["part"], shown["part"] = quarter(maps["part"], which), quarter(turn.real_seen, which)
        drawn = turn.discriminator(maps, method="decode", keep=True)
        total = jnp.zeros(())
        for name, picture in drawn.items():
            target = averaged(shown[name], picture.shape[1])
            total += turns.per_picture(distance(picture, target))
            if features is not None:
                both = (features(turn.frozen, images) for images in (picture, target))
                total += turns.per_picture(jax.tree.map(l1, *both))
        return total

    return turns.term(autoencoding, weight=weight)


def quarter(x: jax.Array, which: jax.Array) -> jax.Array:
    """One quarter of each map: [B, H, H, C], whole numbers 0 to 3 [B] -> [B, H / 2, H / 2, C], row by row."""
    b, h, _, c = x.shape
    parts = x.reshape(b, 2, h // 2, 2, h // 2, c).swapaxes(2, 3).reshape(b, 4, h // 2, h // 2, c)
    return jax.vmap(lambda parts, i: parts[i])(parts, which)
