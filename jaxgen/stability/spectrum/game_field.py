"""The vector field of a game, read off the train step that plays it."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxgen import gan, optim
from jaxgen.arguments import check_key
from jaxgen.stability.games import Field, Players

RECORDING = {"generator_optimizer": optim.recording(), "discriminator_optimizer": optim.recording()}
"""Optimisers for `gan.make_train_step` that move nothing and keep the gradients, which `field_of_step` reads."""


def field_of_game(game: gan.Game, state: gan.GANState, batch: Mapping[str, jax.Array], key: jax.Array) -> Field:
    """The vector field of a game of two networks, in a state, on a batch: see `field_of_step`.

    The players' gradients are those of the game's own train step, with whatever it adds to the losses, at one and the
    same point: as if both moved at once, whatever the game's update rule.

    Args:
      game: as it is trained; `System.game` of a two-player system.
      state: of its training, with whatever optimisers.
      batch: of a train step: as many images for each of the discriminator's updates.
      key: of the run, as the train step takes it.

    Returns:
      Players(generator params, discriminator params) -> a tree like it.
    """
    check_key(key)
    step = game.train_step(**RECORDING, update_rule=gan.simultaneous, ema_decay=0.0)
    return field_of_step(step, state, batch, key)


def field_of_step(train_step: Callable, state: gan.GANState, batch: Mapping[str, jax.Array], key: jax.Array) -> Field:
    """v(w) = (-d objective_G / d theta, -d objective_D / d psi), minus the gradients that a train step records.

    It is the direction in which both players would move by plain gradient descent. Of several discriminator updates the
    last one counts, the others having moved nothing.

    Held fixed, as the step would find them: images, latents and whatever else is drawn of the key; the step number, and
    so schedules, and which lazy terms are due; the states of terms and augmentation; batch statistics. What a network
    holds constant to differentiation is constant to that of the field, too: the singular vectors of spectral
    normalisation, which in training follow the weights. The Jacobian without their share is near, not exact (in a small
    example by 3 to 5 %, and by 26 % before they have settled).

    Args:
      train_step: (state, batch, key) -> (state, metrics), made with the optimisers `RECORDING` and the update rule
        `gan.simultaneous`.
      state: of training; only the optimisers' states are replaced.
      batch: of the step.
      key: as the step takes it, which folds the step number into it.

    Returns:
      Players(generator params, discriminator params) -> a tree like it. Single precision or double, as the parameters.
    """
    check_key(key)
    recording = optim.recording()

    def field(players: Players) -> Players:
        generator, discriminator = (
            dataclasses.replace(player, params=params, opt_state=recording.init(params))
            for player, params in zip((state.generator, state.discriminator), players, strict=True)
        )
        # The average counts for nothing here: without the state's own, that is no constant of the program.
        at = dataclasses.replace(state, generator=generator, discriminator=discriminator, ema=generator.variables)
        after, _ = train_step(at, batch, key)
        gradients = after.generator.opt_state.gradient, after.discriminator.opt_state.gradient
        return Players(*jax.tree.map(jnp.negative, gradients))

    return field
