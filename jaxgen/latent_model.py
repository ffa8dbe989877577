"""A model with latents, p(z) p(x|z), and its q(z|x): what `vae` trains, and what `metrics.likelihood` measures."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxgen import network, sharding
from jaxgen.arguments import check_key
from jaxgen.data import check
from jaxgen.losses import bounds, variational
from jaxgen.models import posteriors, priors

DIAGONAL, STANDARD = posteriors.Diagonal(), priors.StandardNormal()

Condition = Callable[[Mapping[str, jax.Array]], jax.Array]
"""batch -> what encoder and decoder are told as their second input, such as labels [B]."""


def drawing(key: jax.Array, axis_name: str | None = None) -> posteriors.Draw:
    """`draw(sampler, shape, number=0)` for a posterior or prior: random numbers of the whole batch, by this key."""
    check_key(key)

    def draw(sampler, shape, number=0):
        own = jax.random.fold_in(key, number) if number else key
        return sharding.draw(sampler, own, shape, axis_name=axis_name)

    return draw


def told(condition: Condition | None, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """(what the networks are told of a batch, ) or ()."""
    return () if condition is None else (condition(batch),)


class Model(NamedTuple):
    """With parameters; made by `of`.

    encode: (images, *told) -> (the encoder's output, as the posterior reads it; its collections after that).
    decode: (z [n, d], *told) -> (the decoder's output; its collections).
    q: the posterior, bound.
    p: the prior, bound.
    """

    encode: Callable
    decode: Callable
    q: Any
    p: Any

    @property
    def recognition(self) -> priors.Recognition:
        """q(z|x), for a prior that is made of it."""

        def log_prob(images, z):
            return self.q.log_prob(self.encode(images)[0], jnp.broadcast_to(z, (len(images), *z.shape))).T

        return priors.Recognition(log_prob, lambda images, draw: self.q(self.encode(images)[0], draw, 1).z[:, 0])

    def log_prior(self, z: jax.Array) -> jax.Array:
        """log p(z): [..., d] -> [...]."""
        return self.p.log_prob(z, self.recognition)

    def log_prior_over_posterior(self, output: Any, draws: posteriors.Draws) -> jax.Array | None:
        """log p(z) - log q(z|x) [B, k] of draws from q; None where q has no density."""
        if draws.log_q is None:
            return None
        if type(self.q) is posteriors.Diagonal and type(self.p) is priors.StandardNormal and draws.noise is not None:
            # The noise is (z - mean) / std, and the constants cancel.
            return jnp.sum(0.5 * (draws.noise**2 + output.logvar[:, None] - draws.z**2), axis=-1)
        return self.log_prior(draws.z) - draws.log_q

    def rate_in_parts(self, output: Any, log_ratio: jax.Array | None) -> jax.Array | None:
        """KL(q || p) [B, parts] by the formula, if there is one, or the mean over draws; None without density."""
        if log_ratio is None:
            return None
        exact = self.q.kl(output, self.p)
        return -jnp.mean(log_ratio, axis=1, keepdims=True) if exact is None else exact

    def log_likelihood(
        self, likelihood: variational.Likelihood, z: jax.Array, image: jax.Array, given: tuple
    ) -> tuple[jax.Array, Any]:
        """(log p(x|z) [B, k], the decoder's collections), for z [B, k, d] and images [B, H, W, C]."""
        k = z.shape[1]
        found, rest = self.decode(z.reshape(-1, z.shape[-1]), *(jnp.repeat(x, k, axis=0) for x in given))
        shape = jax.eval_shape(likelihood.mean, found).shape
        if shape[1:] != image.shape[1:]:  # a grey decoder for colour images would broadcast, without an error
            raise ValueError(f"the decoder makes images of shape {shape[1:]}, but the data have {image.shape[1:]}")
        return likelihood.log_prob(found, jnp.repeat(image, k, axis=0)).reshape(-1, k), rest

    def per_image(self, output: Any, log_px: jax.Array, rates: Any, bound: Any) -> dict[str, jax.Array]:
        """What an evaluation step returns, from log p(x|z) [B], the rate in parts and the bound (None: no density)."""
        mean = self.q.mean(output)
        if rates is None:
            return {"distortion": -log_px, "posterior_mean": mean}
        rate, distortion = jnp.sum(rates, axis=1), -log_px
        return {
            "elbo": -distortion - rate,
            "distortion": distortion,
            "rate": rate,
            "importance_weighted_bound": bound,
            "kl_per_unit": rates,
            "posterior_mean": mean,
        }


def of(
    encode: Callable, decode: Callable, variables: Mapping[str, Any], posterior: nn.Module, prior: nn.Module
) -> Model:
    """A model from its networks as functions, (input, *told) -> (output, collections).

    Args:
      encode, decode: the networks.
      variables: of all, with "posterior" and "prior" where these have parameters.
      posterior, prior: modules.
    """
    q, p = (module.bind(variables.get(n, {})) for n, module in (("posterior", posterior), ("prior", prior)))

    def read(image, *given):
        output, rest = encode(image, *given)
        return q.read(output), rest

    return Model(read, decode, q, p)


def for_evaluation(
    encoder: nn.Module | None, decoder: nn.Module | None, variables: Any, posterior: nn.Module, prior: nn.Module
) -> Model:
    """The model as it is evaluated, with `state.ema`; networks that are not asked may be None.

    Raises:
      TypeError, ValueError: for other variables, and when it encodes, for images that `vae.encode` refuses.
    """
    network.check_variables(variables)

    def encode(image, *given):
        own = network.member(variables, "encoder")
        check.check_traced(image)
        if not isinstance(image, jax.core.Tracer):
            values = np.asarray(image)  # not jnp: inside of a jit its results are traced, of known images, too
            if values.size and values.min() >= 0 and values.max() > 2:
                check.check_known(image)  # of bytes: it raises
        return network.evaluate(encoder, own, image, *given, what="images"), None

    def decode(z, *given):
        return network.images_from(decoder, network.member(variables, "decoder"), z, *given), None

    return of(encode, decode, variables, posterior, prior)


def log_weights_of(
    with_params: Callable[[Any], Model],
    params: Any,
    log_likelihood: Callable[[Model, jax.Array], jax.Array],
    output: Any,
    draws: posteriors.Draws,
    known: jax.Array | None,
) -> Callable[..., jax.Array]:
    """The function `log_weights(fixed=())` that a bound is given; see `losses.bounds`.

    Args:
      with_params: params -> the model.
      params: of all its networks.
      log_likelihood: (model, z) -> log p(x|z) [B, k].
      output: of the encoder.
      draws: from the posterior.
      known: the weights with nothing fixed; None where q has no density.
    """
    held = lax.stop_gradient

    def log_weights(fixed=()):
        if isinstance(fixed, str) or not set(fixed) <= set(bounds.PARTS):
            raise ValueError(f"fixed names some of {bounds.PARTS}, as in fixed=('model',), not {fixed!r}")
        if known is None:
            raise ValueError("a posterior without density has no importance weights: take another one, or no bound")
        if not fixed:
            return known
        z = held(draws.z) if "latents" in fixed else draws.z
        model = with_params(held(params) if "model" in fixed else params)
        if "posterior" not in fixed:
            log_q = with_params(params).q.log_prob(output, z) if "latents" in fixed else draws.log_q
        elif "latents" in fixed:
            log_q = held(draws.log_q)
        else:
            log_q = with_params(held(params)).q.log_prob(held(output), z)
        return log_likelihood(model, z) + model.log_prior(z) - log_q

    return log_weights
