"""Likelihoods of variational autoencoders: ELBO, rate, distortion, and the importance-weighted bound for any k.

In nats per image, unless a name says bits. A number depends on the split, the binarisation and k: `evaluate` asks for
them and returns them with it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxgen import compilation, latent_model, network, vae
from jaxgen.arguments import check_key
from jaxgen.losses import variational


def importance_weighted_bound(
    log_weights_of: Callable[[jax.Array], jax.Array], num_samples: int, *, chunk_size: int = 10
) -> jax.Array:
    """log (1/k sum_i w_i) with k = num_samples exactly, and at most chunk_size samples in memory at a time.

    Chunks are joined by the logarithm of their summed weights. If k is no multiple of chunk_size, the last chunk is
    smaller: k is never rounded.

    Args:
      log_weights_of: indices [n] int32 of samples -> log w [n, B]. For one model this is
        log p(x, z_i) - log q(z_i | x) with z_i drawn from q by a key that is folded with i.
      num_samples: k.
      chunk_size: a matter of speed and memory; beyond rounding it does not change the result.

    Returns:
      [B], in nats: the value that is a bound, not a surrogate with its gradient. Jittable.

    Raises:
      ValueError: for k or chunk_size below 1.

    Source: Burda, Grosse, Salakhutdinov 2016, "Importance Weighted Autoencoders".
    """
    bound, _ = _in_chunks(lambda samples: (log_weights_of(samples),) * 2, num_samples, chunk_size)
    return bound


def _in_chunks(sample, num_samples, chunk_size):
    """(bound, mean) over samples of `sample(indices) -> (log weights [n, B], anything else [n, B])`."""
    if num_samples < 1 or chunk_size < 1:
        raise ValueError(f"num_samples and chunk_size must be at least 1, not {num_samples} and {chunk_size}")

    def chunk(indices):
        log_weights, others = sample(indices)
        total = variational.importance_weighted_bound(log_weights, axis=0) + math.log(len(indices))
        return total, jnp.sum(others, axis=0)

    chunk_size = min(chunk_size, num_samples)
    whole, rest = divmod(num_samples, chunk_size)
    indices = jnp.arange(num_samples, dtype=jnp.int32)
    totals, sums = lax.map(chunk, indices[: whole * chunk_size].reshape(whole, chunk_size))
    if rest:
        last_total, last_sum = chunk(indices[whole * chunk_size :])
        totals, sums = jnp.vstack([totals, last_total]), jnp.vstack([sums, last_sum])
    return jax.nn.logsumexp(totals, axis=0) - math.log(num_samples), jnp.sum(sums, axis=0) / num_samples


def make_eval_step(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    likelihood: variational.Likelihood = variational.bernoulli,
    num_samples: int = 1,
    chunk_size: int = 10,
    posterior: nn.Module = latent_model.DIAGONAL,
    prior: nn.Module = latent_model.STANDARD,
    condition: latent_model.Condition | None = None,
) -> Callable:
    """`vae.make_eval_step` for any k: the encoder runs once, the decoder k times, chunk_size samples at a time.

    Args:
      encoder, decoder, likelihood, posterior, prior, condition: as for `vae.make_train_step`.
      num_samples: k latents for each image, exactly.
      chunk_size: latents for each image that are held at once. Beyond rounding it does not change the result.

    Returns:
      A pure function `eval_step(variables, batch, key) -> dict`, not compiled, with the entries of
      `vae.make_eval_step`: `elbo`, `distortion`, `rate`, `importance_weighted_bound`, each [B] nats; `kl_per_unit` and
      `posterior_mean`, [B, latent_dim]. The rate is a formula where posterior and prior have one, and else
      a mean over the k samples, as the distortion is.

    Raises:
      ValueError: at once, for k or chunk_size below 1; at trace time, for images of another shape than the decoder's.
    """
    if num_samples < 1 or chunk_size < 1:
        raise ValueError(f"num_samples and chunk_size must be at least 1, not {num_samples} and {chunk_size}")

    def eval_step(variables, batch: Mapping[str, jax.Array], key: jax.Array):
        check_key(key)
        image, given = network.images_of(batch), latent_model.told(condition, batch)
        model = latent_model.for_evaluation(encoder, decoder, variables, posterior, prior)
        output, _ = model.encode(image, *given)

        def sample(index):
            draws = model.q(output, latent_model.drawing(jax.random.fold_in(key, index)), 1)
            log_px, _ = model.log_likelihood(likelihood, draws.z, image, given)
            log_ratio = model.log_prior_over_posterior(output, draws)
            if log_ratio is None:
                raise ValueError(f"{type(posterior).__name__} has no density, so there is no likelihood to estimate")
            log_px, log_ratio = log_px[:, 0], log_ratio[:, 0]
            return log_px + log_ratio, log_px if exact is not None else jnp.stack([log_px, log_ratio])

        exact = model.q.kl(output, model.p)
        bound, found = _in_chunks(jax.vmap(sample), num_samples, chunk_size)
        log_px, rates = (found, exact) if exact is not None else (found[0], -found[1][:, None])
        return model.per_image(output, log_px, rates, bound)

    return eval_step


def evaluate(
    encoder: nn.Module,
    decoder: nn.Module,
    variables: Any,
    batches: Iterable[Mapping[str, jax.Array]],
    key: jax.Array,
    *,
    split: str,
    binarisation: str,
    likelihood: variational.Likelihood = variational.bernoulli,
    num_samples: int = 1,
    chunk_size: int = 10,
    dims: int | None = None,
    posterior: nn.Module = latent_model.DIAGONAL,
    prior: nn.Module = latent_model.STANDARD,
    condition: latent_model.Condition | None = None,
) -> dict[str, Any]:
    """The numbers of a whole data set, with what they depend on.

    Args:
      encoder, decoder, likelihood, num_samples, chunk_size, posterior, prior, condition: as for `make_eval_step`.
      variables: `state.ema`.
      batches: of images, each image once.
      key: of the latents; the run of `batches` is numbered into it.
      split: which part of the data this is, in words; comes back in the result.
      binarisation: which rule made the pixels binary, such as "dynamic", "threshold" or "none"; comes back too.
      dims: real sub-pixels of an image, for bits per dimension. None: all of them; less where images were padded.

    Returns:
      A dict of floats, means over images in nats: `elbo`, `rate`, `distortion`, `importance_weighted_bound` and
      `nll`, its negative: an upper bound of the negative log-likelihood. `bits_per_dim` of `nll` over `dims` (for a
      density such as `variational.gaussian` no length of a code). `kl_per_unit`, a list, and `active_units`, their
      number. And `num_samples`, `num_examples`, `dims`, `split`, `binarisation`.

    Raises:
      ValueError: for no images, unequal ones, or dims that are not in them; for grey pixels under
        `variational.bernoulli`, whose number would be no likelihood; for values that are not finite.
      TypeError: for a seed instead of a key, or what is no Linen module.
    """
    check_key(key)
    step = compilation.jit(
        make_eval_step(
            encoder,
            decoder,
            likelihood=likelihood,
            num_samples=num_samples,
            chunk_size=chunk_size,
            posterior=posterior,
            prior=prior,
            condition=condition,
        )
    )
    results, shape = [], None
    for i, batch in enumerate(batches):
        image = network.images_of(batch)
        shape = image.shape[1:] if shape is None else shape
        if image.shape[1:] != shape:
            raise ValueError(f"batch {i} has images of shape {image.shape[1:]}, but those before it have {shape}")
        if likelihood is variational.bernoulli and not bool(jnp.all(jnp.abs(image) == 1)):
            raise ValueError(
                f"the Bernoulli likelihood is one of binary pixels, but batch {i} has values between -1 and 1: "
                "binarise the data, and name the rule"
            )
        result = jax.tree.map(np.asarray, step(variables, batch, jax.random.fold_in(key, i)))
        if not np.isfinite(result["importance_weighted_bound"]).all():
            raise ValueError(f"the bound of an image in batch {i} is not finite: are the parameters?")
        results.append(result)
    if not results or shape is None:
        raise ValueError("there are no images to evaluate")
    pixels = math.prod(shape)
    dims = pixels if dims is None else dims
    if not 1 <= dims <= pixels:
        raise ValueError(f"dims must be from 1 to the {pixels} sub-pixels of an image, not {dims}")
    per_image = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    summary = vae.summarize(per_image)
    nll = -summary["importance_weighted_bound"]
    return summary | {
        "nll": nll,
        "bits_per_dim": float(variational.bits_per_dim(nll, dims)),
        "kl_per_unit": np.mean(per_image["kl_per_unit"], axis=0, dtype=np.float64).tolist(),
        "num_samples": num_samples,
        "num_examples": len(per_image["elbo"]),
        "dims": dims,
        "split": split,
        "binarisation": binarisation,
    }


def log_aggregate_posterior(z: jax.Array, mean: jax.Array, logvar: jax.Array, *, num_examples: int) -> jax.Array:
    """log of an estimate of q(z_i) = 1/N sum_n q(z_i | x_n) from a batch, for z_i drawn from q(z | x_i).

        1/N q(z_i | x_i) + (N - 1) / (N (B - 1)) sum_{j != i} q(z_i | x_j)

    x_i stands for itself, with its weight 1/N on the diagonal, and the others for the N - 1 that they are drawn from:
    over batches without repetition the estimate of q(z_i), not of its logarithm, is unbiased. It is exact for B = N.

    Args:
      z: [B, latent_dim], z_i from the posterior of image i.
      mean: posterior means [B, latent_dim].
      logvar: log variances [B, latent_dim].
      num_examples: N, the size of the data set, at least B.

    Returns:
      [B] nats.

    Raises:
      ValueError: for batches of one image, or larger than the data set.

    Source: the minibatch-stratified estimator of Chen, Li, Grosse, Duvenaud 2018, "Isolating sources of disentanglement
    in variational autoencoders", in a form that treats all other images alike.
    """
    size = len(z)
    if not 2 <= size <= num_examples:
        raise ValueError(f"a batch of {size} images says nothing about q(z) of {num_examples}: 2 to N are needed")
    log_q = jax.vmap(lambda z: variational.gaussian_log_likelihood(mean, logvar, z))(z)  # [i, j] = log q(z_i | x_j)
    own, other = -math.log(num_examples), math.log((num_examples - 1) / (num_examples * (size - 1)))
    return jax.nn.logsumexp(log_q + jnp.where(jnp.eye(size, dtype=bool), own, other), axis=1)
