"""What two-player systems share: their settings, and what every generator and discriminator can do."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen import gan, network, sharding, turns
from jaxgen.losses import adversarial, penalties
from jaxgen.options import AUGMENTATIONS, LOSSES, UPDATE_RULES, Optimizer, Run, lookup
from jaxgen.ranges import Count, Range, Weight
from jaxgen.system import Between, Spec, System, drawn_labels

TRUNCATION = Between(0.0, 5.0, "coordinates of latents beyond it are drawn again")  # at 5 one in 2 million is
"""The truncation trick of Brock, Donahue and Simonyan (2019)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversaries(Run):
    """A generator and a discriminator, whatever the generator makes its images of."""

    loss: Literal[*LOSSES] = "non_saturating"
    """Of both players."""
    r1: Weight = 0.0
    """Weight gamma of the R1 penalty gamma/2 E|grad D(real)|^2."""
    r2: Weight = 0.0
    """Weight gamma of the R2 penalty gamma/2 E|grad D(fake)|^2."""
    gradient_penalty: Weight = 0.0
    """Weight of the WGAN-GP penalty."""
    gradient_penalty_target: Weight = 1.0
    """The norm that the WGAN-GP penalty pulls gradients to."""
    dragan: Weight = 0.0
    """Weight of the DRAGAN penalty."""
    augmentation: Literal[*AUGMENTATIONS] = "none"
    """Of what the discriminator sees, for few images: DiffAugment, adaptive (ADA), or fakes shown as real (APA)."""
    top_k: Annotated[float, Range(0, 1, open_least=True)] = 1.0
    """Share of fake images, the best, that the generator learns from; falls from 1 in the first half of num_steps."""
    num_discriminator_steps: Count = 1
    """Discriminator updates for each generator update, each on fresh images."""
    update_rule: Literal[*UPDATE_RULES] = "alternating"
    """How the last of them and the generator's are joined; extragradient costs two steps."""
    generator: Optimizer = Optimizer(b1=0.5)
    """The generator's optimiser."""
    discriminator: Optimizer = Optimizer(b1=0.5)
    """The discriminator's optimiser; two learning rates are TTUR."""

    @property
    def losses(self) -> adversarial.AdversarialLoss | Callable[[jax.Array], adversarial.AdversarialLoss]:
        """The loss by its name, of the best fake images where only these are to count."""
        loss = lookup(LOSSES, self.loss, "loss")
        if self.top_k == 1:
            return loss
        return adversarial.top_k(loss, optax.linear_schedule(1.0, self.top_k, max(1, self.num_steps // 2)))

    @property
    def penalties(self) -> list[penalties.Penalty]:
        """Those with a weight above 0."""
        makers: list[tuple[Callable[[float], penalties.Penalty], float]] = [
            (penalties.r1, self.r1),
            (penalties.r2, self.r2),
            (functools.partial(penalties.gradient_penalty, target=self.gradient_penalty_target), self.gradient_penalty),
            (penalties.dragan, self.dragan),
        ]
        return [make(weight) for make, weight in makers if weight > 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoPlayers(Adversaries):
    """A generator of images from latents, and a discriminator."""

    latent_dim: Count = 100
    """Numbers of noise from which the generator makes an image."""


def game_of(
    config: Adversaries,
    spec: Spec,
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    frozen: Any = None,
    **settings: Any,
) -> gan.Game:
    """The game of two modules.

    Args:
      config: losses, penalties, optimisers, averages.
      spec: of the batches.
      generator, discriminator, frozen, settings: as for `build`; the number of latents is among the settings.
    """
    optimizers = {
        "generator_optimizer": config.generator.build(config.num_steps),
        "discriminator_optimizer": config.discriminator.build(config.num_steps * config.num_discriminator_steps),
    }
    shared = {
        "loss": config.losses,
        "penalties": config.penalties,
        "augment": lookup(AUGMENTATIONS, config.augmentation, "augmentation")(config.batch_size),
        "gradients": config.gradients,
        "num_discriminator_steps": config.num_discriminator_steps,
        "update_rule": lookup(UPDATE_RULES, config.update_rule, "update rule"),
        "ema_decay": config.ema_decay,
    }
    return gan.Game(
        generator,
        discriminator,
        optimizers | shared | settings,
        example=spec.example(),
        frozen=frozen,
        players=gan.Players(config.generator, config.discriminator),  # type: ignore[arg-type]
    )


def build(
    config: TwoPlayers,
    spec: Spec,
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    name: str,
    num_labels: int = 0,
    choices: Mapping[str, Any] = MappingProxyType({}),
    frozen: Any = None,
    **settings: Any,
) -> System:
    """The system of two modules.

    Args:
      config: losses, penalties, optimisers, averages.
      spec: of the batches.
      generator, discriminator: as for `gan.make_train_step`.
      name: of the system.
      num_labels: of a class-conditional generator, whose second argument is a label; 0 for another.
      choices: what else the generator can be told by name when it draws, as in `System.choices`. Without a truncation
        among them its latents can be truncated.
      frozen: arrays that terms read as `turn.frozen`, of a network that is not trained.
      settings: what `gan.make_train_step` takes besides: condition, terms, augmentation.
    """
    settings = {"latent_dim": config.latent_dim} | settings
    game = game_of(config, spec, generator, discriminator, frozen=frozen, **settings)

    of_latents = {} if "truncation" in choices else {"truncation": TRUNCATION}

    def latents(key, n, truncation=None):
        sampler = jax.random.normal
        if truncation is not None:
            sampler = lambda key, shape: jax.random.truncated_normal(key, -truncation, truncation, shape)  # noqa: E731
        return sharding.draw(sampler, key, (n, config.latent_dim))

    def split(told):
        """What is told of latents, and of images."""
        return {k: v for k, v in told.items() if k in of_latents}, {
            k: v for k, v in told.items() if k not in of_latents
        }

    def decode(variables, z, label=None, key=None, **told):
        if num_labels:
            label = jnp.zeros((), jnp.int32) if label is None else jnp.asarray(label, jnp.int32)
            label = jnp.broadcast_to(label, z.shape[:1])
        return gan.sample(generator, variables["generator"], z, label, key=key, **told)

    def draw(variables, key, n, label=None, **told):
        if num_labels and label is None:
            label = drawn_labels(jax.random.fold_in(key, 1), n, num_labels)
        told_latents, told_images = split(told)
        return decode(variables, latents(key, n, **told_latents), label, jax.random.fold_in(key, 2), **told_images)

    def batch_statistics(variables, key, n, label=None, **told):
        if num_labels and label is None:
            label = drawn_labels(jax.random.fold_in(key, 1), n, num_labels)
        told_latents, _ = split(told)
        inputs = (latents(key, n, **told_latents), *([label] if num_labels else []))
        found = network.batch_statistics(generator, variables["generator"], *inputs, key=jax.random.fold_in(key, 2))
        return {"generator": found} if found else {}

    return System(
        init=game.init,
        train_step=game.train_step(),
        images_per_step=config.batch_size * config.num_discriminator_steps,
        variables=variables_of,
        draw=draw,
        choices={**({"label": num_labels} if num_labels else {}), **of_latents, **choices},
        latent_choices=tuple(of_latents),
        batch_statistics=batch_statistics,
        latents=latents,
        decode=decode,
        discriminate=judging(discriminator, settings.get("condition")),
        protocol={
            "latents": "standard normal, not truncated",
            "images": "the generator's output",
            **({"labels": "drawn, all classes alike"} if num_labels else {}),
            **config.weights,
        },
        game=game,
        frozen=frozen,
        name=name,
    )


def judging(discriminator: nn.Module, condition: turns.Condition | None) -> Callable:
    """What `System.discriminate` is for a discriminator: one logit for each image of a batch, as real ones are told."""

    def discriminate(variables, batch):
        told = turns.conditions_of(condition, batch, 0, jax.random.key(0), len(batch["image"]))
        inputs = turns.given(batch["image"], told.real)
        logits, _ = network.split_output(discriminator.apply(variables["discriminator"], *inputs, train=False))
        return turns.per_picture(logits)

    return discriminate


def variables_of(state: gan.GANState) -> dict[str, Any]:
    """The generator's average, and the discriminator as it is."""
    return {"generator": state.ema, "discriminator": state.discriminator.variables}


def warn_of_penalties_beside_batch_norm(config: Adversaries) -> None:
    """A gradient penalty of a discriminator with batch normalisation is allowed, and rarely what was meant."""
    if config.penalties:
        warnings.warn(
            "a gradient penalty beside batch normalisation in the discriminator: a logit then depends on the "
            "rest of its batch, and so does the penalty; --discriminator-batch-norm False is usual",
            stacklevel=4,
        )
