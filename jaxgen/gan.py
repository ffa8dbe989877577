"""Generative adversarial networks: two players, one train step.

A variant is a choice of arguments: a pair of losses, a list of penalties, two optax transformations, a number of
discriminator steps. Two time scales (TTUR) are two learning rates, gradient clipping is a link in either chain.

    step = gan.make_train_step(
        generator, discriminator, latent_dim=100,
        generator_optimizer=optax.adam(1e-4, b1=0.0, b2=0.99),
        discriminator_optimizer=optax.chain(optim.clip_by_global_norm(1.0), optax.adam(4e-4, b1=0.0, b2=0.99)),
        penalties=[penalties.r1(gamma=1.0)],
    )
    state, metrics = jax.jit(step)(state, {"image": images}, key)

How one step joins the two players' moves is a function, too: `alternating`, `simultaneous`, `extragradient`, or yours.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxgen import network, sharding
from jaxgen.losses import adversarial
from jaxgen.losses.penalties import Penalty
from jaxgen.network import Network


@flax.struct.dataclass
class GANState:
    """Everything that training changes. Arrays only."""

    step: jax.Array  # number of generator updates so far, int32
    generator: Network
    discriminator: Network
    ema: Any  # moving average of the generator's variables, batch statistics included


def init(
    key: jax.Array,
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    latent_dim: int,
) -> GANState:
    """The state before the first step; the discriminator's input has the shape of the generator's images."""

    def build(key):
        generator_key, discriminator_key = jax.random.split(key)
        z = jnp.zeros((2, latent_dim))
        image, variables = generator.init_with_output(generator_key, z, train=True)
        player = Network.new(variables, generator_optimizer)
        return GANState(
            step=jnp.zeros((), jnp.int32),
            generator=player,
            discriminator=Network.new(
                discriminator.init(discriminator_key, image, train=True), discriminator_optimizer
            ),
            ema=jax.tree.map(jnp.copy, player.variables),  # of its own: a shared array could not be donated
        )

    return network.compiled_init(build, key)


class Players(NamedTuple):
    """Both networks."""

    generator: Network
    discriminator: Network


class Fakes(NamedTuple):
    """The step's batch of fake images, of some generator."""

    images: jax.Array
    pull_back: Callable  # from the gradient with respect to the images to that of the generator's parameters
    model_state: Any  # the generator's mutable collections after the forward pass


class Moves(NamedTuple):
    """What an update rule may do with the step's batch.

    A move goes from where its player stood when the rule was called, by one update of its optimiser, along the gradient
    taken at the networks that are given. So the rules differ in where gradients are taken, and in nothing else.

    generate: (generator) -> Fakes, from the step's latents.
    discriminator: (discriminator, fakes) -> (moved discriminator, metrics).
    generator: (discriminator, fakes) -> (moved generator, metrics).
    """

    generate: Callable[[Network], Fakes]
    discriminator: Callable[[Network, Fakes], tuple[Network, dict[str, jax.Array]]]
    generator: Callable[[Network, Fakes], tuple[Network, dict[str, jax.Array]]]


UpdateRule = Callable[[Players, Fakes, Moves], tuple[Players, dict[str, jax.Array]]]
"""(players, fakes of the players' generator, moves) -> (players, metrics)."""


def alternating(players: Players, fakes: Fakes, moves: Moves) -> tuple[Players, dict[str, jax.Array]]:
    """The discriminator moves, then the generator, whose gradient goes through the discriminator that has just moved.

    Both on the same fake images, so that the generator runs forward once. Goodfellow et al. 2014, algorithm 1.
    """
    discriminator, metrics = moves.discriminator(players.discriminator, fakes)
    generator, generator_metrics = moves.generator(discriminator, fakes)
    return Players(generator, discriminator), metrics | generator_metrics


def simultaneous(players: Players, fakes: Fakes, moves: Moves) -> tuple[Players, dict[str, jax.Array]]:
    """Both players move along their gradients at one and the same point.

    With `optax.optimistic_gradient_descent` or `optax.optimistic_adam` for both, these are optimistic updates.
    """
    discriminator, metrics = moves.discriminator(players.discriminator, fakes)
    generator, generator_metrics = moves.generator(players.discriminator, fakes)
    return Players(generator, discriminator), metrics | generator_metrics


def extragradient(players: Players, fakes: Fakes, moves: Moves) -> tuple[Players, dict[str, jax.Array]]:
    """A simultaneous look-ahead; its gradients then move the players from where they stood.

    Costs two steps. Both halves see the same images and latents (Mishchenko et al. 2020) and start from the same
    optimiser states: what the look-ahead makes of those is dropped, so that schedules and moments go on once a step.
    In ExtraAdam (Gidel et al. 2019, algorithm 4) moments see both gradients, on two batches. The metrics are of the
    second half.
    """
    ahead, _ = simultaneous(players, fakes, moves)
    return simultaneous(ahead, moves.generate(ahead.generator), moves)


def make_train_step(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    latent_dim: int,
    loss: adversarial.AdversarialLoss = adversarial.non_saturating,
    penalties: Sequence[Penalty] = (),
    num_discriminator_steps: int = 1,
    update_rule: UpdateRule = alternating,
    ema_decay: network.Decay = 0.999,
    sample_latent: Callable = jax.random.normal,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)`: discriminator steps, then one generator step.

    By default the players alternate: the generator's gradient goes through the discriminator that has just been
    updated, on the same fake images as that update saw, so the generator runs forward once.

    Args:
      generator: `apply(variables, z [B, latent_dim], train=) -> images [B, ...]`.
      discriminator: `apply(variables, images, train=) -> logits [B]`. If it has a true `images_are_independent`, a
        penalty shares a backward pass with the loss (`network.apply_to_each`).
      generator_optimizer: any optax transformation.
      discriminator_optimizer: any optax transformation; nothing is taken from the generator's.
      latent_dim: the number of latents.
      loss: a pair of functions, from `losses.adversarial` or your own.
      penalties: functions `(discriminator_fn, real, fake, key) -> scalar`, added to the discriminator's loss. Each is
        reported under its `__name__`.
      num_discriminator_steps: discriminator updates for each generator update, each on fresh data: the batch then has
        that many times the images, and update i takes images i, i + k, i + 2k, ...
      update_rule: how the last discriminator update and the generator's are joined: `alternating`, `simultaneous`,
        `extragradient` or your own. The discriminator updates before the last are ordinary ones in any case.
      ema_decay: of the generator's average; a number or a schedule.
      sample_latent: `(key, shape) -> z`.
      axis_name: None for the global view (`jit` over a mesh). Given a name, the step is the per-device view for `pmap`
        or `shard_map(check_vma=False)`: gradients, batch statistics and metrics are averaged over it, and each device
        uses its rows of the global batch's latents. Dropout then draws on each device for itself.

    Returns:
      A pure function, not compiled. `key` is the run's constant key: the step folds `state.step` into it. Metrics are
      scalars: `generator/` and `discriminator/` with `loss` (adversarial part), `grad_norm` (before any clip),
      `update_norm`, and where the optimiser tells `clipped` and `skipped`; `discriminator/` with `real_logits`,
      `fake_logits`, `accuracy`; `penalty/NAME`. The discriminator's are those of its last update.

    Raises:
      TypeError: at trace time, for images that are not floating point.
      ValueError: at trace time, for images of another shape than the generator's, or a batch that is no multiple of
        `num_discriminator_steps`; at once, if that is below 1 or two penalties share a name.
      TypeError: at once, for a loss, penalty, update rule or optimiser that is a name, a number or not wrapped.

    Goodfellow et al. 2014, algorithm 1; two time scales: Heusel et al. 2017.
    """
    if num_discriminator_steps < 1:
        raise ValueError(f"num_discriminator_steps must be at least 1, not {num_discriminator_steps}")
    network.check_optimizer(generator_optimizer, "generator_optimizer")
    network.check_optimizer(discriminator_optimizer, "discriminator_optimizer")
    if not (callable(getattr(loss, "generator", None)) and callable(getattr(loss, "discriminator", None))):
        raise TypeError(
            "loss must be a pair of functions, such as adversarial.hinge or "
            f"AdversarialLoss(generator=f, discriminator=g), not {loss!r}"
        )
    if callable(penalties):
        raise TypeError("penalties must be a list of functions: write penalties=[penalties.r1(gamma=1.0)]")
    if not callable(update_rule):
        raise TypeError(f"update_rule must be a function such as gan.simultaneous, not {update_rule!r}")
    for penalty in penalties:
        if not callable(penalty) or not hasattr(penalty, "__name__"):
            raise TypeError(
                f"a penalty must be a function with a __name__, under which it is reported, not {penalty!r}"
            )
    names = [penalty.__name__ for penalty in penalties]
    if len(set(names)) < len(names):
        raise ValueError(f"penalties are reported by name, but two share one: {', '.join(names)}")

    judge = network.apply_to_each if getattr(discriminator, "images_are_independent", False) else network.apply

    def discriminator_step(player, real, fake, key, at=None):
        """Moves the player along the gradient at the parameters of another network, or at its own."""
        dropout_key = sharding.per_device_key(key, axis_name)

        def objective(params):
            real_logits, model_state = judge(discriminator, params, player.model_state, real, key=dropout_key)
            fake_logits, model_state = judge(discriminator, params, model_state, fake, key=dropout_key)

            def discriminator_fn(x):
                return network.apply(discriminator, params, player.model_state, x, key=dropout_key)[0]

            metrics = {
                "discriminator/loss": jnp.mean(loss.discriminator(real_logits, fake_logits)),
                "discriminator/real_logits": jnp.mean(real_logits),
                "discriminator/fake_logits": jnp.mean(fake_logits),
                "discriminator/accuracy": adversarial.discriminator_accuracy(real_logits, fake_logits),
            }
            total = metrics["discriminator/loss"]
            for i, penalty in enumerate(penalties):
                term = penalty(discriminator_fn, real, fake, jax.random.fold_in(key, i))
                metrics[f"penalty/{penalty.__name__}"] = term
                total += term
            return total, (model_state, metrics)

        gradients, (model_state, metrics) = jax.grad(objective, has_aux=True)((player if at is None else at).params)
        player, update_metrics = network.update(player, discriminator_optimizer, gradients, model_state, axis_name)
        return player, metrics | network.prefixed("discriminator", update_metrics)

    def train_step(state: GANState, batch: dict[str, jax.Array], key: jax.Array):
        reals = _divide(network.images_of(batch), num_discriminator_steps)
        keys = jax.random.split(jax.random.fold_in(key, state.step), num_discriminator_steps)

        def generate(params, key):
            z = sharding.draw(sample_latent, key, (reals.shape[1], latent_dim), axis_name=axis_name)
            dropout_key = sharding.per_device_key(key, axis_name)
            return network.apply(generator, params, state.generator.model_state, z, key=dropout_key)

        def extra_step(player, inputs):
            real, key = inputs
            latent_key, key = jax.random.split(key)
            return discriminator_step(player, real, generate(state.generator.params, latent_key)[0], key)

        # The last discriminator step and the generator step share one batch of fake images.
        real, (latent_key, key) = reals[-1], jax.random.split(keys[-1])
        dropout_key = sharding.per_device_key(key, axis_name)

        def fakes_of(player):
            return Fakes(*jax.vjp(lambda params: generate(params, latent_key), player.params, has_aux=True))

        fakes = fakes_of(state.generator)
        if fakes.images.shape != real.shape:
            raise ValueError(
                f"the generator makes images of shape {fakes.images.shape[1:]}, but the data have {real.shape[1:]}"
            )

        player = state.discriminator
        if num_discriminator_steps > 1:
            player, _ = lax.scan(extra_step, player, (reals[:-1], keys[:-1]))

        def move_discriminator(at, fakes):
            return discriminator_step(player, real, fakes.images, key, at)

        def move_generator(discriminator_at, fakes):
            def objective(fake):
                params, model_state = discriminator_at.params, discriminator_at.model_state
                real_logits, _ = network.apply(discriminator, params, model_state, real, key=dropout_key)
                fake_logits, _ = network.apply(discriminator, params, model_state, fake, key=dropout_key)
                return jnp.mean(loss.generator(real_logits, fake_logits))

            value, fake_gradient = jax.value_and_grad(objective)(fakes.images)
            (gradients,) = fakes.pull_back(fake_gradient)
            moved, update_metrics = network.update(
                state.generator, generator_optimizer, gradients, fakes.model_state, axis_name
            )
            return moved, {"generator/loss": value} | network.prefixed("generator", update_metrics)

        players, metrics = update_rule(
            Players(state.generator, player), fakes, Moves(fakes_of, move_discriminator, move_generator)
        )
        ema = network.update_ema(
            state.ema,
            players.generator.variables,
            ema_decay,
            state.step,
            {name.removeprefix("generator/"): value for name, value in metrics.items()},
        )
        state = GANState(state.step + 1, players.generator, players.discriminator, ema)
        return state, network.mean_over_devices(metrics, axis_name)

    return train_step


def _divide(image, k):
    """[k B, ...] -> [k, B, ...] such that a batch divided over devices stays divided the same way."""
    if image.shape[0] % k:
        raise ValueError(f"{k} discriminator steps need a batch of a multiple of {k} images, not {image.shape[0]}")
    return jnp.moveaxis(image.reshape(image.shape[0] // k, k, *image.shape[1:]), 1, 0)


def sample(generator: nn.Module, variables: Any, z: jax.Array) -> jax.Array:
    """Images for latents, with running batch statistics.

    Args:
      generator: the module.
      variables: `state.ema`, or `state.generator.variables` for the latest weights.
      z: [N, latent_dim].

    Returns:
      [N, ...] in [-1, 1].

    Raises:
      TypeError, ValueError: for a whole state instead of variables, or latents that do not fit them.
    """
    return network.images_from(generator, variables, z)
