"""What theory says, in closed form: eigenvalues, stable steps, boundaries of stability, conserved quantities, growth.

NumPy in double precision whatever JAX is set to, and every argument broadcasts. Notation: s = |f'(0)| is the slope of
the loss and c = |f''(0)| its curvature (`Link`), gamma the weight of R1 or R2 in gamma/2 E|grad_x D|^2, h a learning
rate, eta_G and eta_D the two players' rates, mu an eigenvalue of J = dv/dw, z = h mu.

Every formula here is compared with the differentiated step of the games themselves in the tests.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Link(NamedTuple):
    """The derivatives at 0 of f in L = f(psi theta) + f(0)."""

    slope: float  # s = |f'(0)|
    curvature: float  # |f''(0)|


LOGISTIC = Link(slope=0.5, curvature=0.25)
"""f(t) = -log(1 + exp(-t)): `minimax` and `non_saturating` of `losses.adversarial`."""

WASSERSTEIN = Link(slope=1.0, curvature=0.0)
"""f(t) = t: `wasserstein`, and `hinge` near the equilibrium."""


# ------------------------------------------------------------------------------ eigenvalues of the field: a flow's view


def damped_eigenvalues(damping: ArrayLike, frequency: ArrayLike) -> np.ndarray:
    """-d/2 +- sqrt(d^2/4 - s^2), the eigenvalues of [[0, -s], [s, -d]]: rotation with one player damped.

    Args:
      damping: d, of the discriminator alone.
      frequency: s.

    Returns:
      complex [..., 2]: with + first.
    """
    half, frequency = np.asarray(damping, complex) / 2, np.asarray(frequency)
    root = np.sqrt(half**2 - frequency**2)
    return np.stack(np.broadcast_arrays(-half + root, -half - root), axis=-1)


def dirac_eigenvalues(
    link: Link, *, r1: ArrayLike = 0.0, r2: ArrayLike = 0.0, instance_noise: ArrayLike = 0.0
) -> np.ndarray:
    """Eigenvalues of the Dirac-GAN at (0, 0): damping d = r1 + r2 + 2 |f''(0)| n^2, frequency s.

    No regulariser: +- i s, orbits that never decay. R1 alone or R2 alone: -gamma/2 +- sqrt(gamma^2/4 - s^2). Both:
    -gamma +- sqrt(gamma^2 - s^2). Instance noise does nothing for Wasserstein, whose f'' is 0.

    Args:
      link: of the loss; minimax and non-saturating have the same.
      r1: gamma of R1.
      r2: gamma of R2.
      instance_noise: n, standard deviation of the noise on real and fake images.

    Returns:
      complex [..., 2].

    Mescheder, Geiger, Nowozin 2018.
    """
    damping = np.asarray(r1) + np.asarray(r2) + 2 * link.curvature * np.asarray(instance_noise) ** 2
    return damped_eigenvalues(damping, link.slope)


def critical_gamma(link: Link, num_penalties: int = 1) -> float:
    """The weight at which oscillation ends and damping is fastest: 2 s for R1 or R2, s for both with one weight.

    Mescheder, Geiger, Nowozin 2018.
    """
    return 2 * link.slope / num_penalties


def consensus_eigenvalues(link: Link, weight: ArrayLike) -> np.ndarray:
    """-g s^2 +- i s: consensus optimisation v - g grad(|v|^2 / 2) on the Dirac-GAN.

    Mescheder, Nowozin, Geiger 2017; Mescheder, Geiger, Nowozin 2018.
    """
    return _conjugate_pair(-np.asarray(weight) * link.slope**2, link.slope)


def symplectic_eigenvalues(link: Link, weight: ArrayLike) -> np.ndarray:
    """-lambda s^2 +- i s: symplectic gradient adjustment v + lambda A v on the Dirac-GAN.

    After Balduzzi et al. 2018.
    """
    return _conjugate_pair(-np.asarray(weight) * link.slope**2, link.slope)


def gradient_norm_eigenvalues(link: Link, weight: ArrayLike) -> np.ndarray:
    """-eta s^2 +- sqrt(eta^2 s^4 - s^2): the generator also descends eta |grad_psi L|^2 (Nagarajan and Kolter 2017)."""
    return damped_eigenvalues(2 * np.asarray(weight) * link.slope**2, link.slope)


def shift_eigenvalues(link: Link, moments: ArrayLike, gamma: ArrayLike = 0.0) -> np.ndarray:
    """Eigenvalues of the shift GAN: damping d = 2 e |f''(0)| + gamma for every eigenvalue e of E z z^T, frequency s.

    The data's own variance damps the logistic GAN without any penalty.

    Args:
      link: of the loss.
      moments: [d, d] second moments about 0 of the batch, `samples.T @ samples / N`.
      gamma: of R1.

    Returns:
      complex [2 d].
    """
    e = np.linalg.eigvalsh(np.asarray(moments, np.float64))
    return damped_eigenvalues(2 * e * link.curvature + np.asarray(gamma), link.slope).ravel()


def bilinear_eigenvalues(matrix: ArrayLike) -> np.ndarray:
    """+- i sigma for every singular value sigma of A in L = theta^T A psi, 0 where A is not square: complex [n + m]."""
    matrix = np.asarray(matrix, np.float64)
    singular = np.linalg.svd(matrix, compute_uv=False)
    rest = np.zeros(abs(matrix.shape[0] - matrix.shape[1]))
    return np.concatenate([1j * singular, -1j * singular, rest])


SADDLE_EIGENVALUES = np.array([-200.0 + 0j, -2.0 + 0j])
"""Of L = (1 + x^2)(100 - y^2) at (0, 0) (the game of Heusel et al. 2017)."""


def _conjugate_pair(real, imaginary):
    real, imaginary = np.broadcast_arrays(np.asarray(real, float), imaginary)
    return np.stack([real + 1j * imaginary, real - 1j * imaginary], axis=-1)


# ------------------------------------------------------------------- from eigenvalues to steps: one equal rate for both


def simultaneous_factor(z: ArrayLike) -> np.ndarray:
    """|1 + z|: by how much one simultaneous step multiplies the component of z = h mu. Stable iff below 1."""
    return np.abs(1 + np.asarray(z))


def heavy_ball_factor(z: ArrayLike, momentum: ArrayLike) -> np.ndarray:
    """The larger |root| of x^2 - (1 + b + z) x + b: heavy ball, momentum b (Polyak 1964). Stable iff below 1."""
    return _larger_root(1 + np.asarray(momentum) + np.asarray(z, complex), momentum)


def heavy_ball_is_stable(z: ArrayLike, momentum: ArrayLike) -> np.ndarray:
    """The same by geometry: z lies inside the ellipse (Re z / (1+b) + 1)^2 + (Im z / (1-b))^2 < 1, for b in (-1, 1)."""
    z, b = np.asarray(z, complex), np.asarray(momentum)
    return (z.real / (1 + b) + 1) ** 2 + (z.imag / (1 - b)) ** 2 < 1


def extragradient_factor(z: ArrayLike) -> np.ndarray:
    """|1 + z + z^2|: extragradient with one rate for both of its steps (Korpelevich 1976). Stable iff below 1."""
    z = np.asarray(z, complex)
    return np.abs(1 + z + z**2)


def optimistic_factor(z: ArrayLike) -> np.ndarray:
    """The larger |root| of x^2 - (1 + 2 z) x + z: optimistic gradient (Daskalakis et al. 2018). Stable iff below 1."""
    z = np.asarray(z, complex)
    return _larger_root(1 + 2 * z, z)


def proximal_factor(z: ArrayLike) -> np.ndarray:
    """1 / |1 - z|: the implicit step w' = w + h v(w') (Rockafellar 1976). Stable iff below 1."""
    return 1 / np.abs(1 - np.asarray(z, complex))


def lookahead_factor(z: ArrayLike, num_steps: int, alpha: ArrayLike) -> np.ndarray:
    """|1 - a + a (1 + z)^k|: Lookahead(k, a) over simultaneous steps, for its whole cycle. Stable iff below 1.

    Zhang et al. 2019; Chavdarova et al. 2021.
    """
    share = np.asarray(alpha)
    return np.abs(1 - share + share * (1 + np.asarray(z, complex)) ** num_steps)


def largest_stable_rate(
    eigenvalues: ArrayLike, factor: Callable[[np.ndarray], np.ndarray] = simultaneous_factor
) -> float:
    """The rate up to which every smaller rate is stable: the first h > 0 at which some factor(h mu) reaches 1.

    Found by a scan over h, fine in log h and with 4000 points, and a bisection; for simultaneous steps it is
    min -2 Re(mu) / |mu|^2, which `largest_simultaneous_rate` gives directly.

    Args:
      eigenvalues: mu, [n], of the field's Jacobian; with rates h (r_G, r_D) of fixed ratio, those of diag(r) J.
      factor: z -> |factor|, vectorised; one of the above with its other arguments bound.

    Returns:
      h; 0 if the smallest rates are unstable already, infinity if nothing is up to |z| = 10,000.
    """
    mu = np.asarray(eigenvalues, complex).ravel()
    scale = np.abs(mu).max(initial=0.0)
    if scale == 0:
        return 0.0
    return first_unstable(lambda h: factor(np.asarray(h)[:, None] * mu).max(axis=1), 1e-5 / scale, 1e4 / scale)


def first_unstable(radius: Callable[[np.ndarray], np.ndarray], smallest: float, largest: float) -> float:
    """The first h in (smallest, largest) at which a spectral radius reaches 1.

    Args:
      radius: h [n] -> spectral radius [n].
      smallest: where the scan starts. What is unstable there counts as unstable for all rates.
      largest: where it ends.

    Returns:
      h; 0 if `smallest` is unstable, infinity if nothing up to `largest` is. A radius of 1 counts as unstable.
    """
    grid = np.geomspace(smallest, largest, 4000)
    bad = ~(radius(grid) < STABLE_BELOW)
    if not bad.any():
        return float("inf")
    first = int(bad.argmax())
    if first == 0:
        return 0.0
    low, high = grid[first - 1], grid[first]
    for _ in range(12):  # each narrows the bracket by a factor of 15
        inner = np.linspace(low, high, 16)
        bad = ~(radius(inner) < STABLE_BELOW)
        first = max(1, int(bad.argmax())) if bad.any() else 15
        low, high = inner[first - 1], inner[first]
    return float((low + high) / 2)


STABLE_BELOW = 1 - 1e-12
"""A spectral radius computed in double precision is called below 1 if it is below this."""


def largest_simultaneous_rate(eigenvalues: ArrayLike) -> float:
    """min over mu of -2 Re(mu) / |mu|^2, and 0 where some eigenvalue has no negative real part: from |1 + h mu| < 1."""
    mu = np.asarray(eigenvalues, complex).ravel()
    if np.any(mu.real >= 0):
        return 0.0
    return float(np.min(-2 * mu.real / np.abs(mu) ** 2))


def _larger_root(trace, determinant):
    """The larger modulus of the roots of x^2 - trace x + determinant."""
    root = np.sqrt(trace**2 - 4 * np.asarray(determinant, complex))
    return np.maximum(np.abs(trace + root), np.abs(trace - root)) / 2


# --------------------------------------------------------------------------------- two learning rates (TTUR) and R1


def simultaneous_is_stable(
    generator_rate: ArrayLike, discriminator_rate: ArrayLike, gamma: ArrayLike, slope: float = 1.0
) -> np.ndarray:
    """Simultaneous steps on the Dirac-GAN: stable iff eta_G s^2 < gamma and eta_D (gamma - eta_G s^2 / 2) < 2.

    The Schur-Cohn conditions of [[1, -eta_G s], [eta_D s, 1 - eta_D gamma]]. Without a penalty no rate is stable. It
    holds for every damping d in gamma's place: R2, both, instance noise.

    Args:
      generator_rate: eta_G > 0.
      discriminator_rate: eta_D > 0.
      gamma: of the damping.
      slope: s.

    Returns:
      bool, broadcast.
    """
    g, d, gamma = map(np.asarray, (generator_rate, discriminator_rate, gamma))
    return (g * slope**2 < gamma) & (d * (gamma - g * slope**2 / 2) < 2)


def alternating_is_stable(
    generator_rate: ArrayLike,
    discriminator_rate: ArrayLike,
    gamma: ArrayLike,
    slope: float = 1.0,
    *,
    num_generator_steps: int = 1,
    num_discriminator_steps: int = 1,
) -> np.ndarray:
    """Alternating steps on the Dirac-GAN: stable iff 0 < eta_D gamma < 2 and eta_G eta_D s^2 < 4 - 2 eta_D gamma.

    With several steps: a = (1 - eta_D gamma)^n_D is what they leave of psi, b = eta_D s (1 - a) / (eta_D gamma) what
    they add of theta; stable iff |a| < 1 and n_G eta_G s b < 2 (1 + a), the Schur-Cohn conditions of
    [[1, -n_G eta_G s], [b, a - n_G eta_G s b]]. In either order of the players.

    Args:
      generator_rate: eta_G > 0.
      discriminator_rate: eta_D > 0.
      gamma: of the damping.
      slope: s.
      num_generator_steps: n_G.
      num_discriminator_steps: n_D.

    Returns:
      bool, broadcast.
    """
    g, d, gamma = (np.asarray(x, np.float64) for x in (generator_rate, discriminator_rate, gamma))
    damping = d * gamma
    a = (1 - damping) ** num_discriminator_steps
    steps = sum((1 - damping) ** i for i in range(num_discriminator_steps))
    b = d * slope * steps
    c = num_generator_steps * g * slope
    return (np.abs(a) < 1) & (0 < b * c) & (b * c < 2 * (1 + a))


def alternating_keeps_an_orbit(
    generator_rate: ArrayLike,
    discriminator_rate: ArrayLike,
    slope: float = 1.0,
    *,
    num_generator_steps: int = 1,
    num_discriminator_steps: int = 1,
) -> np.ndarray:
    """Without a penalty: whether alternating players stay on a closed orbit, sqrt(n_G n_D eta_G eta_D) s < 2.

    Only the product of the rates matters: two time scales alone stabilise nothing. At equality there is one double
    eigenvalue -1, and growth linear in the number of steps. Mescheder, Geiger, Nowozin 2018.
    """
    product = (
        num_generator_steps * num_discriminator_steps * np.asarray(generator_rate) * np.asarray(discriminator_rate)
    )
    return product * slope**2 < 4


def simultaneous_growth(generator_rate: ArrayLike, discriminator_rate: ArrayLike, slope: float = 1.0) -> np.ndarray:
    """sqrt(1 + eta_G eta_D s^2) > 1: the factor of a simultaneous step on the Dirac-GAN without a penalty.

    Mescheder, Geiger, Nowozin 2018, for equal rates.
    """
    return np.sqrt(1 + np.asarray(generator_rate) * np.asarray(discriminator_rate) * slope**2)


def alternating_invariant(
    theta: ArrayLike, psi: ArrayLike, rate: ArrayLike, *, discriminator_first: bool = False
) -> Any:
    """theta^2 + psi^2 - h theta psi, which alternating steps with one rate conserve where f(t) = t.

    With the discriminator first the sign of the last term is +. The orbit is an ellipse as long as h < 2.
    """
    theta, psi = np.asarray(theta), np.asarray(psi)
    sign = 1 if discriminator_first else -1
    return theta**2 + psi**2 + sign * np.asarray(rate) * theta * psi


def alternating_momentum_is_stable(rate: ArrayLike, momentum: ArrayLike, slope: float = 1.0) -> np.ndarray:
    """Alternating steps with momentum b and no penalty: stable iff -1 < b < 0 and h s < 2 (1 + b).

    Simultaneous steps are unstable for every b in (-1, 1).

    Gidel et al. 2019, "Negative momentum for improved game dynamics".
    """
    rate, b = np.asarray(rate), np.asarray(momentum)
    return (b > -1) & (b < 0) & (rate * slope < 2 * (1 + b))


def non_saturating_cycle_radius(rate: ArrayLike) -> np.ndarray:
    """sqrt(2 h): the limit cycle of simultaneous non-saturating steps on the Dirac-GAN, for a small rate h.

    Averaged over a turn, a step adds h^2 |v|^2 = h^2 r^2 / 4 to r^2, and what the field itself takes is
    2 h theta psi (f'(psi theta) - f'(-psi theta)) = -h theta^2 psi^2 + ..., whose mean is -h r^4 / 8.
    """
    return np.sqrt(2 * np.asarray(rate))


def non_saturating_radius(start_radius: ArrayLike, num_steps: ArrayLike, rate: ArrayLike) -> np.ndarray:
    """1 / sqrt(1 / r_0^2 + h t / 8): alternating non-saturating steps on the Dirac-GAN decay like 1 / sqrt(t).

    For a small rate h and a small start: the balance above without its first term, since alternating steps add nothing.
    """
    return 1 / np.sqrt(1 / np.asarray(start_radius) ** 2 + np.asarray(rate) * np.asarray(num_steps) / 8)


def gradient_penalty_cycle_radius(target: ArrayLike, rate_over_weight: ArrayLike = 0.0) -> np.ndarray:
    """4 g0 / pi / (1 - h / g): the cycle on which WGAN-GP ends on the Dirac-GAN, for a small weight g and rate h.

    The penalty adds -g (|psi| - g0) sign(psi) to the discriminator's direction, which takes 2 h g (r^2/2 - 2 g0 r / pi)
    from r^2 in a step averaged over a turn; simultaneous steps add h^2 r^2, alternating ones nothing.

    Args:
      target: g0, the norm that the penalty aims at.
      rate_over_weight: h / g for simultaneous steps, below 1 or there is no cycle; 0 for alternating ones or the flow;
        -h / g for extragradient, which takes as much as simultaneous steps add.

    Returns:
      The radius. `penalties.gradient_penalty(weight)` has g = 2 weight.

    That WGAN-GP does not converge: Mescheder, Geiger, Nowozin 2018.
    """
    return 4 * np.asarray(target) / np.pi / (1 - np.asarray(rate_over_weight))


# ---------------------------------------------------------------------------------------------------------- clipping


def jointly_clipped_radius(
    start_radius: ArrayLike, num_steps: ArrayLike, rate: ArrayLike, max_norm: ArrayLike
) -> np.ndarray:
    """r_t = sqrt(r_0^2 + t h^2 c^2): simultaneous steps of the bilinear game, A = I, while the joint clip c is active.

    Every step has the length h c at right angles to the point: exponential divergence becomes square-root growth. The
    clip is active from the first step on where r_0 >= c.
    """
    return np.sqrt(
        np.asarray(start_radius) ** 2 + np.asarray(num_steps) * (np.asarray(rate) * np.asarray(max_norm)) ** 2
    )


def huber(x: ArrayLike, max_norm: ArrayLike) -> np.ndarray:
    """x^2 / 2 where |x| <= c, c |x| - c^2 / 2 beyond: its slope is x clipped to [-c, c] (Huber 1964)."""
    size, c = np.abs(np.asarray(x)), np.asarray(max_norm)
    return np.where(size <= c, size**2 / 2, c * size - c**2 / 2)


def per_player_clip_energy(theta: ArrayLike, psi: ArrayLike, max_norm: ArrayLike) -> np.ndarray:
    """Huber_c(theta) + Huber_c(psi): what the flow of L = theta psi conserves when each player is clipped at c."""
    return huber(theta, max_norm) + huber(psi, max_norm)


# ------------------------------------------------------------------------------------------------------ mode coverage


def perfect_high_quality_share(num_std: float = 3.0) -> float:
    """1 - exp(-k^2 / 2): the share of a 2-D Gaussian within k standard deviations, 98.9 % for 3. Not 100 %."""
    return float(-np.expm1(-(num_std**2) / 2))


def perfect_sampler_kl(num_modes: int, num_samples: int) -> float:
    """(K - 1) / (2 n) nats: the expected KL divergence to uniform of the mode histogram of a perfect sampler.

    To leading order in 1/n, since 2 n KL is nearly chi-squared with K - 1 degrees of freedom: report it beside a KL.
    """
    return (num_modes - 1) / (2 * num_samples)
