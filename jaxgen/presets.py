"""Named experiments: the one table from a name to a function, and what the command line may override.

A preset is data: a frozen configuration with the paper it follows. `build` turns a configuration into functions and a
fresh state; nothing below this file knows about names.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import checkpoint, classifier, data, gan, loop, network, optim, run_directory, sharding, vae
from jaxgen.losses import adversarial, penalties, variational
from jaxgen.models import article, cnn, conv_vae, dcgan, mlp

# Names -> functions ---------------------------------------------------------------------------------------------------

LOSSES = {
    "non_saturating": adversarial.non_saturating,
    "minimax": adversarial.minimax,
    "least_squares": adversarial.least_squares,
    "hinge": adversarial.hinge,
    "wasserstein": adversarial.wasserstein,
    "relativistic": adversarial.relativistic,
}
OPTIMIZERS = {
    "adam": lambda o, rate: optax.adam(rate, b1=o.b1, b2=o.b2, eps=o.eps),
    "adamw": lambda o, rate: optax.adamw(rate, b1=o.b1, b2=o.b2, eps=o.eps, weight_decay=o.weight_decay),
    "adamax": lambda o, rate: optax.adamax(rate, b1=o.b1, b2=o.b2, eps=o.eps),
    "rmsprop": lambda o, rate: optax.rmsprop(rate, decay=o.b2, eps=o.eps, momentum=o.b1 or None),
    "sgd": lambda o, rate: optax.sgd(rate, momentum=o.b1 or None),
}
SCHEDULES = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
}
LIKELIHOODS = {
    "bernoulli": variational.bernoulli,
    "gaussian": variational.gaussian,
    "discretized_logistic": variational.discretized_logistic,
}
BINARISATIONS = {
    "none": data.binarisation.none,
    "dynamic": data.binarisation.dynamic,
    "threshold": data.binarisation.threshold,
}
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
DATASETS = {
    "mnist": lambda d, split: data.mnist(split, image_size=d.image_size or 28, binarise=_binarise(d)),
    "stacked_mnist": lambda d, split: data.stacked_mnist(split, image_size=d.image_size or 28, binarise=_binarise(d)),
    "emoji": lambda d, split: data.emoji(split, image_size=d.image_size or 64, drawn_by=d.drawn_by),
    "folder": lambda d, split: data.image_folder(
        _needs_path(d),
        image_size=d.image_size or 64,
        channels=d.channels,
        background=d.background,
        split={"train": "train", "test": "validation"}[split],
        validation_share=d.validation_share,
        max_broken_share=d.max_broken_share,
    ),
    "arrays": lambda d, split: data.array_file(
        _needs_path(d) if split == "train" else _needs_path(d, "test_path"), value_range=d.value_range
    ),
    "hub": lambda d, split: data.hub_dataset(
        _needs_path(d), image_size=d.image_size or 64, channels=d.channels, background=d.background, split=split
    ),
}

# The command line shows these choices; they are the keys above (a test compares them).
LossName = Literal["non_saturating", "minimax", "least_squares", "hinge", "wasserstein", "relativistic"]
OptimizerName = Literal["adam", "adamw", "adamax", "rmsprop", "sgd"]
ScheduleName = Literal["constant", "linear", "cosine"]
LikelihoodName = Literal["bernoulli", "gaussian", "discretized_logistic"]
BinarisationName = Literal["none", "dynamic", "threshold"]
PrecisionName = Literal["float32", "bfloat16"]
DatasetName = Literal["mnist", "stacked_mnist", "emoji", "folder", "arrays", "hub"]


# Configurations -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images, and how they are prepared."""

    name: DatasetName = "mnist"
    """An embedded set, or `folder`, `arrays` (.npz, .npy), `hub` with a path."""
    path: str | None = None
    """Of the folder or array file; or the hub's owner/name."""
    test_path: str | None = None
    """For `arrays`: the file that evaluation uses."""
    image_size: int | None = None
    """Side in pixels; the set's own by default (28 for MNIST, 64 for all others)."""
    channels: Literal[1, 3] = 3
    """For folders and hub sets: 1 for grey, 3 for colour."""
    background: str = "white"
    """For folders and hub sets: what transparent images are composited on."""
    validation_share: float = 0.05
    """For folders: share of the files held out for evaluation."""
    max_broken_share: float = 0.01
    """For folders: share of unreadable files that is tolerated."""
    value_range: tuple[float, float] | None = None
    """For `arrays`: the values of black and white, such as 0 1."""
    binarise: BinarisationName = "none"
    """For MNIST: a fresh Bernoulli draw at every visit, a threshold, or grey levels."""
    drawn_by: Literal["noto", "twemoji"] = "noto"
    """For emoji: the house that drew them."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimiser with its clip, skip and schedule."""

    name: OptimizerName = "adam"
    learning_rate: float = 2e-4
    b1: float = 0.9
    """Decay of the first moment; momentum for sgd and rmsprop."""
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    """For adamw."""
    schedule: ScheduleName = "constant"
    """Of the learning rate over num_steps: linear and cosine end at 0."""
    clip_norm: float | None = None
    """Scale the gradient down to this global norm."""
    skip_norm: float | None = None
    """Skip an update whose gradient has this global norm or more before the clip, or is not finite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What all experiments have."""

    data: Data = Data()
    batch_size: int = 64
    """Images in a step (for each discriminator step), over all devices and hosts."""
    num_steps: int = 10_000
    seed: int = 0
    precision: PrecisionName = "float32"
    """Of the computation; parameters are always float32."""
    num_devices: int | None = None
    """All by default."""
    log_every: int = 100
    sample_every: int = 1000
    evaluate_every: int = 0
    """0: only at the end, as for all intervals but log_every."""
    checkpoint_every: int = 1000
    keep_last: int = 3
    """How many of the newest checkpoints to keep, beside the best."""
    max_rollbacks: int = 0
    """How often to go back to the last checkpoint when a loss is not finite; 0: stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GAN(Run):
    """A generative adversarial network."""

    model: Literal["dcgan", "article"] = "dcgan"
    latent_dim: int = 100
    features: int = 64
    """Of the outermost hidden layer of DCGAN."""
    discriminator_batch_norm: bool = True
    """For DCGAN; switch it off where a gradient penalty is used."""
    loss: LossName = "non_saturating"
    r1: float = 0.0
    """Weight gamma of the R1 penalty gamma/2 E|grad D(real)|^2."""
    r2: float = 0.0
    """Weight gamma of the R2 penalty gamma/2 E|grad D(fake)|^2."""
    gradient_penalty: float = 0.0
    """Weight of the WGAN-GP penalty."""
    gradient_penalty_target: float = 1.0
    dragan: float = 0.0
    """Weight of the DRAGAN penalty."""
    num_discriminator_steps: int = 1
    """Discriminator updates for each generator update, each on fresh images."""
    generator: Optimizer = Optimizer(b1=0.5)
    """The generator's optimiser."""
    discriminator: Optimizer = Optimizer(b1=0.5)
    """The discriminator's optimiser; two learning rates are TTUR."""
    ema_half_life: float = 0.0
    """Of the generator's moving average, in images; 0: the latest weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAE(Run):
    """A variational autoencoder."""

    model: Literal["mlp", "conv"] = "mlp"
    latent_dim: int = 50
    features: int = 32
    """Of the outermost hidden layer of the convolutional model."""
    likelihood: LikelihoodName = "bernoulli"
    beta: float = 1.0
    """Weight of the rate (KL divergence) in the loss."""
    kl_warmup_steps: int = 0
    """Steps over which beta rises linearly from 0."""
    free_bits: float = 0.0
    """Nats for each latent unit below which its rate is not pushed."""
    num_samples: int = 1
    """Latents for each image."""
    importance_weighted: bool = False
    """Maximise the importance-weighted bound with num_samples (IWAE)."""
    eval_samples: int = 1
    """k of the importance-weighted bound in evaluation."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)
    ema_half_life: float = 0.0
    """Of the moving average, in images; 0: the latest weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(Run):
    """A convolutional classifier."""

    widths: tuple[int, ...] = (32, 64, 128)
    """Features of each 3x3 convolution; a 2x2 pooling follows each."""
    dropout: float = 0.3
    shift: int = 2
    """Augmentation: random shifts by up to so many pixels."""
    label_smoothing: float = 0.0
    optimizer: Optimizer = Optimizer(learning_rate=1e-3, schedule="cosine")
    ema_half_life: float = 0.0
    """Of the moving average, in images; 0: the latest weights."""


Config = GAN | VAE | Classifier


class Preset(NamedTuple):
    """A configuration with where it comes from."""

    about: str  # one line for --help
    config: Config
    paper: str = ""


PRESETS: dict[str, Preset] = {
    "mnist-dcgan": Preset(
        "digits by a DCGAN with the R1 penalty; the default",
        GAN(
            num_steps=16_000,
            sample_every=2000,
            checkpoint_every=2000,
            features=32,
            discriminator_batch_norm=False,
            r1=0.1,
            generator=Optimizer(learning_rate=1e-3, b1=0.0, b2=0.99, schedule="cosine"),
            discriminator=Optimizer(learning_rate=1e-3, b1=0.0, b2=0.99, schedule="cosine"),
            ema_half_life=10_000,
        ),
        "network of Radford, Metz, Chintala 2016; penalty of Mescheder, Geiger, Nowozin 2018",
    ),
    "mnist-wgan-gp": Preset(
        "digits by a Wasserstein GAN with gradient penalty and two learning rates instead of five critic steps",
        GAN(
            num_steps=10_000,
            discriminator_batch_norm=False,
            loss="wasserstein",
            gradient_penalty=10.0,
            generator=Optimizer(learning_rate=1e-4, b1=0.5, b2=0.9),
            discriminator=Optimizer(learning_rate=3e-4, b1=0.5, b2=0.9),
            ema_half_life=10_000,
        ),
        "Gulrajani et al. 2017; rates of Heusel et al. 2017, table 1",
    ),
    "stacked-mnist-dcgan": Preset(
        "three digits as colour channels, 1,000 modes to cover",
        GAN(data=Data("stacked_mnist"), num_steps=10_000, ema_half_life=10_000),
        "Srivastava et al. 2017 (the data), Radford, Metz, Chintala 2016",
    ),
    "emoji-article": Preset(
        "56x56 colour emoji by the example network of the survey article",
        GAN(
            data=Data("emoji", image_size=56),
            model="article",
            num_steps=4000,
            log_every=50,
            sample_every=500,
            checkpoint_every=500,
            ema_half_life=10_000,
        ),
        "the survey article's network; Goodfellow et al. 2014",
    ),
    "emoji-dcgan-r1": Preset(
        "32x32 colour emoji by a DCGAN with the R1 penalty and no batch normalisation in the discriminator",
        GAN(
            data=Data("emoji", image_size=32),
            num_steps=6000,
            discriminator_batch_norm=False,
            r1=1.0,
            generator=Optimizer(b1=0.0, b2=0.99),
            discriminator=Optimizer(b1=0.0, b2=0.99),
            ema_half_life=10_000,
        ),
        "Mescheder, Geiger, Nowozin 2018",
    ),
    "mnist-vae": Preset(
        "the one-layer VAE of the IWAE paper (784-200-200-50) on dynamically binarised digits",
        VAE(
            data=Data(binarise="dynamic"),
            batch_size=100,
            num_steps=60_000,
            log_every=500,
            sample_every=6000,
            evaluate_every=6000,
            checkpoint_every=6000,
            optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
        ),
        "Kingma and Welling 2014; network and data of Burda, Grosse, Salakhutdinov 2016",
    ),
    "mnist-iwae": Preset(
        "the same network trained on the importance-weighted bound with 5 samples",
        VAE(
            data=Data(binarise="dynamic"),
            batch_size=100,
            num_steps=30_000,
            log_every=500,
            sample_every=6000,
            evaluate_every=6000,
            checkpoint_every=6000,
            num_samples=5,
            importance_weighted=True,
            eval_samples=50,
            optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
        ),
        "Burda, Grosse, Salakhutdinov 2016",
    ),
    "emoji-vae": Preset(
        "32x32 colour emoji by a convolutional VAE with a discretised logistic likelihood",
        VAE(
            data=Data("emoji", image_size=32),
            model="conv",
            latent_dim=64,
            likelihood="discretized_logistic",
            num_steps=6000,
            evaluate_every=1000,
            kl_warmup_steps=1000,
            optimizer=Optimizer(learning_rate=5e-4, schedule="cosine", skip_norm=1e5),
            ema_half_life=10_000,
        ),
        "Kingma and Welling 2014; likelihood of Salimans et al. 2017 with one component",
    ),
    "mnist-cnn": Preset(
        "a convolutional classifier of digits, the judge of generated ones",
        Classifier(batch_size=100, num_steps=4800, evaluate_every=600, checkpoint_every=600, ema_half_life=20_000),
        "LeCun, Bottou, Bengio, Haffner 1998",
    ),
}
"""Every preset by its name; the first is the default of scripts/train.py."""


# Building -------------------------------------------------------------------------------------------------------------


class Networks(NamedTuple):
    """What a configuration means for images of a known shape: functions, and a fresh state. No data."""

    state: Any
    train_step: Callable  # (state, batch, key) -> (state, metrics), not compiled
    images_per_step: int  # that a batch holds
    show: Callable | None = None  # (variables, real images) -> {name: images}, always of the same latents
    generate: Callable | None = None  # (variables, key, n) -> new images [n, H, W, C]
    classify: Callable | None = None  # (variables, images) -> logits
    eval_step: Callable | None = None  # (variables, batch, key) -> numbers for each image
    summarize: Callable | None = None  # of these to the numbers of a data set
    best_metric: str | None = None  # larger is better


class Experiment(NamedTuple):
    """Networks with their data."""

    networks: Networks
    dataset: data.Dataset
    sample: Callable | None  # state -> {name: images [N, H, W, C]} to look at
    evaluate: Callable | None  # state -> numbers, on the test split


def build(config: Config) -> Experiment:
    """Turns a configuration into functions and a fresh state, and opens its data.

    Raises:
      ValueError: for settings that do not fit together, naming them.
      FileNotFoundError and others: what opening the data raises.
    """
    dataset = load_data(config.data, "train")
    networks = build_networks(config, dataset.image_shape, len(dataset.class_names))
    test = load_data(config.data, "test") if networks.eval_step and has_test_split(config.data) else None
    key = jax.random.key(config.seed)
    sample = evaluate = None
    if networks.show is not None:
        shown = dataset if test is None else test
        rows = np.arange(min(32, shown.num_examples), dtype=np.int32)
        real = shown.prepare(shown.fetch(rows), key)["image"]
        show = jax.jit(networks.show)
        sample = lambda state: show(state.ema, real)  # noqa: E731
    if test is not None:
        evaluate = loop.make_evaluate(networks.eval_step, networks.summarize, test, key=jax.random.fold_in(key, 2))
    return Experiment(networks, dataset, sample, evaluate)


def build_networks(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> Networks:
    """The part of `build` that needs no data: what sampling from a finished run needs."""
    for name in ("batch_size", "num_steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")
    for name, kind in typing.get_type_hints(type(config)).items():
        if typing.get_origin(kind) is Literal:  # the command line has checked it, a notebook has not
            lookup(dict.fromkeys(typing.get_args(kind)), getattr(config, name), name)
    return _BUILDERS[type(config)](config, tuple(image_shape), num_classes)


def load_data(config: Data, split: Literal["train", "test"]) -> data.Dataset:
    """Opens a data set of the table."""
    return lookup(DATASETS, config.name, "data set")(config, split)


def has_test_split(config: Data) -> bool:
    """Whether there is something to evaluate on."""
    if config.name == "folder":
        return config.validation_share > 0
    return config.test_path is not None if config.name == "arrays" else config.name != "hub"


def optimizer(config: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """The optax transformation of a configuration: skip(chain(clip, optimiser)).

    Raises:
      ValueError: for a rate or a norm of zero or below.
    """
    for name in ("learning_rate", "clip_norm", "skip_norm"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")
    rate = lookup(SCHEDULES, config.schedule, "schedule")(config.learning_rate, num_steps)
    transformation = lookup(OPTIMIZERS, config.name, "optimiser")(config, rate)
    if config.clip_norm is not None:
        transformation = optax.chain(optim.clip_by_global_norm(config.clip_norm), transformation)
    if config.skip_norm is not None:
        transformation = optim.skip_large_updates(transformation, config.skip_norm)
    return transformation


def lookup(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """table[name], or a ValueError that suggests the nearest name."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"there is no {kind} {name!r}; {hint}There is: {', '.join(table)}")


def _binarise(config: Data) -> Callable:
    return lookup(BINARISATIONS, config.binarise, "binarisation")


def _needs_path(config: Data, field: str = "path") -> str:
    value = getattr(config, field)
    if not value:
        raise ValueError(f"the data set {config.name!r} needs --data.{field.replace('_', '-')}")
    return value


def _ema_decay(half_life: float, batch_size: int) -> network.Decay:
    """Half-life in images to decay per step; the average starts as a plain mean, free of the initialisation."""
    return network.warmed_up(0.5 ** (batch_size / half_life)) if half_life > 0 else 0.0


def _square_size(image_shape: tuple[int, int, int], model: str) -> int:
    height, width, _ = image_shape
    if height != width:
        raise ValueError(f"{model} makes square images, but the data are {height}x{width}; see --data.image-size")
    return height


def _build_gan(config: GAN, image_shape: tuple[int, int, int], num_classes: int) -> Networks:
    dtype, channels = PRECISIONS[config.precision], image_shape[2]
    if config.model == "dcgan":
        size = _square_size(image_shape, "DCGAN")
        generator = dcgan.Generator(image_size=size, channels=channels, features=config.features, dtype=dtype)
        discriminator = dcgan.Discriminator(
            features=config.features, batch_norm=config.discriminator_batch_norm, dtype=dtype
        )
    else:
        if image_shape[:2] != (56, 56):
            raise ValueError(
                f"the article's network makes 56x56 images, but the data are {image_shape[0]}x{image_shape[1]}; "
                "use --data.image-size 56 or --model dcgan"
            )
        generator, discriminator = article.Generator(channels=channels, dtype=dtype), article.Discriminator(dtype=dtype)

    optimizers = {
        "generator_optimizer": optimizer(config.generator, config.num_steps),
        "discriminator_optimizer": optimizer(config.discriminator, config.num_steps * config.num_discriminator_steps),
    }
    for name in ("r1", "r2", "gradient_penalty", "dragan"):
        if getattr(config, name) < 0:
            raise ValueError(f"the weight of a penalty is at least 0, but {name} is {getattr(config, name)}")
    terms = [penalties.r1(config.r1)] * (config.r1 > 0) + [penalties.r2(config.r2)] * (config.r2 > 0)
    if config.gradient_penalty:
        terms.append(penalties.gradient_penalty(config.gradient_penalty, config.gradient_penalty_target))
    if config.dragan:
        terms.append(penalties.dragan(config.dragan))
    train_step = gan.make_train_step(
        generator,
        discriminator,
        **optimizers,
        latent_dim=config.latent_dim,
        loss=lookup(LOSSES, config.loss, "loss"),
        penalties=terms,
        num_discriminator_steps=config.num_discriminator_steps,
        ema_decay=_ema_decay(config.ema_half_life, config.batch_size),
    )
    key = jax.random.key(config.seed)
    z = jax.random.normal(jax.random.fold_in(key, 1), (64, config.latent_dim))
    return Networks(
        state=gan.init(key, generator, discriminator, **optimizers, latent_dim=config.latent_dim),
        train_step=train_step,
        images_per_step=config.batch_size * config.num_discriminator_steps,
        show=lambda variables, real: {"samples": gan.sample(generator, variables, z)},
        generate=lambda variables, key, n: gan.sample(
            generator, variables, jax.random.normal(key, (n, config.latent_dim))
        ),
    )


def _build_vae(config: VAE, image_shape: tuple[int, int, int], num_classes: int) -> Networks:
    dtype = PRECISIONS[config.precision]
    likelihood = lookup(LIKELIHOODS, config.likelihood, "likelihood")
    if config.likelihood == "bernoulli" and config.data.binarise == "none":
        raise ValueError(
            "a Bernoulli likelihood needs binarised images: --data.binarise dynamic (MNIST), or choose "
            "--likelihood discretized_logistic for images of 256 levels"
        )
    if config.model == "mlp":
        if config.likelihood != "bernoulli":
            raise ValueError("the MLP decoder returns Bernoulli logits; use --model conv for other likelihoods")
        encoder = mlp.Encoder(config.latent_dim, dtype=dtype)
        decoder = mlp.BernoulliDecoder(image_shape, dtype=dtype)
    else:
        size, channels = _square_size(image_shape, "the convolutional VAE"), image_shape[2]
        encoder = conv_vae.Encoder(config.latent_dim, config.features, dtype=dtype)
        decoder = conv_vae.Decoder(
            size, channels, config.features, learned_width=config.likelihood != "bernoulli", dtype=dtype
        )
    transformation = optimizer(config.optimizer, config.num_steps)
    beta = config.beta
    if config.kl_warmup_steps:
        beta = optax.linear_schedule(0.0, config.beta, config.kl_warmup_steps)
    train_step = vae.make_train_step(
        encoder,
        decoder,
        optimizer=transformation,
        likelihood=likelihood,
        beta=beta,
        free_bits=config.free_bits,
        num_samples=config.num_samples,
        importance_weighted=config.importance_weighted,
        ema_decay=_ema_decay(config.ema_half_life, config.batch_size),
    )
    key = jax.random.key(config.seed)
    z = jax.random.normal(jax.random.fold_in(key, 1), (64, config.latent_dim))

    def show(variables, real):
        reconstructions = vae.reconstruct(encoder, decoder, variables, real, likelihood=likelihood)
        pairs = jnp.stack([real, reconstructions], axis=1).reshape(-1, *real.shape[1:])
        return {"samples": vae.sample(decoder, variables, z, likelihood=likelihood), "reconstructions": pairs}

    return Networks(
        state=vae.init(key, encoder, decoder, optimizer=transformation, image_shape=image_shape),
        train_step=train_step,
        images_per_step=config.batch_size,
        show=show,
        generate=lambda variables, key, n: vae.sample(
            decoder, variables, jax.random.normal(key, (n, config.latent_dim)), likelihood=likelihood
        ),
        eval_step=vae.make_eval_step(encoder, decoder, likelihood=likelihood, num_samples=config.eval_samples),
        summarize=vae.summarize,
        best_metric="eval/elbo",
    )


def _build_classifier(config: Classifier, image_shape: tuple[int, int, int], num_classes: int) -> Networks:
    if not num_classes:
        raise ValueError("a classifier needs labels, and these data have none; put images into one folder a class")
    model = cnn.CNN(num_classes, config.widths, dropout=config.dropout, dtype=PRECISIONS[config.precision])
    transformation = optimizer(config.optimizer, config.num_steps)
    train_step = classifier.make_train_step(
        model,
        optimizer=transformation,
        augment=functools.partial(data.random_shift, pixels=config.shift) if config.shift else None,
        label_smoothing=config.label_smoothing,
        ema_decay=_ema_decay(config.ema_half_life, config.batch_size),
    )
    return Networks(
        state=classifier.init(jax.random.key(config.seed), model, optimizer=transformation, image_shape=image_shape),
        train_step=train_step,
        images_per_step=config.batch_size,
        classify=lambda variables, images: model.apply(variables, images, train=False),
        eval_step=classifier.make_eval_step(model),
        summarize=classifier.summarize,
        best_metric="eval/accuracy",
    )


_BUILDERS = {GAN: _build_gan, VAE: _build_vae, Classifier: _build_classifier}


# Stored configurations ------------------------------------------------------------------------------------------------


def to_dict(config: Config, *, preset: str = "", dataset: data.Dataset | None = None) -> dict[str, Any]:
    """A configuration as plain data, for RUN/config.json, with the preset it began as and what the images were."""
    names = {"preset": preset, "family": type(config).__name__}
    images = {}
    if dataset is not None:
        images = {
            "image_shape": dataset.image_shape,
            "num_classes": len(dataset.class_names),
            "data_fingerprint": dataset.fingerprint,
        }
    return names | dataclasses.asdict(config) | {"images": images}


def from_dict(stored: Mapping[str, Any]) -> Config:
    """The configuration of a RUN/config.json.

    Raises:
      ValueError: for a family or a setting that this version does not know.
    """
    stored = {name: value for name, value in stored.items() if name not in ("preset", "images")}
    family = lookup({c.__name__: c for c in _BUILDERS}, stored.pop("family", "(none)"), "family")
    return _typed(family, stored)


def _typed(cls: type, stored: Mapping[str, Any]) -> Any:
    kinds = typing.get_type_hints(cls)
    if unknown := set(stored) - set(kinds):
        raise ValueError(f"this version does not know the settings {sorted(unknown)} of {cls.__name__}")
    return cls(**{name: _value(kinds[name], value) for name, value in stored.items()})


def _value(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return _typed(kind, value)
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    is_tuple = any(typing.get_origin(k) is tuple for k in kinds)
    return tuple(value) if is_tuple and value is not None else value


MAY_CHANGE = (
    *("num_devices", "log_every", "sample_every", "evaluate_every", "checkpoint_every", "keep_last", "max_rollbacks"),
    *("preset", "eval_samples"),
)
"""Settings that a resumed run may have other than it began with."""


def may_change(config: Config) -> tuple[str, ...]:
    """`MAY_CHANGE`, and num_steps where no schedule depends on it."""
    optimizers = [value for value in vars(config).values() if isinstance(value, Optimizer)]
    constant = all(o.schedule == "constant" for o in optimizers)
    return (*MAY_CHANGE, "num_steps") if constant else MAY_CHANGE


def train(config: Config, directory: str, *, preset: str = "", progress: bool = True) -> loop.Result:
    """Builds an experiment and trains it in a run directory, from its newest checkpoint if it holds one."""
    sharding.check_divisible(config.batch_size, sharding.make_mesh(config.num_devices).size)
    networks, dataset, sample, evaluate = build(config)
    try:
        return loop.train(
            networks.train_step,
            networks.state,
            dataset,
            directory=directory,
            config=to_dict(config, preset=preset, dataset=dataset),
            may_change=may_change(config),
            num_steps=config.num_steps,
            batch_size=networks.images_per_step,
            key=jax.random.fold_in(jax.random.key(config.seed), 3),
            seed=config.seed,
            num_devices=config.num_devices,
            log_every=config.log_every,
            sample_every=config.sample_every,
            evaluate_every=config.evaluate_every,
            checkpoint_every=config.checkpoint_every,
            keep_last=config.keep_last,
            sample=sample,
            evaluate=evaluate,
            best_metric=networks.best_metric if evaluate else None,
            max_rollbacks=config.max_rollbacks,
            progress=progress,
        )
    except run_directory.ConfigMismatch as error:
        if "\n  num_steps:" not in str(error):
            raise
        raise run_directory.ConfigMismatch(
            f"{error}\nnum_steps is fixed because the learning rate follows a schedule over it; with "
            "schedule constant it could be raised."
        ) from None


class Trained(NamedTuple):
    """A run read back. Its data need not be there."""

    config: Config
    networks: Networks
    state: Any
    record: dict[str, Any]  # of the checkpoint: step, metrics, ...


def load(directory: str, *, step: int | None = None) -> Trained:
    """Reads a run's configuration and one of its checkpoints (the newest good one by default), on one device.

    Raises:
      FileNotFoundError, run_directory.RunDirectoryError: if the directory is no run or holds no checkpoint.
      checkpoint.CheckpointError: if the checkpoint is damaged or of another model.
      ValueError: for settings of another version.
    """
    stored = run_directory.load_config(directory)
    config, shown = from_dict(stored), stored.get("images") or {}
    if not {"image_shape", "num_classes"} <= set(shown):
        raise ValueError(
            f"{directory}/{run_directory.CONFIG} does not say what the images were; was it written by train?"
        )
    networks = build_networks(config, shown["image_shape"], shown["num_classes"])
    state, record = checkpoint.restore(Path(directory) / "checkpoints", networks.state, step=step)
    return Trained(config, networks, state, record)


def generate(trained: Trained, num: int, key: jax.Array, *, batch_size: int = 500) -> np.ndarray:
    """Draws new images with the moving average of a run, batch by batch with one compilation.

    Returns:
      [num, H, W, C] float32 in [-1, 1], on the host. The same key draws the same images.

    Raises:
      ValueError: for a run that draws nothing (a classifier), or num below 1.
    """
    if trained.networks.generate is None:
        raise ValueError(f"a {type(trained.config).__name__.lower()} draws no images")
    if num < 1:
        raise ValueError(f"the number of images must be at least 1, not {num}")
    size = min(num, batch_size)
    draw = jax.jit(functools.partial(trained.networks.generate, n=size))
    drawn = [np.asarray(draw(trained.state.ema, jax.random.fold_in(key, i))) for i in range(-(-num // size))]
    return np.concatenate(drawn)[:num]
