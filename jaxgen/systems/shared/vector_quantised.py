"""What VQ-VAE and VQ-VAE-2 share: the settings of their quantiser, the objective, and what they can do."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen import network, objective
from jaxgen.metrics import codes as of_codes
from jaxgen.models import quantise
from jaxgen.options import Optimizer, Run, lookup
from jaxgen.ranges import Count, CountOrZero, Positive, Range, Share, Weight, WholeShare
from jaxgen.system import Measure, Spec, System


@dataclasses.dataclass(frozen=True)
class Quantiser:
    """How vectors become codes."""

    name: Literal["ema", "gradient", "fsq", "lfq"] = "ema"
    """Codebook of moving averages, or learned by its gradient; rounded numbers (FSQ); signs (LFQ)."""
    num_codes: Count = 512
    """Codes; for lfq a power of two, for fsq without meaning."""
    dim: Count = 64
    """Numbers in a code's vector, for ema and gradient."""
    beta: Weight = 0.25
    """Weight of the commitment, which pulls vectors to their codes; for fsq without meaning."""
    decay: Share = 0.99
    """Of the moving averages, for ema."""
    restart_below: WholeShare = 0.0
    """For ema: a code that fewer vectors of a batch choose, on average, begins anew as one of them; 0: none does."""
    k_means: bool = False
    """For ema: begin at the centres of the first batch's vectors."""
    levels: tuple[Annotated[int, Range(2, 1024)], ...] = (8, 6, 5)
    """For fsq: of each number; their product is the number of codes."""
    entropy_weight: Weight = 0.1
    """For lfq: weight of the entropy terms."""
    temperature: Positive = 0.01
    """For lfq: of the softmax in them."""

    def build(self) -> nn.Module:
        """The module.

        Raises:
          ValueError: for numbers of codes that the quantiser cannot have.
        """
        return lookup(QUANTISERS, self.name, "quantiser")(self)


def _gradient(settings):
    return quantise.VectorQuantiser(settings.num_codes, settings.dim, settings.beta)


def _ema(settings):
    own = {name: getattr(settings, name) for name in ("decay", "restart_below", "k_means")}
    return quantise.EMAVectorQuantiser(settings.num_codes, settings.dim, settings.beta, **own)


def _fsq(settings):
    num_codes = math.prod(settings.levels)
    if not 1 < num_codes <= MOST:
        raise ValueError(f"--quantiser.levels multiply to {num_codes:,} codes: 2 to {MOST:,} fit")
    return quantise.FiniteScalarQuantiser(settings.levels)


def _lfq(settings):
    bits = settings.num_codes.bit_length() - 1
    if settings.num_codes != 2**bits or not 1 < settings.num_codes <= MOST:
        raise ValueError(
            f"--quantiser.num-codes must be a power of two from 2 to {MOST:,} for lfq, whose codes are bits, not "
            f"{settings.num_codes}"
        )
    own = {name: getattr(settings, name) for name in ("beta", "entropy_weight", "temperature")}
    return quantise.LookupFreeQuantiser(bits, **own)


QUANTISERS = {"ema": _ema, "gradient": _gradient, "fsq": _fsq, "lfq": _lfq}
MOST = 2**20  # codes, of all of which a batch's shares are counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder(Run):
    """An autoencoder with codes."""

    features: Count = 128
    """Channels of its maps."""
    blocks: CountOrZero = 2
    """Residual blocks of the encoder, and of the decoder."""
    inner: Count = 32
    """Channels within a residual block."""
    quantiser: Quantiser = Quantiser()
    """How vectors become codes."""
    data_variance: Positive = 0.25
    """By which squared errors are divided: the variance of the data's pixels, black being 0 and white 1."""
    optimizer: Optimizer = Optimizer(learning_rate=3e-4)
    """Of all parameters."""

    @property
    def sizes(self) -> dict[str, Any]:
        """Of the networks."""
        return {"features": self.features, "blocks": self.blocks, "inner": self.inner, "dtype": self.dtype}


def build(config: Autoencoder, spec: Spec, model: Any, *, name: str) -> System:
    """The system of a model.

    Args:
      config: settings.
      spec: of the batches.
      model: images -> `models.vqvae.Reconstruction`, with `encode`, `decode`, `maps`, `codes_shape`.
      name: what to call it.
    """
    optimizer = config.optimizer.build(config.num_steps)
    num_codes = config.quantiser.build().num_codes

    def error(image, drawn):
        """For each image, of the scale in which black is 0 and white 1."""
        return jnp.mean(jnp.square(drawn - image), axis=(1, 2, 3)) / (4 * config.data_variance)

    def distortion_and_quantisers(params, model_state, batch, key, step):
        image = network.images_of(batch)
        found, model_state = network.apply(model, params, model_state, image, key=key)
        distortion = jnp.mean(error(image, found.image))
        loss = distortion + found.loss
        return loss, (model_state, {"loss": loss, "distortion": distortion, **found.metrics})

    def init(key):
        def new(key):
            image = jnp.zeros((2, *spec.image_shape))
            _, variables = network.init_with_output(model, key, image, name="autoencoder")
            return objective.init(variables, optimizer=optimizer)

        return network.compiled_init(new, key)

    def of_batch(variables, batch, key):
        image = network.images_of(batch)
        found = network.evaluate(model, variables, image, what="images")
        return {"distortion": error(image, found.image), "codes": found.codes.reshape(len(image), -1)}

    def summarize(rows):
        found = {"distortion": float(np.mean(np.asarray(rows["distortion"]), dtype=np.float64))}
        ends = np.cumsum([math.prod(sides) for sides in model.maps.values()])
        for which, codes in zip(model.maps, np.split(np.asarray(rows["codes"]), ends[:-1], axis=1), strict=True):
            prefix = f"{which}/" if which else ""
            found |= {prefix + what: x for what, x in of_codes.summary(codes, num_codes).items()}
        return found

    def encode(variables, batch):
        return network.evaluate(model, variables, network.images_of(batch), what="images", method="encode")

    def decode(variables, codes):
        return jnp.clip(network.evaluate(model, variables, codes, what="codes", method="decode"), -1.0, 1.0)

    def reconstruct(variables, batch):
        return decode(variables, encode(variables, batch))

    return System(
        init=init,
        train_step=objective.make_train_step(
            distortion_and_quantisers, optimizer=optimizer, ema_decay=config.ema_decay, gradients=config.gradients
        ),
        images_per_step=config.batch_size,
        latents=lambda key, n: quantise.uniform_codes(key, (n, *model.codes_shape), num_codes),
        decode=decode,
        encode=encode,
        reconstruct=reconstruct,
        measure=Measure(of_batch, summarize, best="distortion", mode="min"),
        protocol={
            "latents": "codes, all alike: there is no prior of codes yet, and nothing is drawn",
            "images": "reconstructions from codes, clipped",
            **config.weights,
        },
        name=name,
    )
