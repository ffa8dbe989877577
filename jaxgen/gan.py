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

What the networks are told (labels, source images), what is added to either player's objective, and how images are
augmented before they are judged, are arguments, too: see `turns`. So is how one step joins the two players' moves:
`alternating`, `simultaneous`, `extragradient`, or yours.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jax.dtypes import canonicalize_dtype

from jaxgen import gradients as ways
from jaxgen import network, optim, sharding, turns
from jaxgen.arguments import check_function, check_key, check_module
from jaxgen.losses import adversarial
from jaxgen.losses.penalties import Penalty
from jaxgen.network import Network
from jaxgen.turns import Condition, Conditions, Player, Term, given
from jaxgen.update_rules import Fakes, Moves, Players, UpdateRule, alternating
from jaxgen.update_rules import extragradient as extragradient
from jaxgen.update_rules import simultaneous as simultaneous


@flax.struct.dataclass
class GANState:
    """Everything that training changes. Arrays only."""

    step: jax.Array  # number of generator updates so far, int32
    generator: Network  # or a `turns.Player`, where terms hold state
    discriminator: Network
    ema: Any  # moving average of the generator's variables, batch statistics included


@flax.struct.dataclass
class GANStateWithFrozen(GANState):
    """With arrays that training reads and never changes, such as a perceptual network. Not checkpointed."""

    frozen: Any


def init(
    key: jax.Array,
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    latent_dim: int | None,
    condition: Condition | None = None,
    example: Mapping[str, Any] | None = None,
    generator_terms: Sequence[Term] = (),
    discriminator_terms: Sequence[Term] = (),
    augment: Any = None,
    frozen: Any = None,
) -> GANState:
    """The state before the first step; the discriminator's input has the shape of the generator's images.

    Args:
      key: of the parameters.
      generator, discriminator, the optimisers, latent_dim, condition, the terms, augment: as for `make_train_step`; a
        condition without an `axis_name`, and for two images.
      example: with a condition: a batch, or `jax.ShapeDtypeStruct`s of one, of which only shapes and dtypes count.
      frozen: arrays that terms read as `turn.frozen`; they travel in the state.

    Raises:
      TypeError: for a seed instead of a key, a class or another framework's module instead of a Linen module, or one
        whose `__call__` does not take what it is given and `train`.
      ValueError: for a condition without an example, or neither latents nor a condition.
    """
    check_key(key)
    check_module(generator, "generator")
    check_module(discriminator, "discriminator")
    network.check_optimizer(generator_optimizer, "generator_optimizer")
    network.check_optimizer(discriminator_optimizer, "discriminator_optimizer")
    if condition is not None and example is None:
        raise ValueError("a condition needs an example=, a batch of which the shapes count, to make the networks for")
    if latent_dim is None and condition is None:
        raise ValueError("without latents (latent_dim=None) the generator needs a condition")
    augment = turns.as_augment(augment)

    def build(key):
        generator_key, discriminator_key = jax.random.split(key)
        z = () if latent_dim is None else (jnp.zeros((2, latent_dim)),)
        told = Conditions()
        if condition is not None:
            batch = jax.tree.map(lambda x: jnp.zeros((2, *x.shape[1:]), canonicalize_dtype(x.dtype)), dict(example))
            told = turns.conditions_of(condition, batch, jnp.zeros((), jnp.int32), generator_key, 2)
        inputs = *z, *given(told.generator)
        output, variables = network.init_with_output(generator, generator_key, *inputs, name="generator")
        image, _ = network.split_output(output)
        generator_network = Network.new(variables, generator_optimizer)
        _, discriminator_variables = network.init_with_output(
            discriminator, discriminator_key, *given(image, told.fake), name="discriminator"
        )
        discriminator_network = Network.new(discriminator_variables, discriminator_optimizer)
        players = Players(generator_network, discriminator_network)
        states = turns.init_states(discriminator_terms, players)
        if augment is not None and augment.init is not None:
            states[turns.STATE_OF_AUGMENT] = augment.init()
        state = GANState(
            step=jnp.zeros((), jnp.int32),
            generator=_with_terms(generator_network, turns.init_states(generator_terms, players)),
            discriminator=_with_terms(discriminator_network, states),
            ema=jax.tree.map(jnp.copy, generator_network.variables),  # of its own: a shared array cannot be donated
        )
        return state

    state = network.compiled_init(build, key)
    if frozen is None:
        return state
    frozen = jax.tree.map(jnp.array, frozen)  # copies: the caller's outlive a step that the state is donated to
    return GANStateWithFrozen(**vars(state), frozen=frozen)


def _with_terms(player, states):
    """A player with its terms' states; a plain network where there are none, as older checkpoints have it."""
    if not states:
        return player
    states = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), states)  # of no weak type, as after a step
    return Player(player.params, player.model_state, player.opt_state, terms=states)


def make_train_step(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    latent_dim: int | None,
    loss: adversarial.AdversarialLoss | Callable[[jax.Array], adversarial.AdversarialLoss] = adversarial.non_saturating,
    penalties: Sequence[Penalty] = (),
    condition: Condition | None = None,
    real: Callable[[Mapping[str, jax.Array], jax.Array], jax.Array] | None = None,
    generator_terms: Sequence[Term] = (),
    discriminator_terms: Sequence[Term] = (),
    adversarial_weight: float | Callable[[turns.Turn], jax.Array] | None = None,
    augment: Any = None,
    gradients: ways.Way | tuple[ways.Way, ways.Way] = ways.plain,
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
      generator: `apply(variables, z [B, latent_dim], condition, train=) -> images [B, ...]`, or a `network.Output` of
        images and whatever terms want to see. Without a condition, or latents, that argument is not passed.
      discriminator: `apply(variables, images, condition, train=) -> logits`: [B], patches [B, h, w], or a tree of
        several scales, or a `network.Output`. A picture's own logits are averaged, leaves of a tree added up. If it
        returns [B] and has a true `images_are_independent`, a penalty shares a backward pass with the loss
        (`network.apply_to_each`).
      generator_optimizer: any optax transformation.
      discriminator_optimizer: any optax transformation; nothing is taken from the generator's.
      latent_dim: the number of latents; None: the generator is called with the condition alone.
      loss: a pair of functions, from `losses.adversarial` or your own; or a function step -> such a pair.
      penalties: functions `(discriminator_fn, real, fake, key) -> scalar`, added to the discriminator's loss. Each is
        reported under its `__name__`.
      condition: `(batch, step, key) -> turns.Conditions`: what the networks are told, such as `turns.told("label")`.
      real: `(batch, step) -> images`: what is imitated; the batch's images by default.
      generator_terms, discriminator_terms: what is added to each player's objective: `turns.term`, `losses.terms`.
      adversarial_weight: of the adversarial loss in the generator's objective: a number, or a function of its turn,
        whose value counts as a constant.
      augment: `(key, images) -> images`, differentiable, or a `turns.Augment`: what the discriminator sees instead.
      gradients: how gradients are taken: `gradients.plain`, `gradients.accumulated(n)`; one way for both players, or
        (the generator's, the discriminator's). Where neither is plain, each part of the discriminator's turn makes
        its own fake images, and there are never those of the whole batch. Slices are refused for batch normalisation,
        and for a module with a true `couples_images`: one in which images of a batch affect each other otherwise.
      num_discriminator_steps: discriminator updates for each generator update, each on fresh data: the batch then has
        that many times the images, and update i takes images i, i + k, i + 2k, ...
      update_rule: how the last discriminator update and the generator's are joined: `alternating`, `simultaneous`,
        `extragradient` or your own. The discriminator updates before the last are ordinary ones in any case.
      ema_decay: of the generator's average; a number or a schedule.
      sample_latent: `(key, shape) -> z`.
      axis_name: None for the global view (`jit` over a mesh). Given a name, the step is the per-device view for `pmap`
        or `shard_map(check_vma=False)`: gradients, batch statistics, states of terms and metrics are averaged over it,
        and each device uses its rows of the global batch's latents. Dropout, augmentation and other streams then draw
        on each device for itself.

    Returns:
      A pure function, not compiled. `key` is the run's constant key: the step folds `state.step` into it. Metrics are
      scalars: `generator/` and `discriminator/` with `loss` (adversarial part), `grad_norm` (before any clip),
      `update_norm`, and where the optimiser tells `clipped` and `skipped`; `discriminator/` with `real_logits`,
      `fake_logits`, `accuracy`; `penalty/NAME`; each term under its player. The discriminator's are those of its last
      update.

    Raises:
      TypeError: at trace time, for images that are not floating point, or a condition of another kind.
      ValueError: at trace time, for images of another shape than the generator's, a batch that is no multiple of
        `num_discriminator_steps`, a condition that the batch does not have, a term that is no number; at once, if
        there is less than one discriminator step or two penalties or terms share a name.
      TypeError: at once, for a loss, penalty, term, update rule or optimiser that is a name, a number or not wrapped,
        a factory that was not called, or what is no Linen module that takes `train`; at trace time for a seed instead
        of a key.

    Goodfellow et al. 2014, algorithm 1; two time scales: Heusel et al. 2017.
    """
    if num_discriminator_steps < 1:
        raise ValueError(f"num_discriminator_steps must be at least 1, not {num_discriminator_steps}")
    check_module(generator, "generator")
    check_module(discriminator, "discriminator")
    network.check_optimizer(generator_optimizer, "generator_optimizer")
    network.check_optimizer(discriminator_optimizer, "discriminator_optimizer")
    loss_at = adversarial.schedule_of(loss)
    if not callable(update_rule):
        raise TypeError(f"update_rule must be a function such as gan.simultaneous, not {update_rule!r}")
    check_function(update_rule, "players, fakes, moves", "update_rule", "update_rule=gan.simultaneous")
    check_function(sample_latent, "key, shape", "sample_latent", "sample_latent=jax.random.normal")
    if condition is not None:
        check_function(condition, "batch, step, key", "condition", 'condition=turns.told("label")')
    if real is not None:
        check_function(real, "batch, step", "real", 'real=lambda batch, step: batch["image"]')
    generator_terms = turns.check_terms(generator_terms, "generator")
    penalty_terms = turns.as_penalty_terms(penalties)
    discriminator_terms = penalty_terms + turns.check_terms(discriminator_terms, "discriminator", penalty_terms)
    augment = turns.as_augment(augment)
    generator_way, discriminator_way = gradients if isinstance(gradients, tuple) else (gradients, gradients)
    ways.check_way(generator_way)
    ways.check_way(discriminator_way)
    for module, its_ways in ((generator, {generator_way}), (discriminator, {generator_way, discriminator_way})):
        if its_ways != {ways.plain} and getattr(module, "couples_images", False):
            raise ValueError(
                f"{type(module).__name__} lets images of a batch affect each other, so that its gradient cannot be "
                "taken in parts of the batch"
            )
    in_slices = ways.plain not in (generator_way, discriminator_way)  # then neither player needs the batch at once
    judge = network.apply_to_each if getattr(discriminator, "images_are_independent", False) else network.apply

    def dropout_key(key):
        return sharding.per_device_key(key, axis_name)

    def generate(params, state, examples, key):
        return network.apply(generator, params, state.generator.model_state, *examples.inputs, key=dropout_key(key))

    def look(params, player, condition, augment_key, step, key, judge=network.apply):
        states = getattr(player, "terms", {})
        return turns.look(
            discriminator,
            params,
            player.model_state,
            condition,
            augment=augment,
            augment_state=states.get(turns.STATE_OF_AUGMENT),
            augment_key=augment_key,
            step=step,
            dropout_key=dropout_key(key),
            axis_name=axis_name,
            judge=judge,
        )

    def generator_of(params, model_state, key):
        """The generator as terms call it."""

        def run(*inputs, method=None):
            return network.apply(generator, params, model_state, *inputs, key=dropout_key(key), method=method)[0]

        return run

    def turn_of(state, key, examples, made, judged, sight, generator_params, discriminator_params, **own):
        """What terms see of a turn; `made` is what the generator returned, `own` is one player's."""
        fake, generated_aux = network.split_output(made)
        return turns.Turn(
            step=state.step,
            key=key,
            batch=examples.batch,
            frozen=getattr(state, "frozen", None),
            inputs=examples.inputs,
            condition=examples.condition,
            real=examples.real,
            fake=fake,
            generated_aux=generated_aux,
            **judged,
            generator_params=generator_params,
            discriminator_params=discriminator_params,
            generator=generator_of(generator_params, state.generator.model_state, key),
            discriminator=sight.raw,
            as_real=sight.as_real,
            as_fake=sight.as_fake,
            **own,
        )

    def keep_states(player, states, flags):
        """The player with its terms' states after the turn, unless its update was skipped."""
        if not isinstance(player, Player):
            return player
        states = network.mean_over_axis(states, axis_name)
        return player.replace(terms=optim.keep_if_skipped(flags, player.terms, states))

    def discriminator_step(player, state, examples, generator_params, key, at=None):
        """Moves the player along the gradient at the parameters of another network, or at its own."""
        params_at = (player if at is None else at).params

        def gradient_of(examples, key):
            if in_slices:  # made anew, so that there are never the fake images of a whole batch
                output, _ = generate(generator_params, state, examples, jax.random.fold_in(key, turns.FAKES))
                examples = examples._replace(output=lax.stop_gradient(output))
            fake, _ = network.split_output(examples.output)
            if augment is not None and augment.replace is not None:
                own_key = dropout_key(jax.random.fold_in(key, turns.REPLACEMENT))
                told, augment_state = examples.condition, getattr(player, "terms", {}).get(turns.STATE_OF_AUGMENT)
                shown, label = augment.replace(own_key, examples.real, fake, told, augment_state, state.step)
                examples = examples._replace(real=shown, condition=told._replace(real=label))

            def objective(params):
                augment_key = jax.random.fold_in(key, turns.AUGMENTATION)
                sight = look(params, player, examples.condition, augment_key, state.step, key, judge)
                judged = sight.both(examples.real, fake)
                real_logits, fake_logits = judged["real_logits"], judged["fake_logits"]
                turn = turn_of(state, key, examples, examples.output, judged, sight, generator_params, params)
                metrics = {
                    "discriminator/loss": turns.adversarial_loss(
                        loss_at(state.step).discriminator, real_logits, fake_logits
                    ),
                    "discriminator/real_logits": jnp.mean(turns.per_picture(real_logits)),
                    "discriminator/fake_logits": jnp.mean(turns.per_picture(fake_logits)),
                    "discriminator/accuracy": turns.accuracy(real_logits, fake_logits),
                }
                added, states, of_terms = turns.add_terms(
                    discriminator_terms, getattr(player, "terms", {}), turn, "discriminator"
                )
                total = metrics["discriminator/loss"] if added is None else metrics["discriminator/loss"] + added
                observed = {}
                if augment is not None and augment.observe is not None:
                    observed = augment.observe(turns.per_picture(real_logits))
                return total, (sight.collections(), states, observed, metrics | of_terms)

            return jax.grad(objective, has_aux=True)(params_at)

        if in_slices:
            examples = examples._replace(output=None)
        found, (model_state, states, observed, metrics) = discriminator_way(gradient_of, examples, key)
        if augment is not None and augment.update is not None:
            old = states[turns.STATE_OF_AUGMENT]
            new = augment.update(old, network.mean_over_axis(observed, axis_name))
            states[turns.STATE_OF_AUGMENT] = turns.state_after(new, old, "the augmentation")
        if augment is not None and augment.metrics is not None:
            metrics |= network.prefixed("augment", augment.metrics(states.get(turns.STATE_OF_AUGMENT)))
        player, update_metrics = network.update(player, discriminator_optimizer, found, model_state, axis_name)
        return keep_states(player, states, update_metrics), metrics | network.prefixed("discriminator", update_metrics)

    def generator_step(state, discriminator_at, fakes, examples, latent_key, key):
        """Moves the generator along its gradient at the fakes' generator, through a discriminator."""
        player = state.generator

        def gradient_through(output, pull_back, params, examples, key):
            """Gradient and everything else of a turn on a generator's output, with its way back to the parameters."""
            own_key = jax.random.fold_in(key, turns.GENERATOR)
            augment_key = jax.random.fold_in(own_key, turns.AUGMENTATION)
            sight = look(discriminator_at.params, discriminator_at, examples.condition, augment_key, state.step, key)

            def adversarial_of(output):
                # As in the discriminator's turn each side sees the collections of before it.
                judged = sight.both(examples.real, network.split_output(output)[0], chained=False)
                own_loss = loss_at(state.step).generator
                return turns.adversarial_loss(own_loss, judged["real_logits"], judged["fake_logits"]), judged

            def gradient(function):
                (found,) = pull_back(jax.grad(function, allow_int=True)(lax.stop_gradient(output)))
                return lax.stop_gradient(network.mean_over_axis(found, axis_name))

            def objective(output, params):
                value, judged = adversarial_of(output)
                turn = turn_of(
                    state,
                    own_key,
                    examples,
                    output,
                    judged,
                    sight,
                    params,
                    discriminator_at.params,
                    output=output,
                    adversarial=lambda output: adversarial_of(output)[0],
                    gradient=gradient,
                )
                metrics, total = {"generator/loss": value}, value
                if adversarial_weight is not None:
                    weight = adversarial_weight(turn) if callable(adversarial_weight) else adversarial_weight
                    weight = lax.stop_gradient(jnp.asarray(weight, value.dtype))
                    metrics["generator/adversarial_weight"], total = weight, weight * value
                added, states, of_terms = turns.add_terms(
                    generator_terms, getattr(player, "terms", {}), turn, "generator"
                )
                return total if added is None else total + added, (states, metrics | of_terms)

            through = (0, 1) if generator_terms else (0,)  # terms may see the parameters, too
            found, (states, metrics) = jax.grad(objective, through, has_aux=True, allow_int=True)(output, params)
            (gradients,) = pull_back(found[0])
            if generator_terms:
                gradients = jax.tree.map(jnp.add, gradients, found[1])
            return gradients, states, metrics

        def gradient_of(part, key):
            """The same with the generator run again, on a part of the turn."""
            run = lambda params: generate(params, state, part, jax.random.fold_in(key, 1))  # noqa: E731
            output, pull_back, model_state = jax.vjp(run, fakes.params, has_aux=True)
            gradients, states, metrics = gradient_through(output, pull_back, fakes.params, part, key)
            # The way must see what it cuts the discriminator's batch for, too: batch statistics forbid it.
            return gradients, (model_state, states, metrics, discriminator_at.model_state)

        if generator_way is ways.plain:
            found, states, metrics = gradient_through(fakes.output, fakes.pull_back, fakes.params, examples, key)
            model_state = fakes.model_state
        else:
            found, (model_state, states, metrics, _) = generator_way(gradient_of, examples._replace(output=None), key)
        moved, update_metrics = network.update(player, generator_optimizer, found, model_state, axis_name)
        return keep_states(moved, states, update_metrics), metrics | network.prefixed("generator", update_metrics)

    def train_step(state: GANState, batch: dict[str, jax.Array], key: jax.Array):
        check_key(key)
        network.images_of(batch)
        parts = jax.tree.map(lambda x: ways.divide(x, num_discriminator_steps, "discriminator steps"), dict(batch))
        keys = jax.random.split(jax.random.fold_in(key, state.step), num_discriminator_steps)

        def deal(part, latent_key):
            """What a turn is about, but for the fake images."""
            images = part["image"] if real is None else real(part, state.step)
            told = turns.conditions_of(
                condition, part, state.step, jax.random.fold_in(latent_key, turns.CONDITION), images.shape[0]
            )
            z = None
            if latent_dim is not None:
                z = sharding.draw(sample_latent, latent_key, (images.shape[0], latent_dim), axis_name=axis_name)
            return Examples(part, given(z, told.generator), told, images, None)

        def extra_step(player, dealt):
            part, key = dealt
            latent_key, key = jax.random.split(key)
            examples = deal(part, latent_key)
            output = generate(state.generator.params, state, examples, latent_key)[0]
            return discriminator_step(player, state, examples._replace(output=output), state.generator.params, key)

        # The last discriminator step and the generator step share one batch of fake images.
        latent_key, key = jax.random.split(keys[-1])
        examples = deal(jax.tree.map(lambda x: x[-1], parts), latent_key)

        def fakes_of(player):
            run = lambda params: generate(params, state, examples, latent_key)  # noqa: E731
            return Fakes(*jax.vjp(run, player.params, has_aux=True), player.params)

        fakes = fakes_of(state.generator)
        if fakes.images.shape != examples.real.shape:
            raise ValueError(
                f"the generator makes images of shape {fakes.images.shape[1:]}, but the data have "
                f"{examples.real.shape[1:]}"
            )

        player = state.discriminator
        if num_discriminator_steps > 1:
            earlier = jax.tree.map(lambda x: x[:-1], (parts, keys))
            player, _ = lax.scan(extra_step, player, earlier)

        def move_discriminator(at, fakes):
            return discriminator_step(player, state, examples._replace(output=fakes.output), fakes.params, key, at)

        def move_generator(discriminator_at, fakes):
            return generator_step(state, discriminator_at, fakes, examples, latent_key, key)

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
        state = dataclasses.replace(
            state, step=state.step + 1, generator=players.generator, discriminator=players.discriminator, ema=ema
        )
        return state, network.mean_over_devices(metrics, axis_name)

    return train_step


class Game(NamedTuple):
    """Two modules with all that `make_train_step` takes, to be played as it is, or with other optimisers or rules.

    settings: keyword arguments of `make_train_step`.
    example: of `init`.
    frozen: of `init`.
    players: what the optimisers were made of (`options.Optimizer`), where that is known: rates, clips, names.
    """

    generator: nn.Module
    discriminator: nn.Module
    settings: Mapping[str, Any]
    example: Mapping[str, Any] | None = None
    frozen: Any = None
    players: Any = None

    def init(self, key: jax.Array, **changes: Any) -> GANState:
        """The state before the first step, for the settings with `changes`."""
        settings = {**self.settings, **changes}
        chosen = {name: settings[name] for name in _OF_INIT if name in settings}
        return init(key, self.generator, self.discriminator, example=self.example, frozen=self.frozen, **chosen)

    def train_step(self, **changes: Any) -> Callable:
        """`make_train_step` with the settings, and `changes` in their places."""
        return make_train_step(self.generator, self.discriminator, **{**self.settings, **changes})


_OF_INIT = (
    *("generator_optimizer", "discriminator_optimizer", "latent_dim", "condition"),
    *("generator_terms", "discriminator_terms", "augment"),
)


class Examples(NamedTuple):
    """What a turn is about; every leaf is [B, ...], so that a way of taking gradients can divide it."""

    batch: dict[str, jax.Array]
    inputs: tuple  # of the generator
    condition: Conditions
    real: jax.Array
    output: Any  # of the generator


def sample(
    generator: nn.Module,
    variables: Any,
    z: jax.Array | None,
    condition: Any = None,
    *,
    key: jax.Array | None = None,
    **told: Any,
) -> jax.Array:
    """Images for latents, with running batch statistics.

    Args:
      generator: the module.
      variables: `state.ema`, or `state.generator.variables` for the latest weights.
      z: [N, latent_dim]; None for a generator without latents.
      condition: its second argument, such as labels [N] int32; None: not passed.
      key: of what the generator draws itself, such as StyleGAN's noise.
      told: what else it takes by name, such as StyleGAN's `truncation`.

    Returns:
      [N, ...] in [-1, 1].

    Raises:
      TypeError, ValueError: for a whole state instead of variables, variables of another network, or latents that do
        not fit them.
    """
    if key is not None:
        check_key(key)
    return network.images_from(generator, variables, z, condition, key, **told)
