"""What a turn is told, what is added to it and what it sees: conditions, terms, augmentations, logits of any shape."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import gan, network, optim, sharding, turns
from jaxgen.losses import adversarial, penalties
from jaxgen.models import mlp
from jaxgen.stability import spectrum
from jaxgen.stability.games import Players

KEY = jax.random.key(5)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
BATCH = {"image": IMAGES}
PLAYERS = mlp.Generator(widths=(3,), activation=nn.tanh), mlp.Discriminator(widths=(3,), activation=nn.tanh)
LATENT_DIM = 3
WASSERSTEIN = dict(loss=adversarial.wasserstein)
OPTIMIZERS = dict(generator_optimizer=optax.sgd(0.1), discriminator_optimizer=optax.sgd(0.1))
RECORDING = dict(
    generator_optimizer=optim.recording(), discriminator_optimizer=optim.recording(), update_rule=gan.simultaneous
)
OF_INIT = ("condition", "generator_terms", "discriminator_terms", "augment", "frozen")

pytestmark = pytest.mark.usefixtures("fast_compilation")


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


def make(
    players=PLAYERS, batch=BATCH, rates=(0.1, 0.2), latent_dim=LATENT_DIM, for_init=None, only_step=False, **options
):
    """(state, train_step) of one choice of arguments; `for_init` has those that only the first state gets."""
    arguments = dict(
        generator_optimizer=options.pop("generator_optimizer", optax.sgd(rates[0])),
        discriminator_optimizer=options.pop("discriminator_optimizer", optax.sgd(rates[1])),
        latent_dim=latent_dim,
    )
    shared = {name: options[name] for name in OF_INIT if name in options} | (for_init or {})
    options.pop("frozen", None)
    step = gan.make_train_step(*players, **arguments, **options)
    if only_step:
        return step
    return gan.init(KEY, *players, **arguments, example=batch, **shared), step


def traced(batch=BATCH, **options):
    """(state, metrics) after a step, in shapes alone: whatever is wrong is told while tracing."""
    return jax.eval_shape(lambda: (lambda state, step: step(state, batch, KEY))(*make(batch=batch, **options)))


def played(batch=BATCH, beside=lambda state: (), **options):
    """(first state, state after a step, metrics) and what else is computed of the first state, in one program."""

    @jax.jit
    def run(batch):
        state, step = make(batch=batch, **options)
        return state, *step(state, batch, KEY), *beside(state)

    return run(batch)


def keys_of(step=0):
    """(latent key, key) of the only turn of a step."""
    return jax.random.split(jax.random.split(jax.random.fold_in(KEY, step), 1)[0])


def recorded(state):
    return state.generator.opt_state.gradient, state.discriminator.opt_state.gradient


def judge(params, x):
    return PLAYERS[1].apply({"params": params}, x, train=True)


def generate(params, z):
    return PLAYERS[0].apply({"params": params}, z, train=True)


# ----------------------------------------------------------------------------------- one Dirac-GAN for each class


class Points(nn.Module):
    """Every class is one point: theta[label]."""

    start: tuple = (0.5, -1.0, 2.0)

    @nn.compact
    def __call__(self, label, *, train):
        return self.param("theta", lambda key: jnp.asarray(self.start, float))[label][:, None]


class Slopes(nn.Module):
    """D(x, label) = psi[label] x."""

    start: tuple = (0.3, 0.2, -0.4)

    @nn.compact
    def __call__(self, x, label, *, train):
        return self.param("psi", lambda key: jnp.asarray(self.start, float))[label] * x[:, 0]


LABELS = np.array([0, 0, 1, 2])
LABELLED = {"image": np.array([[1.0], [2.0], [3.0], [4.0]], np.float32), "label": LABELS.astype(np.int32)}
CLASSES = dict(players=(Points(), Slopes()), batch=LABELLED, latent_dim=None, **WASSERSTEIN)
OTHERS = {"given": np.array([1, 1, 2, 0]), "beside fake": np.array([2, 1, 2, 2])}


@pytest.mark.parametrize("which", ["those of the batch", "shuffled", "three kinds"])
def test_a_game_with_labels_is_one_dirac_gan_for_each_class_and_penalties_are_told_their_side(which):
    shuffled = np.asarray(jax.random.permutation(jax.random.fold_in(keys_of()[0], turns.CONDITION), LABELS))
    assert sorted(shuffled) == sorted(LABELS) and shuffled.tolist() != LABELS.tolist()
    condition, (of_generator, of_real, of_fake) = {
        "those of the batch": (turns.told("label"), [LABELS] * 3),
        "shuffled": (turns.told_shuffled_labels(), [shuffled, LABELS, shuffled]),
        "three kinds": (
            lambda batch, step, key: turns.Conditions(batch["given"], batch["label"], batch["beside fake"]),
            [OTHERS["given"], LABELS, OTHERS["beside fake"]],
        ),
    }[which]
    options = CLASSES | {"batch": LABELLED | OTHERS, "condition": condition}
    _, new, _ = played(**options, penalties=[penalties.r1(0.7), penalties.r2(0.3)], rates=(0.1, 0.2))
    theta, psi = np.array(Points().start), np.array(Slopes().start)
    slope = np.zeros(3)  # of mean psi[fake] theta[generator] - psi[real] x + penalties, by psi
    np.add.at(slope, of_fake, (theta[of_generator] + 0.3 * psi[of_fake]) / 4)
    np.add.at(slope, of_real, (-LABELLED["image"][:, 0] + 0.7 * psi[of_real]) / 4)
    psi = psi - 0.2 * slope
    np.testing.assert_allclose(new.discriminator.params["psi"], psi, rtol=1e-5)
    np.add.at(theta, of_generator, 0.1 * psi[of_fake] / 4)
    np.testing.assert_allclose(new.generator.params["theta"], theta, rtol=1e-5)


def test_labels_of_fake_images_are_the_same_in_the_per_device_view():
    state, expected, _ = played(**CLASSES, condition=turns.told_shuffled_labels())
    step = make(**CLASSES, condition=turns.told_shuffled_labels(axis_name="data"), axis_name="data", only_step=True)
    new, _ = sharding.pmap_step(step, num_devices=2)(state, LABELLED, KEY)
    close(new, expected, rtol=1e-5)


def test_an_augmentation_may_change_what_is_told():
    def next_class(key, image, label, state, step):
        return image, (label + 1) % 3

    _, _, metrics = played(
        **CLASSES, condition=turns.told("label"), augment=turns.Augment(next_class), rates=(0.0, 0.0)
    )
    psi = np.array(Slopes().start)[(LABELS + 1) % 3]
    assert float(metrics["discriminator/real_logits"]) == pytest.approx(np.mean(psi * LABELLED["image"][:, 0]))


# ------------------------------------------------------------------------------------------------------ conditions


class Told(nn.Module):
    """A generator or discriminator of whatever it is told; `note` gets the shapes of its arguments."""

    note: Callable
    shape: tuple = ()

    @nn.compact
    def __call__(self, *inputs, train):
        self.note([jnp.shape(x) for x in jax.tree.leaves(inputs)])
        x = sum(jnp.mean(x.reshape(x.shape[0], -1), axis=1, keepdims=True) for x in jax.tree.leaves(inputs))
        return nn.Dense(math.prod(self.shape))(x).reshape(-1, *self.shape)


def shapes_seen(condition, batch=BATCH, **options):
    """What generator and discriminator are called with, beside a real and beside a fake image."""
    generator, discriminator = [], []
    players = Told(generator.append, (2,)), Told(discriminator.append)
    traced(batch, players=players, condition=condition, **options)
    return generator[-1], discriminator[-2], discriminator[-1]


def test_a_condition_may_be_any_tree_and_whoever_is_told_nothing_is_not_passed_it():
    def condition(batch, step, key):
        tree = {"source": batch["image"], "mask": jnp.ones((len(batch["image"]), 2, 3))}
        return turns.Conditions(generator=tree, fake=tree)

    of_generator, *of_discriminator = shapes_seen(condition)
    assert of_generator == [(4, 3), (4, 2, 3), (4, 2)]
    assert of_discriminator == [[(4, 2)], [(4, 2), (4, 2, 3), (4, 2)]]


def test_without_latents_the_generator_is_called_with_the_condition_alone():
    batch = BATCH | {"source": np.ones((4, 7), np.float32)}
    seen = shapes_seen(turns.told("source"), batch, latent_dim=None)
    assert seen == ([(4, 7)], [(4, 2), (4, 7)], [(4, 2), (4, 7)])


def test_scalars_of_the_step_count_for_every_image():
    def fade(batch, step, key):
        return turns.Conditions(generator=step / 10)

    np.testing.assert_allclose(turns.conditions_of(fade, BATCH, jnp.array(5), KEY, 4).generator, [0.5] * 4)
    assert shapes_seen(fade)[0] == [(4, 3), (4,)]


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (turns.told("label"), ValueError, "told 'label', but the batch has only image; these data have no labels"),
        (turns.told("mask"), ValueError, "the networks are told 'mask', but the batch has only image"),
        (lambda *_: turns.Conditions(jnp.ones((3, 2))), ValueError, r"shape \(3, 2\) does not fit \d images"),
        (lambda *_: jnp.ones(4), TypeError, r"returns Conditions\(generator=\.\.\., real=\.\.\., fake=\.\.\.\), not"),
    ],
)
def test_a_condition_that_does_not_fit_is_one_sentence(condition, error, message):
    with pytest.raises(error, match=message):
        traced(condition=condition)


def test_networks_are_made_for_a_condition_by_an_example_and_need_latents_or_one():
    with pytest.raises(ValueError, match="a condition needs an example="):
        gan.init(KEY, *PLAYERS, **OPTIMIZERS, latent_dim=3, condition=turns.told())
    with pytest.raises(ValueError, match=r"without latents \(latent_dim=None\) the generator needs a condition"):
        gan.init(KEY, *PLAYERS, **OPTIMIZERS, latent_dim=None)
    spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in LABELLED.items()}
    options = CLASSES | {"batch": spec}
    shapes = jax.eval_shape(lambda: make(**options, condition=turns.told())[0])
    assert shapes.generator.params["theta"].shape == (3,)


def test_what_is_imitated_may_follow_the_step():
    def real(batch, step):
        return batch["image"] * (1 + step)

    state, step = make(real=real, rates=(0.0, 0.0))
    step = jax.jit(step)
    for i in range(2):
        expected = jnp.mean(judge(state.discriminator.params, IMAGES * (1 + i)))
        state, metrics = step(state, BATCH, KEY)
        assert float(metrics["discriminator/real_logits"]) == pytest.approx(float(expected), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- terms


@functools.cache
def five_steps():
    """A term with state, a lazy and a scheduled one, for each player: (times traced, states, metrics of each step)."""
    terms = [
        turns.Term("counted", lambda turn, count: (count, count + 1), init=lambda players: 0.0),  # a weak type
        turns.Term("lazy", lambda turn, n: (0.5, n + 1), init=lambda players: jnp.zeros((), jnp.int32), every=3),
        turns.term(lambda turn: turn.fake[:, 0] ** 0, name="scheduled", weight=lambda step: 0.5 * step),
    ]
    state, step = make(generator_terms=terms, discriminator_terms=terms)
    traces, states, metrics = [], [state], []

    @jax.jit
    def counted(state, batch, key):
        traces.append(1)
        return step(state, batch, key)

    for _ in range(5):
        state, found = counted(state, BATCH, KEY)
        states.append(state)
        metrics.append(found)
    return len(traces), states, metrics


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_terms_state_moves_in_its_player_and_is_an_array_of_one_type_so_that_no_step_is_traced_again(player):
    num_traces, states, metrics = five_steps()
    assert num_traces == 1
    assert [float(getattr(state, player).terms["counted"]) for state in states] == [0, 1, 2, 3, 4, 5]
    assert [float(m[f"{player}/counted"]) for m in metrics] == [0, 1, 2, 3, 4]
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in jax.tree.leaves(states))
    assert len({str(jax.tree.map(lambda x: (x.shape, x.dtype), state)) for state in states}) == 1


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_lazy_term_counts_as_many_times_as_it_is_rare_and_touches_nothing_between(player):
    _, states, metrics = five_steps()
    assert [float(m[f"{player}/lazy"]) for m in metrics] == [1.5, 0, 0, 1.5, 0]
    assert [int(getattr(state, player).terms["lazy"]) for state in states] == [0, 1, 1, 1, 2, 2]


def test_a_weight_may_follow_the_step():
    _, _, metrics = five_steps()
    assert [float(m["generator/scheduled"]) for m in metrics] == [0, 0.5, 1, 1.5, 2]


def test_terms_on_images_logits_and_parameters_have_the_gradient_of_the_whole_objective():
    def pixel(turn):
        return jnp.mean(jnp.abs(turn.fake - turn.batch["image"]), axis=1)

    def decay(turn):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(turn.generator_params))

    def elsewhere(turn):
        return jnp.mean(turn.generator(turn.inputs[0] + 1.0) ** 2)

    def margin(turn):
        return 0.3 * (turn.real_logits - turn.fake_logits) ** 2

    def shifted(turn):
        return (turn.as_real(turn.real + 0.1) - turn.discriminator(turn.fake)) ** 2

    def of_discriminator(turn):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(turn.discriminator_params))

    of_generator = [turns.term(pixel, weight=2.0), turns.term(decay), turns.term(elsewhere), turns.term(margin)]

    def expected(theta, psi):
        z = jax.random.normal(keys_of()[0], (4, LATENT_DIM))

        def of_generator(theta):
            fake = generate(theta, z)
            adversarial_part = jnp.mean(jax.nn.softplus(-judge(psi, fake)))
            pixels = 2 * jnp.mean(jnp.abs(fake - IMAGES)) + 0.3 * jnp.mean((judge(psi, IMAGES) - judge(psi, fake)) ** 2)
            squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(theta))
            return adversarial_part + pixels + squares + jnp.mean(generate(theta, z + 1) ** 2)

        def of_discriminator(psi):
            fake = generate(theta, z)
            real_logits, fake_logits = judge(psi, IMAGES), judge(psi, fake)
            total = jnp.mean(jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits))
            total += jnp.mean(0.3 * (real_logits - fake_logits) ** 2 + (judge(psi, IMAGES + 0.1) - fake_logits) ** 2)
            return total + sum(jnp.sum(x**2) for x in jax.tree.leaves(psi))

        return jax.grad(of_generator)(theta), jax.grad(of_discriminator)(psi)

    _, new, _, *directions = played(
        **RECORDING,
        generator_terms=of_generator,
        discriminator_terms=[turns.term(f) for f in (margin, shifted, of_discriminator)],
        beside=lambda state: expected(state.generator.params, state.discriminator.params),
    )
    close(recorded(new), tuple(directions), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("update_rule", [gan.alternating, gan.extragradient])
@pytest.mark.slow
def test_the_generator_that_a_term_calls_is_the_one_that_made_the_fake_images(update_rule):
    def apart(turn):
        return jnp.sum(jnp.abs(turn.generator(*turn.inputs) - turn.fake)) + jnp.sum(
            jnp.abs(generate(turn.generator_params, *turn.inputs) - turn.fake)
        )

    _, _, metrics = played(
        update_rule=update_rule,
        generator_terms=[turns.term(apart)],
        discriminator_terms=[turns.term(apart)],
    )
    assert float(metrics["generator/apart"]) < 1e-5 and float(metrics["discriminator/apart"]) < 1e-5


def test_what_a_look_ahead_makes_of_states_is_dropped():
    terms = [turns.Term("counted", lambda turn, count: (0.0, count + 1), init=lambda players: 0.0)]
    options = dict(generator_terms=terms, discriminator_terms=terms, update_rule=gan.extragradient)
    _, new, _ = played(**CLASSES, condition=turns.told(), **options)
    assert float(new.generator.terms["counted"]) == float(new.discriminator.terms["counted"]) == 1


def test_a_skipped_update_keeps_the_states_of_terms_and_augmentation():
    skipping = optim.skip_large_updates(optax.sgd(0.1))
    terms = [turns.Term("seen", lambda turn, s: (0.0, jnp.mean(turn.real) + s), init=lambda players: jnp.ones(()))]
    augment = turns.Augment(
        lambda key, image, condition, state, step: (image, condition),
        init=lambda: jnp.ones(()),
        update=lambda state, observed: state + 1,
    )
    state, step = make(
        generator_optimizer=skipping,
        discriminator_optimizer=skipping,
        loss=adversarial.relativistic,  # both players see the real images
        generator_terms=terms,
        discriminator_terms=terms,
        augment=augment,
    )
    step = jax.jit(step)
    good, _ = step(state, BATCH, KEY)
    assert float(good.discriminator.terms["augment"]) == 2 and float(good.generator.terms["seen"]) != 1
    bad, metrics = step(good, {"image": IMAGES * np.nan}, KEY)
    assert float(metrics["generator/skipped"]) == float(metrics["discriminator/skipped"]) == 1
    equal(bad.generator.terms, good.generator.terms)
    equal(bad.discriminator.terms, good.discriminator.terms)


def of_state(value, init=lambda players: jnp.zeros(2), name="mine"):
    return turns.Term(name, value, init)


@pytest.mark.parametrize(
    ("term", "error", "message"),
    [
        (turns.term(lambda turn: jnp.ones(3), name="mine"), ValueError, r"'mine' returned an array of shape \[3\]"),
        (turns.term(lambda turn: turn.fake, name="mine"), ValueError, r"shape \[4, 2\].*one for each of the 4 images"),
        (turns.term(lambda turn: None, name="mine"), TypeError, "the term 'mine' returned nothing"),
        (of_state(lambda turn, state: 1.0), TypeError, r"the term 'mine' must return \(value, state\)"),
        (of_state(lambda turn, state: (1.0, state[0])), ValueError, r"'mine' must keep its shapes: \[2\] became \[\]"),
        (of_state(lambda turn, state: (1.0, (1, 2))), ValueError, "the state of the term 'mine' must keep its shapes"),
        (of_state(lambda turn, state: (1.0, 2.0), None), ValueError, "'mine' returned a state, but has no init="),
    ],
)
def test_a_term_that_returns_something_else_is_one_sentence_that_names_it(term, error, message):
    for player in ("generator_terms", "discriminator_terms"):
        with pytest.raises(error, match=message):
            traced(**{player: [term]})


def test_names_of_terms_are_theirs_alone():
    def r1(turn):
        return 0.0

    def build(**options):
        return gan.make_train_step(*PLAYERS, **OPTIMIZERS, latent_dim=3, **options)

    build(generator_terms=[turns.term(r1)], discriminator_terms=[turns.term(r1)], penalties=[penalties.r1(1.0)])
    with pytest.raises(ValueError, match="generator/r1 is taken; give another name="):
        build(generator_terms=[turns.term(r1), turns.term(r1)])
    for name in ("loss", "grad_norm", "adversarial_weight"):
        with pytest.raises(ValueError, match=f"generator/{name} is taken"):
            build(generator_terms=[turns.term(r1, name=name)])
    lazy = turns.from_penalty(penalties.r1(1.0), every=16)
    with pytest.raises(ValueError, match="penalty/r1 is taken"):
        build(discriminator_terms=[lazy], penalties=[penalties.r1(1.0)])
    with pytest.raises(ValueError, match="states of terms are kept by name, and 'augment' is taken"):
        build(discriminator_terms=[of_state(lambda turn, state: (0.0, state), name="augment")])


@pytest.mark.parametrize(
    ("make_term", "error", "message"),
    [
        (lambda: turns.term(lambda turn: 1.0), TypeError, "a term needs a name, .* and a lambda has none; give name="),
        (lambda: turns.term(functools.partial(max, 1.0)), TypeError, "a term needs a name"),
        (lambda: turns.term(1.0, name="one"), TypeError, "a term is made of a function of the turn, not of 1.0"),
        (lambda: traced(generator_terms=turns.term(abs)), TypeError, r"write generator_terms=\[\.\.\.\]"),
        (lambda: traced(generator_terms=[abs]), TypeError, r"a term is made by turns\.term\(function\)"),
        (lambda: traced(generator_terms=[turns.term(abs, every=0)]), ValueError, "'abs' is due every 0 steps"),
    ],
)
def test_what_is_no_term_is_told_at_once(make_term, error, message):
    with pytest.raises(error, match=message):
        make_term()


def test_a_term_or_augmentation_that_was_forgotten_at_the_start_is_one_sentence():
    term = of_state(lambda turn, state: (0.0, state))
    for player in ("generator_terms", "discriminator_terms"):
        with pytest.raises(ValueError, match="no place for the term 'mine': give gan.init the same terms"):
            traced(**{player: [term]}, for_init={player: ()})
    augment = turns.Augment(lambda key, x, condition, state, step: (x * state, condition), init=lambda: jnp.ones(()))
    with pytest.raises(ValueError, match="no place for the augmentation's: give gan.init the same augment="):
        traced(augment=augment, for_init={"augment": None})
    with pytest.raises(ValueError, match="updates its state needs an init="):
        traced(augment=turns.Augment(augment.apply, update=lambda state, observed: state))
    with pytest.raises(TypeError, match=r"augment must be a function \(key, images\) -> images or an Augment"):
        traced(augment="flip")


def test_without_terms_the_state_has_exactly_the_tree_that_checkpoints_have():
    state = jax.eval_shape(lambda: make(penalties=[penalties.r1(1.0)])[0])
    assert type(state) is gan.GANState
    assert type(state.generator) is type(state.discriminator) is network.Network
    kernels = ["['Dense_0']['bias']", "['Dense_0']['kernel']", "['Dense_1']['bias']", "['Dense_1']['kernel']"]
    expected = [".step"] + [f".{player}.params{k}" for player in ("generator", "discriminator") for k in kernels]
    expected += [f".ema['params']{k}" for k in kernels]
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)] == expected


def test_under_vmap_over_seeds_a_lazy_term_stays_lazy_if_the_step_is_not_mapped():
    term = turns.term(lambda turn: jnp.mean(turn.fake**2), name="rare", every=4)
    state = jax.eval_shape(lambda: make(generator_terms=[term])[0])
    step = make(generator_terms=[term], only_step=True)
    states = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), state)

    def program(states, axes):
        mapped = jax.vmap(step, in_axes=(axes, None, None), out_axes=(axes, 0))
        return str(jax.make_jaxpr(mapped)(states, BATCH, KEY))

    axes = jax.tree.map(lambda x: 0, state)
    assert " cond[" not in program(states, axes)
    assert " cond[" in program(states.replace(step=state.step), axes.replace(step=None))


# ---------------------------------------------------------------------------------------------------------- logits


class Scales(nn.Module):
    """Images [B, 4, 4, 1] -> logits [B, 1], [B, 2, 2], or of patches and [B]."""

    kind: str

    @nn.compact
    def __call__(self, x, *, train):
        patches = x.reshape(-1, 2, 2, 2, 2, 1).swapaxes(2, 3).reshape(-1, 2, 2, 4)
        patches = jnp.tanh(nn.Dense(3)(patches))
        whole = nn.Dense(1)(patches.reshape(x.shape[0], -1))
        return {
            "column": whole,
            "patches": nn.Dense(1)(patches)[..., 0],
            "two scales": {"fine": nn.Dense(1)(patches)[..., 0], "coarse": whole[:, 0]},
        }[self.kind]


class Squares(nn.Module):
    """Latents -> images [B, 4, 4, 1]."""

    @nn.compact
    def __call__(self, z, *, train):
        return jnp.tanh(nn.Dense(16)(z)).reshape(-1, 4, 4, 1)


SQUARES = np.random.default_rng(1).uniform(-1, 1, (4, 4, 4, 1)).astype(np.float32)


@pytest.mark.parametrize("kind", ["column", "patches", "two scales"])
@pytest.mark.slow
def test_logits_of_a_picture_are_averaged_scales_add_up_and_penalties_are_of_the_mean_logit(kind):
    players = Squares(), Scales(kind)
    batch = {"image": SQUARES}

    def expected(theta, psi):
        z = jax.random.normal(keys_of()[0], (4, LATENT_DIM))

        def logits(psi, x):  # of each picture: its own mean of every scale
            found = jax.tree.leaves(players[1].apply({"params": psi}, x, train=True))
            return [leaf.reshape(4, -1) for leaf in found]

        def of_generator(theta):
            fake = players[0].apply({"params": theta}, z, train=True)
            return sum(jnp.mean(0.5 * (leaf - 1) ** 2) for leaf in logits(psi, fake))

        def of_discriminator(psi):
            fake = players[0].apply({"params": theta}, z, train=True)
            total = sum(jnp.mean(0.5 * (leaf - 1) ** 2) for leaf in logits(psi, SQUARES))
            total += sum(jnp.mean(0.5 * leaf**2) for leaf in logits(psi, fake))
            slope = jax.grad(lambda x: sum(jnp.sum(jnp.mean(leaf, axis=1)) for leaf in logits(psi, x)))(SQUARES)
            return total + 0.4 * jnp.sum(slope**2) / 4

        losses = of_generator(theta), of_discriminator(psi)
        return losses, (jax.grad(of_generator)(theta), jax.grad(of_discriminator)(psi))

    _, new, metrics, losses, directions = played(
        batch,
        beside=lambda state: expected(state.generator.params, state.discriminator.params),
        players=players,
        penalties=[penalties.r1(0.8)],
        loss=adversarial.least_squares,
        **RECORDING,
    )
    close(recorded(new), directions, rtol=1e-4, atol=1e-6)
    assert float(metrics["generator/loss"]) == pytest.approx(float(losses[0]), rel=1e-5)
    assert float(metrics["discriminator/loss"] + metrics["penalty/r1"]) == pytest.approx(float(losses[1]), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- augmentation


class Point(nn.Module):
    """Always the point 2."""

    @nn.compact
    def __call__(self, z, *, train):
        return jnp.full((z.shape[0], 1), self.param("theta", lambda key: jnp.asarray(2.0)))


class Slope(nn.Module):
    """D(x) = psi x, psi = 0.5."""

    @nn.compact
    def __call__(self, x, *, train):
        return self.param("psi", lambda key: jnp.asarray(0.5)) * x[:, 0]


DIRAC = dict(players=(Point(), Slope()), batch={"image": np.full((6, 1), 3.0, np.float32)}, **WASSERSTEIN)


def test_real_and_fake_images_are_augmented_differently_and_penalties_go_through_their_own_sides_change():
    def scale(key):
        return jax.random.uniform(key, minval=0.5, maxval=2.0)

    _, new, metrics = played(
        **DIRAC, augment=lambda key, x: x * scale(key), penalties=[penalties.r1(0.6), penalties.r2(0.4)]
    )
    key = keys_of()[1]
    of_real, of_fake = map(scale, jax.random.split(jax.random.fold_in(key, turns.AUGMENTATION)))
    own = jax.random.fold_in(jax.random.fold_in(key, turns.GENERATOR), turns.AUGMENTATION)
    later = scale(jax.random.split(own)[1])  # the generator's turn draws anew
    assert len({float(s) for s in (of_real, of_fake, later)}) == 3
    psi = 0.5 - 0.2 * (of_fake * 2 - of_real * 3 + 0.5 * (0.6 * of_real**2 + 0.4 * of_fake**2))
    assert float(new.discriminator.params["psi"]) == pytest.approx(float(psi), rel=1e-5)
    assert float(new.generator.params["theta"]) == pytest.approx(float(2 + 0.1 * psi * later), rel=1e-5)
    assert float(metrics["generator/loss"]) == pytest.approx(float(-psi * later * 2), rel=1e-5)
    assert float(metrics["penalty/r1"]) == pytest.approx(float(0.3 * (0.5 * of_real) ** 2), rel=1e-5)


def test_what_stands_for_real_images_is_so_for_the_loss_penalties_and_terms_of_the_discriminator_alone():
    augment = turns.Augment(
        apply=lambda key, x, condition, state, step: (x, condition),
        replace=lambda key, real, fake, condition, state, step: (10 * fake + real + state, condition.real),
        init=lambda: jnp.ones(()),
    )

    def seen(turn):
        return jnp.mean(turn.real)

    def cubed(discriminator_fn, real, fake, key):
        return jnp.mean(real) ** 3

    both = [turns.term(seen)]
    _, new, metrics = played(
        **DIRAC, augment=augment, penalties=[cubed], generator_terms=both, discriminator_terms=both, rates=(0.0, 0.2)
    )
    shown = 10 * 2 + 3 + 1
    assert float(metrics["discriminator/real_logits"]) == 0.5 * shown
    assert float(metrics["penalty/cubed"]) == pytest.approx(shown**3) and float(metrics["discriminator/seen"]) == shown
    assert float(metrics["generator/seen"]) == 3
    assert float(new.discriminator.params["psi"]) == pytest.approx(0.5 - 0.2 * (2 - shown), rel=1e-5)


def test_a_loss_may_follow_the_step():
    def loss(step):
        return adversarial.AdversarialLoss(
            generator=lambda real, fake: (step + 7) * fake, discriminator=lambda real, fake: (step + 5) * real
        )

    _, new, metrics = played(**DIRAC | {"loss": loss})
    assert float(metrics["discriminator/loss"]) == 5 * 0.5 * 3
    psi = 0.5 - 0.2 * 5 * 3
    assert float(new.generator.params["theta"]) == pytest.approx(2 - 0.1 * 7 * psi, rel=1e-5)
    with pytest.raises(TypeError, match="loss must be a pair of functions, .* not 'hinge'"):
        traced(**DIRAC | {"loss": lambda step: "hinge"})


def test_an_augmentation_with_state_is_updated_once_for_each_discriminator_step_by_the_logits_before_it():
    augment = turns.Augment(
        apply=lambda key, image, condition, state, step: (image * state["scale"], condition),
        init=lambda: {"scale": 1.0, "seen": 0.0},
        observe=lambda real_logits: {"logit": jnp.mean(real_logits)},
        update=lambda state, observed: {"scale": state["scale"] + 1, "seen": observed["logit"]},
        metrics=lambda state: {"scale": state["scale"]},
    )
    _, new, metrics = played(**DIRAC, augment=augment, num_discriminator_steps=3, rates=(0.0, 0.0))
    assert float(new.discriminator.terms["augment"]["scale"]) == 4 == float(metrics["augment/scale"])
    assert (
        float(metrics["discriminator/real_logits"]) == 0.5 * 3 * 3 == float(new.discriminator.terms["augment"]["seen"])
    )
    assert float(metrics["generator/loss"]) == -0.5 * 4 * 2  # the generator meets the latest state


def test_terms_see_images_as_they_are_and_as_the_discriminator_saw_them():
    def as_seen(turn):
        unchanged = jnp.all(turn.real == turn.batch["image"]) & jnp.all(turn.real_seen == 2 * turn.real)
        judged = jnp.allclose(turn.fake_logits, turn.discriminator(turn.fake_seen)) & jnp.allclose(
            turn.as_real(turn.real), turn.real_logits
        )
        return 1.0 * (unchanged & judged & jnp.all(turn.fake_seen == 2 * turn.fake))

    both = [turns.term(as_seen)]
    _, _, metrics = played(generator_terms=both, discriminator_terms=both, augment=lambda key, x: 2 * x)
    assert float(metrics["generator/as_seen"]) == float(metrics["discriminator/as_seen"]) == 1


# ---------------------------------------------------------------------------------------------- adversarial weight


def pixels(turn):
    return jnp.mean((turn.fake - turn.real) ** 2, axis=1)


def of_last_layer(tree):
    return optax.tree.norm(tree["Dense_1"])


def adaptive_weight(turn):
    """As in VQGAN: the quotient of both losses' gradients at the last layer."""
    return of_last_layer(turn.gradient(lambda images: jnp.mean((images - turn.real) ** 2))) / (
        of_last_layer(turn.gradient(turn.adversarial)) + 1e-4
    )


def directions_by_hand(state):
    """Gradients of the adversarial loss and of the pixels at the generator's parameters."""
    z = jax.random.normal(keys_of()[0], (4, LATENT_DIM))

    def adversarial_loss(theta):
        return jnp.mean(jax.nn.softplus(-judge(state.discriminator.params, generate(theta, z))))

    def pixel_loss(theta):
        return jnp.mean((generate(theta, z) - IMAGES) ** 2)

    theta = state.generator.params
    return jax.grad(adversarial_loss)(theta), jax.grad(pixel_loss)(theta)


@pytest.mark.parametrize("weight", [0.3, adaptive_weight])
def test_the_adversarial_loss_weighs_a_number_or_what_a_function_of_gradients_says(weight):
    _, new, metrics, of_adversarial, of_pixels = played(
        **RECORDING, beside=directions_by_hand, generator_terms=[turns.term(pixels)], adversarial_weight=weight
    )
    expected = weight
    if callable(weight):
        expected = float(of_last_layer(of_pixels) / (of_last_layer(of_adversarial) + 1e-4))
    assert float(metrics["generator/adversarial_weight"]) == pytest.approx(expected, rel=1e-5)
    whole = jax.tree.map(lambda a, b: expected * a + b, of_adversarial, of_pixels)
    close(recorded(new)[0], whole, rtol=1e-4, atol=1e-6)


def test_an_adaptive_weight_is_of_the_averaged_gradient_in_the_per_device_view():
    options = dict(generator_terms=[turns.term(pixels)], adversarial_weight=adaptive_weight)
    state, expected, expected_metrics = played(**options)
    step = make(**options, axis_name="data", only_step=True)
    new, metrics = sharding.pmap_step(step, num_devices=2)(state, BATCH, KEY)
    close(new, expected, rtol=1e-4, atol=1e-6)
    close(metrics, expected_metrics, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------- what networks draw, return and are given


class Noisy(nn.Module):
    """Draws noise of its own and returns codes, which are whole numbers, beside its images."""

    @nn.compact
    def __call__(self, z, *, train):
        assert self.is_initializing() or not self.has_rng("noise")  # and yet it can be drawn from
        x = self.look(z)
        x = x + 0.1 * jax.random.normal(self.make_rng("noise"), x.shape)
        return network.Output(x, {"codes": jnp.argmax(x, axis=-1), "features": x**2})

    @nn.compact
    def look(self, z, *, train=False):
        return nn.Dense(2, name="dense")(z)


class Counting(nn.Module):
    """A discriminator that counts how often it judged, and how often it was only drawn with, one upon the other."""

    @nn.compact
    def __call__(self, x, *, train):
        self._count("judged")
        self.variable("counts", "drawn", jnp.zeros, ())
        return nn.Dense(1, name="dense")(x.reshape(len(x), -1))[:, 0]

    @nn.compact
    def draw(self, x, *, train):
        self._count("drawn")
        return x * self.get_variable("counts", "judged")

    def _count(self, name):
        count = self.variable("counts", name, jnp.zeros, ())
        if not self.is_initializing():
            count.value = count.value + 1


@pytest.mark.parametrize("keep, drawn", [(True, 2.0), (False, 0.0)])
def test_a_term_of_the_discriminator_keeps_what_layers_change_that_judging_does_not_go_through(keep, drawn):
    """Two looks at a turn's images are two judgements, which a kept call sees; the generator's turn keeps nothing."""

    def twice(turn):
        looks = [jnp.mean(turn.discriminator(turn.real, method="draw", keep=keep)) for _ in range(2)]
        return looks[1] / jnp.mean(turn.real)

    players = (PLAYERS[0], Counting())
    for terms in ("discriminator_terms", "generator_terms"):
        state, step = make(players, **{terms: [turns.term(twice)]})
        after, metrics = jax.jit(step)(state, BATCH, KEY)
        of_discriminator = terms == "discriminator_terms"
        found = jax.tree.map(float, after.discriminator.model_state["counts"])
        assert found == {"judged": 2.0, "drawn": drawn if of_discriminator else 0.0}
        seen = float(metrics[f"{terms.removesuffix('_terms')}/twice"])
        assert seen == pytest.approx(
            {(True, True): 2, (True, False): 2, (False, True): 0, (False, False): 2}[keep, of_discriminator]
        )


def test_a_generator_may_draw_noise_and_return_whole_numbers_beside_its_images():
    def codes(turn):
        assert jnp.issubdtype(turn.generated_aux["codes"].dtype, jnp.integer)
        return jnp.mean(turn.generated_aux["features"]) + turn.generated_aux["codes"]

    def method(turn):
        return jnp.mean(jnp.abs(turn.generator(*turn.inputs, method="look") - turn.fake))

    def weight(turn):
        gradient = turn.gradient(lambda output: jnp.mean(output.value**2))
        return optax.tree.norm(gradient)

    terms = [turns.term(codes), turns.term(method)]
    state, step = make(
        (Noisy(), PLAYERS[1]), generator_terms=terms, discriminator_terms=terms, adversarial_weight=weight
    )
    step = jax.jit(step)
    found = [step(state.replace(step=jnp.array(i)), BATCH, KEY)[1] for i in range(2)]
    assert all(np.isfinite(x) for m in found for x in m.values())
    assert 0.01 < float(found[0]["generator/method"]) < 0.3  # the noise alone
    assert float(found[0]["generator/loss"]) != float(found[1]["generator/loss"])
    z = jnp.ones((3, LATENT_DIM))
    a, b, c = (gan.sample(Noisy(), state.ema, z, key=jax.random.key(i)) for i in (0, 0, 1))
    equal(a, b)
    assert np.any(a != c)


def test_frozen_arrays_travel_in_the_state_unchanged_and_are_no_constants_of_the_program():
    frozen = {"kernel": np.random.default_rng(2).normal(size=(2, 777)).astype(np.float32)}

    def perceptual(turn):
        return jnp.mean(((turn.fake - turn.real) @ turn.frozen["kernel"]) ** 2, axis=1)

    state, step = make(generator_terms=[turns.term(perceptual)], frozen=frozen)
    assert isinstance(state, gan.GANStateWithFrozen) and isinstance(state.frozen["kernel"], jax.Array)
    own = state.frozen["kernel"]
    program = jax.make_jaxpr(step)(state, BATCH, KEY)
    assert not any(777 in np.shape(constant) for constant in program.consts)
    assert "777" in str(program) and 777 not in {s for c in program.jaxpr.constvars for s in c.aval.shape}
    z = jax.random.normal(keys_of()[0], (4, LATENT_DIM))
    fake = generate(state.generator.params, z)
    new, metrics = jax.jit(step, donate_argnums=0)(state, BATCH, KEY)
    expected = np.mean(((fake - IMAGES) @ frozen["kernel"]) ** 2)
    assert float(metrics["generator/perceptual"]) == pytest.approx(float(expected), rel=1e-4)
    equal(new.frozen, frozen)
    assert own.is_deleted()
    mine = jnp.asarray(frozen["kernel"])
    copy = make(generator_terms=[turns.term(perceptual)], frozen={"kernel": mine})[0].frozen["kernel"]
    assert copy.unsafe_buffer_pointer() != mine.unsafe_buffer_pointer()


# ---------------------------------------------------------------------------------------------- the game's vector field


def recorded_field(state, step, batch):
    def field(players):
        at = state.replace(
            generator=state.generator.replace(params=players.generator),
            discriminator=state.discriminator.replace(params=players.discriminator),
        )
        return Players(*jax.tree.map(jnp.negative, recorded(step(at, batch, KEY)[0])))

    point = Players(state.generator.params, state.discriminator.params)
    return field, jax.tree.map(lambda x: x.astype(float), point)  # flax makes parameters in single precision


@pytest.mark.slow
@pytest.mark.usefixtures("double_precision")
def test_a_step_that_only_records_gradients_is_the_games_vector_field_and_so_are_its_derivatives():
    batch = {"image": IMAGES.astype(float)}
    z = jax.random.normal(keys_of()[0], (4, LATENT_DIM))

    def by_hand(players, gamma):
        theta, psi = players

        def of_generator(theta):
            return jnp.mean(jax.nn.softplus(-judge(psi, generate(theta, z))))

        def of_discriminator(psi):
            slope = jax.vmap(jax.grad(lambda x: judge(psi, x[None])[0]))(batch["image"])
            loss = jax.nn.softplus(-judge(psi, batch["image"])) + jax.nn.softplus(judge(psi, generate(theta, z)))
            return jnp.mean(loss + gamma / 2 * jnp.sum(slope**2, axis=1))

        return Players(*jax.tree.map(jnp.negative, (jax.grad(of_generator)(theta), jax.grad(of_discriminator)(psi))))

    @jax.jit
    def both(gamma):
        field, point = recorded_field(*make(batch=batch, **RECORDING, penalties=[penalties.r1(gamma)]), batch)
        fields = field, functools.partial(by_hand, gamma=gamma)
        direction = jax.tree.map(jnp.cos, point)
        return [(f(point), spectrum.transposed_product(f, point)(direction)) for f in fields]

    for gamma in (0.0, 0.7):  # without a penalty, and with one
        close(*both(gamma), rtol=3e-6, atol=1e-9)  # the last digit of a latent in float32 depends on the program


class Independent(mlp.Discriminator):
    images_are_independent = True


@pytest.mark.usefixtures("double_precision")
@pytest.mark.slow
def test_the_recorded_field_of_a_discriminator_that_judges_each_image_alone_has_the_same_reverse_mode():
    batch = {"image": IMAGES.astype(float)}
    independent = Independent(widths=(3,), activation=nn.tanh)
    options = dict(batch=batch, **RECORDING, penalties=[penalties.r1(0.7)])
    field, point = recorded_field(*make((PLAYERS[0], independent), **options), batch)
    reference, _ = recorded_field(*make(**options), batch)

    def product(field):
        return spectrum.transposed_product(field, point)(jax.tree.map(jnp.cos, point))

    close(*jax.jit(lambda: (product(field), product(reference)))(), rtol=1e-9, atol=1e-12)
