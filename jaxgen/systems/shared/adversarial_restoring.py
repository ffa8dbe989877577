"""What SRGAN, ESRGAN, Real-ESRGAN and DeblurGAN share: a generator told the source alone, three parts of its loss.

    pixels * mean |G(y) - x| / 2 + perceptual_weight * distance(G(y), x) + adversarial * the player's loss

Absolute differences are those of images in [0, 1], as papers weigh them. Until step `start` the generator learns from
the pixels alone, at weight 1: the training by one loss that some of these methods begin with. The discriminator waits.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import network, optim, restoration, turns
from jaxgen.losses import perceptual as distances
from jaxgen.losses import restoration as losses
from jaxgen.options import Optimizer
from jaxgen.ranges import Count, CountOrZero, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.shared import restoring, two_player

ADAM = Optimizer(learning_rate=1e-4, b1=0.9, b2=0.99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialRestoring(two_player.TwoPlayers, restoring.Sources):
    """A network that restores images, and one that tells them from real ones."""

    latent_dim: Literal[0] = 0
    """There are no latents: the generator is told the source."""
    pixels: Weight = 0.01
    """Weight of the mean absolute difference to the image."""
    perceptual: str = "shipped"
    """Network of the perceptual distance: shipped, none, or the path of a .npz with VGG-16's weights."""
    perceptual_weight: Weight = 1.0
    """Weight of the perceptual distance."""
    adversarial: Weight = 0.005
    """Weight of the adversarial loss in the generator's."""
    start: CountOrZero = 0
    """Steps in which the generator learns from the pixels alone, and the discriminator does not learn."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser, from step `start` on."""
    halve_at: tuple[Count, ...] = ()
    """Steps at which both learning rates are halved; their schedules must be constant then."""


def unchanged(image: jax.Array) -> jax.Array:
    """Images as they are."""
    return image


def _told_source(batch, step, key):
    """The generator's source; the discriminator judges images alone."""
    return turns.Conditions(generator=restoration.source_of(batch))


def build(
    config: AdversarialRestoring,
    spec: Spec,
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    name: str,
    target: Callable[[jax.Array], jax.Array] = unchanged,
    restore: Callable[..., jax.Array] = restoration.restore,
) -> System:
    """The system of two modules.

    Args:
      config: settings.
      spec: of the batches.
      generator: sources -> images, not bounded.
      discriminator: images -> logits, of any shape.
      name: of the system.
      target: what pixels and the perceptual distance compare with, made of the images.
      restore: (generator, variables, sources, key=) -> images, outside of training.

    Raises:
      ValueError: for a shipped perceptual network that there is not.
      FileNotFoundError: for a file of weights that there is not.
    """
    shape, start = spec.image_shape, config.start
    perceptual = distances.named(config.perceptual, shape) if config.perceptual_weight > 0 else None

    def from_start(before, after):
        """A weight, or a schedule of it."""
        return after if start == 0 else lambda step: jnp.where(step < start, before, after)

    def of_pixels(turn):
        return losses.l1(turn.fake, target(turn.real))

    terms: list[turns.Term] = []
    if start or config.pixels > 0:
        terms.append(turns.term(of_pixels, name="pixels", weight=from_start(1.0, config.pixels)))
    if perceptual is not None:

        def of_maps(turn):
            def found():
                return perceptual.distance(turn.frozen, turn.fake, target(turn.real))

            if start == 0:
                return found()
            return jax.lax.cond(turn.step < start, lambda: jnp.zeros(len(turn.fake)), found)

        terms.append(turns.term(of_maps, name="perceptual", weight=config.perceptual_weight))
    updates = config.num_steps * config.num_discriminator_steps
    halvings = tuple((step - start) * config.num_discriminator_steps for step in config.halve_at if step > start)
    of_discriminator = restoring.rate_of(config.discriminator, halvings, updates)
    system = two_player.build(
        config,
        spec,
        generator,
        discriminator,
        name=name,
        latent_dim=None,
        condition=_told_source,
        generator_terms=terms,
        adversarial_weight=_of_turn(from_start(0.0, config.adversarial)),
        generator_optimizer=restoring.rate_of(config.generator, config.halve_at, config.num_steps),
        discriminator_optimizer=optim.starting_at(start * config.num_discriminator_steps, of_discriminator)
        if start
        else of_discriminator,
        frozen=None if perceptual is None else perceptual.weights,
    )
    nothing: dict[str, Any] = {"draw": None, "decode": None, "latents": None, "batch_statistics": None}
    system = dataclasses.replace(system, **nothing, choices={}, latent_choices=(), variables=variables_of)

    def restored(variables, source, key):
        return restore(generator, network.member(variables, "generator"), source, key=key)

    def rows(variables, image, reference):
        return {"perceptual": perceptual.distance(variables["perceptual"], image, reference)}

    fits = perceptual is not None
    system = restoring.that_restores(
        system, config, spec, restored, rows=rows if fits else None, best="perceptual" if fits else "psnr"
    )
    if getattr(generator, "draws_at_test", False):
        drawn = {"output": system.protocol["output"] + "; with dropout, one draw for all images"}
        system = dataclasses.replace(system, protocol={**system.protocol, **drawn})
    return system


def _of_turn(weight):
    return (lambda turn: weight(turn.step)) if callable(weight) else weight


def variables_of(state: Any) -> dict[str, Any]:
    """The generator's average, the discriminator as it is, and the perceptual network, where there is one."""
    frozen = getattr(state, "frozen", None)
    return two_player.variables_of(state) | ({} if frozen is None else {"perceptual": frozen})
