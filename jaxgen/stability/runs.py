"""A GAN's run directory as a game: its networks, the images of its next step, and the vector field that moves it."""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from jaxgen import checkpoint, data, experiment, gan, presets, run_directory
from jaxgen.stability import oracles, spectrum
from jaxgen.stability.games import Field, Players


class GANRun(NamedTuple):
    """A checkpoint of a GAN with what its next train step would see."""

    config: presets.GAN
    state: gan.GANState
    generator: nn.Module
    discriminator: nn.Module
    train_step: Any  # the run's own, optimisers, clips and order of players included
    batch: dict[str, jax.Array]  # of the next step
    key: jax.Array  # for the train step
    z: jax.Array  # latents that the step draws, [B, latent_dim]
    field: Field  # of the game on that batch, batch statistics held

    @property
    def players(self) -> Players:
        """The parameters of both."""
        return Players(self.state.generator.params, self.state.discriminator.params)


def check_gan(directory: str | os.PathLike) -> presets.GAN:
    """The configuration of a GAN's run.

    Raises:
      ValueError: for a run of another family, whose training is no game.
    """
    config = presets.from_dict(run_directory.load_config(directory))
    if not isinstance(config, presets.GAN):
        raise ValueError(
            f"{directory} is a {type(config).__name__}, which has one player and no game; give the run of a GAN"
        )
    return config


def load_gan(directory: str | os.PathLike, *, step: int | None = None, batch_size: int | None = None) -> GANRun:
    """Reads a checkpoint of a GAN's run and the images of its next step; computes in single precision.

    Args:
      directory: of the run.
      step: of the checkpoint; the newest good one by default.
      batch_size: images instead of the run's own number; other images, then.

    Raises:
      ValueError: for another family, or a batch size below 1; before anything is read.
      RunDirectoryError, checkpoint.CheckpointError and others: what reading the run and its data raises.
    """
    config = check_gan(directory)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, not {batch_size}")
    trained = experiment.load(str(directory), step=step)
    # Half precision would drown all but the outermost eigenvalues; parameters are float32 in any case.
    config = dataclasses.replace(config, precision="float32", batch_size=batch_size or config.batch_size)
    images = run_directory.load_config(directory)["images"]
    networks = experiment.build_networks(config, images["image_shape"], images["num_classes"])
    dataset = experiment.load_data(config.data, "train")
    if dataset.fingerprint != images.get("data_fingerprint"):
        warnings.warn(f"the data of {directory} have changed since it was trained", stacklevel=2)
    state, k = trained.state, config.num_discriminator_steps
    indices = data.batch_indices(
        int(state.step), batch_size=networks.images_per_step, num_examples=dataset.num_examples, seed=config.seed
    )
    # The keys of `experiment.train`, `loop.make_one_step` and `gan.make_train_step`, in this order.
    data_key, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 3))
    batch = dict(dataset.prepare(dataset.fetch(indices), jax.random.fold_in(data_key, state.step)))
    latent_key, step_key = jax.random.split(jax.random.split(jax.random.fold_in(key, state.step), k)[-1])
    z = jax.random.normal(latent_key, (config.batch_size, config.latent_dim))
    generator, discriminator, loss, terms = experiment.game(config, tuple(images["image_shape"]))
    field = spectrum.gan_field(
        generator,
        discriminator,
        real=batch["image"][k - 1 :: k],
        z=z,
        loss=loss,
        penalties=terms,
        key=step_key,
        generator_state=state.generator.model_state,
        discriminator_state=state.discriminator.model_state,
    )
    return GANRun(config, state, generator, discriminator, networks.train_step, batch, key, z, field)


def moving_step(directory: str | os.PathLike) -> int | None:
    """The newest checkpoint of a GAN's run at which its schedules leave a rate above 0, and a train step moves.

    None where there is none: at the end of a cosine or linear schedule nothing moves any more.
    """
    config = check_gan(directory)
    steps = checkpoint.all_steps(Path(directory) / "checkpoints")
    return max((step for step in steps if any(learning_rates(config, step))), default=None)


def learning_rates(config: presets.GAN, step: int) -> Players:
    """Where both schedules stand at a step, skipped updates not counted."""

    def rate(optimizer, num_steps, count):
        schedule = presets.SCHEDULES[optimizer.schedule](optimizer.learning_rate, num_steps)
        return float(schedule(count))

    k = config.num_discriminator_steps
    return Players(
        rate(config.generator, config.num_steps, step), rate(config.discriminator, config.num_steps * k, step * k)
    )


def own_rule(run: GANRun) -> tuple[str, Any, Any] | None:
    """The run's optimisers as a rule of `oracles`, if they are one: plain descent, momentum, or Adam.

    Returns:
      (name, rates for `spectrum.ritz_values` in units of the discriminator's learning rate, z -> |factor|), or None
      where the two optimisers differ in more than their rates, or are others, or the players look ahead. They count as
      simultaneous otherwise, and clips and schedules as absent. Adam's second moments are held.
    """
    theirs, ours = run.config.generator, run.config.discriminator
    ratio = theirs.learning_rate / ours.learning_rate
    if (theirs.name, theirs.b1) != (ours.name, ours.b1) or run.config.update_rule == "extragradient":
        return None
    if ours.name == "sgd":
        name = f"gradient descent, momentum {ours.b1:g}"
        return name, Players(ratio, 1.0), lambda z: oracles.heavy_ball_factor(z, ours.b1)
    if ours.name in ("adam", "adamw"):
        rates = Players(
            spectrum.adam_rates(run.state.generator.opt_state, b2=theirs.b2, eps=theirs.eps, learning_rate=ratio),
            spectrum.adam_rates(run.state.discriminator.opt_state, b2=ours.b2, eps=ours.eps),
        )
        return f"Adam, b1 = {ours.b1:g}, moments held", rates, lambda z: spectrum.adam_factor(z, ours.b1)
    return None
