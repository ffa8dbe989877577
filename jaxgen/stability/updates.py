"""Update rules for two players, for any vector field over pytrees.

A rule is a pair of pure functions, like an optax transformation, except that it takes the field instead of one value
of it, because extragradient, alternating players and lookahead ask for it at several points:

    state = rule.init(field, players)
    players, state = rule.update(field, players, state)

What changes the direction and not the rule is a function from field to field: `clip_jointly`, `clip_per_player`,
`consensus`, `symplectic_gradient_adjustment`, `gradient_norm_term`. They compose with each other and with every rule:

    rule = updates.alternating(Players(0.1, 0.4), num_discriminator_steps=2)
    trajectory = updates.run(rule, updates.clip_per_player(games.field(game), 1.0), game.start, num_steps=1000)

Rates, clip norms, momentum and weights are numbers or arrays, also traced ones, so that `vmap` can sweep them; where
they are one for each player, they are `Players(generator, discriminator)`. The numbers of steps are Python integers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxgen.arguments import short
from jaxgen.stability.games import Field, Players

Number = float | jax.Array
Rates = Number | Players


class Rule(NamedTuple):
    """An update rule: two pure functions.

    init: (field, players) -> state, a pytree of arrays, `()` where nothing is remembered.
    update: (field, players, state) -> (players, state).
    """

    init: Callable[[Field, Players], Any]
    update: Callable[[Field, Players, Any], tuple[Players, Any]]

    def __repr__(self) -> str:
        return short(self)


# ---------------------------------------------------------------------------------------------------------------- rules


def simultaneous(rates: Rates) -> Rule:
    """Both players move from the same point: w' = w + h v(w).

    Args:
      rates: h, above 0, for both players or one for each.
    """
    rates = _rates(rates)
    return Rule(lambda field, players: (), lambda field, players, state: (_move(players, rates, field(players)), ()))


def heavy_ball(rates: Rates, momentum: Number) -> Rule:
    """Simultaneous with momentum b: m' = b m + v(w), w' = w + h m'; negative momentum is a b below 0.

    Args:
      rates: h, above 0, for both players or one for each.
      momentum: b, in (-1, 1), for both players or one for each.

    Polyak 1964; negative momentum in games: Gidel et al. 2019, "Negative momentum for improved game dynamics".
    """
    rates, momentum = _rates(rates), _momentum(momentum)

    def update(field, players, velocity):
        velocity = _add(field(players), momentum, velocity)
        return _move(players, rates, velocity), velocity

    return Rule(lambda field, players: _zeros(players), update)


def alternating(
    rates: Rates,
    *,
    num_generator_steps: int = 1,
    num_discriminator_steps: int = 1,
    momentum: Number | Players | None = None,
    discriminator_first: bool = False,
) -> Rule:
    """One player after the other, each seeing where the other has gone.

    Args:
      rates: h, above 0, for both players or one for each.
      num_generator_steps: of the generator in one update.
      num_discriminator_steps: of the discriminator in one update.
      momentum: as in `heavy_ball`, kept by each player for itself; None for none.
      discriminator_first: the order of `gan.make_train_step`. The default is the order of the literature on Dirac-GANs.
        The two are the same sequence of moves, cut at different places: stability does not depend on it.

    Mescheder, Geiger, Nowozin 2018; Goodfellow et al. 2014, algorithm 1 (discriminator first).
    """
    for name, number in (("generator", num_generator_steps), ("discriminator", num_discriminator_steps)):
        if number < 1:
            raise ValueError(f"num_{name}_steps must be at least 1, not {number}")
    rates = _rates(rates)
    order = ["generator"] * num_generator_steps + ["discriminator"] * num_discriminator_steps
    if discriminator_first:
        order = order[num_generator_steps:] + order[:num_generator_steps]
    momentum = None if momentum is None else _momentum(momentum)

    def init(field, players):
        return () if momentum is None else _zeros(players)

    def update(field, players, velocity):
        for name in order:
            direction = getattr(field(players), name)
            if momentum is not None:
                direction = _add_tree(direction, getattr(momentum, name), getattr(velocity, name))
                velocity = velocity._replace(**{name: direction})
            moved = _add_tree(getattr(players, name), getattr(rates, name), direction)
            players = players._replace(**{name: moved})
        return players, velocity

    return Rule(init, update)


def extragradient(rates: Rates, extrapolation_rates: Rates | None = None) -> Rule:
    """Look ahead, then move from where you were: w' = w + h v(w + h' v(w)).

    Args:
      rates: h, above 0, for both players or one for each.
      extrapolation_rates: h'; the same as h if None.

    Korpelevich 1976; in GANs: Gidel et al. 2019, "A variational inequality perspective on GANs".
    """
    rates = _rates(rates)
    ahead = rates if extrapolation_rates is None else _rates(extrapolation_rates)

    def update(field, players, state):
        return _move(players, rates, field(_move(players, ahead, field(players)))), state

    return Rule(lambda field, players: (), update)


def optimistic(rates: Rates) -> Rule:
    """Optimistic gradient descent-ascent: w' = w + h (2 v_t - v_{t-1}), where v_{-1} = v_0.

    Args:
      rates: h, above 0, for both players or one for each.

    Popov 1980; Daskalakis et al. 2018, "Training GANs with optimism".
    """
    rates = _rates(rates)

    def update(field, players, previous):
        direction = field(players)
        return _move(players, rates, jax.tree.map(lambda v, u: 2 * v - u, direction, previous)), direction

    return Rule(lambda field, players: field(players), update)


def lookahead(inner: Rule, num_steps: int = 5, alpha: Number = 0.5) -> Rule:
    """k steps of the inner rule, then back to w + alpha (w_k - w). One update is all of that.

    Args:
      inner: the rule of the fast weights, whose state goes on from one update to the next.
      num_steps: k.
      alpha: in (0, 1].

    Zhang et al. 2019; in GANs: Chavdarova et al. 2021, "Taming GANs with lookahead-minmax".
    """
    if num_steps < 1:
        raise ValueError(f"num_steps of lookahead must be at least 1, not {num_steps}")
    if _known(alpha) and not 0 < alpha <= 1:
        raise ValueError(f"alpha of lookahead must be in (0, 1], not {alpha}")

    def update(field, players, state):
        fast = players
        for _ in range(num_steps):
            fast, state = inner.update(field, fast, state)
        return jax.tree.map(lambda slow, fast: slow + alpha * (fast - slow), players, fast), state

    return Rule(inner.init, update)


# ------------------------------------------------------------------------------------------------ from field to field


def consensus(field: Field, weight: Number) -> Field:
    """v - weight * grad(|v|^2 / 2) = v - weight * J^T v: both players also descend the length of the field.

    The gradient is that of the field itself, by one reverse pass through it.

    Mescheder, Nowozin, Geiger 2017, "The numerics of GANs".
    """

    def adjusted(players):
        v, pull_back = jax.vjp(field, players)
        return jax.tree.map(lambda v, g: v - weight * g, v, *pull_back(v))

    return adjusted


def symplectic_gradient_adjustment(field: Field, weight: Number) -> Field:
    """v + weight * A v with A = (J - J^T) / 2, the antisymmetric part of J = dv/dw. Any sign of weight is allowed.

    In the notation of the paper, whose field is the gradient -v, it is their adjustment lambda A^T xi with the same
    lambda.

    Balduzzi et al. 2018, "The mechanics of n-player differentiable games".
    """

    def adjusted(players):
        v, pull_back = jax.vjp(field, players)
        (transposed,) = pull_back(v)
        _, forward = jax.jvp(field, (players,), (v,))
        return jax.tree.map(lambda v, f, t: v + weight * (f - t) / 2, v, forward, transposed)

    return adjusted


def gradient_norm_term(field: Field, weight: Number) -> Field:
    """The generator also descends weight * |v_psi|^2, the squared length of the discriminator's gradient.

    Nagarajan and Kolter 2017, "Gradient descent GAN optimization is locally stable". The half is not included.
    """

    def adjusted(players):
        def length(generator):
            v = field(players._replace(generator=generator)).discriminator
            return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(v))

        term = jax.grad(length)(players.generator)
        v = field(players)
        return v._replace(generator=jax.tree.map(lambda v, g: v - weight * g, v.generator, term))

    return adjusted


def clip_jointly(field: Field, max_norm: Number) -> Field:
    """Gradient clipping with one norm over both players: v min(1, c / |v|).

    All it does is to change the time along the orbit: orbits and the spectrum at an equilibrium stay.

    Args:
      field: to be clipped.
      max_norm: c, above 0; infinity for no clip.
    """
    _check_positive("a clip norm", max_norm)
    return lambda players: _clip(field(players), max_norm)


def clip_per_player(field: Field, max_norm: Number | Players) -> Field:
    """Gradient clipping of each player by its own norm: v_i min(1, c_i / |v_i|). It is a different game.

    Args:
      field: to be clipped.
      max_norm: c, above 0, for both players or one for each; infinity for no clip.
    """
    norms = _per_player(max_norm)
    for number in norms:
        _check_positive("a clip norm", number)
    return lambda players: Players(*(_clip(v, c) for v, c in zip(field(players), norms, strict=True)))


def _clip(v, max_norm):
    squared = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(v))
    # The root of the squared norm only where it is not 0: elsewhere its derivative would be NaN.
    clipped = squared > max_norm**2
    scale = jnp.where(clipped, max_norm / jnp.sqrt(jnp.where(clipped, squared, 1.0)), 1.0)
    return jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), v)


# ------------------------------------------------------------------------------------------------ from rule to rule


def clip_discriminator_weights(rule: Rule, limit: Number) -> Rule:
    """Weight clipping: after every update of the rule the discriminator's *parameters* are projected to [-c, c].

    Not gradient clipping: it changes where the discriminator may be, not how fast it moves. With several
    discriminator steps in an update the projection is after the last one.

    Args:
      rule: any.
      limit: c, above 0.

    Arjovsky, Chintala, Bottou 2017, "Wasserstein GAN", algorithm 1.
    """
    _check_positive("the limit of weight clipping", limit)

    def update(field, players, state):
        players, state = rule.update(field, players, state)
        clipped = jax.tree.map(lambda x: jnp.clip(x, -limit, limit), players.discriminator)
        return players._replace(discriminator=clipped), state

    return Rule(rule.init, update)


# ----------------------------------------------------------------------------------------------------------- using them


def run(rule: Rule, field: Field, start: Players, num_steps: int) -> Players:
    """The trajectory of a rule: `start` and what follows each of `num_steps` updates.

    Args:
      rule: of the section above.
      field: the vector field.
      start: parameters.
      num_steps: of updates.

    Returns:
      Players whose leaves have a leading axis of length `num_steps + 1`.
    """
    start = Players(*jax.tree.map(jnp.asarray, tuple(start)))

    def scanned(carry, _):
        carry = rule.update(field, *carry)
        return carry, carry[0]

    _, rest = lax.scan(scanned, (start, rule.init(field, start)), length=num_steps)
    return jax.tree.map(lambda first, others: jnp.concatenate([first[None], others]), start, rest)


def step_map(rule: Rule, field: Field, players: Players) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """One update as a map of a vector, the rule's state included, and the vector that stands for `players`.

    Where `players` is an equilibrium, that vector is a fixed point of the map; the eigenvalues of the map's Jacobian
    there decide on stability.

    Returns:
      (map [n] -> [n], point [n]).
    """
    players = Players(*jax.tree.map(jnp.asarray, tuple(players)))
    point, unravel = ravel_pytree((players, rule.init(field, players)))
    return lambda vector: ravel_pytree(rule.update(field, *unravel(vector)))[0], point


def _per_player(value):
    """One number for both players, or Players."""
    return value if isinstance(value, Players) else Players(value, value)


def _rates(rates):
    rates = _per_player(rates)
    for name, rate in rates._asdict().items():
        _check_positive(f"the {name}'s rate", rate)
    return rates


def _momentum(momentum):
    momentum = _per_player(momentum)
    for number in momentum:
        if _known(number) and not np.all(np.abs(number) < 1):
            raise ValueError(f"momentum must be in (-1, 1), not {number}")
    return momentum


def _known(number):
    return not isinstance(number, jax.core.Tracer)


def _check_positive(name, number):
    if _known(number) and not np.all(np.asarray(number) > 0):
        raise ValueError(f"{name} must be above 0, not {number}")


def _zeros(players):
    return jax.tree.map(jnp.zeros_like, players)


def _add_tree(x, factor, y):
    return jax.tree.map(lambda x, y: x + jnp.asarray(factor, x.dtype) * y, x, y)


def _add(x, factors, y):
    return Players(*(_add_tree(*arguments) for arguments in zip(x, factors, y, strict=True)))


def _move(players, rates, direction):
    return _add(players, rates, direction)
