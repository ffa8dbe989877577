"""What may be swept: GANs, two domains, VAEs and games as programs of `jaxgen.stability.sweep`.

Rates, clip norms, penalty weights, momentum and loss weights are traced numbers; optimisers and penalties are built of
them inside the compiled program. Losses are mixed by weights, since under `vmap` every branch of a switch runs anyway.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxgen import cycle, optim
from jaxgen import gan as gans
from jaxgen import vae as vaes
from jaxgen.arguments import check_key
from jaxgen.data.dataset import Dataset
from jaxgen.losses import adversarial, penalties, variational
from jaxgen.metrics.coverage import mode_coverage
from jaxgen.metrics.sliced_wasserstein import sliced_wasserstein_distance
from jaxgen.stability import updates
from jaxgen.stability.games import Field, Players
from jaxgen.stability.sweep import Program, Settings
from jaxgen.system import Measure

Optimizer = Callable[[jax.Array, Any], optax.GradientTransformation]
Losses = Mapping[str, adversarial.AdversarialLoss] | adversarial.AdversarialLoss


def sgd(rate: Any, momentum: Any) -> optax.GradientTransformation:
    """Gradient descent; `momentum` is heavy ball's, None for none."""
    return optax.sgd(rate, momentum=momentum)


def adam(rate: Any, momentum: Any) -> optax.GradientTransformation:
    """Adam; `momentum` is b1, 0.5 if None."""
    return optax.adam(rate, b1=0.5 if momentum is None else momentum)


def _transformation(settings, player, optimizer):
    prefix = f"{player}_" if player else ""
    momentum = settings.get(f"{prefix}momentum", settings.get("momentum"))
    chain = optimizer(settings[f"{player or 'learning'}_rate"], momentum)
    clip = settings.get(f"{prefix}clip", settings.get("clip"))
    return chain if clip is None else optax.chain(optim.clip_by_global_norm(clip), chain)


def _check_names(family, settings, required, optional):
    for name in required:
        if name not in settings:
            raise ValueError(f"a sweep of {family} needs the setting {name}")
    unknown = sorted(set(settings) - set(required) - set(optional) - {"seed"})
    if unknown:
        raise ValueError(
            f"a sweep of {family} cannot use {', '.join(unknown)}; its settings are "
            f"{', '.join([*required, *optional, 'seed'])}"
        )


def gan(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    latent_dim: int | None,
    optimizer: Optimizer | Players = adam,
    losses: Losses = adversarial.non_saturating,
    update_rule: gans.UpdateRule = gans.alternating,
    num_discriminator_steps: int = 1,
    fixed_penalties: Sequence[penalties.Penalty] = (),
    score: Callable | None = None,
    name: str = "gan",
    example: Mapping[str, Any] | None = None,
    frozen: Any = None,
    **settings: Any,
) -> Program:
    """GANs of one architecture, of two-dimensional points or of images: `of_game` of what `gan.make_train_step` takes.

    Settings of members: see `of_game`.

    Args:
      generator, discriminator, latent_dim: as for `gan.make_train_step`.
      optimizer: (rate, momentum or None) -> optax transformation: `sgd`, `adam` or your own; or `Players` of two.
      losses: one, or several by name whose weights are settings.
      update_rule: of `jaxgen.gan`: `alternating`, `simultaneous`, `extragradient`.
      num_discriminator_steps: for each generator step; the batch then has that many times the images.
      fixed_penalties: those that all members have, beside the swept ones.
      score: (settings, state, key) -> dict with `score`; see `mode_score` and `sliced_wasserstein_score`.
      name: of this kind of program.
      example, frozen: as for `gan.init`.
      settings: what `gan.make_train_step` takes besides: a condition, terms, an augmentation.

    Raises:
      TypeError: for an update rule of `stability.updates`, which moves fields and not networks.
    """
    settings |= {
        "latent_dim": latent_dim,
        "update_rule": update_rule,
        "num_discriminator_steps": num_discriminator_steps,
        "penalties": fixed_penalties,
    }
    game = gans.Game(generator, discriminator, settings, example, frozen)
    return of_game(game, optimizer=optimizer, losses=losses, score=score, name=name)


PENALTIES = {"r1": penalties.r1, "r2": penalties.r2, "gradient_penalty": penalties.gradient_penalty}
"""Those whose weight can be swept, by the name under which they are reported."""


def of_game(
    game: gans.Game,
    *,
    optimizer: Optimizer | Players = adam,
    losses: Losses | None = None,
    score: Callable | None = None,
    name: str = "gan",
) -> Program:
    """Any game of two networks, told conditions and with terms and augmentation or without: `System.game`.

    Settings of members: `generator_rate`, `discriminator_rate`; optional `generator_clip`, `discriminator_clip` or
    `clip` for both (norms, infinity for none); `r1`, `r2`, `gradient_penalty` (weights); `generator_momentum`,
    `discriminator_momentum` or `momentum` for both; `loss/NAME`, the weight of each of several losses; `weight/NAME`,
    that of a term of the game, such as pix2pix's `weight/l1`; `seed`. A penalty whose weight is a setting takes the
    place of the game's own of that name; one that neither has is not computed.

    Args:
      game: everything but optimisers, which are made of the settings, and the average, which is the latest weights.
      optimizer: (rate, momentum or None) -> optax transformation: `sgd`, `adam` or your own; or `Players` of two.
      losses: one, or several by name whose weights are settings; the game's own by default.
      score: (settings, state, key) -> dict with `score`.
      name: of this kind of program.

    Raises:
      TypeError: for an update rule of `stability.updates`, which moves fields and not networks.

    The radius is the Euclidean norm of both players' parameters.
    """
    update_rule = game.settings.get("update_rule", gans.alternating)
    if isinstance(update_rule, updates.Rule) or not _takes(update_rule, 3):
        raise TypeError(
            "a GAN cannot use this update: update_rule is one of jaxgen.gan (alternating, simultaneous, extragradient) "
            "or a function (players, fakes, moves); the rules of jaxgen.stability.updates are for games"
        )
    theirs, ours = optimizer if isinstance(optimizer, Players) else (optimizer, optimizer)
    several = losses if isinstance(losses, Mapping) else None
    weights = [f"loss/{loss}" for loss in several] if several else []
    terms = {player: tuple(game.settings.get(player, ())) for player in ("generator_terms", "discriminator_terms")}
    weights_of_terms = [f"weight/{term.name}" for of_player in terms.values() for term in of_player]

    def check(settings):
        optional = ["generator_clip", "discriminator_clip", "clip", *PENALTIES, "momentum"]
        optional += ["generator_momentum", "discriminator_momentum", *weights_of_terms]
        _check_names("GANs", settings, ["generator_rate", "discriminator_rate", *weights], optional)
        if weights and not np.all(sum(np.asarray(settings[weight]) for weight in weights) > 0):
            raise ValueError("some member has weight 0 for every loss")

    def optimizers(settings):
        return {
            "generator_optimizer": _transformation(settings, "generator", theirs),
            "discriminator_optimizer": _transformation(settings, "discriminator", ours),
        }

    def init(settings, key):
        return game.init(key, **optimizers(settings))

    def step(settings, state, batch, key):
        swept = {name: make(settings[name]) for name, make in PENALTIES.items() if name in settings}
        own = list(game.settings.get("penalties", ()))
        names = [getattr(penalty, "__name__", "") for penalty in own]
        changes = {
            **optimizers(settings),
            "ema_decay": 0.0,
            "penalties": [
                *(penalty for name, penalty in swept.items() if name not in names),
                *(swept.get(name, penalty) for name, penalty in zip(names, own, strict=True)),
            ],
        }
        for player, own_terms in terms.items():
            if own_terms:
                changes[player] = [
                    dataclasses.replace(term, weight=settings.get(f"weight/{term.name}", term.weight))
                    for term in own_terms
                ]
        if losses is not None:
            changes["loss"] = mixed(several, settings) if several else losses
        return game.train_step(**changes)(state, batch, jax.random.fold_in(key, 2))

    def radius(settings, state):
        return optax.tree.norm((state.generator.params, state.discriminator.params))

    return Program(name, init, step, score, radius, check)


def domains(
    to_image: nn.Module,
    to_source: nn.Module,
    of_image: nn.Module,
    of_source: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    source_shape: tuple[int, int, int] | None = None,
    optimizer: Optimizer | Players = adam,
    pool_size: int = 50,
    score: Callable | None = None,
    name: str = "domains",
    **settings: Any,
) -> Program:
    """Two domains without pairs, a generator each way (CycleGAN): of what `cycle.make_train_step` takes.

    Settings of members: `generator_rate`, `discriminator_rate`; optional `cycle_weight`, `adversarial_weight`;
    `generator_clip`, `discriminator_clip` or `clip` for both; `generator_momentum`, `discriminator_momentum` or
    `momentum` for both; `seed`. Both generators share an optimiser, and so do both discriminators.

    Args:
      to_image, to_source, of_image, of_source, image_shape, source_shape, pool_size: as for `cycle.init`.
      optimizer: (rate, momentum or None) -> optax transformation: `sgd`, `adam` or your own; or `Players` of two.
      score: (settings, state, key) -> dict with `score`.
      name: of this kind of program.
      settings: what `cycle.make_train_step` takes besides, the same for all members.
    """
    modules = (to_image, to_source, of_image, of_source)
    theirs, ours = optimizer if isinstance(optimizer, Players) else (optimizer, optimizer)
    swept = ("cycle_weight", "adversarial_weight")

    def check(given):
        optional = [
            f"{player}{kind}" for kind in ("clip", "momentum") for player in ("", "generator_", "discriminator_")
        ]
        _check_names("two domains", given, ["generator_rate", "discriminator_rate"], [*swept, *optional])

    def optimizers(given):
        return {
            "generator_optimizer": _transformation(given, "generator", theirs),
            "discriminator_optimizer": _transformation(given, "discriminator", ours),
            "pool_size": pool_size,
        }

    def init(given, key):
        return cycle.init(key, *modules, image_shape=image_shape, source_shape=source_shape, **optimizers(given))

    def step(given, state, batch, key):
        own = settings | {weight: given[weight] for weight in swept if weight in given}
        train_step = cycle.make_train_step(*modules, **optimizers(given), **own)
        return train_step(state, batch, jax.random.fold_in(key, 2))

    def radius(given, state):
        return optax.tree.norm((state.generators.params, state.discriminators.params))

    return Program(name, init, step, score, radius, check)


def mixed(losses: Mapping[str, adversarial.AdversarialLoss], settings: Settings) -> adversarial.AdversarialLoss:
    """The combination sum_i w_i loss_i / sum_i w_i of several pairs of losses, w_i the setting `loss/NAME`."""
    total = sum(settings[f"loss/{name}"] for name in losses)

    def mix(player):
        def loss(real_logits, fake_logits):
            terms = [
                settings[f"loss/{n}"] / total * getattr(x, player)(real_logits, fake_logits) for n, x in losses.items()
            ]
            return sum(terms)

        return loss

    return adversarial.AdversarialLoss(mix("generator"), mix("discriminator"))


def mode_score(
    generator: nn.Module, latent_dim: int, centres: jax.Array, std: float, num_samples: int = 2500
) -> Callable:
    """Modes captured as a share of all, times the share of samples that are of high quality: in [0, 1].

    Of the latest weights, not of their average, which would hide a rotation. A perfect sampler in the plane reaches
    1 - exp(-4.5) = 0.989. The other numbers of `metrics.mode_coverage` are reported beside it.
    """

    def score(settings, state, key):
        z = jax.random.normal(key, (num_samples, latent_dim))
        found = mode_coverage(gans.sample(generator, state.generator.variables, z), centres, std)
        share = found["modes"] / len(centres) * found["high_quality_share"]
        return {"score": share, "modes": found["modes"], "high_quality": found["high_quality_share"], "kl": found["kl"]}

    return score


def sliced_wasserstein_score(
    generator: nn.Module, latent_dim: int, real: jax.Array, num_projections: int = 256
) -> Callable:
    """`distance_score` of a generator of latents alone, with its latest weights."""

    def draw(state, key, n):
        return gans.sample(generator, state.generator.variables, jax.random.normal(key, (n, latent_dim)))

    return distance_score(draw, real, num_projections)


def distance_score(
    draw: Callable[[Any, jax.Array, int], jax.Array], real: jax.Array, num_projections: int = 256
) -> Callable:
    """Minus the sliced Wasserstein distance of as many drawn images from the real ones [N, ...], in pixels.

    Args:
      draw: (state, key, n) -> images [n, ...].
      real: images.
      num_projections: of the distance.
    """

    def score(settings, state, key):
        latent_key, projection_key = jax.random.split(key)
        images = draw(state, latent_key, len(real))
        distance = sliced_wasserstein_distance(real, images, projection_key, num_projections=num_projections)
        return {"score": -distance, "sliced_wasserstein": distance}

    return score


def vae(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    optimizer: Optimizer = adam,
    likelihood: variational.Likelihood = variational.bernoulli,
    free_bits: float = 0.0,
    score: Callable | None = None,
    name: str = "vae",
) -> Program:
    """VAEs of one architecture.

    Settings: `learning_rate`; optional `clip`, `momentum`, `beta`, `seed`. Free bits are the same for all.

    Args:
      encoder, decoder, likelihood, free_bits: as for `vae.make_train_step`.
      image_shape: [H, W, C].
      optimizer: (rate, momentum or None) -> optax transformation.
      score: (settings, state, key) -> dict with `score`; see `elbo_score`.
      name: of this kind of program.
    """

    def check(settings):
        _check_names("VAEs", settings, ["learning_rate"], ["clip", "momentum", "beta"])

    def init(settings, key):
        transformation = _transformation(settings, "", optimizer)
        return vaes.init(key, encoder, decoder, optimizer=transformation, image_shape=image_shape)

    def step(settings, state, batch, key):
        train_step = vaes.make_train_step(
            encoder,
            decoder,
            optimizer=_transformation(settings, "", optimizer),
            likelihood=likelihood,
            beta=settings.get("beta", 1.0),
            free_bits=free_bits,
        )
        return train_step(state, batch, jax.random.fold_in(key, 2))

    def radius(settings, state):
        return optax.tree.norm(state.network.params)

    return Program(name, init, step, score, radius, check)


def elbo_score(
    encoder: nn.Module, decoder: nn.Module, batch: Mapping[str, jax.Array], likelihood: Any = variational.bernoulli
) -> Callable:
    """The mean ELBO of a batch, in nats per image, with its two parts and the count of active units."""
    eval_step = vaes.make_eval_step(encoder, decoder, likelihood=likelihood)

    def score(settings, state, key):
        found = eval_step(state.ema, batch, key)
        active = jnp.sum(jnp.var(found["posterior_mean"], axis=0) > vaes.ACTIVE_UNIT_VARIANCE)
        means = {name: jnp.mean(found[name]) for name in ("elbo", "distortion", "rate")}
        return {"score": means.pop("elbo"), **means, "active_units": active}

    return score


def measured_score(
    measure: Measure, batch: Mapping[str, jax.Array], variables: Callable[[Any], Any], key: jax.Array
) -> Callable:
    """The number by which a system calls a checkpoint the best, of one batch of held-out images; negative where small
    is better. Its other numbers are reported beside it, but for those of methods without a network.

    Args:
      measure: of the system, with a `best`.
      batch: as the run reads it.
      variables: state -> what the measure takes.
      key: of what is drawn, the same at every look.

    Raises:
      TypeError: for a seed instead of a key.
    """
    check_key(key)
    best, sign = measure.best, 1.0 if measure.mode == "max" else -1.0

    def score(settings, state, _):
        # Without the barrier XLA would compute, as it compiles, what follows from the batch alone.
        rows = measure.of_batch(variables(state), jax.lax.optimization_barrier(batch), key)
        found = {name: jnp.mean(row) for name, row in rows.items() if "_of_" not in name}
        return {"score": sign * found[best], **found}

    return score


def batch_of(dataset: Dataset, num: int) -> Mapping[str, jax.Array]:
    """The first examples of a data set, for a score."""
    rows = np.arange(min(num, dataset.num_examples), dtype=np.int32)
    return dataset.prepare(dataset.fetch(rows), jax.random.key(0))


def images_of(dataset: Dataset, num: int) -> jax.Array:
    """The first images of a data set, for a score."""
    return batch_of(dataset, num)["image"]


def game(
    make_rule: Callable[[Settings], updates.Rule],
    make_field: Callable[[Settings], Field],
    start: Players,
    equilibrium: Players,
    *,
    name: str = "game",
) -> Program:
    """Games with a closed form. Run them under `jax.enable_x64(True)`, with `sweep.NO_DATA`.

    Args:
      make_rule: settings -> update rule, of `stability.updates`.
      make_field: settings -> vector field.
      start: of every member.
      equilibrium: the radius is the distance from it, the score minus that.
      name: of this kind of program.
    """

    def init(settings, key):
        players = Players(*(jax.tree.map(jnp.asarray, player) for player in start))
        return players, make_rule(settings).init(make_field(settings), players)

    def step(settings, state, batch, key):
        field = make_field(settings)
        players, state = make_rule(settings).update(field, *state)
        return (players, state), {"field/grad_norm": optax.tree.norm(tuple(field(players)))}

    def radius(settings, state):
        return optax.tree.norm(jax.tree.map(jnp.subtract, tuple(state[0]), tuple(equilibrium)))

    def score(settings, state, key):
        return {"score": -radius(settings, state)}

    return Program(name, init, step, score, radius)


def _takes(function, number):
    try:
        inspect.signature(function).bind(*range(number))
    except (TypeError, ValueError):
        return False
    return callable(function)
