"""Spectra of real networks, matrix-free: what the linearised game says about a GAN and about the rates it bears.

    game = gan.Game(generator, discriminator, {"latent_dim": 100, "penalties": [penalties.r1(1.0)], **optimizers})
    field = spectrum.field_of_game(game, state, {"image": images}, key)
    found = spectrum.ritz_values(field, Players(state.generator.params, state.discriminator.params))
    spectrum.stable_rates(found.values)

The field is read off the train step itself, so that a spectrum is that of whatever is trained.

Everything here uses reverse mode alone, which our convolutions have and forward mode they have not: J and its transpose
have the same eigenvalues, so Arnoldi's method runs on vector-Jacobian products; where J w itself is needed,
`jacobian_product` takes the vector-Jacobian product of a vector-Jacobian product.

Sign convention: v = (-d loss_G / d theta, -d loss_D / d psi) is the direction in which the players move, J = dv/dw.
Dense eigenvalues of small games: `verdict.field_eigenvalues`, `verdict.step_eigenvalues`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxgen import gan, network, optim
from jaxgen.arguments import check_key
from jaxgen.models import spectral_norm
from jaxgen.stability import oracles, updates
from jaxgen.stability.games import Field, Players

Map = Callable[[Any], Any]
"""A differentiable function from a pytree of floating point arrays to a tree like it: a field, or a step."""

# TensorFloat-32, the default of recent GPUs, has three digits: too few for eigenvalues.
_exactly = functools.partial(jax.default_matmul_precision, "highest")


# ------------------------------------------------------------------------------------------------- Jacobian products


def transposed_product(function: Callable, point: Any) -> Callable[[Any], Any]:
    """u -> J^T u at the point, by one reverse pass. J = d function / d point; u is a tree like the function's value."""
    _, pull_back = jax.vjp(function, point)
    return lambda u: pull_back(u)[0]


def jacobian_product(function: Callable, point: Any) -> Callable[[Any], Any]:
    """w -> J w at the point for functions without forward mode. w is a tree like the point.

    u -> J^T u is linear, and the transpose of a linear map is its vector-Jacobian product, wherever that is taken.
    """
    value, pull_back = jax.vjp(function, point)
    _, transpose = jax.vjp(lambda u: pull_back(u)[0], jax.tree.map(jnp.zeros_like, value))
    return lambda w: transpose(w)[0]


# -------------------------------------------------------------------------------------------------------- Ritz values


class Ritz(NamedTuple):
    """Approximate eigenvalues from a Krylov space, the largest modulus first. NumPy in double precision."""

    values: np.ndarray  # complex [k]
    residuals: np.ndarray  # [k], |J^T y - mu y| of the unit Ritz vector y, rounding included
    conditions: np.ndarray  # [k], at least 1: first-order error of mu = residual * condition; 1 for a normal matrix

    @property
    def errors(self) -> np.ndarray:
        """How far each value may be from an eigenvalue, to first order: residual times condition. [k]."""
        return self.residuals * self.conditions


def arnoldi(operator: Callable[[jax.Array], jax.Array], start: jax.Array, num_iterations: int) -> tuple:
    """Arnoldi's method with full reorthogonalisation: A V = V H + the last row's rest. Jittable.

    Every new vector is made orthogonal to all before it twice, which is enough for orthogonality to rounding. Where the
    Krylov space is exhausted the remaining columns are 0.

    Args:
      operator: x [n] -> A x [n], linear.
      start: [n], not 0.
      num_iterations: m, applications of the operator.

    Returns:
      (V [m + 1, n] with orthonormal rows, H [m + 1, m] upper Hessenberg).

    Arnoldi 1951; twice is enough: Giraud, Langou, Rozloznik, van den Eshof 2005.
    """
    rounding = 100 * jnp.finfo(start.dtype).eps  # every short rest before has made the errors of its vector longer

    def iterate(j, carry):
        basis, hessenberg = carry
        x = operator(basis[j])
        length = jnp.linalg.norm(x)
        column = jnp.zeros(num_iterations + 1, start.dtype)
        for _ in range(2):  # rows of the basis that are not there yet are 0
            overlap = basis @ x
            x, column = x - overlap @ basis, column + overlap
        rest = jnp.linalg.norm(x)
        exhausted = rest <= rounding * length
        basis = basis.at[j + 1].set(jnp.where(exhausted, 0.0, x / jnp.where(exhausted, 1.0, rest)))
        return basis, hessenberg.at[:, j].set(column.at[j + 1].set(jnp.where(exhausted, 0.0, rest)))

    basis = jnp.zeros((num_iterations + 1, start.size), start.dtype).at[0].set(start / jnp.linalg.norm(start))
    hessenberg = jnp.zeros((num_iterations + 1, num_iterations), start.dtype)
    return lax.fori_loop(0, num_iterations, iterate, (basis, hessenberg))


def ritz_of(hessenberg: np.ndarray, precision: float) -> Ritz:
    """Ritz values with their residuals from Arnoldi's H.

    Args:
      hessenberg: [m + 1, m], of `arnoldi`.
      precision: machine epsilon of the numbers that it was made in.

    Raises:
      ValueError: if H is not finite.
    """
    hessenberg = np.asarray(hessenberg, np.float64)
    if not np.isfinite(hessenberg).all():
        raise ValueError(
            "a derivative at this point is not finite, so there is no spectrum: the network has diverged, or a root "
            "or norm is differentiated at 0"
        )
    rests = np.diag(hessenberg, -1)
    exhausted = np.flatnonzero(rests == 0)
    size = int(exhausted[0]) + 1 if exhausted.size else hessenberg.shape[1]
    square = hessenberg[:size, :size]
    values, right = np.linalg.eig(square)
    residuals = rests[size - 1] * np.abs(right[-1]) + precision * np.linalg.norm(square, 2)
    try:
        left = np.linalg.inv(right)
    except np.linalg.LinAlgError:  # a defective matrix has fewer eigenvectors
        left = np.full_like(right, np.inf)
    conditions = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=0)
    order = np.lexsort((-values.imag, -np.abs(values).round(12)))
    return Ritz(values[order].astype(complex), residuals[order], conditions[order])


def ritz_values(
    function: Map, point: Any, *, rates: Any = None, num_iterations: int = 40, key: jax.Array | None = None
) -> Ritz:
    """Ritz values of J = d function / d point, or of diag(rates) J: approximate eigenvalues, the outermost first.

    Compiled once for every function object and shape. Arnoldi's method on w -> R^(1/2) J^T R^(1/2) w, whose eigenvalues
    are those of R J. Values on the outside of the spectrum come first to convergence, and these decide on stability;
    inner ones need not be eigenvalues at all: look at the residuals. A repeated eigenvalue is found once. With as many
    iterations as parameters, all are found.

    Args:
      function: a field, or a step as `train_step_map` and `updates.step_map` return it.
      point: where to differentiate; floating point leaves.
      rates: above 0: a tree like the point, or one with a number in place of whole subtrees, such as
        `Players(0.1, 0.4)`; None for 1.
      num_iterations: one reverse pass each, and one vector of the size of the point in memory each.
      key: of the random start.

    Raises:
      ValueError: if a derivative is not finite, rates are not above 0, or the memory does not hold the vectors.
    """
    if key is not None:
        check_key(key)
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, not {num_iterations}")
    point = jax.tree.map(jnp.asarray, point)
    rates = 1.0 if rates is None else rates
    if any(np.any(~(np.asarray(rate) > 0)) for rate in jax.tree.leaves(rates)):
        raise ValueError("rates must be above 0")
    rates = _like(rates, point)
    size = sum(leaf.size for leaf in jax.tree.leaves(point))
    key = jax.random.key(0) if key is None else key
    check_memory(point, num_iterations)
    hessenberg = _factorise(function, point, rates, key, min(num_iterations, size))
    return ritz_of(hessenberg, float(jnp.finfo(hessenberg.dtype).eps))


def check_memory(point: Any, num_iterations: int, free: int | None = None) -> None:
    """Whether Arnoldi's vectors fit: one as long as all leaves of the point for each iteration, and as many to spare.

    Args:
      point: of `ritz_values`.
      num_iterations: of the same.
      free: bytes; what the first device has by default, where that is known.

    Raises:
      ValueError: if they do not; says how many would.
    """
    flat = jax.eval_shape(lambda tree: ravel_pytree(tree)[0], point)
    vectors, one = min(num_iterations, flat.size) + 1, flat.size * flat.dtype.itemsize
    free = _free_memory() if free is None else free
    # XLA may copy the basis once where it writes a row.
    if free is not None and 2 * vectors * one > free:
        raise ValueError(
            f"{num_iterations} iterations with {flat.size:,} numbers need {2 * vectors * one / 2**30:.2g} GiB, and "
            f"{free / 2**30:.2g} GiB are free: {max(0, free // (2 * one) - 1)} iterations would fit"
        )


def _free_memory():
    """Bytes of the first device, None where nobody knows."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


@functools.partial(jax.jit, static_argnums=(0, 4))
def _factorise(function, point, rates, key, num_iterations):
    with _exactly():
        operator, flat = _flat_operator(function, point, rates)
        return arnoldi(operator, jax.random.normal(key, flat.shape, flat.dtype), num_iterations)[1]


def _flat_operator(function, point, rates):
    """(w -> R^(1/2) J^T R^(1/2) w, the point), both of flat vectors."""
    flat, unravel = ravel_pytree(point)
    root = jnp.sqrt(ravel_pytree(rates)[0])
    transposed = transposed_product(function, point)
    return lambda w: root * ravel_pytree(transposed(unravel(root * w)))[0], flat


def _like(prefix, tree):
    """A tree like `tree` with the numbers of a prefix of it."""
    return jax.tree.map(
        lambda number, part: jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(number, x.dtype), x.shape), part),
        prefix,
        tree,
    )


# ------------------------------------------------------------------------------------------------ the field of a game

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


class Shares(NamedTuple):
    """How much of |J|_F^2 is in the symmetric part (J + J^T) / 2, and how much in the antisymmetric one."""

    symmetric: float  # in [0, 1] up to sampling error: attraction, repulsion, stiffness
    antisymmetric: float  # 1 - symmetric: rotation
    standard_error: float  # of both
    norm: float  # |J|_F, estimated


def shares(field: Map, point: Any, *, rates: Any = None, num_probes: int = 16, key: jax.Array | None = None) -> Shares:
    """Symmetric and antisymmetric share of the Jacobian, by Hutchinson's probes: two reverse passes for each.

    |S|_F^2 = (|J|_F^2 + tr J^2) / 2 and |A|_F^2 = (|J|_F^2 - tr J^2) / 2, with E |J^T w|^2 = |J|_F^2 and
    E w^T J^T J^T w = tr J^2 for random signs w.

    Args:
      field: the vector field.
      point: where to differentiate.
      rates: as for `ritz_values`, in its symmetric form R^(1/2) J R^(1/2).
      num_probes: at least 2.
      key: of the probes.

    Raises:
      ValueError: for fewer than two probes, or a Jacobian that is 0 or not finite.
    """
    if key is not None:
        check_key(key)
    if num_probes < 2:
        raise ValueError(f"num_probes must be at least 2, not {num_probes}")
    point = jax.tree.map(jnp.asarray, point)
    rates = _like(1.0 if rates is None else rates, point)
    key = jax.random.key(0) if key is None else key
    squares, traces = (np.asarray(x, np.float64) for x in _probe(field, point, rates, key, num_probes))
    mean = squares.mean()
    if not (np.isfinite(mean) and mean > 0):
        raise ValueError(f"the Jacobian has the squared norm {mean:g}: it has no shares")
    ratio = traces.mean() / mean
    error = np.std(traces - ratio * squares, ddof=1) / (mean * math.sqrt(num_probes)) / 2
    return Shares((1 + ratio) / 2, (1 - ratio) / 2, float(error), float(np.sqrt(mean)))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _probe(field, point, rates, key, num_probes):
    with _exactly():
        operator, flat = _flat_operator(field, point, rates)

        def probe(key):
            w = jax.random.rademacher(key, flat.shape, flat.dtype)
            once = operator(w)
            return once @ once, w @ operator(once)

        return lax.map(probe, jax.random.split(key, num_probes))


# ----------------------------------------------------------------------------------------------- the train-step map


def train_step_map(train_step: Callable, state: Any, batch: Any, key: jax.Array) -> tuple[Map, list[jax.Array]]:
    """One train step on one batch as a map of parameters and optimiser state, and the point that stands for `state`.

    Its eigenvalues tell what the step that is really run does to a small deviation: the order of the players, momentum,
    Adam's moments, clips, what terms keep. Leaves that are no floating point numbers (counters) stay as they are, and
    so do the moving average, frozen networks and the mutable collections: the rest of a train step does not depend on
    batch statistics; that the vectors of spectral normalisation follow the weights is left out.

    Args:
      train_step: (state, batch, key) -> (state, metrics), of any family.
      state: where to differentiate.
      batch: of the step.
      key: of the step.

    Returns:
      (map, point), for `ritz_values`. Every leaf is measured in units of its root mean square, or as
      they are if all are 0: the eigenvalues are the same, and Adam's tiny second moments do not spoil the precision of
      all others. Second moments below 1e-30 are read as 1e-30, since Adam's root has no derivative at 0; it adds 1e-8
      to the root anyway.
    """
    check_key(key)
    paths, structure = jax.tree_util.tree_flatten_with_path(state)
    leaves = [jnp.asarray(leaf) if not hasattr(leaf, "dtype") else leaf for _, leaf in paths]

    def moves(path, leaf):
        names = {getattr(part, "name", None) for part in path}
        return not names & {"ema", "model_state", "frozen"} and jnp.issubdtype(leaf.dtype, jnp.floating)

    chosen = [i for i, (path, _) in enumerate(paths) if moves(path, leaves[i])]
    for i in chosen:
        if any(getattr(part, "name", None) == "nu" for part in paths[i][0]):
            leaves[i] = jnp.maximum(leaves[i], 1e-30)
    sizes = [float(jnp.sqrt(jnp.mean(jnp.square(leaves[i])))) for i in chosen]
    units = [
        jnp.asarray(size if size > 0 and math.isfinite(size) else 1.0, leaves[i].dtype)
        for i, size in zip(chosen, sizes, strict=True)
    ]

    def step(scaled):
        moved = list(leaves)
        for i, unit, leaf in zip(chosen, units, scaled, strict=True):
            moved[i] = unit * leaf
        after, _ = train_step(jax.tree.unflatten(structure, moved), batch, key)
        after = jax.tree.leaves(after)
        return [after[i] / unit for i, unit in zip(chosen, units, strict=True)]

    return step, [leaves[i] / unit for i, unit in zip(chosen, units, strict=True)]


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


# ------------------------------------------------------------------------------------- from eigenvalues to the step


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
        with _exactly():
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


# ----------------------------------------------------------------------------------------- from one point to another


class Line(NamedTuple):
    """The field along the straight line from one point to another, each [n]."""

    positions: np.ndarray  # a in w = (1 - a) start + a end
    angles: np.ndarray  # path-angle: cosine of v with end - start, in [-1, 1]; NaN where v is 0
    norms: np.ndarray  # path-norm: |v|


def path(field: Map, start: Any, end: Any, positions: np.ndarray | None = None) -> Line:
    """Path-angle and path-norm between two points, such as two checkpoints.

    The players move along v. Where the end point attracts, the cosine goes from + to - there, in one jump; rotation
    around it shows as a bump that keeps its sign.

    Args:
      field: v.
      start: a = 0, often the initialisation or an early checkpoint.
      end: a = 1, the point in question.
      positions: values of a; 31 from 0 to 1.5 by default, so beyond the end.

    Raises:
      ValueError: if both points are the same.

    Berard et al. 2020, "A closer look at the optimization landscapes of generative adversarial networks", whose field
    is the gradient: their cosine has the other sign.
    """
    positions = np.linspace(0, 1.5, 31) if positions is None else np.asarray(positions, np.float64)
    start, end = (jax.tree.map(jnp.asarray, point) for point in (start, end))
    angles, norms, length = _along(field, start, end, jnp.asarray(positions, ravel_pytree(start)[0].dtype))
    if not length > 0:
        raise ValueError("a line needs two different points, and these are one")
    return Line(positions, np.asarray(angles, np.float64), np.asarray(norms, np.float64))


@functools.partial(jax.jit, static_argnums=0)
def _along(field, start, end, positions):
    with _exactly():
        (first, unravel), (last, _) = ravel_pytree(start), ravel_pytree(end)
        straight = last - first
        length = jnp.linalg.norm(straight)

        def at(position):
            v = ravel_pytree(field(unravel(first + position * straight)))[0]
            norm = jnp.linalg.norm(v)
            return v @ straight / (norm * length), norm

        return *lax.map(at, positions), length


# ------------------------------------------------------------------------------------------------- layers and inputs


class Layer(NamedTuple):
    """The largest singular values of one layer without its bias, descending."""

    operator: np.ndarray  # of the linear map that the layer is, from one image's features to the next
    errors: np.ndarray  # of these, from the residuals
    matrix: np.ndarray  # of the kernel reshaped to [all axes but the last, the last], all of them


def layer_singular_values(
    module: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    num: int = 3,
    num_iterations: int = 30,
    key: jax.Array | None = None,
) -> dict[str, Layer]:
    """The top singular values of every layer that has a kernel: dense, convolution, transposed convolution.

    For a convolution the two kinds differ: `operator` is the true gain of the layer on maps of the size that it sees,
    padding and strides included, by Arnoldi's method on A^T A; `matrix` is that of the reshaped kernel, which spectral
    normalisation bounds (Miyato et al. 2018) and which may be several times smaller. For a dense layer they agree. Of a
    layer with spectral normalisation both are of the kernel as it is used, divided by its estimate of sigma.

    Args:
      module: any Flax module, called as `module(*inputs, train=False)`.
      variables: of the module.
      inputs: such as latents and labels, of which only the shapes count.
      num: how many values of `operator`.
      num_iterations: of Arnoldi's method.
      key: of its random start.

    Returns:
      A dict from the layer's path, such as "Conv_0", in the order in which they are called. Layers that are told
      something beside their input (a style) are left out.
    """
    if key is not None:
        check_key(key)
    key = jax.random.key(0) if key is None else key
    called = {}

    def record(call, arguments, options, context):
        if context.method_name == "__call__" and context.module.has_variable("params", "kernel"):
            is_linear = len(arguments) == 1 and not any(hasattr(x, "shape") for x in jax.tree.leaves(options))
            if is_linear:
                called[context.module.path] = context.module.clone(parent=None), arguments[0].shape, options
        return call(*arguments, **options)

    def apply(variables, *inputs):
        return module.apply(variables, *inputs, train=False, rngs={"params": key})  # for a network that draws noise

    with nn.intercept_methods(record):
        jax.eval_shape(apply, variables, *inputs)
    found = {}
    for path, (layer, shape, options) in called.items():
        own, name = _at(variables, path), "/".join(path)
        kernel = jnp.asarray(own["params"]["kernel"])
        matrix = np.linalg.svd(np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]), compute_uv=False)
        matrix /= _spectral_norm_in_use(own)
        if kernel.ndim == 2:
            top = matrix[:num]
            found[name] = Layer(top, np.finfo(np.float64).eps * top[0] * np.ones_like(top), matrix)
            continue
        without_bias = {part: x if part == "kernel" else jnp.zeros_like(x) for part, x in own["params"].items()}
        run = functools.partial(layer.apply, **options)
        ritz = ritz_of(*_gain(run, own | {"params": without_bias}, (1, *shape[1:]), key, num_iterations))
        top = np.sqrt(np.maximum(ritz.values.real, 0))[:num]
        # sigma^2 +- r is sigma +- r / (sigma + sqrt(sigma^2 + r)), also where sigma is 0.
        errors = ritz.residuals[:num] / np.maximum(top + np.sqrt(top**2 + ritz.residuals[:num]), 1e-300)
        found[name] = Layer(top, errors, matrix)
    return found


def _at(variables, path):
    """A module's own variables: {collection: its part}, for the collections that it has."""
    found = {}
    for collection, tree in variables.items():
        for name in path:
            tree = tree.get(name, {})
        if tree:
            found[collection] = tree
    return found


def _spectral_norm_in_use(variables):
    """What a layer divides its kernel by: the estimate of its largest singular value, or 1."""
    if spectral_norm.COLLECTION not in variables:
        return 1.0
    kernel = jnp.asarray(variables["params"]["kernel"])
    matrix = kernel.reshape(-1, kernel.shape[-1])
    v, u = spectral_norm.power_iteration(matrix, variables[spectral_norm.COLLECTION]["u"], 0)
    with _exactly():
        sigma = float(v @ matrix @ u)
    return sigma if sigma > 0 else 1.0


def _gain(apply, variables, shape, key, num_iterations):
    """Arnoldi's H of A^T A, where A is the layer without its bias."""

    @jax.jit
    def factorise(variables):
        with _exactly():
            zero = jnp.zeros(shape, variables["params"]["kernel"].dtype)
            _, pull_back = jax.vjp(lambda x: apply(variables, x), zero)

            def operator(x):
                return pull_back(apply(variables, x.reshape(shape)))[0].ravel()

            start = jax.random.normal(key, (zero.size,), zero.dtype)
            return arnoldi(operator, start, min(num_iterations, zero.size))[1]

    hessenberg = factorise(variables)
    return hessenberg, float(jnp.finfo(hessenberg.dtype).eps)


def input_singular_values(
    generator: nn.Module, variables: Mapping[str, Any], z: jax.Array, *condition: Any
) -> np.ndarray:
    """Singular values of the generator's Jacobian dG/dz at each latent, descending, with running batch statistics.

    Args:
      generator: the module.
      variables: of the generator.
      z: [B, latent_dim].
      condition: what else it is given, such as labels [B]; each image's own is held.

    Returns:
      [B, min(latent_dim, pixels)] in double precision.
    """
    jacobians = np.asarray(_input_jacobians(generator, variables, z, condition), np.float64)
    return np.linalg.svd(jacobians, compute_uv=False)


@functools.partial(jax.jit, static_argnums=0)
def _input_jacobians(generator, variables, z, condition):
    with _exactly():

        def jacobian(inputs):
            z, condition = inputs

            def image(z):
                given = jax.tree.map(lambda x: x[None], (z, *condition))
                output = generator.apply(variables, *given, train=False, rngs={"params": jax.random.key(0)})
                return network.split_output(output)[0].ravel()

            return jax.vmap(jacobian_product(image, z))(jnp.eye(z.size, dtype=z.dtype))

        return lax.map(jacobian, (z, condition))


def condition_numbers(singular_values: np.ndarray) -> np.ndarray:
    """(sigma_max / sigma_min)^2, the condition number of the metric J^T J: [B, k] -> [B]. Infinite where singular.

    Odena et al. 2018, "Is generator conditioning causally related to GAN performance?", who report its mean logarithm.
    """
    singular_values = np.asarray(singular_values)
    with np.errstate(divide="ignore"):
        return (singular_values.max(axis=-1) / singular_values.min(axis=-1)) ** 2
