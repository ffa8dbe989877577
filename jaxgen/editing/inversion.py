"""Latents whose image agrees with what was measured of an image, by gradient descent through any decoder.

    found = invert(decode, y, starts)                                       # inversion
    found = invert(decode, known * y, starts, measure=masked, given=known)  # completion
    found = invert(decode, small, starts, measure=halved)                   # super-resolution, deblurring, ...

The objective is a negative log density in nats: of what was measured, given the latents, with normal noise of standard
deviation s in each number, and of the latents:

    |A(decode(z)) - y|^2 / (2 s^2) + |z|^2 / 2

For a linear decoder its minimum is ridge regression, the mean of the posterior, and `posterior_samples` draws from
N(mean, (I + G' A' A G / s^2)^-1).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgen import network
from jaxgen.arguments import check_function, check_key
from jaxgen.editing.latents import check_real, num_of, rows_of

Measurement = Callable[[jax.Array, Any], jax.Array]
"""(images [n, H, W, C], what it is told of each, leaves [n, ...] or None) -> what is measured [n, ...]: A."""


def whole(images: jax.Array, given: Any = None) -> jax.Array:
    """The images themselves."""
    del given
    return images


def masked(images: jax.Array, known: jax.Array) -> jax.Array:
    """The pixels that are known, and 0 elsewhere: known [n, H, W, 1] is 1 where a pixel is known, and 0 in the hole."""
    return images * known


def standard_normal(latents: Any) -> jax.Array:
    """|z|^2 / 2 of each row [n]: -log N(z; 0, I) but for a constant."""
    return 0.5 * jnp.sum(rows_of(latents)[0] ** 2, axis=1)


def diagonal_normal(mean: Any, deviation: Any) -> Callable[[Any], jax.Array]:
    """sum ((z - mean) / deviation)^2 / 2 of each row [n], as a function of latents.

    Args:
      mean, deviation: of the form of one row of the latents, such as [D].
    """

    def energy(latents):
        return standard_normal(jax.tree.map(lambda z, m, d: (z - m) / d, latents, mean, deviation))

    return energy


class Inversion(NamedTuple):
    """Latents of B images, each the best of R starts.

    latents: leaves [B, ...].
    images: [B, H, W, C], what they are decoded to.
    losses: [B, R], the objective at the end of each start, in nats.
    best: [B] int32, which start it was.
    """

    latents: Any
    images: jax.Array
    losses: jax.Array
    best: jax.Array


def default_optimizer(num_steps: int) -> optax.GradientTransformation:
    """Adam, whose rate falls from 0.1 to 0 along half a cosine: latents are of the size of 1."""
    return optax.adam(optax.cosine_decay_schedule(0.1, max(1, num_steps)), b2=0.99)


def invert(
    decode: Callable[..., jax.Array],
    target: jax.Array,
    starts: Any,
    *,
    measure: Measurement = whole,
    given: Any = None,
    told: Any = None,
    noise: float = 0.1,
    prior: Callable[[Any], jax.Array] | None = standard_normal,
    distance: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    num_steps: int = 300,
    optimizer: optax.GradientTransformation | None = None,
    rows_at_once: int = 64,
) -> Inversion:
    """argmin over z of |A(decode(z)) - y|^2 / (2 s^2) - log p(z), from several starts for each image.

    All rows (images times starts) descend beside each other, as if each did alone: `decode` must treat each by itself.

    Args:
      decode: latents with leaves [n, ...] -> images [n, H, W, C]; where `told` is given (latents, told).
      target: y [B, ...], what was measured of each image.
      starts: leaves [B, R, ...] of real numbers, such as `draw_starts` gives.
      measure: A, differentiable.
      given: leaves [B, ...]; what `measure` is told of each image, such as a mask.
      told: leaves [B, R, ...]; what `decode` is told of each start and is not changed, such as a label.
      noise: s, standard deviation of a measured number; images are in [-1, 1].
      prior: latents -> -log p(z) [n]; None: maximum likelihood, which is least squares.
      distance: (images [n, H, W, C], y [n, H, W, C]) -> [n], added to the objective, such as a perceptual distance in
        nats; of inversions only, since it sees y beside images.
      num_steps: 0: the starts themselves.
      optimizer: any optax transformation that treats each number by itself; Adam by default (`default_optimizer`).
      rows_at_once: how many rows are in memory at once; others wait.

    Returns:
      An `Inversion`. A start that ends in NaN is never the best unless all do.

    Raises:
      ValueError: for latents that are no real numbers, starts of another number than images, no noise, or numbers of
        steps or rows out of their ranges.
    """
    _check(target, starts, noise)
    if num_steps < 0 or rows_at_once < 1:
        raise ValueError(f"a descent has at least 0 steps and 1 row at once, not {num_steps} and {rows_at_once}")
    if distance is not None:
        check_function(distance, "images, target", "distance", "distance=functools.partial(found.distance, weights)")
    optimizer = default_optimizer(num_steps) if optimizer is None else optimizer
    network.check_optimizer(optimizer)
    objective = objective_of(decode, measure=measure, noise=noise, prior=prior, distance=distance)

    def descend(rows):
        z, (told, y, given) = rows
        gradient = jax.grad(lambda z: jnp.sum(objective(z, told, y, given)))

        def update(carry, _):
            z, state = carry
            updates, state = optimizer.update(gradient(z), state, z)
            return (optax.apply_updates(z, updates), state), None

        (z, _), _ = lax.scan(update, (z, optimizer.init(z)), length=num_steps)
        return z, objective(z, told, y, given)

    num, restarts = len(target), jax.tree.leaves(starts)[0].shape[1]
    ended, losses = in_chunks(descend, rows_with(starts, told, target, given), rows_at_once)
    losses = losses.reshape(num, restarts)
    best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses), axis=1).astype(jnp.int32)
    chosen = jnp.arange(num) * restarts + best
    latents = jax.tree.map(lambda z: z[chosen], ended)
    of_best = jax.tree.map(lambda x: jnp.reshape(x, (num * restarts, *x.shape[2:]))[chosen], told)
    images = in_chunks(lambda rows: decode_told(decode, *rows), (latents, of_best), rows_at_once)
    return Inversion(latents, images, losses, best)


def _check(target, starts, noise):
    check_real(starts)
    if not noise > 0:
        raise ValueError(f"the noise of a measurement is above 0, not {noise}")
    if num_of(starts) != len(target):
        raise ValueError(f"there are {len(target)} images to invert, and starts for {num_of(starts)}")


def decode_told(decode: Callable[..., jax.Array], latents: Any, told: Any) -> jax.Array:
    """decode(latents), or decode(latents, told) where something is told."""
    return decode(latents) if told is None else decode(latents, told)


def objective_of(
    decode: Callable[..., jax.Array],
    *,
    measure: Measurement = whole,
    noise: float = 0.1,
    prior: Callable[[Any], jax.Array] | None = standard_normal,
    distance: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Callable[..., jax.Array]:
    """What `invert` minimises, `(latents, told, target, given) -> [n]` in nats; its arguments are `invert`'s."""

    def negative_log_density(latents, told, target, given):
        images = decode_told(decode, latents, told)
        measured = measure(images, given)
        if measured.shape != target.shape:
            raise ValueError(
                f"what is measured of decoded images has the shape {list(measured.shape[1:])}, and the target "
                f"{list(target.shape[1:])}"
            )
        energy = jnp.sum((measured - target).reshape(len(target), -1) ** 2, axis=1) / (2 * noise**2)
        if prior is not None:
            energy = energy + prior(latents)
        return energy if distance is None else energy + distance(images, target)

    return negative_log_density


def draw_starts(
    latents: Callable[[jax.Array, int], Any], key: jax.Array, num_images: int, num_starts: int, *, scale: float = 1.0
) -> Any:
    """Starts [num_images, num_starts, ...], each drawn by itself: scale times what `latents(key, n)` gives.

    Raises:
      TypeError: for what is no key.
      ValueError: for less than one start.
    """
    check_key(key)
    if num_starts < 1:
        raise ValueError(f"a descent begins somewhere: the number of starts is at least 1, not {num_starts}")
    drawn = latents(key, num_images * num_starts)
    return jax.tree.map(lambda z: scale * jnp.reshape(z, (num_images, num_starts, *z.shape[1:])), drawn)


def rows_with(starts: Any, told: Any, target: jax.Array, given: Any) -> tuple[Any, tuple[Any, jax.Array, Any]]:
    """(latents, (told, target, given)) with leaves [B R, ...]: what is of an image is repeated for each of its starts.

    Args:
      starts, told: leaves [B, R, ...].
      target, given: leaves [B, ...].
    """
    restarts = jax.tree.leaves(starts)[0].shape[1]
    flat = functools.partial(jax.tree.map, lambda x: jnp.reshape(x, (-1, *x.shape[2:])))
    repeated = functools.partial(jax.tree.map, lambda x: jnp.repeat(jnp.asarray(x), restarts, axis=0))
    return flat(starts), (flat(told), repeated(target), repeated(given))


def in_chunks(function: Callable[[Any], Any], rows: Any, at_once: int) -> Any:
    """function(rows), of at most so many rows at once, one chunk after another, by one program.

    Args:
      function: leaves [n, ...] -> leaves [n, ...], each row by itself.
      rows: leaves [N, ...].
      at_once: n at most.
    """
    num = num_of(rows)
    if num <= at_once:
        return function(rows)
    chunks = math.ceil(num / at_once)
    size = math.ceil(num / chunks)
    index = jnp.minimum(jnp.arange(chunks * size), num - 1).reshape(chunks, size)  # the last chunk repeats the last row
    found = lax.map(lambda at: function(jax.tree.map(lambda x: x[at], rows)), index)
    return jax.tree.map(lambda x: x.reshape(chunks * size, *x.shape[2:])[:num], found)


def composite(known: jax.Array, filled: jax.Array, mask: jax.Array) -> jax.Array:
    """Known pixels as they are, to the bit, and the others as they were filled in.

    Args:
      known: images [..., H, W, C].
      filled: of the same shape.
      mask: [..., H, W, 1], 1 where the image is missing, 0 where it is known; between, at soft borders, a mixture.

    Returns:
      [..., H, W, C].
    """
    mixed = (1 - mask) * known + mask * filled
    return jnp.where(mask <= 0, known, jnp.where(mask >= 1, filled, mixed))


class Draws(NamedTuple):
    """Draws from the posterior of latents.

    latents: leaves [B, R, S, ...]: S of each of R chains for each of B images.
    acceptance: [B, R], share of the proposals that were accepted after the warm-up; 0.6 to 0.9 is well.
    step_size: [B, R], of the leapfrog steps, as the warm-up left it.
    """

    latents: Any
    acceptance: jax.Array
    step_size: jax.Array


def posterior_samples(
    decode: Callable[..., jax.Array],
    target: jax.Array,
    starts: Any,
    key: jax.Array,
    *,
    measure: Measurement = whole,
    given: Any = None,
    told: Any = None,
    noise: float = 0.1,
    prior: Callable[[Any], jax.Array] = standard_normal,
    num_samples: int = 100,
    num_warmup: int = 100,
    num_leapfrog: int = 10,
    step_size: float = 0.1,
    target_acceptance: float = 0.8,
) -> Draws:
    """Draws latents from p(z | y), proportional to exp(-objective), by Hamiltonian Monte Carlo.

    Each proposal follows `num_leapfrog` steps of the dynamics, all of which are 0.8 to 1.2 times as long as the step
    size, drawn anew for each proposal: none of the posterior's directions is then in step with it. During the warm-up
    the step size of each chain is moved towards the target acceptance; then it is fixed, and chains are exact.

    Args:
      decode, target, starts, measure, given, told, noise: as for `invert`; chains begin at `starts` [B, R, ...], best
        at what `invert` found. All rows are in memory at once.
      key: of momenta, step sizes and acceptances.
      prior: latents -> -log p(z) [n].
      num_samples: S, one for each proposal after the warm-up.
      num_warmup: proposals before them.
      num_leapfrog: gradients for each proposal.
      step_size: at the beginning.
      target_acceptance: of the warm-up.

    Returns:
      `Draws`.

    Raises:
      TypeError: for what is no key.
      ValueError: as for `invert`, and for less than one sample or step.

    Neal 2011, "MCMC using Hamiltonian dynamics".
    """
    check_key(key)
    _check(target, starts, noise)
    if min(num_samples, num_leapfrog) < 1 or num_warmup < 0 or not step_size > 0:
        raise ValueError("a chain draws at least one sample, by at least one leapfrog step of a length above 0")
    objective = objective_of(decode, measure=measure, noise=noise, prior=prior)
    latents, rest = rows_with(starts, told, target, given)
    z, back = rows_of(latents)
    of_rows = jax.value_and_grad(lambda z: _with_aux(objective(back(z), *rest)), has_aux=True)

    def energy(z):
        (_, each), gradient = of_rows(z)
        return each, gradient

    def propose(z, eps, key):
        of_momentum, of_length, of_choice = jax.random.split(key, 3)
        momentum = jax.random.normal(of_momentum, z.shape, z.dtype)
        length = (eps * jax.random.uniform(of_length, eps.shape, z.dtype, 0.8, 1.2))[:, None]
        before, gradient = energy(z)

        def leap(_, carry):
            z, p, gradient, _ = carry
            p = p - 0.5 * length * gradient
            z = z + length * p
            each, gradient = energy(z)
            return z, p - 0.5 * length * gradient, gradient, each

        moved, p, _, after = lax.fori_loop(0, num_leapfrog, leap, (z, momentum, gradient, before))
        log_ratio = before - after + 0.5 * jnp.sum(momentum**2 - p**2, axis=1)
        chance = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0.0)), nan=0.0)  # of a dynamics that ran away: never
        accepted = jax.random.uniform(of_choice, chance.shape, z.dtype) < chance
        return jnp.where(accepted[:, None], moved, z), chance

    def warm(carry, inputs):
        z, log_eps = carry
        number, own = inputs
        z, chance = propose(z, jnp.exp(log_eps), own)
        return (z, log_eps + (chance - target_acceptance) / jnp.sqrt(1.0 + number)), None

    def draw(z, own):
        z, chance = propose(z, eps, own)
        return z, (z, chance)

    of_warmup, of_draws = jax.random.split(key)
    log_eps = jnp.full(len(z), math.log(step_size), z.dtype)
    numbered = (jnp.arange(num_warmup, dtype=z.dtype), jax.random.split(of_warmup, num_warmup))
    (z, log_eps), _ = lax.scan(warm, (z, log_eps), numbered)
    eps = jnp.exp(log_eps)
    _, (drawn, chances) = lax.scan(draw, z, jax.random.split(of_draws, num_samples))
    shape = jax.tree.leaves(starts)[0].shape[:2]
    rows = jnp.swapaxes(drawn, 0, 1).reshape(-1, drawn.shape[-1])
    samples = jax.tree.map(lambda x: x.reshape(*shape, num_samples, *x.shape[1:]), back(rows))
    return Draws(samples, jnp.mean(chances, axis=0).reshape(shape), eps.reshape(shape))


def _with_aux(each):
    """What is differentiated, and beside it the energy of each row."""
    return jnp.sum(each), each
