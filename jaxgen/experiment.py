"""Experiments: a configuration becomes functions, a fresh state and data, is trained in a run directory, and read back.

The scripts are these functions with a command line: `train`, `load`, `generate`; `build` and `build_networks` are the
parts for a notebook.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxgen import checkpoint, classifier, data, gan, loop, network, optim, presets, run_directory, sharding, vae
from jaxgen.losses import adversarial, penalties
from jaxgen.metrics import comparison, features, fid
from jaxgen.metrics import likelihood as likelihoods
from jaxgen.models import article, cnn, conv_vae, dcgan, mlp
from jaxgen.presets import GAN, VAE, Classifier, Config, Data, Optimizer, lookup

FEW_IMAGES = 100  # held out, below which a number from them is warned of

# Building -------------------------------------------------------------------------------------------------------------


class Networks(NamedTuple):
    """What a configuration means for images of a known shape: functions, and a fresh state. No data."""

    state: Any
    train_step: Callable  # (state, batch, key) -> (state, metrics), not compiled
    images_per_step: int  # that a batch holds
    show: Callable | None = None  # (variables, real images) -> {name: images}, always of the same latents
    generate: Callable | None = None  # (variables, key, n) -> new images [n, H, W, C]
    decode: Callable | None = None  # (variables, z [N, latent_dim]) -> images
    discriminate: Callable | None = None  # (the discriminator's variables, images) -> logits [N]
    classify: Callable | None = None  # (variables, images) -> logits
    features: Any = None  # the module of `classify`, whose penultimate layer is for the metrics
    eval_step: Callable | None = None  # (variables, batch, key) -> numbers for each image
    summarize: Callable | None = None  # of these to the numbers of a data set
    best_metric: str | None = None  # by which the best checkpoint is kept
    best_mode: Literal["max", "min"] = "max"


class Experiment(NamedTuple):
    """Networks with their data."""

    networks: Networks
    dataset: data.Dataset
    sample: Callable | None  # state -> {name: images [N, H, W, C], or groups of K [N, K, H, W, C]} to look at
    evaluate: Callable | None  # state -> numbers, on the test split


def build(config: Config) -> Experiment:
    """Turns a configuration into functions and a fresh state, and opens its data.

    `sample` and `evaluate` share their work over the devices that the configuration names.

    Raises:
      ValueError: for settings that do not fit together, naming them; for more devices than there are.
      FileNotFoundError and others: what opening the data raises.
    """
    presets.check(config)
    if isinstance(config, GAN):
        _warn_of_penalties_beside_batch_norm(config)
    mesh = sharding.make_mesh(config.num_devices)
    dataset = load_data(config.data, "train")
    networks = build_networks(config, dataset.image_shape, len(dataset.class_names))
    test = _load_held_out(config.data) if networks.eval_step and presets.has_test_split(config.data) else None
    key = jax.random.key(config.seed)
    sample = evaluate = None
    if networks.show is not None:
        shown = dataset if test is None else test
        rows = np.arange(min(32, shown.num_examples), dtype=np.int32)
        real = shown.prepare(shown.fetch(rows), key)["image"]
        show = sharding.jit_global(lambda *given: _in_pairs(networks.show(*given)), mesh, batch_axes=(None, None))
        sample = lambda state: show(sharding.as_replicated(mesh, state.ema), real)  # noqa: E731
    if test is not None:
        evaluate = loop.make_evaluate(
            networks.eval_step, networks.summarize, test, key=jax.random.fold_in(key, 2), mesh=mesh
        )
    elif isinstance(config, GAN) and config.eval_metric != "none":
        if not presets.has_test_split(config.data):
            raise ValueError(f"eval_metric {config.eval_metric} needs a test split, and these data have none")
        held_out = _load_held_out(config.data)
        evaluate = make_gan_evaluate(
            networks,
            dataset,
            held_out,
            features.shipped_for(dataset.image_shape),
            {config.eval_metric: presets.METRICS[config.eval_metric]},
            num=config.eval_images,
            key=jax.random.fold_in(key, 2),
            mesh=mesh,
        )
    return Experiment(networks, dataset, sample, evaluate)


def _in_pairs(shown: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Originals and reconstructions, which take turns, as pairs."""
    return {
        name: images.reshape(-1, 2, *images.shape[1:]) if name == "reconstructions" else images
        for name, images in shown.items()
    }


def _load_held_out(config: Data) -> data.Dataset:
    held_out = load_data(config, "test")
    if held_out.num_examples < FEW_IMAGES:
        warnings.warn(
            f"{held_out.name}: only {held_out.num_examples} held-out images for evaluation; numbers from so few vary "
            "by chance, and so does the choice of the best checkpoint by them"
            + ("; a larger --data.validation-share gives more" if config.name == "folder" else ""),
            stacklevel=3,
        )
    return held_out


def make_gan_evaluate(
    networks: Networks,
    dataset: data.Dataset,
    held_out: data.Dataset,
    backbone: features.Backbone,
    metrics: dict[str, comparison.Metric],
    *,
    num: int,
    key: jax.Array,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Builds `evaluate(state) -> numbers` of a GAN: metrics against held-out images, and the discriminator's gap.

    Args:
      networks: from `build_networks`, for a GAN.
      dataset: what it is trained on.
      held_out: what it is compared with; the first num images count.
      backbone: sees both.
      metrics: name -> metric, as in `presets.METRICS`.
      num: images to draw, always of the same latents.
      key: of these.
      mesh: whose devices share the drawing; all devices by default.
    """
    if num < 2:
        raise ValueError(f"eval_images must be at least 2, not {num}")
    mesh = sharding.make_mesh() if mesh is None else mesh
    size = sharding.divisible(min(num, 250), mesh.size)
    draw = sharding.jit_global(functools.partial(networks.generate, n=size), mesh, batch_axes=(None, None))
    discriminate = jax.jit(lambda discriminator, images: networks.discriminate(discriminator, images))

    @functools.cache
    def real():
        first = dataclasses.replace(held_out, num_examples=min(num, held_out.num_examples))
        shown = [d.prepare(d.fetch(np.arange(min(size, d.num_examples))), key)["image"] for d in (dataset, held_out)]
        return comparison.see(backbone, first), [np.asarray(image) for image in shown]

    def evaluate(state) -> dict[str, float]:
        seen_real, (train_images, held_out_images) = real()
        variables = sharding.as_replicated(mesh, state.ema)
        drawn = [np.asarray(draw(variables, jax.random.fold_in(key, i))) for i in range(-(-num // size))]
        generated = np.concatenate(drawn)[:num]
        if not np.isfinite(generated).all():
            return dict.fromkeys([*metrics, "discriminator_overfitting"], float("nan"))
        with warnings.catch_warnings():  # at every evaluation it would be noise
            warnings.simplefilter("ignore", fid.RankDeficientWarning)
            seen_fake = comparison.see(backbone, data.from_arrays("samples", generated))
            values, _ = comparison.compare(backbone, seen_real, seen_fake, metrics, key)
        local = jax.device_get(state.discriminator.variables)
        logits = [discriminate(local, image) for image in (train_images, held_out_images, generated[:size])]
        return values | comparison.discriminator_gap(*map(np.asarray, logits))

    return evaluate


def build_networks(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> Networks:
    """The part of `build` that needs no data: what sampling from a finished run needs."""
    presets.check(config)
    return _BUILDERS[type(config)](config, tuple(image_shape), num_classes)


def load_data(config: Data, split: Literal["train", "test"]) -> data.Dataset:
    """Opens a data set of the table."""
    return lookup(presets.DATASETS, config.name, "data set")(config, split)


def optimizer(config: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """The optax transformation of a configuration: skip(chain(clip, optimiser)).

    Raises:
      ValueError: for numbers that `presets.check` refuses, such as a rate of zero.
    """
    presets.check(config)
    rate = lookup(presets.SCHEDULES, config.schedule, "schedule")(config.learning_rate, num_steps)
    transformation = lookup(presets.OPTIMIZERS, config.name, "optimiser")(config, rate)
    if config.clip_norm is not None:
        transformation = optax.chain(optim.clip_by_global_norm(config.clip_norm), transformation)
    if config.skip_norm is not None:
        transformation = optim.skip_large_updates(transformation, config.skip_norm)
    return transformation


def _ema_decay(half_life: float, batch_size: int) -> network.Decay:
    """Half-life in images to decay per step; the average starts as a plain mean, free of the initialisation."""
    return network.warmed_up(0.5 ** (batch_size / half_life)) if half_life > 0 else 0.0


def _square_size(image_shape: tuple[int, int, int], model: str) -> int:
    height, width, _ = image_shape
    if height != width:
        raise ValueError(f"{model} makes square images, but the data are {height}x{width}; see --data.image-size")
    return height


class Game(NamedTuple):
    """What a GAN's configuration says about its two players, apart from how they move."""

    generator: nn.Module
    discriminator: nn.Module
    loss: adversarial.AdversarialLoss
    penalties: list[penalties.Penalty]


def game(config: GAN, image_shape: tuple[int, int, int]) -> Game:
    """Networks, loss and penalties of a configuration, for images [H, W, C]."""
    dtype, channels = presets.PRECISIONS[config.precision], image_shape[2]
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
    terms = [
        (penalties.r1, config.r1),
        (penalties.r2, config.r2),
        (functools.partial(penalties.gradient_penalty, target=config.gradient_penalty_target), config.gradient_penalty),
        (penalties.dragan, config.dragan),
    ]
    loss = lookup(presets.LOSSES, config.loss, "loss")
    return Game(generator, discriminator, loss, [make(weight) for make, weight in terms if weight > 0])


def _warn_of_penalties_beside_batch_norm(config: GAN) -> None:
    if config.model == "dcgan" and config.discriminator_batch_norm:
        if config.r1 or config.r2 or config.gradient_penalty or config.dragan:
            warnings.warn(
                "a gradient penalty beside batch normalisation in the discriminator: a logit then depends on the "
                "rest of its batch, and so does the penalty; --discriminator-batch-norm False is usual",
                stacklevel=3,
            )


def _build_gan(config: GAN, image_shape: tuple[int, int, int], num_classes: int) -> Networks:
    generator, discriminator, loss, terms = game(config, image_shape)
    optimizers = {
        "generator_optimizer": optimizer(config.generator, config.num_steps),
        "discriminator_optimizer": optimizer(config.discriminator, config.num_steps * config.num_discriminator_steps),
    }
    train_step = gan.make_train_step(
        generator,
        discriminator,
        **optimizers,
        latent_dim=config.latent_dim,
        loss=loss,
        penalties=terms,
        num_discriminator_steps=config.num_discriminator_steps,
        update_rule=lookup(presets.UPDATE_RULES, config.update_rule, "update rule"),
        ema_decay=_ema_decay(config.ema_half_life, config.batch_size),
    )
    key = jax.random.key(config.seed)
    z = jax.random.normal(jax.random.fold_in(key, 1), (64, config.latent_dim))
    return Networks(
        state=gan.init(key, generator, discriminator, **optimizers, latent_dim=config.latent_dim),
        train_step=train_step,
        images_per_step=config.batch_size * config.num_discriminator_steps,
        show=lambda variables, real: {"samples": gan.sample(generator, variables, sharding.divided(z))},
        generate=lambda variables, key, n: gan.sample(
            generator, variables, sharding.draw(jax.random.normal, key, (n, config.latent_dim))
        ),
        decode=functools.partial(gan.sample, generator),
        discriminate=lambda variables, images: discriminator.apply(variables, images, train=False),
        best_metric=None if config.eval_metric == "none" else f"eval/{config.eval_metric}",
        best_mode="min",
    )


def _build_vae(config: VAE, image_shape: tuple[int, int, int], num_classes: int) -> Networks:
    dtype = presets.PRECISIONS[config.precision]
    likelihood = lookup(presets.LIKELIHOODS, config.likelihood, "likelihood")
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
    # Many samples go in chunks: all at once would not fit into memory.
    make_eval_step = vae.make_eval_step if config.eval_samples <= 50 else likelihoods.make_eval_step
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
        real = sharding.divided(real)
        reconstructions = vae.reconstruct(encoder, decoder, variables, real, likelihood=likelihood)
        pairs = jnp.stack([real, reconstructions], axis=1).reshape(-1, *real.shape[1:])
        samples = vae.sample(decoder, variables, sharding.divided(z), likelihood=likelihood)
        return {"samples": samples, "reconstructions": pairs}

    return Networks(
        state=vae.init(key, encoder, decoder, optimizer=transformation, image_shape=image_shape),
        train_step=train_step,
        images_per_step=config.batch_size,
        show=show,
        generate=lambda variables, key, n: vae.sample(
            decoder, variables, sharding.draw(jax.random.normal, key, (n, config.latent_dim)), likelihood=likelihood
        ),
        decode=lambda variables, z: vae.sample(decoder, variables, z, likelihood=likelihood),
        eval_step=make_eval_step(encoder, decoder, likelihood=likelihood, num_samples=config.eval_samples),
        summarize=vae.summarize,
        best_metric="eval/elbo",
    )


def _build_classifier(config: Classifier, image_shape: tuple[int, int, int], num_classes: int) -> Networks:
    if not num_classes:
        raise ValueError("a classifier needs labels, and these data have none; put images into one folder a class")
    model = cnn.CNN(num_classes, config.widths, dropout=config.dropout, dtype=presets.PRECISIONS[config.precision])
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
        features=model,
        eval_step=classifier.make_eval_step(model),
        summarize=classifier.summarize,
        best_metric="eval/accuracy",
    )


_BUILDERS = {GAN: _build_gan, VAE: _build_vae, Classifier: _build_classifier}


# Runs -----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _naming_flags(config: Config) -> Iterator[None]:
    """Notes beside an error which flags stand for the settings that the library names in it."""
    try:
        yield
    except run_directory.RunDirectoryError:
        raise  # names settings as config.json does
    except Exception as error:
        if flags := presets.flags_named_in(str(error), config):
            error.add_note(f"On the command line: {', '.join(flags)}")
        raise


def train(config: Config, directory: str, *, preset: str = "", progress: bool = True) -> loop.Result:
    """Builds an experiment and trains it in a run directory, from its newest checkpoint if it holds one."""
    with _naming_flags(config):
        return _train(config, directory, preset, progress)


def _train(config: Config, directory: str, preset: str, progress: bool) -> loop.Result:
    sharding.check_divisible(config.batch_size, sharding.make_mesh(config.num_devices).size)
    networks, dataset, sample, evaluate = build(config)
    try:
        return loop.train(
            networks.train_step,
            networks.state,
            dataset,
            directory=directory,
            config=presets.to_dict(config, preset=preset, dataset=dataset),
            may_change=(*presets.may_change(config), *_added_since(directory, config)),
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
            best_mode=networks.best_mode,
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


def _added_since(directory: str, config: Config) -> tuple[str, ...]:
    """Settings that a run of an older version lacks; none where no run can be read, which is told of later."""
    with contextlib.suppress(OSError, ValueError):
        return presets.added_since(run_directory.load_config(directory), config)
    return ()


class Trained(NamedTuple):
    """A run read back. Its data need not be there."""

    config: Config
    networks: Networks
    state: Any
    record: dict[str, Any]  # of the checkpoint: step, metrics, ...
    image_shape: tuple[int, int, int] = ()  # of its data


def load(directory: str, *, step: int | None = None) -> Trained:
    """Reads a run's configuration and one of its checkpoints (the newest good one by default), on one device.

    Raises:
      FileNotFoundError, run_directory.RunDirectoryError: if the directory is no run or holds no checkpoint.
      checkpoint.CheckpointError: if the checkpoint is damaged or of another model.
      ValueError: for settings of another version.
    """
    stored = run_directory.load_config(directory)
    config, shown = presets.from_dict(stored), stored.get("images") or {}
    if not {"image_shape", "num_classes"} <= set(shown):
        raise ValueError(
            f"{directory}/{run_directory.CONFIG} does not say what the images were; was it written by train?"
        )
    networks = build_networks(config, shown["image_shape"], shown["num_classes"])
    state, record = checkpoint.restore(Path(directory) / "checkpoints", networks.state, step=step)
    return Trained(config, networks, state, record, tuple(shown["image_shape"]))


def generate(
    trained: Trained,
    num: int,
    key: jax.Array,
    *,
    batch_size: int = 500,
    mesh: jax.sharding.Mesh | None = None,
) -> np.ndarray:
    """Draws new images with the moving average of a run, batch by batch with one compilation.

    Args:
      trained: from `load`.
      num: how many images.
      key: of the latents.
      batch_size: images at once, over all devices.
      mesh: whose devices share each batch, from `sharding.make_mesh`; all devices by default.

    Returns:
      [num, H, W, C] float32 in [-1, 1], on the host. The same key draws the same images, on any number of devices up to
      rounding.

    Raises:
      ValueError: for a run that draws nothing (a classifier), or num below 1.
    """
    return np.concatenate(list(generate_batches(trained, num, key, batch_size=batch_size, mesh=mesh)))


def generate_batches(
    trained: Trained,
    num: int,
    key: jax.Array,
    *,
    batch_size: int = 500,
    mesh: jax.sharding.Mesh | None = None,
) -> Iterator[np.ndarray]:
    """The images of `generate`, a batch of up to batch_size at a time."""
    if trained.networks.generate is None:
        raise ValueError(f"a {type(trained.config).__name__.lower()} draws no images")
    if num < 1:
        raise ValueError(f"the number of images must be at least 1, not {num}")
    mesh = sharding.make_mesh() if mesh is None else mesh
    size = min(num, batch_size)
    # Whole shares for all devices. What is drawn beyond the size is left out, and changes none of the others.
    rows = sharding.divisible(size, mesh.size)
    draw = sharding.jit_global(functools.partial(trained.networks.generate, n=rows), mesh, batch_axes=(None, None))
    variables = sharding.as_replicated(mesh, trained.state.ema)
    batches = -(-num // size)
    return (
        np.asarray(draw(variables, jax.random.fold_in(key, i)))[: min(size, num - i * size)] for i in range(batches)
    )
