"""Posterior collapse where it has a closed form: the linear variational autoencoder, which is probabilistic PCA.

    p(z) = N(0, 1),  p(x|z) = N(W z + m, s^2),  q(z|x) = N(V (x - m), diag(d))

trained on E log p(x|z) - beta KL(q || p). Divided by beta that is, but for a constant, the ELBO of probabilistic PCA
whose noise is beta s^2. So at the optimum the units are principal axes of the data, and with eigenvalues l_1 >= l_2
>= ... of their covariance

    a unit is active iff l_i > beta s^2;  rate 1/2 log(l_i / beta s^2);  d_i = beta s^2 / l_i

and of a unit that is not active the posterior is the prior: it has collapsed, not for want of training, but because the
bound is the best so. All is in float64.

Lucas, Tucker, Grosse, Norouzi 2019, "Don't blame the ELBO! A linear VAE perspective on posterior collapse"; Tipping and
Bishop 1999, "Probabilistic principal component analysis"; Dai, Wang, Aston, Hua, Wipf 2018.
"""

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxgen import vae


class LinearVAE(NamedTuple):
    """A linear variational autoencoder at its optimum, in float64.

    decoder: W [D, k].
    encoder: V [k, D].
    posterior_variance: d [k].
    variance: s^2 of a pixel given the latents.
    rate: of each unit, [k] nats, the mean over the data.
    distortion: nats an image, the mean over the data.
    """

    decoder: np.ndarray
    encoder: np.ndarray
    posterior_variance: np.ndarray
    variance: float
    rate: np.ndarray
    distortion: float

    @property
    def elbo(self) -> float:
        """At weight 1, nats an image. At beta = 1 it is the mean log-likelihood of probabilistic PCA."""
        return -self.distortion - float(np.sum(self.rate))


def rates(eigenvalues: ArrayLike, variance: float, beta: ArrayLike = 1.0) -> np.ndarray:
    """The rate of each unit at the optimum, 1/2 log(l_i / (beta s^2)) where that is positive, else 0.

    Args:
      eigenvalues: l [k], of the covariance of the data.
      variance: s^2 of the decoder, above 0.
      beta: of any shape [...].

    Returns:
      [..., k] nats.

    Raises:
      ValueError: for a variance or beta that is not above 0, or eigenvalues below 0.
    """
    ratio = _ratio(eigenvalues, variance, beta)
    return np.maximum(0.5 * np.log(np.maximum(ratio, 1.0)), 0.0)


def active_units(
    eigenvalues: ArrayLike,
    variance: float,
    beta: ArrayLike = 1.0,
    *,
    latent_dim: int | None = None,
    least: float = vae.ACTIVE_UNIT_VARIANCE,
) -> np.ndarray:
    """How many units the theory has active: of the variance of the posterior mean, 1 - beta s^2 / l_i, above `least`.

    Args:
      eigenvalues, variance, beta: as for `rates`.
      latent_dim: k, of the autoencoder: there are no more. None: as many as eigenvalues.
      least: at 0 those with l_i > beta s^2; by default as active units are counted of networks (Burda et al. 2016).

    Returns:
      int [...], of the shape of beta.
    """
    ratio = _ratio(eigenvalues, variance, beta)
    number = np.sum(1 - 1 / np.where(ratio > 0, ratio, 1.0) > least, axis=-1)
    return number if latent_dim is None else np.minimum(number, latent_dim)


def _ratio(eigenvalues, variance, beta):
    eigenvalues, beta = np.asarray(eigenvalues, np.float64), np.asarray(beta, np.float64)
    if not (variance > 0 and np.all(beta > 0)):
        raise ValueError(f"the decoder's variance and beta must be above 0, not {variance} and {beta}")
    _check(eigenvalues)
    return eigenvalues / (beta[..., None] * variance)


def _check(eigenvalues):
    if eigenvalues.ndim != 1 or not len(eigenvalues) or not np.isfinite(eigenvalues).all() or eigenvalues.min() < 0:
        raise ValueError(f"eigenvalues of a covariance are numbers [k] of at least 0, not {eigenvalues}")


def learned_variance(eigenvalues: ArrayLike, latent_dim: int, beta: float = 1.0) -> float:
    """The decoder's variance at the optimum, where it is learnt as well: sum of discarded l_i / (D - beta q).

    q of latent_dim units are active. At beta = 1 that is the mean of the D - k smallest eigenvalues, so that no unit
    collapses whose eigenvalue is above those (a learnt variance is no excuse for collapse); above 1 it grows with beta,
    and takes units along.

    Args:
      eigenvalues: all D of the covariance.
      latent_dim: k, less than D.
      beta: above 0.

    Returns:
      s^2.

    Raises:
      ValueError: for k that is not from 0 to D - 1, or where the discarded eigenvalues are 0: then it goes to 0.
    """
    values = np.sort(np.asarray(eigenvalues, np.float64))[::-1]
    _check(values)
    if not 0 <= latent_dim < len(values):
        raise ValueError(f"latent_dim must be from 0 to {len(values) - 1}, less than the dimensions, not {latent_dim}")
    if not beta > 0:
        raise ValueError(f"beta must be above 0, not {beta}")
    found = []
    for number in range(latent_dim + 1):  # which must be the number of active units at the variance that it gives
        free, rest = len(values) - beta * number, float(np.sum(values[number:]))
        if free <= 0 or rest <= 0:
            continue
        variance = rest / free
        if min(int(np.sum(values > beta * variance)), latent_dim) == number:
            found.append((_objective(values, latent_dim, variance, beta), variance))
    if not found:
        raise ValueError("the eigenvalues that no unit takes are 0: the variance goes to 0, the likelihood to infinity")
    return max(found)[1]


def _objective(values, latent_dim, variance, beta):
    """E log p(x|z) - beta KL, without constants."""
    first = values[:latent_dim]
    active = first > beta * variance
    error = np.sum(values) - np.sum(first[active]) + active.sum() * beta * variance
    of_units = np.sum(rates(first, variance, beta)) if latent_dim else 0.0
    return -0.5 * len(values) * math.log(variance) - error / (2 * variance) - beta * of_units


def linear_vae(
    covariance: ArrayLike, latent_dim: int, *, variance: float | None = None, beta: float = 1.0
) -> LinearVAE:
    """The linear variational autoencoder at its optimum, without training.

        W = U (L - beta s^2)^(1/2),  V = (L - beta s^2)^(1/2) L^-1 U',  d = beta s^2 / L

    over the active units, U and L the first eigenvectors and eigenvalues; columns of units that are not active are 0.
    Units are principal axes in their order, up to signs; with full posteriors any rotation would do as well.

    Args:
      covariance: of the data, [D, D], with the number of examples and not one less.
      latent_dim: k, up to D.
      variance: s^2; None: learnt, which needs k < D.
      beta: weight of the rate.

    Raises:
      ValueError: for no covariance, other numbers, or a variance that would go to 0.
    """
    covariance = np.asarray(covariance, np.float64)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"a covariance is [D, D], not {list(covariance.shape)}")
    if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-12):
        raise ValueError("a covariance is symmetric, and this one is not")
    size = len(covariance)
    if not 1 <= latent_dim <= size:
        raise ValueError(f"latent_dim must be from 1 to the {size} dimensions of the data, not {latent_dim}")
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if variance is None:
        variance = learned_variance(values, latent_dim, beta)
    rate = rates(values[:latent_dim], variance, beta)
    noise, first, axes = beta * variance, values[:latent_dim], vectors[:, :latent_dim]
    active = first > noise
    length = np.sqrt(np.where(active, first - noise, 0.0))
    error = np.sum(values) - np.sum(first[active]) + active.sum() * noise
    return LinearVAE(
        decoder=axes * length,
        encoder=(axes * (length / np.where(active, first, 1.0))).T,
        posterior_variance=np.where(active, noise / np.where(active, first, 1.0), 1.0),
        variance=float(variance),
        rate=rate,
        distortion=float(0.5 * size * math.log(2 * math.pi * variance) + error / (2 * variance)),
    )
