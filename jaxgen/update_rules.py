"""How one step joins the two players' moves: an argument of `gan.make_train_step`.

A rule is given both players, the step's fake images and what moves there are; `alternating` is the usual one. Rules
differ in where gradients are taken, and in nothing else: losses, terms and optimisers are the step's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxgen import network
from jaxgen.arguments import short
from jaxgen.network import Network


class Players(NamedTuple):
    """Both networks."""

    generator: Network
    discriminator: Network


class Fakes(NamedTuple):
    """The step's batch of fake images, of some generator."""

    output: Any  # what the generator returned: images, or a `network.Output`
    pull_back: Callable  # from the gradient with respect to the output to that of the generator's parameters
    model_state: Any  # the generator's mutable collections after the forward pass
    params: Any  # of the generator

    @property
    def images(self) -> jax.Array:
        """[B, ...]."""
        return network.split_output(self.output)[0]


class Moves(NamedTuple):
    """What an update rule may do with the step's batch.

    A move goes from where its player stood when the rule was called, by one update of its optimiser, along the gradient
    taken at the networks that are given. So the rules differ in where gradients are taken, and in nothing else.

    generate: (generator) -> Fakes, from the step's latents.
    discriminator: (discriminator, fakes) -> (moved discriminator, metrics).
    generator: (discriminator, fakes) -> (moved generator, metrics).
    """

    generate: Callable[[Network], Fakes]
    discriminator: Callable[[Network, Fakes], tuple[Network, dict[str, jax.Array]]]
    generator: Callable[[Network, Fakes], tuple[Network, dict[str, jax.Array]]]

    def __repr__(self) -> str:
        return short(self)


UpdateRule = Callable[[Players, Fakes, Moves], tuple[Players, dict[str, jax.Array]]]
"""(players, fakes of the players' generator, moves) -> (players, metrics)."""


def alternating(players: Players, fakes: Fakes, moves: Moves) -> tuple[Players, dict[str, jax.Array]]:
    """The discriminator moves, then the generator, whose gradient goes through the discriminator that has just moved.

    Both on the same fake images, so that the generator runs forward once. Goodfellow et al. 2014, algorithm 1.
    """
    discriminator, metrics = moves.discriminator(players.discriminator, fakes)
    generator, generator_metrics = moves.generator(discriminator, fakes)
    return Players(generator, discriminator), metrics | generator_metrics


def simultaneous(players: Players, fakes: Fakes, moves: Moves) -> tuple[Players, dict[str, jax.Array]]:
    """Both players move along their gradients at one and the same point.

    With `optax.optimistic_gradient_descent` or `optax.optimistic_adam` for both, these are optimistic updates.
    """
    discriminator, metrics = moves.discriminator(players.discriminator, fakes)
    generator, generator_metrics = moves.generator(players.discriminator, fakes)
    return Players(generator, discriminator), metrics | generator_metrics


def extragradient(players: Players, fakes: Fakes, moves: Moves) -> tuple[Players, dict[str, jax.Array]]:
    """A simultaneous look-ahead; its gradients then move the players from where they stood.

    Costs two steps. Both halves see the same images and latents (Mishchenko et al. 2020) and start from the same
    optimiser states: what the look-ahead makes of those is dropped, so that schedules and moments go on once a step.
    In ExtraAdam (Gidel et al. 2019, algorithm 4) moments see both gradients, on two batches. The metrics are of the
    second half.
    """
    ahead, _ = simultaneous(players, fakes, moves)
    return simultaneous(ahead, moves.generate(ahead.generator), moves)
