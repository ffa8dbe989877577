"""Two layers of latents (Burda et al. 2016): q(h1|x) q(h2|h1), p(h2) p(h1|h2) p(x|h1), all by small tanh networks.

They fit where one layer does: z = [h1, h2] is one vector, the posterior draws its parts one after another, the prior is
p(h2) p(h1|h2), and the decoder takes the first part.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models import mlp
from jaxgen.models.posteriors import Diagonal, Draw, Draws, log_normal, reparameterize
from jaxgen.models.posteriors import Posterior as OfFirst
from jaxgen.models.priors import Recognition

_OF_FIRST = Diagonal()  # no module may be made inside of another's methods


class Posterior(nn.Module):
    """q(h1|x) q(h2|h1), both diagonal Gaussians. The encoder returns (mean, logvar) of h1."""

    first: int = 100
    second: int = 50
    widths: Sequence[int] = (100, 100)
    dtype: Any = None

    def setup(self) -> None:
        """Its parameters."""
        self.above = mlp.Gaussian(self.second, self.widths, self.dtype)

    def sizes(self, latent_dim: int) -> tuple[int, ...]:
        """Of the encoder's output: of h1, whatever the number of all latents."""
        return self.first, self.first

    def read(self, output: Any) -> OfFirst:
        """(mean, logvar) of h1."""
        return _OF_FIRST.read(output)

    def __call__(self, output: OfFirst, draw: Draw, num_samples: int) -> Draws:
        """h1, then h2 given it."""
        shape = (output.mean.shape[0], num_samples)
        noise = draw(jax.random.normal, (*shape, self.first))
        h1 = reparameterize(output.mean[:, None], output.logvar[:, None], noise)
        noise = draw(jax.random.normal, (*shape, self.second), 1)
        mean, logvar = self.above(h1)
        z = jnp.concatenate([h1, reparameterize(mean, logvar, noise)], axis=-1)
        return Draws(z, self.log_prob(output, z))

    def log_prob(self, output: OfFirst, z: jax.Array) -> jax.Array:
        """[B, k] of z [B, k, first + second]."""
        h1, h2 = mlp.split(z, (self.first, self.second))
        return _OF_FIRST.log_prob(output, h1) + log_normal(h2, *self.above(h1))

    def mean(self, output: OfFirst) -> jax.Array:
        """The mean of h1, and that of h2 given it."""
        return jnp.concatenate([output.mean, self.above(output.mean)[0]], axis=-1)

    def kl(self, output: OfFirst, prior: Any) -> None:
        """None: only draws can tell."""


class Prior(nn.Module):
    """p(h2) = N(0, I), p(h1|h2) a diagonal Gaussian."""

    first: int = 100
    second: int = 50
    widths: Sequence[int] = (100, 100)
    dtype: Any = None

    def setup(self) -> None:
        """Its parameters."""
        self.below = mlp.Gaussian(self.first, self.widths, self.dtype)

    def log_prob(self, z: jax.Array, recognition: Recognition | None = None) -> jax.Array:
        """[..., first + second] -> [...]."""
        h1, h2 = mlp.split(z, (self.first, self.second))
        return log_normal(h2) + log_normal(h1, *self.below(h2))

    def sample(self, draw: Draw, num: int, recognition: Recognition | None = None) -> jax.Array:
        """[num, first + second]."""
        h2 = draw(jax.random.normal, (num, self.second), 1)
        mean, logvar = self.below(h2)
        h1 = reparameterize(mean, logvar, draw(jax.random.normal, (num, self.first)))
        return jnp.concatenate([h1, h2], axis=-1)
