"""Two-player games whose equilibrium and eigenvalues are known exactly.

A game is a function from the players' parameters to the players' losses, both to be minimised; its vector field is
found by differentiation. The GANs among them are made of the library's own losses and penalties, so that what is
proved about them is proved of the code that people train with.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.losses import adversarial
from jaxgen.losses.penalties import Penalty


class Players(NamedTuple):
    """Anything that there is one of for each player: parameters, directions, learning rates, clip norms."""

    generator: Any  # theta, who minimises L
    discriminator: Any  # psi, who maximises it


Field = Callable[[Players], Players]
"""From parameters to the direction in which each player moves, v = (-dL/dtheta, +dL/dpsi)."""


@dataclasses.dataclass(frozen=True)
class Game:
    """A game of two players.

    losses: parameters -> (generator's loss, discriminator's loss), scalars, each minimised by its player.
    start: where a simulation begins unless told otherwise.
    equilibrium: a point at which the field is 0.
    """

    losses: Callable[[Players], Players]
    start: Players
    equilibrium: Players


def field(game: Game) -> Field:
    """The vector field v(w) = (-d loss_G / d theta, -d loss_D / d psi), each player differentiating its own loss.

    Of a zero-sum game with value L it is (-dL/dtheta, +dL/dpsi).
    """

    def v(players: Players) -> Players:
        generator, discriminator = jax.tree.map(jnp.asarray, tuple(players))
        theta = jax.grad(lambda theta: game.losses(Players(theta, discriminator)).generator)(generator)
        psi = jax.grad(lambda psi: game.losses(Players(generator, psi)).discriminator)(discriminator)
        return Players(*jax.tree.map(jnp.negative, (theta, psi)))

    return v


# ---------------------------------------------------------------------------------------------------- GANs of numbers


def dirac(
    loss: adversarial.AdversarialLoss = adversarial.minimax,
    penalties: Sequence[Penalty] = (),
    *,
    instance_noise: float | jax.Array | None = None,
    num_nodes: int = 12,
    start: tuple[float, float] = (1.0, 1.0),
) -> Game:
    """The Dirac-GAN: the data are the point 0, the generator is the point theta, the discriminator a slope psi.

    L(theta, psi) = f(psi theta) + f(0), with f(t) = -log(1 + exp(-t)) for the classic loss and f(t) = t for
    Wasserstein. As in the paper psi x is large where x seems *fake*, so the library's logits are -psi x.

    Args:
      loss: a pair from `losses.adversarial`. `minimax` is the zero-sum game; with `non_saturating` the generator moves
        along -psi f'(-psi theta) instead.
      penalties: from `losses.penalties`, added to the discriminator's loss: `[r1(gamma)]`, `[r1(gamma), r2(gamma)]`,
        `[gradient_penalty(weight, target)]`. The latter adds -2 weight (|psi| - target) sign(psi) to the
        discriminator's direction, and nothing at psi = 0.
      instance_noise: standard deviation of Gaussian noise added to real and fake images alike (Soenderby et al. 2017);
        None for none. The expectation is over a Gauss-Hermite grid instead of random numbers.
      num_nodes: of that grid, for each of the two noises: exact for polynomials of degree `2 num_nodes - 1`.
      start: (theta, psi).

    Returns:
      A game of scalars. The equilibrium is (0, 0), unless the loss has none there (`least_squares`).

    Mescheder, Geiger, Nowozin 2018, "Which training methods for GANs do actually converge?".
    """
    if instance_noise is None:
        nodes, weights = np.zeros(1), np.ones(1)
    else:
        nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
        weights = weights / weights.sum()
    real_nodes, fake_nodes = (grid.reshape(-1, 1) for grid in np.meshgrid(nodes, nodes, indexing="ij"))
    weights = np.outer(weights, weights).ravel()
    std = 0.0 if instance_noise is None else instance_noise

    def losses(players):
        theta, psi = players
        real = std * jnp.asarray(real_nodes, theta.dtype)
        fake = theta + std * jnp.asarray(fake_nodes, theta.dtype)

        def discriminator_fn(x):
            return -psi * x[:, 0]

        logits = discriminator_fn(real), discriminator_fn(fake)
        mean = jnp.asarray(weights, theta.dtype)
        penalty = _total(penalties, discriminator_fn, real, fake)
        return Players(mean @ loss.generator(*logits), mean @ loss.discriminator(*logits) + penalty)

    return Game(losses, _players(*start), _players(0.0, 0.0))


def shift(
    samples: ArrayLike,
    loss: adversarial.AdversarialLoss = adversarial.minimax,
    penalties: Sequence[Penalty] = (),
    *,
    start: tuple[jax.Array, jax.Array] | None = None,
) -> Game:
    """The shift GAN, a Dirac-GAN in d dimensions with a spectrum for any batch: x = z + theta, D(x) = psi . x.

    Latents and data are one and the same batch, so (0, 0) is an equilibrium whatever the batch. The eigenvalues depend
    on its second moments: see `oracles.shift_eigenvalues` and `sigma_points`. As for `dirac`, the logits are -psi . x.

    Args:
      samples: [N, d], both the latents z and the data.
      loss: a pair from `losses.adversarial`.
      penalties: from `losses.penalties`.
      start: (theta [d], psi [d]); ones by default.

    Returns:
      A game of two vectors [d].
    """
    shape = np.shape(samples)
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(f"samples are [N, d] with N at least 1, not of shape {shape}")
    d = shape[1]

    def losses(players):
        theta, psi = players
        real = jnp.asarray(samples, theta.dtype)
        fake = real + theta

        def discriminator_fn(x):
            return -x @ psi

        logits = discriminator_fn(real), discriminator_fn(fake)
        penalty = _total(penalties, discriminator_fn, real, fake)
        return Players(jnp.mean(loss.generator(*logits)), jnp.mean(loss.discriminator(*logits)) + penalty)

    theta, psi = (np.ones(d), np.ones(d)) if start is None else start
    return Game(losses, _players(theta, psi), _players(np.zeros(d), np.zeros(d)))


def sigma_points(covariance: jax.Array) -> np.ndarray:
    """2 d points with mean 0 and exactly the given second moments: +- sqrt(d) times the columns of a square root.

    Args:
      covariance: [d, d], symmetric and positive definite.

    Returns:
      [2 d, d], for `shift`: a batch with a prescribed spectrum.
    """
    root = np.linalg.cholesky(np.asarray(covariance, np.float64)).T * np.sqrt(len(covariance))
    return np.concatenate([root, -root])


# ------------------------------------------------------------------------------------------------- games without data


def bilinear(matrix: jax.Array, *, start: tuple[jax.Array, jax.Array] | None = None) -> Game:
    """L(theta, psi) = theta^T A psi, the purest rotation: theta descends, psi ascends.

    Its eigenvalues are +- i sigma for the singular values sigma of A.

    Args:
      matrix: A, [n, m].
      start: (theta [n], psi [m]); ones by default.

    Returns:
      A zero-sum game whose equilibrium is (0, 0).
    """
    if np.ndim(matrix) != 2:
        raise ValueError(f"the bilinear game needs a matrix [n, m], not an array of shape {np.shape(matrix)}")

    def losses(players):
        value = players.generator @ jnp.asarray(matrix, players.generator.dtype) @ players.discriminator
        return Players(value, -value)

    n, m = np.shape(matrix)
    theta, psi = (np.ones(n), np.ones(m)) if start is None else start
    return Game(losses, _players(theta, psi), _players(np.zeros(n), np.zeros(m)))


def ttur_saddle(start: tuple[float, float] = (0.5, 0.5)) -> Game:
    """L(x, y) = (1 + x^2) (100 - y^2): x descends, y ascends, and the first is a hundred times as fast as the second.

    The eigenvalues at the saddle (0, 0) are -200 and -2: one rate for both must be below 0.01, two rates need not.

    Heusel et al. 2017, "GANs trained by a two time-scale update rule".
    """

    def losses(players):
        x, y = players
        value = (1 + x**2) * (100 - y**2)
        return Players(value, -value)

    return Game(losses, _players(*start), _players(0.0, 0.0))


def _total(penalties, discriminator_fn, real, fake):
    key = jax.random.key(0)  # the gradient of a linear discriminator is the same at every point that a penalty draws
    return sum((penalty(discriminator_fn, real, fake, key) for penalty in penalties), start=0.0)


def _players(generator, discriminator):
    """In double precision until used; a JAX array, which may be traced, stays what it is."""
    values = generator, discriminator
    return Players(*(x if isinstance(x, jax.Array) else np.asarray(x, np.float64) for x in values))
