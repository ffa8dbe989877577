"""What variational autoencoders of `systems/` share: a `System` of an encoder, a decoder, a posterior and a prior."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import latent_model, sharding, vae
from jaxgen.losses import variational
from jaxgen.metrics import amortisation
from jaxgen.metrics import likelihood as likelihoods
from jaxgen.models import conv_vae, mlp, posteriors, priors
from jaxgen.options import LIKELIHOODS, Data, Optimizer, Run, lookup, square_size
from jaxgen.ranges import Count
from jaxgen.system import Between, Inference, Measure, Spec, System, drawn_labels
from jaxgen.systems.preset import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder(Run):
    """An encoder and a decoder with latents between them."""

    model: Literal["mlp", "conv"] = "mlp"
    """The networks: fully connected (binarised images) or convolutional (28 to 64 pixels)."""
    latent_dim: Count = 50
    """Numbers that the encoder describes an image with."""
    features: Count = 32
    """Of the outermost hidden layer of the convolutional model."""
    likelihood: Literal[*LIKELIHOODS] = "bernoulli"
    """Of pixels given the latents; bernoulli is for binarised images."""
    num_samples: Count = 1
    """Latents for each image."""
    eval_samples: Count = 1
    """k of the importance-weighted bound in evaluation."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)
    """Of all networks."""


DIGITS: Settings = {
    "data": Data(binarise="dynamic"),
    "batch_size": 100,
    "log_every": 500,
    **dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 6000),
    "optimizer": Optimizer(learning_rate=1e-3, schedule="cosine"),
}
"""Of presets on dynamically binarised digits."""

SHAPES: Settings = {
    "data": Data("factors", binarise="threshold"),
    "model": "conv",
    "features": 16,
    "latent_dim": 10,
    "num_steps": 20_000,
    "log_every": 500,
    **dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000),
}
"""Of presets on drawn shapes, whose factors are known; pixels are made binary, as those of dSprites are."""


def networks(config: Any, spec: Spec, posterior: nn.Module = latent_model.DIAGONAL) -> tuple[nn.Module, nn.Module]:
    """(encoder, decoder) for images of a shape.

    Raises:
      ValueError: for a likelihood that the model or the data do not fit.
    """
    check_bernoulli(config)
    sizes = None if posterior == latent_model.DIAGONAL else posterior.sizes(config.latent_dim)
    if config.model == "mlp":
        if config.likelihood != "bernoulli":
            raise ValueError("the MLP decoder returns Bernoulli logits; use --model conv for other likelihoods")
        encoder: nn.Module = mlp.Encoder(config.latent_dim, dtype=config.dtype, sizes=sizes)
        return encoder, mlp.BernoulliDecoder(spec.image_shape, dtype=config.dtype)
    size, channels = square_size(spec.image_shape, "the convolutional VAE"), spec.image_shape[2]
    learned_width = config.likelihood != "bernoulli"
    encoder = conv_vae.Encoder(config.latent_dim, config.features, dtype=config.dtype, sizes=sizes)
    return encoder, conv_vae.Decoder(size, channels, config.features, learned_width=learned_width, dtype=config.dtype)


def check_bernoulli(config: Any) -> None:
    """Raises a ValueError for a Bernoulli likelihood of grey images."""
    if config.likelihood == "bernoulli" and config.data.binarise == "none":
        raise ValueError(
            "a Bernoulli likelihood needs binarised images: --data.binarise dynamic (MNIST), or choose "
            "--likelihood discretized_logistic for images of 256 levels"
        )


def label_of(batch: Any) -> jax.Array:
    """batch["label"], or a ValueError that says what has none."""
    if "label" not in batch:
        raise ValueError("a class-conditional autoencoder is told labels, and these images have none")
    return batch["label"]


def build(
    config: Any,
    spec: Spec,
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    name: str,
    posterior: nn.Module = latent_model.DIAGONAL,
    prior: nn.Module | None = None,
    prior_in_words: str = "the learned prior",
    likelihood: variational.Likelihood | None = None,
    num_labels: int = 0,
    **settings: Any,
) -> System:
    """The system of two modules, a posterior and a prior.

    Args:
      config: with what `Autoencoder` has.
      spec: of the batches.
      encoder, decoder, posterior, prior: as for `vae.make_train_step`; the standard normal prior by default.
      name: of the system.
      prior_in_words: for the protocol, where the prior is another.
      likelihood: instead of that which `config` names.
      num_labels: of networks that are told labels; 0 for others.
      settings: what `vae.make_train_step` takes besides: beta, bound, terms.

    Raises:
      ValueError: for labels that the data do not have.
    """
    if likelihood is None:
        likelihood = lookup(LIKELIHOODS, config.likelihood, "likelihood")
    standard = prior is None
    prior = priors.StandardNormal(config.latent_dim) if prior is None else prior
    if num_labels and not spec.num_classes:
        raise ValueError("a class-conditional autoencoder is told labels, and these images have none")
    condition = label_of if num_labels else None
    parts: dict[str, Any] = {"posterior": posterior, "prior": prior}
    optimizer = config.optimizer.build(config.num_steps)
    # Many samples go in chunks: all at once would not fit into memory.
    make_eval_step = vae.make_eval_step if config.eval_samples <= 50 else likelihoods.make_eval_step
    free = isinstance(prior, (priors.StandardNormal, priors.UniformOnSphere))  # its latents need no parameters

    def latents(key, n, temperature=1.0):
        if standard:
            return temperature * sharding.draw(jax.random.normal, key, (n, config.latent_dim))
        return prior.sample(latent_model.drawing(key), n)

    def decode(variables, z, label=None):
        if num_labels:
            label = jnp.zeros((), jnp.int32) if label is None else jnp.asarray(label, jnp.int32)
            label = jnp.broadcast_to(label, z.shape[:1])
        return vae.sample(decoder, variables, z, label, likelihood=likelihood)

    def draw(variables, key, n, label=None, **told):
        if num_labels and label is None:
            label = drawn_labels(jax.random.fold_in(key, 1), n, num_labels)
        if free:
            return decode(variables, latents(key, n, **told), label)
        return decode(
            variables, vae.draw_latents(prior, variables, key, n, encoder=encoder, posterior=posterior), label
        )

    def told(batch):
        return latent_model.told(condition, batch)

    colder = {"temperature": Between(0.0, 2.0, "standard deviation of latents")}
    drawn = f"means of the decoder's distribution ({config.likelihood}), not draws from it"
    if config.data.binarise != "none":
        drawn += f"; trained on binarised images ({config.data.binarise}), compared with images as stored"
    has_density = not isinstance(posterior, posteriors.Point)
    return System(
        init=lambda key: vae.init(
            key,
            encoder,
            decoder,
            optimizer=optimizer,
            image_shape=spec.image_shape,
            condition=spec.batch["label"] if num_labels else None,
            **parts,
        ),
        train_step=vae.make_train_step(
            encoder,
            decoder,
            optimizer=optimizer,
            likelihood=likelihood,
            num_samples=config.num_samples,
            condition=condition,
            ema_decay=config.ema_decay,
            gradients=config.gradients,
            **parts,
            **settings,
        ),
        images_per_step=config.batch_size,
        draw=draw,
        choices=({"label": num_labels} if num_labels else {}) | (colder if standard else {}),
        latent_choices=tuple(colder) if standard else (),
        latents=latents if free else None,
        decode=decode,
        encode=lambda variables, batch: vae.posterior_mean(
            encoder, variables, batch["image"], *told(batch), posterior=posterior
        ),
        reconstruct=lambda variables, batch: vae.reconstruct(
            encoder, decoder, variables, batch["image"], *told(batch), likelihood=likelihood, posterior=posterior
        ),
        measure=Measure(
            (make_eval_step if has_density else vae.make_eval_step)(
                encoder,
                decoder,
                likelihood=likelihood,
                num_samples=config.eval_samples if has_density else 1,
                condition=condition,
                **parts,
            ),
            vae.summarize,
            best="elbo" if has_density else "distortion",
            mode="max" if has_density else "min",
        ),
        inference=Inference(
            *amortisation.make_inference(encoder, decoder, likelihood=likelihood, prior=prior, condition=condition)
        )
        if posterior == latent_model.DIAGONAL
        else None,
        protocol={
            "latents": "standard normal, not truncated" if standard else prior_in_words,
            "images": drawn,
            **({"labels": "drawn, all classes alike"} if num_labels else {}),
            **config.weights,
        },
        name=name,
    )
