"""From eigenvalues to learning rates: the largest that an update rule bears."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.arguments import check_key
from jaxgen.stability import oracles, updates
from jaxgen.stability.games import Field, Players
from jaxgen.stability.spectrum.products import exactly, transposed_product
from jaxgen.stability.spectrum.ritz import Ritz, arnoldi, ritz_of


def adam_rates(opt_state: Any, *, b2: float, eps: float = 1e-8, learning_rate: float = 1.0) -> Any:
    """The rate of each parameter under Adam whose second moments are held: learning_rate / (sqrt(nu_hat) + eps).

    With them `ritz_values(..., rates=...)` gives the eigenvalues that matter to Adam: it is then heavy ball with
    momentum b1 and (1 - b1) of these rates, see `adam_factor`.

    Args:
      opt_state: of an optax chain that holds one `scale_by_adam`.
      b2: decay of the second moments.
      eps: of the optimiser.
      learning_rate: of the optimiser.

    Returns:
      A tree like the parameters.

    Raises:
      ValueError: if there is no Adam in the state.

    After Cohen et al. 2022, "Adaptive gradient methods at the edge of stability", for games instead of minimisation.
    """
    is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)  # noqa: E731
    found = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=is_adam) if is_adam(leaf)]
    if len(found) != 1:
        raise ValueError(f"the optimiser's state holds {len(found)} Adams instead of one")
    (adam,) = found
    bias = 1 - b2 ** jnp.maximum(adam.count, 1)
    return jax.tree.map(lambda nu: learning_rate / (jnp.sqrt(nu / bias) + eps), adam.nu)


def adam_factor(z: np.ndarray, b1: float) -> np.ndarray:
    """`oracles.heavy_ball_factor` for Adam with held second moments: m' = b1 m + (1 - b1) v, w' = w + h m'."""
    return oracles.heavy_ball_factor((1 - b1) * np.asarray(z, complex), b1)


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "simultaneous": oracles.simultaneous_factor,
    "heavy ball, b = 0.9": functools.partial(oracles.heavy_ball_factor, momentum=0.9),
    "heavy ball, b = -0.5": functools.partial(oracles.heavy_ball_factor, momentum=-0.5),
    "extragradient": oracles.extragradient_factor,
    "optimistic": oracles.optimistic_factor,
    "lookahead, k = 5, a = 0.5": functools.partial(oracles.lookahead_factor, num_steps=5, alpha=0.5),
}
"""Update rules whose stability is a function of the field's eigenvalues, z = h mu -> |factor|.

Not alternating: there the two players' parts of J count apart. See `largest_stable_scale`.
"""


def stable_rates(
    eigenvalues: np.ndarray,
    rules: Mapping[str, Callable[[np.ndarray], np.ndarray]] = RULES,
    *,
    neutral: float = 1e-6,
    damped_only: bool = False,
) -> dict[str, float]:
    """The largest stable rate of each update rule, by `oracles.largest_stable_rate`.

    Args:
      eigenvalues: [n], of the field's Jacobian; with `rates` in `ritz_values`, the result is what to multiply them by.
      rules: z -> |factor|.
      neutral: eigenvalues of at most this part of the largest modulus count as 0 and are left out. Networks have them
        exactly (a bias before a normalisation, the scale of rectified layers), and rounding gives them either sign.
      damped_only: leave out what grows in continuous time, too. A network that is still learning has such directions,
        and no small rate keeps it where it is; the result is then the rate at which its *damped* directions begin to
        diverge, which is how a network blows up.

    Returns:
      A rate for each rule: 0 where every rate is unstable, infinity where none is or nothing is left.
    """
    mu = np.asarray(eigenvalues, complex).ravel()
    mu = mu[np.abs(mu) > neutral * np.abs(mu).max(initial=0.0)]
    if damped_only:
        mu = mu[mu.real < 0]
    return {name: oracles.largest_stable_rate(mu, rule) if mu.size else math.inf for name, rule in rules.items()}


def rate_table(
    ritz: Ritz, rules: Mapping[str, Callable[[np.ndarray], np.ndarray]] = RULES, *, tolerance: float = 0.05
) -> dict[str, dict[str, float]]:
    """`stable_rates` of the Ritz values that have converged: rule -> {"all": rate, "damped": rate}.

    Args:
      ritz: of `ritz_values`.
      rules: z -> |factor|.
      tolerance: converged is a residual of at most this part of the value's modulus. It also leaves out what rounding
        cannot tell from 0.

    Raises:
      ValueError: if none has converged.
    """
    converged = ritz.values[ritz.residuals <= tolerance * np.abs(ritz.values)]
    if not converged.size:
        raise ValueError("no Ritz value has converged; take more iterations")
    everything, damped = (stable_rates(converged, rules, damped_only=only) for only in (False, True))
    return {name: {"all": everything[name], "damped": damped[name]} for name in rules}


def largest_stable_scale(
    make_rule: Callable[[Players], updates.Rule],
    rates: Players,
    field: Field,
    players: Players,
    *,
    num_iterations: int = 40,
    tolerance: float = 1e-6,
    key: jax.Array | None = None,
) -> float:
    """By how much both rates may be multiplied before an update expands something: for any rule, matrix-free.

    The Ritz values of the rule's own linearised update, at scale after scale: doubled or halved until the verdict
    changes, then bisected to one part in a thousand. It takes some 20 times as long as one `ritz_values`.

    Args:
      make_rule: from both players' rates, which are traced, to an update rule, such as `updates.alternating`.
      rates: of the players, above 0.
      field: the vector field.
      players: where to linearise.
      num_iterations: of Arnoldi's method for each scale.
      tolerance: what counts as expanding: a modulus above 1 + tolerance. Directions that do not move have a modulus of
        1, rounding included; directions that the network is still learning along grow slowly, and a larger tolerance
        overlooks them.
      key: of the random start.

    Returns:
      The scale: 0 if a millionth of the rates is unstable, infinity if a million times is not.
    """
    if key is not None:
        check_key(key)
    key = jax.random.key(0) if key is None else key
    players = Players(*jax.tree.map(jnp.asarray, tuple(players)))

    @jax.jit
    def factorise(scale, players):
        with exactly():
            rule = make_rule(Players(*(scale * rate for rate in rates)))
            step, point = updates.step_map(rule, field, players)
            start = jax.random.normal(key, point.shape, point.dtype)
            return arnoldi(transposed_product(step, point), start, min(num_iterations, point.size))[1]

    def stable(scale):
        hessenberg = factorise(scale, players)
        values = ritz_of(hessenberg, float(jnp.finfo(hessenberg.dtype).eps)).values
        return bool(np.abs(values).max() <= 1 + tolerance)

    factor = 2.0 if stable(1.0) else 0.5
    scale = 1.0
    while 1e-6 < scale < 1e6:
        if stable(scale * factor) == (factor < 1):
            break
        scale *= factor
    else:
        return 0.0 if factor < 1 else math.inf
    low, high = sorted((scale, scale * factor))
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if stable(middle) else (low, middle)
    return math.sqrt(low * high)
