"""What a player's turn is: what it is told, what it sees, and what is added to its objective.

A *condition* tells the networks something beside the latents: a label, a source image, a mask. A *term* is added to a
player's objective; it sees the whole turn and may hold state. An *augmentation* changes whatever the discriminator
sees. All three are arguments of `gan.make_train_step`, which is why a new method rarely needs a new step.

    conditional = gan.make_train_step(..., condition=turns.told("label"))
    pixel = turns.term(lambda turn: 100.0 * jnp.mean(jnp.abs(turn.fake - turn.real), axis=(1, 2, 3)), name="l1")
    pix2pix = gan.make_train_step(..., condition=turns.told("source"), latent_dim=None, generator_terms=[pixel])
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax import lax

from jaxgen import network, sharding
from jaxgen.arguments import at_step, check_function, check_key, described, short, takes
from jaxgen.losses import adversarial
from jaxgen.losses.penalties import Penalty
from jaxgen.network import Network

# Keys. A turn has two: of its latents, and its own. What each is folded with:
CONDITION = 1  # latent key: what a condition draws
AUGMENTATION = 2**30  # turn key: what the discriminator's turn augments with, divided into real and fake
GENERATOR = 2**30 + 1  # turn key: the generator's turn, for its augmentation and its terms
REPLACEMENT = 2**30 + 2  # turn key: what an augmentation shows in the place of real images
FAKES = 2**30 + 3  # turn key: what the generator draws itself where the discriminator's turn has slices
# Latents and the generator's dropout take the latent key, the discriminator's dropout the turn key; penalty or term i
# of a turn folds i into its key, slice or example i of `gradients` folds i into the turn key.


@flax.struct.dataclass
class Player(Network):
    """A network whose terms or augmentation hold state: {name: arrays}. Without any, a player is a plain `Network`."""

    terms: dict[str, Any]


# Conditions -----------------------------------------------------------------------------------------------------------


class Conditions(NamedTuple):
    """What the players are told in a turn. Each is a pytree with leaves [B, ...], or None: nothing is passed.

    generator: the generator's second argument (its first, where there are no latents).
    real, fake: the discriminator's second argument beside a real, and beside a fake image.
    """

    generator: Any = None
    real: Any = None
    fake: Any = None


Condition = Callable[[Mapping[str, jax.Array], jax.Array, jax.Array], Conditions]
"""(batch, step, key) -> Conditions. It may draw, and may return scalars of the step, which count for each image."""


def told(name: str = "label") -> Condition:
    """Both players are told batch[name]; fake images are of the same labels (sources, masks) as the real ones."""

    def condition(batch, step, key):
        return Conditions(*[_entry(batch, name)] * 3)

    return condition


def told_shuffled_labels(name: str = "label", *, axis_name: str | None = None) -> Condition:
    """As `told`, but fake images have the labels in another order: each class has its share of the data.

    Papers draw them all alike (Miyato and Koyama 2018), of CIFAR and ImageNet, whose classes are of about equal size.
    Of nine classes of emoji, of which one is three fifths, a GAN with the hinge loss learnt less that way: its FID
    was 17 and 18 where it is 8 with labels in another order (two seeds, 3,000 steps; `docs/results.md`).
    """

    def condition(batch, step, key):
        real = _entry(batch, name)
        shuffled = sharding.shuffled(key, real, axis_name=axis_name)
        return Conditions(shuffled, real, shuffled)

    return condition


def _entry(batch, name):
    if name not in batch:
        raise ValueError(
            f"the networks are told {name!r}, but the batch has only {', '.join(sorted(batch))}"
            + ("; these data have no labels" if name == "label" else "")
        )
    return batch[name]


def conditions_of(condition: Condition | None, batch: Any, step: Any, key: Any, num_images: int) -> Conditions:
    """What a condition tells of a batch, scalars made one for each image; nothing without one.

    Raises:
      TypeError: if the function returns something else than `Conditions`.
      ValueError: for leaves of another number of rows.
    """
    check_key(key)
    if condition is None:
        return Conditions()
    found = condition(batch, step, key)
    if not isinstance(found, Conditions):
        raise TypeError(
            f"a condition returns Conditions(generator=..., real=..., fake=...), not {type(found).__name__}"
        )

    def rows(x):
        x = jnp.asarray(x)
        if x.ndim and x.shape[0] != num_images:
            raise ValueError(
                f"a condition of shape {x.shape} does not fit {num_images} images: it needs a row for each"
            )
        return x if x.ndim else jnp.broadcast_to(x, (num_images,))

    return jax.tree.map(rows, found)


def given(*inputs: Any) -> tuple:
    """The positional arguments of a network: those that are there."""
    return tuple(x for x in inputs if x is not None)


# Augmentation ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Augment:
    """A differentiable change of whatever the discriminator sees; with state it can adapt to what it sees.

    Attributes:
      apply: (key, image [B, ...], condition, state, step) -> (image, condition).
      init: () -> state, a pytree of arrays; None: none.
      observe: (real_logits [B]) -> {name: number}, means over images; of the turn, before the update.
      update: (state, observed) -> state, once for each discriminator step.
      metrics: state -> {name: scalar}, reported under `augment/`.
      replace: (key, real, fake, condition, state, step) -> (real, condition): what the discriminator's turn takes for
        real images, before `apply`. `condition` is the turn's `Conditions`, and what is returned its `real`. The
        generator's turn keeps the true ones, and `turn.batch` always does.
    """

    apply: Callable
    init: Callable[[], Any] | None = None
    observe: Callable[[jax.Array], Mapping[str, jax.Array]] | None = None
    update: Callable[[Any, Mapping[str, jax.Array]], Any] | None = None
    metrics: Callable[[Any], Mapping[str, jax.Array]] | None = None
    replace: Callable | None = None

    def __repr__(self) -> str:
        return short(self)


STATE_OF_AUGMENT = "augment"  # its name among the states of the discriminator's terms


def as_augment(augment: Any) -> Augment | None:
    """None, an `Augment`, or a function `(key, images) -> images` made one.

    Raises:
      TypeError: for anything else.
      ValueError: for an update of a state that is not there.
    """
    if isinstance(augment, Augment) and augment.update is not None and augment.init is None:
        raise ValueError("an Augment that updates its state needs an init= that makes it")
    if augment is None or isinstance(augment, Augment):
        return augment
    if not callable(augment):
        raise TypeError(f"augment must be a function (key, images) -> images or an Augment, not {described(augment)}")
    check_function(augment, "key, images", "augment", "augment=augmentation.diff_augment() or an Augment")
    return Augment(lambda key, image, condition, state, step: (augment(key, image), condition))


# Turns ----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a term sees of its player's turn. All images and conditions are those of the turn, or of a slice of it.

    Attributes:
      step: number of updates so far.
      key: the term's own.
      batch: of the turn: every leaf of the step's batch, divided by the discriminator steps.
      frozen: of the state: arrays of networks that are not trained.
      inputs: the generator's arguments: latents, condition, as far as there are any.
      condition: what was told.
      real, fake: images, not augmented.
      generated_aux: what else the generator returned, with `network.Output`.
      real_logits, fake_logits: what the discriminator returned: an array or a tree, not reduced.
      real_aux, fake_aux: what else it returned.
      real_seen, fake_seen: the images as it saw them, augmented.
      generator_params, discriminator_params: where this turn differentiates one of them.
      generator: (*inputs, method=None) -> whatever the module returns, in training mode, with the turn's key.
      discriminator: (image, condition=None, method=None, keep=False) -> whatever the module returns, not augmented.
        With `keep`, in the discriminator's turn, what the call changes of its collections (vectors of spectral norms,
        batch statistics) stays: for layers that judging does not go through. Not inside of a transformation.
      as_real, as_fake: images [B, ...] -> one logit for each, as they would be judged beside the real ones, or the fake
        ones: with that side's condition, augmentation and dropout.
      output, adversarial, gradient: in the generator's turn alone: what the generator returned; (output) -> the
        adversarial loss of it, a number; (function of the output to a number) -> its gradient at the generator's
        parameters, a constant, the same on all devices.
    """

    step: jax.Array
    key: jax.Array
    batch: Mapping[str, jax.Array]
    frozen: Any
    inputs: tuple
    condition: Conditions
    real: jax.Array
    fake: jax.Array
    generated_aux: Any
    real_logits: Any
    fake_logits: Any
    real_aux: Any
    fake_aux: Any
    real_seen: jax.Array
    fake_seen: jax.Array
    generator_params: Any
    discriminator_params: Any
    generator: Callable
    discriminator: Callable
    as_real: Callable
    as_fake: Callable
    output: Any = None
    adversarial: Callable | None = None
    gradient: Callable | None = None


def per_picture(logits: Any) -> jax.Array:
    """Logits of any shape as one number for each picture [B]: means over its own, leaves of a tree added up."""
    return sum(_mean_over_own(leaf) for leaf in jax.tree.leaves(logits))


def _mean_over_own(x):
    return x if x.ndim == 1 else jnp.mean(x, axis=tuple(range(1, x.ndim)))


def adversarial_loss(loss: Callable, real_logits: Any, fake_logits: Any) -> jax.Array:
    """The mean of a loss over pictures, each weighing the same however many logits it has; leaves add up."""
    return jnp.mean(per_picture(jax.tree.map(loss, real_logits, fake_logits)))


def accuracy(real_logits: Any, fake_logits: Any) -> jax.Array:
    """The mean over leaves of the share of logits on the right side of 0."""
    leaves = zip(jax.tree.leaves(real_logits), jax.tree.leaves(fake_logits), strict=True)
    found = [adversarial.discriminator_accuracy(real, fake) for real, fake in leaves]
    return functools.reduce(jnp.add, found) / len(found) if len(found) > 1 else found[0]


class Sight(NamedTuple):
    """The discriminator with parameters, as it judges in a turn."""

    raw: Callable  # (image, condition, method=None, keep=False) -> what the module returns
    both: Callable  # (real, fake, chained=True) -> what a `Turn` tells of both sides
    collections: Callable  # () -> those that chained judging and kept calls have left
    as_real: Callable  # images -> [B], the collections being those of before the turn
    as_fake: Callable


def look(
    discriminator: Any,
    params: Any,
    model_state: Any,
    condition: Conditions,
    *,
    augment: Augment | None,
    augment_state: Any,
    augment_key: jax.Array,
    step: jax.Array,
    dropout_key: jax.Array,
    axis_name: str | None,
    judge: Callable = network.apply,
) -> Sight:
    """How the discriminator sees a turn.

    Args:
      discriminator, params, model_state: the network; its collections of before the turn.
      condition: of the turn.
      augment, augment_state, augment_key, step: of the augmentation; real and fake images get keys of their own.
      dropout_key: for both.
      axis_name: the mapped axis, in the per-device view: each device augments for itself.
      judge: `network.apply`, or `network.apply_to_each` for what the losses see.

    Raises:
      ValueError: for an augmentation with a state that is not there.
    """
    if augment is not None and augment.init is not None and augment_state is None:
        raise ValueError("the state has no place for the augmentation's: give gan.init the same augment= as the step")
    real_key, fake_key = jax.random.split(sharding.per_device_key(augment_key, axis_name))

    def seen(key, image, condition):
        return (image, condition) if augment is None else augment.apply(key, image, condition, augment_state, step)

    def judged(apply, key, image, condition, collections):
        image, condition = seen(key, image, condition)
        output, collections = apply(discriminator, params, collections, *given(image, condition), key=dropout_key)
        logits, aux = network.split_output(output)
        return logits, aux, collections, image

    left = [model_state]

    def raw(image, condition=None, method=None, keep=False):
        inputs, before = given(image, condition), left[-1] if keep else model_state
        output, collections = network.apply(discriminator, params, before, *inputs, key=dropout_key, method=method)
        if keep:
            left.append(collections)
        return output

    def beside(key, condition):
        return lambda image: per_picture(judged(network.apply, key, image, condition, model_state)[0])

    def both(real, fake, chained=True):
        """Real images, then fake ones: with the collections after the real ones, or with those of before the turn."""
        real_logits, real_aux, collections, real_seen = judged(judge, real_key, real, condition.real, model_state)
        before = collections if chained else model_state
        fake_logits, fake_aux, collections, fake_seen = judged(judge, fake_key, fake, condition.fake, before)
        if chained:
            left.append(collections)
        return {
            "real_logits": real_logits,
            "fake_logits": fake_logits,
            "real_aux": real_aux,
            "fake_aux": fake_aux,
            "real_seen": real_seen,
            "fake_seen": fake_seen,
        }

    return Sight(
        raw=raw,
        both=both,
        collections=lambda: left[-1],
        as_real=beside(real_key, condition.real),
        as_fake=beside(fake_key, condition.fake),
    )


# Terms ----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Term:
    """Something that is added to a player's objective.

    Attributes:
      name: under which it is reported, and by which its state is kept.
      value: (turn, state) -> (a number or one for each image [B], state). The state must keep shapes and dtypes; what
        it holds of a batch must be means, which devices and slices average.
      init: (gan.Players before the first step) -> state, a pytree of arrays; None: none.
      weight: a number, or a schedule step -> number.
      every: a lazy term is computed every so many steps, and weighs that many times as much (Karras et al. 2020). Under
        `vmap` over seeds it is computed at every step, unless `state.step` is not mapped.
    """

    name: str
    value: Callable[[Turn, Any], tuple[jax.Array, Any]]
    init: Callable[[Any], Any] | None = None
    weight: float | Callable[[jax.Array], jax.Array] = 1.0
    every: int = 1
    prefix: str | None = None  # of its metric; that of the player by default

    def __repr__(self) -> str:
        return short(self)


def term(
    value: Callable[[Turn], jax.Array],
    *,
    name: str | None = None,
    weight: float | Callable[[jax.Array], jax.Array] = 1.0,
    every: int = 1,
) -> Term:
    """A term without state, of a function of the turn; called as the function is, if not otherwise.

    Raises:
      TypeError: for what is no function, or has no name of its own.
    """
    if not callable(value):
        raise TypeError(f"a term is made of a function of the turn, not of {value!r}")
    name = name or _name_of(value)
    if name == "<lambda>":
        raise TypeError("a term needs a name, under which it is reported, and a lambda has none; give name=")
    return Term(name, lambda turn, state: (value(turn), state), weight=weight, every=every)


def from_penalty(penalty: Penalty, *, weight: float | Callable[[jax.Array], jax.Array] = 1.0, every: int = 1) -> Term:
    """A term of the discriminator made of a penalty `(discriminator_fn, real, fake, key) -> scalar`.

    `discriminator_fn` looks at the side that the penalty's attribute `side` names, "real" without one: with that side's
    condition and augmentation. It returns one number for each picture.
    """

    def value(turn, state):
        looks_at = turn.as_fake if getattr(penalty, "side", "real") == "fake" else turn.as_real
        return penalty(looks_at, turn.real, turn.fake, turn.key), state

    return Term(_name_of(penalty), value, weight=weight, every=every, prefix="penalty")


def _name_of(function):
    name = getattr(function, "__name__", None)
    if name is None:
        raise TypeError(f"a term needs a name, under which it is reported: {function!r} has none; give name=")
    return name


_REPORTED = ("loss", "grad_norm", "update_norm", "clipped", "skipped", "real_logits", "fake_logits", "accuracy")


def check_terms(terms: Sequence[Term], player: str, others: Sequence[Term] = ()) -> tuple[Term, ...]:
    """The terms of a player, refused if they are something else, or share a name with each other or with others of it.

    Raises:
      TypeError: for what is no term.
      ValueError: for a name that is taken, or a term that is due less often than never.
    """
    if isinstance(terms, (Term, str)) or callable(terms):
        raise TypeError(f"{player}_terms must be a list of terms: write {player}_terms=[...]")
    taken = {(player, name) for name in (*_REPORTED, "adversarial_weight")}
    taken |= {(one.prefix or player, one.name) for one in others}
    kept = {STATE_OF_AUGMENT}
    for one in terms:
        if not isinstance(one, Term):
            hint = "; a factory is to be called, as in terms.lecam(0.3)" if callable(one) else ""
            raise TypeError(f"a term is made by turns.term(function) or turns.Term(...), not {described(one)}{hint}")
        if one.every < 1:
            raise ValueError(f"the term {one.name!r} is due every {one.every} steps; that must be at least 1")
        key = (one.prefix or player, one.name)
        if key in taken:
            raise ValueError(f"terms are reported by name, and {'/'.join(key)} is taken; give another name=")
        taken.add(key)
        if one.init is not None and one.name in kept:
            raise ValueError(f"states of terms are kept by name, and {one.name!r} is taken; give another name=")
        kept.update([one.name] if one.init is not None else [])
    return tuple(terms)


def as_penalty_terms(penalties: Sequence[Penalty]) -> tuple[Term, ...]:
    """The discriminator's penalties as terms.

    Raises:
      TypeError: for what is no penalty: one function instead of a list, a factory that was not called.
      ValueError: for two of one name.
    """
    if callable(penalties) or isinstance(penalties, str):
        raise TypeError("penalties must be a list of functions: write penalties=[penalties.r1(gamma=1.0)]")
    for penalty in penalties:
        if not callable(penalty) or not hasattr(penalty, "__name__"):
            raise TypeError(
                f"a penalty must be a function with a __name__, under which it is reported, not {penalty!r}"
            )
        if not takes(penalty, 4):
            raise TypeError(
                f"the penalty {penalty.__name__} does not take (discriminator_fn, real, fake, key); a factory such as "
                f"penalties.r1 is to be called: penalties.r1(gamma=1.0)"
            )
    names = [penalty.__name__ for penalty in penalties]
    if len(set(names)) < len(names):
        raise ValueError(f"penalties are reported by name, but two share one: {', '.join(names)}")
    return tuple(from_penalty(penalty) for penalty in penalties)


def init_states(terms: Sequence[Term], players: Any) -> dict[str, Any]:
    """{name: state} of the terms that have one."""
    return {one.name: one.init(players) for one in terms if one.init is not None}


def add_terms(
    terms: Sequence[Term], states: Mapping[str, Any], turn: Turn, player: str
) -> tuple[jax.Array | None, dict[str, Any], dict[str, jax.Array]]:
    """The sum of a player's terms in a turn, as they weigh.

    Args:
      terms: of the player.
      states: {name: state} of those that have one.
      turn: term i gets `fold_in(turn.key, i)`.
      player: prefix of the metrics.

    Returns:
      (sum or None without terms, states after the turn, metrics: what each adds to the objective).

    Raises:
      ValueError: for a state that is not there, or does not stay as it is; for a term that is neither a number nor one
        for each image.
      TypeError: for a term that returns something else.
    """
    total, after, metrics = None, dict(states), {}
    for i, one in enumerate(terms):
        if one.init is not None and one.name not in states:
            raise ValueError(
                f"the state has no place for the term {one.name!r}: give gan.init the same terms as make_train_step"
            )
        own = dataclasses.replace(turn, key=jax.random.fold_in(turn.key, i))
        value, state = _value_of(one, own, states.get(one.name))
        if one.init is not None:
            after[one.name] = state
        metrics[f"{one.prefix or player}/{one.name}"] = value
        total = value if total is None else total + value
    return total, after, metrics


def _value_of(one, turn, state):
    weight = at_step(one.weight, turn.step, f"weight= of the term {one.name!r}")

    def due():
        found = one.value(turn, state)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                f"the term {one.name!r} must return (value, state); a function of the turn alone is made a term by "
                "turns.term"
            )
        value = _number(found[0], one.name, turn.real.shape[0])
        new = state_after(found[1], state, f"the term {one.name!r}")
        factor = weight * one.every if one.every > 1 else weight
        return (value if isinstance(factor, float) and factor == 1.0 else factor * value), new

    if one.every == 1:
        return due()
    shape = jax.eval_shape(lambda: due()[0])
    return lax.cond(turn.step % one.every == 0, due, lambda: (jnp.zeros(shape.shape, shape.dtype), state))


def state_after(new: Any, old: Any, whose: str) -> Any:
    """What a term or an augmentation made of its state, in the dtypes of before: others would compile the step again.

    Raises:
      ValueError: if structure or shapes are others than before.
    """
    if old is None and new is not None:
        raise ValueError(f"{whose} returned a state, but has no init= that makes the first one")
    old_shapes, new_shapes = (jax.tree.map(lambda x: list(jnp.shape(x)), state) for state in (old, new))
    if old_shapes != new_shapes:
        raise ValueError(f"the state of {whose} must keep its shapes: {old_shapes} became {new_shapes}")
    return jax.tree.map(lambda x, old: jnp.asarray(x, old.dtype), new, old)


def _number(value, name, num_images):
    if value is None:
        raise TypeError(f"the term {name!r} returned nothing; a term is one number, or one for each image")
    if callable(value) or isinstance(value, Term):
        raise TypeError(
            f"the term {name!r} returned {described(value)}: it makes terms or penalties, and is to be called first"
        )
    try:
        value = jnp.asarray(value)
    except TypeError:
        raise TypeError(
            f"the term {name!r} returned {described(value)}; a term is one number, or one for each image"
        ) from None
    shape = value.shape
    if shape == (num_images,):
        return jnp.mean(value)
    if shape != ():
        raise ValueError(
            f"the term {name!r} returned an array of shape {list(shape)}; a term is one number, or one for each of the "
            f"{num_images} images"
        )
    return value
