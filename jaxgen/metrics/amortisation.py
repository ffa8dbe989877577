"""What an encoder loses against the best posterior of its own kind: the amortisation gap of variational autoencoders.

One encoder serves all images; for a single image a mean and a variance of its own have a higher bound. The difference
says how much of a bound's distance to the likelihood a better encoder would win back, with the decoder as it is.

    log p(x) - ELBO of the encoder = (log p(x) - best ELBO) + (best ELBO - ELBO of the encoder)
                                      approximation gap        amortisation gap

Cremer, Li and Duvenaud 2018, "Inference suboptimality in variational autoencoders".
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from jaxgen import compilation, latent_model, network
from jaxgen.arguments import check_key
from jaxgen.losses import variational
from jaxgen.models.posteriors import Posterior, reparameterize

Bound = Callable[..., jax.Array]
"""(posterior of each image, noise [B, k, latent_dim], *inputs) -> the ELBO of each [B], estimated by the k draws."""


class Amortisation(NamedTuple):
    """Bounds of images [B], in nats, by the same draws.

    of_encoder: of the posteriors that were given.
    optimised: of those that were found from there.
    posterior: these, (mean, logvar).
    """

    of_encoder: np.ndarray
    optimised: np.ndarray
    posterior: Posterior

    @property
    def gap(self) -> float:
        """The mean of optimised - of_encoder."""
        return float(np.mean(self.optimised - self.of_encoder, dtype=np.float64))

    @property
    def standard_error(self) -> float:
        """Of the gap, over images; NaN of one image."""
        if len(self.optimised) < 2:
            return float("nan")
        return float(np.std(self.optimised - self.of_encoder, ddof=1, dtype=np.float64) / len(self.optimised) ** 0.5)


def amortisation(
    posterior: Posterior,
    bound: Bound,
    key: jax.Array,
    *inputs: Any,
    num_steps: int = 300,
    learning_rate: float = 0.03,
    num_samples: int = 4,
    eval_samples: int = 100,
) -> Amortisation:
    """The bound of an encoder's posteriors, and that of the best ones that Adam finds from there, image by image.

    Mean and log variance of each image are free numbers. Adam climbs the ELBO of each with fresh noise in each step, at
    a rate that falls to 0 by a cosine; then both posteriors are measured by the same draws. What is found is a lower
    bound of the best: the gap is rather too small than too large.

    Args:
      posterior: (mean, logvar), each [B, latent_dim].
      bound: of these images, pure.
      key: of all noise.
      inputs: trees of arrays that the bound is given, such as the variables of networks and the images.
      num_steps: of Adam.
      learning_rate: at the start, in the units of latents.
      num_samples: draws of each image in a step.
      eval_samples: draws by which both are measured.

    Returns:
      An `Amortisation`.

    Raises:
      TypeError: for a seed instead of a key.
      ValueError: for numbers below 1, or a rate that is not above 0.
    """
    check_key(key)
    if min(num_steps, num_samples, eval_samples) < 1:
        raise ValueError(
            "num_steps, num_samples and eval_samples must be at least 1, not "
            f"{num_steps}, {num_samples} and {eval_samples}"
        )
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0, not {learning_rate}")
    shape = jnp.shape(posterior[0])
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def noise_of(key, num):
        return jax.random.normal(key, (shape[0], num, shape[1]))

    def run(start, key, *inputs):
        def ascend(step, carry):
            found, state = carry
            noise = noise_of(jax.random.fold_in(key, step), num_samples)
            # Images do not meet: the gradient of the sum has that of each image's bound at its own numbers.
            gradient = jax.grad(lambda found: -jnp.sum(bound(found, noise, *inputs)))(found)
            updates, state = optimizer.update(gradient, state, found)
            return optax.apply_updates(found, updates), state

        def measured(found):  # one draw at a time: many at once would not fit
            keys = jax.random.split(jax.random.fold_in(key, num_steps), eval_samples)
            return jnp.mean(lax.map(lambda key: bound(found, noise_of(key, 1), *inputs), keys), axis=0)

        found, _ = lax.fori_loop(0, num_steps, ascend, (start, optimizer.init(start)))
        return measured(start), measured(found), found

    start = Posterior(*(jnp.asarray(x) for x in posterior))
    of_encoder, optimised, found = jax.device_get(compilation.jit(run)(start, key, *inputs))
    return Amortisation(of_encoder, optimised, found)


def make_inference(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    likelihood: variational.Likelihood = variational.bernoulli,
    prior: nn.Module = latent_model.STANDARD,
    condition: latent_model.Condition | None = None,
) -> tuple[Callable, Callable]:
    """What a model with diagonal Gaussian posteriors says of images, as two pure functions of `state.ema` and a batch.

    Args:
      encoder, decoder, likelihood, prior, condition: as for `vae.make_train_step`.

    Returns:
      `posterior(variables, batch) -> (mean, logvar)`, and `bound(variables, batch, posterior, noise) -> [B]`, the ELBO
      in nats of any such posterior by k draws, noise [B, k, latent_dim]. The rate is a formula where the prior is a
      diagonal Gaussian, and else a mean over the draws.
    """

    def model_and_images(variables, batch: Mapping[str, jax.Array]) -> tuple[Any, jax.Array, tuple]:
        model = latent_model.for_evaluation(encoder, decoder, variables, latent_model.DIAGONAL, prior)
        return model, network.images_of(batch), latent_model.told(condition, batch)

    def posterior_of(variables, batch):
        model, image, given = model_and_images(variables, batch)
        return model.encode(image, *given)[0]

    def bound_of(variables, batch, posterior, noise):
        model, image, given = model_and_images(variables, batch)
        mean, logvar = posterior
        z = reparameterize(mean[:, None], logvar[:, None], noise)
        log_px, _ = model.log_likelihood(likelihood, z, image, given)
        rates = model.q.kl(Posterior(mean, logvar), model.p)
        if rates is not None:
            return jnp.mean(log_px, axis=1) - jnp.sum(rates, axis=1)
        return jnp.mean(log_px + model.log_prior(z) - model.q.log_prob(Posterior(mean, logvar), z), axis=1)

    return posterior_of, bound_of
