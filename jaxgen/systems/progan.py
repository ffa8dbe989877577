"""ProGAN: players that grow from 4x4 pixels to the size of the data (Karras, Aila, Laine and Lehtinen 2018).

The players learn pictures of 4x4 pixels first. Then one stage after the other, which doubles the side, is faded in and
trained for as long again. Wasserstein loss with a gradient penalty and a small term that keeps logits near 0, one
discriminator update for each of the generator, Adam with b1 = 0 and b2 = 0.99 at equalised rates.

How far the players have grown is computed from the step: one state and one compiled program serve all stages, and what
a later stage would compute is left out. Optimisers begin anew where a stage does, since Adam ages while a layer waits.

Deviations: a batch has the same number of images in all stages (the paper: fewer in the last three, for their memory).
A fade goes from 1 / n to 1 in n steps, not from 0. The paper does not say what becomes of Adam's moments when layers
join. Real and fake images have full size, pixels repeated; the gradient penalty is that of the stage's own pixels
all the same, but R1, R2, DRAGAN and augmentations, where they are asked for, are of the full size. The discriminator
moves first, and the generator's update sees the same fake images. The average, 0.999 a step there, has a half-life of
11,000 images, and starts as a plain mean. `models.progan` names the deviations of the networks.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxgen import network, optim, turns
from jaxgen.losses import terms
from jaxgen.models import progan as networks
from jaxgen.options import LOSSES, Data, Optimizer, square_size
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import two_player

ADAM = Optimizer(learning_rate=1e-3, b1=0.0, b2=0.99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """A progressively grown GAN for square images of 28, 32, 48, 64, 128, 256, 512, ... pixels."""

    latent_dim: Count = 512
    """Numbers of noise from which the generator makes an image."""
    capacity: Count = 16384
    """A map of side s has capacity / s channels, in both players."""
    max_features: Count = 512
    """And at most so many."""
    stable_images: Count = 800_000
    """Real images that a stage sees when it is whole."""
    fade_images: Count = 800_000
    """And before, while it is faded in."""
    group_size: Count = 4
    """Images whose deviation from each other the discriminator sees; 1: none."""
    loss: Literal[*LOSSES] = "wasserstein"
    """Of both players."""
    gradient_penalty: Weight = 10.0
    """Weight of the WGAN-GP penalty."""
    drift: Weight = 1e-3
    """Weight of E D(real)^2."""
    batch_size: Count = 16
    """Images in a step (for each discriminator step), over all devices and hosts."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser; two learning rates are TTUR."""
    ema_half_life: Weight = 11_000.0
    """Of the moving average of the weights, in images; 0: the latest weights."""

    def phases(self) -> tuple[int, int]:
        """Steps in which a stage is faded in, and in which it is whole; at least one each."""
        images = self.batch_size * self.num_discriminator_steps
        return max(1, round(self.fade_images / images)), max(1, round(self.stable_images / images))

    def begins(self, stage: int) -> int:
        """The step (from 0) at which the fade of a stage begins; at 0 stage 0 is whole."""
        fade, stable = self.phases()
        return 0 if stage == 0 else stable + (stage - 1) * (fade + stable)

    def progress(self, step: Any, last: int) -> jax.Array:
        """How far the players have grown in the update after `step` others, float32: see `models.progan`.

        k in the steps in which stage k is whole, and in its fade of n steps k - 1 + 1 / n, k - 1 + 2 / n, ..., k.
        """
        fade, stable = self.phases()
        of_fades = jnp.asarray(step, jnp.int32) - stable
        whole, past = jnp.divmod(of_fades, fade + stable)
        share = jnp.minimum((past + 1).astype(jnp.float32) / fade, 1.0)
        return jnp.clip(whole.astype(jnp.float32) + share, 0.0, last) * (of_fades >= 0)


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a size without a network.
    """
    size, channels = square_size(spec.image_shape, "ProGAN"), spec.image_shape[2]
    last = len(networks.stages_of(size)) - 1
    shared: Settings = {"capacity": config.capacity, "max_features": config.max_features, "dtype": config.dtype}

    def progress(step):
        return config.progress(step, last)

    def condition(batch, step, key):
        return turns.Conditions(*[progress(step)] * 3)

    def times(step):
        return 2.0 ** (last - jnp.ceil(progress(step)))

    def rule(optimizer, updates):
        begins = [updates * config.begins(stage) for stage in range(1, last + 1)]
        return optim.restarting_at(begins, optimizer.build(updates * config.num_steps))

    discriminator_terms = [terms.drift(config.drift)] if config.drift > 0 else []
    if config.gradient_penalty > 0:
        weight, target = config.gradient_penalty, config.gradient_penalty_target
        discriminator_terms.append(terms.gradient_penalty_of_enlarged(weight, target, times))
    discriminator = networks.Discriminator(group_size=config.group_size, **shared)
    system = two_player.build(
        config,
        spec,
        networks.Generator(image_size=size, channels=channels, **shared),
        discriminator,
        name="ProGAN",
        condition=condition,
        real=lambda batch, step: networks.faded(batch["image"], progress(step)),
        penalties=dataclasses.replace(config, gradient_penalty=0.0).penalties,
        discriminator_terms=discriminator_terms,
        generator_optimizer=rule(config.generator, 1),
        discriminator_optimizer=rule(config.discriminator, config.num_discriminator_steps),
    )

    def variables(state):
        return {**system.variables(state), "progress": progress(jnp.maximum(state.step - 1, 0))}  # as last updated

    def decode(variables, z, **told):
        return system.decode(variables, z, progress=variables["progress"], **told)

    def draw(variables, key, n):
        return system.draw(variables, key, n, progress=variables["progress"])

    def discriminate(variables, batch):
        now = variables["progress"]
        return network.evaluate(
            discriminator, variables["discriminator"], networks.faded(batch["image"], now), now, what="images"
        )

    # Latents are brought to one length: truncated ones would be others, and not nearer to anything.
    untruncated: Settings = {"choices": {}, "latent_choices": ()}
    own: Settings = {"variables": variables, "draw": draw, "decode": decode, "discriminate": discriminate}
    return dataclasses.replace(system, **own, **untruncated)


_THIN: Settings = {"latent_dim": 6, "capacity": 32, "max_features": 6}
TINY = Config(  # whole for a step, then faded for two
    data=Data("emoji", image_size=8), batch_size=8, num_steps=4, stable_images=8, fade_images=16, **_THIN
)

_PAPER = "Karras, Aila, Laine and Lehtinen 2018"


def _in_all(last: int, batch_size: int, stable: int, fade: int) -> Settings:
    """Phases in steps, and so many steps that the last stage is whole for one of them."""
    images = {"stable_images": stable * batch_size, "fade_images": fade * batch_size}
    return {"batch_size": batch_size, "num_steps": stable + last * (fade + stable), **images}


PRESETS = {
    "emoji-progan": Preset(
        "32x32 colour emoji by a narrow ProGAN",
        # Widths and steps that two CPU cores bear. Not augmented: shifts of a few pixels blur what small stages see.
        Config(
            data=Data("emoji", image_size=32),
            latent_dim=128,
            capacity=1024,
            max_features=128,
            **_in_all(3, 16, 1500, 1500),
        ),
        paper=_PAPER,
        measured="FID 17.15 in the package's emoji CNN (equal sets: 0.47), precision 0.61, recall 0.22 against the "
        "3,341 training emoji; 18.63 against the 440 test emoji; 85 minutes of one core of an AMD EPYC "
        "beside other work, one seed, 2026-12-01",
    ),
    "celebahq-progan": Preset(
        "faces (CelebA-HQ) at 1024 pixels, by ProGAN as published; give --data.path, a folder",
        Config(
            data=Data("folder", path="celeba-hq", image_size=1024, labelled=False),
            sample_every=10_000,
            checkpoint_every=10_000,
            **_in_all(8, 16, 50_000, 50_000),
        ),
        paper=_PAPER,
        spec=((1024, 1024, 3), 0),
    ),
}
