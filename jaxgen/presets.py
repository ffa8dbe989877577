"""Named experiments: configurations, the one table from a name to a function, and what a run stores of them.

A preset is data: a frozen configuration with the paper it follows, every field of which the command line may override.
`experiment` turns a configuration into functions, a fresh state and a run; nothing below this file knows about names.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax

from jaxgen import data, gan
from jaxgen.losses import adversarial, variational
from jaxgen.metrics import comparison
from jaxgen.run_directory import flatten

# Names -> functions ---------------------------------------------------------------------------------------------------

LOSSES = {
    "non_saturating": adversarial.non_saturating,
    "minimax": adversarial.minimax,
    "least_squares": adversarial.least_squares,
    "hinge": adversarial.hinge,
    "wasserstein": adversarial.wasserstein,
    "relativistic": adversarial.relativistic,
}
UPDATE_RULES = {
    "alternating": gan.alternating,
    "simultaneous": gan.simultaneous,
    "extragradient": gan.extragradient,
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
METRICS = {
    "fid": comparison.frechet,
    "kid": comparison.kernel,
    "prdc": comparison.neighbours,
    "inception_score": comparison.inception,
    "confidence": comparison.confident,
    "swd": comparison.sliced,
}
"""Metrics of two sets of images, for scripts/evaluate.py."""
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
        _needs_path(d) if split == "train" else _needs_path(d, "test_path"),
        value_range=d.value_range,
        image_key=d.image_key,
        label_key=d.label_key,
    ),
    "hub": lambda d, split: data.hub_dataset(
        _needs_path(d),
        image_size=d.image_size or 64,
        split=split,
        image_key=d.image_key,
        label_key=d.label_key,
        channels=d.channels,
        background=d.background,
        max_broken_share=d.max_broken_share,
    ),
}

# The command line shows these choices; they are the keys above (a test compares them).
LossName = Literal["non_saturating", "minimax", "least_squares", "hinge", "wasserstein", "relativistic"]
UpdateRuleName = Literal["alternating", "simultaneous", "extragradient"]
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
    """For folders and hub sets: share of unreadable images that is tolerated; a single one is, unless this is 0."""
    value_range: tuple[float, float] | None = None
    """For `arrays`: the values of black and white, such as 0 1."""
    image_key: str | None = None
    """For `arrays` and hub sets: the name of the array or column of images, where it cannot be guessed."""
    label_key: str | None = None
    """For `arrays` and hub sets: that of the labels."""
    binarise: BinarisationName = "none"
    """For MNIST: a fresh Bernoulli draw at every visit, a threshold, or grey levels."""
    drawn_by: Literal["noto", "twemoji"] = "noto"
    """For emoji: the house that drew them."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimiser with its clip, skip and schedule."""

    name: OptimizerName = "adam"
    """The rule."""
    learning_rate: float = 2e-4
    """At the start of the schedule."""
    b1: float = 0.9
    """Decay of the first moment; momentum for sgd and rmsprop."""
    b2: float = 0.999
    """Decay of the second moment; for sgd without meaning."""
    eps: float = 1e-8
    """Added to the denominator."""
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
    """Which images, and how they are prepared."""
    batch_size: int = 64
    """Images in a step (for each discriminator step), over all devices and hosts."""
    num_steps: int = 10_000
    """Train steps in all, counted from the run's beginning."""
    seed: int = 0
    """Of the initialisation, the noise and the order of the data."""
    precision: PrecisionName = "float32"
    """Of the computation; parameters are always float32."""
    num_devices: int | None = None
    """All by default."""
    log_every: int = 100
    """Steps between lines of the log and of the console, each a mean over these steps."""
    sample_every: int = 1000
    """Steps between pictures of samples."""
    evaluate_every: int = 0
    """Steps between evaluations; 0: only at the end, as for all intervals but log_every."""
    checkpoint_every: int = 1000
    """Steps between checkpoints: what a kill may cost."""
    keep_last: int = 3
    """How many of the newest checkpoints to keep, beside the best."""
    max_rollbacks: int = 0
    """How often to go back to the last checkpoint when a loss is not finite; 0: stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GAN(Run):
    """A generative adversarial network."""

    model: Literal["dcgan", "article"] = "dcgan"
    """The networks: DCGAN (28 to 64 pixels) or the survey article's (56 pixels)."""
    latent_dim: int = 100
    """Numbers of noise from which the generator makes an image."""
    features: int = 64
    """Of the outermost hidden layer of DCGAN."""
    discriminator_batch_norm: bool = True
    """For DCGAN; switch it off where a gradient penalty is used."""
    loss: LossName = "non_saturating"
    """Of both players."""
    r1: float = 0.0
    """Weight gamma of the R1 penalty gamma/2 E|grad D(real)|^2."""
    r2: float = 0.0
    """Weight gamma of the R2 penalty gamma/2 E|grad D(fake)|^2."""
    gradient_penalty: float = 0.0
    """Weight of the WGAN-GP penalty."""
    gradient_penalty_target: float = 1.0
    """The norm that the WGAN-GP penalty pulls gradients to."""
    dragan: float = 0.0
    """Weight of the DRAGAN penalty."""
    num_discriminator_steps: int = 1
    """Discriminator updates for each generator update, each on fresh images."""
    update_rule: UpdateRuleName = "alternating"
    """How the last of them and the generator's are joined; extragradient costs two steps."""
    generator: Optimizer = Optimizer(b1=0.5)
    """The generator's optimiser."""
    discriminator: Optimizer = Optimizer(b1=0.5)
    """The discriminator's optimiser; two learning rates are TTUR."""
    ema_half_life: float = 0.0
    """Of the generator's moving average, in images; 0: the latest weights."""
    eval_metric: Literal["none", "fid", "kid"] = "none"
    """Measured on the test split every evaluate_every steps, and the best checkpoint by it is kept."""
    eval_images: int = 2000
    """How many images to draw for it, and how many of the test split to compare them with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAE(Run):
    """A variational autoencoder."""

    model: Literal["mlp", "conv"] = "mlp"
    """The networks: fully connected (binarised images) or convolutional (28 to 64 pixels)."""
    latent_dim: int = 50
    """Numbers that the encoder describes an image with."""
    features: int = 32
    """Of the outermost hidden layer of the convolutional model."""
    likelihood: LikelihoodName = "bernoulli"
    """Of pixels given the latents; bernoulli is for binarised images."""
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
    """Of encoder and decoder."""
    ema_half_life: float = 0.0
    """Of the moving average, in images; 0: the latest weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(Run):
    """A convolutional classifier."""

    widths: tuple[int, ...] = (32, 64, 128)
    """Features of each 3x3 convolution; a 2x2 pooling follows each."""
    dropout: float = 0.3
    """Share of the last features that a train step leaves out."""
    shift: int = 2
    """Augmentation: random shifts by up to so many pixels."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3, schedule="cosine")
    """Of the classifier."""
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
            features=32,
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
        GAN(data=Data("stacked_mnist"), num_steps=8000, ema_half_life=10_000),
        "Srivastava et al. 2017 (the data), Radford, Metz, Chintala 2016",
    ),
    "emoji-article": Preset(
        "56x56 colour emoji by the example network of the survey article",
        GAN(
            data=Data("emoji", image_size=56),
            model="article",
            num_steps=2000,
            log_every=50,
            sample_every=250,
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
            latent_dim=32,
            likelihood="discretized_logistic",
            beta=20.0,  # 3,341 images: with 1 it learns them by heart, with a worse test ELBO and no samples
            num_steps=6000,
            evaluate_every=1000,
            kl_warmup_steps=1000,
            optimizer=Optimizer(learning_rate=5e-4, schedule="cosine", skip_norm=1e5),
            ema_half_life=10_000,
        ),
        "Higgins et al. 2017; likelihood of Salimans et al. 2017 with one component",
    ),
    "mnist-cnn": Preset(
        "a convolutional classifier of digits, the judge of generated ones",
        Classifier(batch_size=100, num_steps=4800, evaluate_every=600, checkpoint_every=600, ema_half_life=20_000),
        "LeCun, Bottou, Bengio, Haffner 1998",
    ),
    "emoji-cnn": Preset(
        "a convolutional classifier of 32x32 emoji into 9 categories, for the features of the metrics",
        Classifier(
            data=Data("emoji", image_size=32),
            batch_size=100,
            num_steps=800,  # of 3341 images; later it only learns them by heart
            evaluate_every=200,
            checkpoint_every=200,
            dropout=0.5,
            ema_half_life=20_000,
        ),
        "LeCun, Bottou, Bengio, Haffner 1998",
    ),
}
"""Every preset by its name; the first is the default of scripts/train.py."""


# Looking names up -----------------------------------------------------------------------------------------------------


def lookup(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """table[name], or a ValueError that suggests the nearest name."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name.lower(), table, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? There is" if near else "there is"
    raise ValueError(f"there is no {kind} {name!r}; {hint}: {', '.join(table)}")


def _binarise(config: Data) -> Callable:
    return lookup(BINARISATIONS, config.binarise, "binarisation")


def _needs_path(config: Data, field: str = "path") -> str:
    value = getattr(config, field)
    if not value:
        raise ValueError(f"the data set {config.name!r} needs --data.{field.replace('_', '-')}")
    return value


def has_test_split(config: Data) -> bool:
    """Whether these data have images to evaluate on."""
    if config.name == "folder":
        return config.validation_share > 0
    return config.test_path is not None if config.name == "arrays" else config.name != "hub"


# Checked configurations -----------------------------------------------------------------------------------------------

_AT_LEAST_ONE = (
    *("batch_size", "num_steps", "keep_last", "image_size", "latent_dim", "features", "num_discriminator_steps"),
    *("num_samples", "eval_samples", "eval_images"),
)
_AT_LEAST_ZERO = (
    *("r1", "r2", "gradient_penalty", "gradient_penalty_target", "dragan", "ema_half_life"),
    *("beta", "kl_warmup_steps", "free_bits", "weight_decay", "eps"),
)
_ABOVE_ZERO = ("learning_rate", "clip_norm", "skip_norm")
_BELOW_ONE = {"b1": -1, "b2": 0, "dropout": 0}  # and from here up; a negative b1 is negative momentum


def check(config: Any, prefix: str = "") -> None:
    """Refuses settings that mean nothing, before anything long starts. What the data must fit is checked with them.

    Args:
      config: a configuration, or a part of one.
      prefix: of its settings' names.

    Raises:
      ValueError: naming the setting as its flag is, its value and what is allowed.
    """
    for name, kind in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            check(value, f"{prefix}{name}.")
        elif typing.get_origin(kind) is Literal:  # the command line has checked it, a notebook has not
            if isinstance(config, typing.get_args(Config)):  # those of a part are looked up where it is used
                lookup(dict.fromkeys(typing.get_args(kind)), value, name)
        elif allowed := None if value is None else _broken_rule(name, value):
            flag = f"{prefix}{name}".replace("_", "-")
            raise ValueError(f"--{flag} must be {allowed}, not {value}")
    if isinstance(config, Data) and config.name in ("mnist", "stacked_mnist", "emoji"):
        for name in ("path", "test_path"):
            if getattr(config, name) is not None:
                flag, value = f"--data.{name.replace('_', '-')}", getattr(config, name)
                raise ValueError(
                    f"{flag} is {value}, but --data.name is {config.name}, which "
                    "comes with the package and would be used instead; for images of your own give --data.name "
                    "folder, arrays or hub"
                )


def _broken_rule(name: str, value: Any) -> str | None:
    """What is allowed, where a value is not; NaN never is."""
    if name in _AT_LEAST_ONE and not value >= 1:
        return "at least 1"
    if name in _AT_LEAST_ZERO and not 0 <= value < math.inf:
        return "at least 0 and finite"
    if name in _ABOVE_ZERO and not value > 0:
        return "above 0"
    if name in _BELOW_ONE and not _BELOW_ONE[name] <= value < 1:
        return f"from {_BELOW_ONE[name]} up and below 1"
    return None


def flags_named_in(text: str, config: Any, prefix: str = "") -> list[str]:
    """The flags of settings that a message of the library calls by their names in Python, such as `max_broken_share`.

    Only names of several words count: `name` and `path` are English, too.
    """
    flags = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flags += flags_named_in(text, value, f"{prefix}{field.name}.")
        elif "_" in field.name and re.search(rf"(?<![\w/.]){field.name}(?![\w/])", text):
            flags.append(f"--{prefix}{field.name}".replace("_", "-"))
    return flags


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
    family = lookup({c.__name__: c for c in typing.get_args(Config)}, stored.pop("family", "(none)"), "family")
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


def added_since(stored: Mapping[str, Any], config: Config) -> tuple[str, ...]:
    """Settings that the version which stored a configuration did not know, and that still have the default they got.

    Args:
      stored: what a RUN/config.json holds.
      config: what is asked now.

    Returns:
      Dotted names that a resumed run need not have stored.

    Raises:
      ValueError: as `from_dict`.
    """
    before, now = (flatten(dataclasses.asdict(c)) for c in (from_dict(stored), config))
    there = flatten(stored)
    return tuple(name for name, value in now.items() if name not in there and before.get(name) == value)


MAY_CHANGE = (
    *("num_devices", "log_every", "sample_every", "evaluate_every", "checkpoint_every", "keep_last", "max_rollbacks"),
    *("preset", "eval_samples", "eval_metric", "eval_images"),
)
"""Settings that a resumed run may have other than it began with."""


def may_change(config: Config) -> tuple[str, ...]:
    """`MAY_CHANGE`, and num_steps where no schedule depends on it."""
    optimizers = [value for value in vars(config).values() if isinstance(value, Optimizer)]
    constant = all(o.schedule == "constant" for o in optimizers)
    return (*MAY_CHANGE, "num_steps") if constant else MAY_CHANGE


def default_directory(preset: str, config: Config) -> str:
    """Where a run goes that names no directory: runs/PRESET, with what a resumed run could not change in the name.

    So a short trial of a preset does not take the place of the preset itself.
    """
    plain, asked = (flatten(to_dict(c)) for c in (PRESETS[preset].config, config))
    fixed = {name: value for name, value in asked.items() if value != plain[name] and name not in may_change(config)}
    if not fixed:
        return f"runs/{preset}"
    text = "-".join(f"{name.replace('_', '-')}-{value}" for name, value in fixed.items())
    suffix = re.sub(r"[^\w.-]+", "-", text)
    if suffix != text or len(suffix) > 60:  # two settings must not share a directory
        suffix = f"{suffix[:50]}-{zlib.crc32(text.encode()):08x}"
    return f"runs/{preset}-{suffix}"
