"""Terms of well-known methods: their formulas, and games that use them, with no change to a train step."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import augmentation, gan, network, sharding, turns
from jaxgen.losses import adversarial, penalties, terms
from jaxgen.turns import Conditions

KEY = jax.random.key(6)
RNG = np.random.default_rng(0)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


def turn_of(**given):
    """As much of a turn as a term needs."""
    return types.SimpleNamespace(**{"gradient": None, "key": KEY} | given)


def value(term, **given):
    return term.value(turn_of(**given), None)[0]


# ----------------------------------------------------------------------------------------------------------- formulas


def test_lecam_holds_logits_to_the_other_sides_running_mean_which_is_a_constant():
    term = terms.lecam(0.3, decay=0.9)
    assert term.weight == 0.3
    state = term.init(None)
    assert {name: float(a) for name, a in state.items()} == {"real": 0, "fake": 0}
    real, fake = jnp.array([[1.0, 3.0], [4.0, 6.0]]), jnp.array([[-1.0, -1.0], [-4.0, 0.0]])  # two logits a picture
    found, state = term.value(turn_of(real_logits=real, fake_logits=fake), state)
    np.testing.assert_allclose(found, [2.0**2 + 1, 5.0**2 + 2.0**2])  # from the means before the step
    close(state, {"real": 0.1 * 3.5, "fake": 0.1 * -1.5}, rtol=1e-6)
    state = {"real": jnp.array(2.0), "fake": jnp.array(-1.0)}

    def penalty(real, fake):
        found, new = term.value(turn_of(real_logits=real, fake_logits=fake), state)
        return jnp.sum(found) + sum(new.values())  # the state has no derivative

    slopes = jax.grad(penalty, (0, 1))(jnp.array([1.0, 3.0]), jnp.array([-1.0, 0.5]))
    np.testing.assert_allclose(slopes, [[4.0, 8.0], [-6.0, -3.0]])


def test_drift_is_the_mean_square_of_real_logits_alone():
    term = terms.drift(0.5)
    logits = {"real_logits": jnp.array([[1.0, 3.0], [4.0, 6.0]]), "fake_logits": jnp.array([9.0, 9.0])}
    np.testing.assert_allclose(value(term, **logits), [4.0, 25.0])  # two logits a picture: their mean counts
    assert (term.name, term.weight, terms.drift().weight) == ("drift", 0.5, 1e-3)


@pytest.mark.parametrize("layers", [(), (3,)], ids=["one w", "one w for each layer"])
def test_path_length_is_the_deviation_of_random_directions_lengths_from_their_running_mean(layers):
    # Images w A + b: J = A for every w, so that |J' y| needs no differentiation.
    a = jnp.asarray(RNG.normal(size=(*layers, 5, 2 * 3 * 1)).astype(np.float32))
    w = jnp.asarray(RNG.normal(size=(4, *layers, 5)).astype(np.float32))
    y = jax.random.normal(KEY, (2, 2, 3, 1)).reshape(2, 6) / np.sqrt(6)

    def generator(a):
        def run(x, method):
            if method == "map":
                return 2 * x
            return network.Output(jnp.einsum("b...f,...fp->bp", x, a).reshape(-1, 2, 3, 1), None)

        return run

    def by_hand(a):
        per_layer = jnp.sum(jnp.einsum("...fp,bp->b...f", a, y) ** 2, axis=-1).reshape(2, -1)
        lengths = jnp.sqrt(jnp.mean(per_layer, axis=1))
        return jnp.mean((lengths - 0.7) ** 2), 0.7 + 0.1 * (jnp.mean(lengths) - 0.7)

    term = terms.path_length(decay=0.1, mapping="map", synthesis="draw")
    assert (term.weight, term.every, float(term.init(None))) == (2.0, 4, 0.0)

    def found(a):
        return term.value(turn_of(generator=generator(a), inputs=(w,)), jnp.array(0.7))

    both = jax.jit(lambda a: [jax.value_and_grad(f, has_aux=True)(a) for f in (found, by_hand)])
    close(*both(a), rtol=1e-4)


def test_path_length_may_be_given_functions_and_of_a_generator_that_ignores_its_style_is_flat():
    term = terms.path_length(
        mapping=lambda turn, z: z, synthesis=lambda turn, w: 0 * w[:, :, None, None], batch_shrink=1
    )

    def penalty(z):
        return term.value(turn_of(inputs=(z,), generator=None), jnp.zeros(()))[0]

    z = jnp.ones((2, 3))
    assert float(penalty(z)) == 0 and not np.any(jax.grad(penalty)(z))  # 0, not NaN


def test_path_length_draws_the_same_in_the_per_device_view():
    z = jnp.asarray(RNG.normal(size=(4, 3)).astype(np.float32))

    def found(z, axis_name=None):
        term = terms.path_length(
            mapping=lambda turn, z: z,
            synthesis=lambda turn, w: jnp.sin(w)[:, :, None, None],
            batch_shrink=1,
            axis_name=axis_name,
        )
        return term.value(turn_of(inputs=(z,)), jnp.zeros(()))

    per_device = jax.jit(jax.vmap(functools.partial(found, axis_name="data"), axis_name="data"))(z.reshape(2, 2, 3))
    close(jax.tree.map(jnp.mean, per_device), jax.jit(found)(z), rtol=1e-5)


def test_reconstruction_averages_a_distance_to_an_array_of_the_batch():
    fake, target = RNG.normal(size=(2, 3, 4, 5, 1)).astype(np.float32)
    batch = {"image": target, "clean": 2 * target}
    np.testing.assert_allclose(
        value(terms.reconstruction(100.0), fake=fake, batch=batch), np.abs(fake - target).mean((1, 2, 3)), rtol=1e-5
    )
    squares = terms.reconstruction(1.0, terms.l2, "clean", name="squares")
    expected = ((fake - 2 * target) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(value(squares, fake=fake, batch=batch), expected, rtol=1e-5)
    assert (squares.name, terms.reconstruction(100.0).weight) == ("squares", 100.0)
    number = terms.reconstruction(1.0, lambda fake, target: jnp.max(fake))
    assert float(value(number, fake=fake, batch=batch)) == fake.max()


def test_a_reconstruction_that_cannot_be_is_one_sentence():
    with pytest.raises(TypeError, match=r"distance must be a function such as terms\.l1, not 'l1'"):
        terms.reconstruction(1.0, "l1")
    image = jnp.zeros((2, 4, 4, 1))
    with pytest.raises(ValueError, match="'reconstruction' needs 'target', but the batch has only image"):
        value(terms.reconstruction(1.0, target="target"), fake=image, batch={"image": image})
    with pytest.raises(ValueError, match=r"of shape \(4, 4, 1\) with a image of shape \(4, 4, 3\)"):
        value(terms.reconstruction(1.0), fake=image, batch={"image": jnp.zeros((2, 4, 4, 3))})


def test_feature_matching_adds_up_mean_differences_of_every_map_and_scale():
    real = {"fine": [jnp.ones((2, 4, 4, 3)), jnp.ones((2, 5))], "coarse": [jnp.ones((2, 2, 2, 1))]}
    fake = jax.tree.map(lambda x: x + 0.5, real) | {"coarse": [jnp.array([3.0, 0.0]).reshape(2, 1, 1, 1)]}
    term = terms.feature_matching()
    np.testing.assert_allclose(value(term, real_aux=real, fake_aux=fake), [0.5 + 0.5 + 2, 0.5 + 0.5 + 1])
    only = terms.feature_matching(1.0, lambda aux: aux["coarse"])
    np.testing.assert_allclose(value(only, real_aux=real, fake_aux=fake), [2, 1])
    assert term.weight == 10.0


def test_an_auxiliary_classifier_is_a_cross_entropy_of_which_the_generator_moves_the_fake_part():
    real, fake = jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]])), jnp.log(jnp.array([[4.0, 1.0], [1.0, 9.0]]))
    turn = dict(
        real_aux=real,
        fake_aux=fake,
        batch={"label": jnp.array([1, 0])},
        condition=Conditions(generator=jnp.array([0, 0])),
    )
    of_real, of_fake = np.log([4 / 3, 2]), np.log([5 / 4, 10])
    np.testing.assert_allclose(value(terms.auxiliary_classifier(), **turn), of_real + of_fake, rtol=1e-6)
    in_generators_turn = value(terms.auxiliary_classifier(), **turn, gradient=lambda function: None)
    np.testing.assert_allclose(in_generators_turn, of_fake, rtol=1e-6)
    only = terms.auxiliary_classifier(sides=("real",), labels=lambda turn: (turn.batch["label"] - 1, None))
    np.testing.assert_allclose(value(only, **turn), [np.log(4), np.nan], rtol=1e-6)  # label -1 is no class
    nested = terms.auxiliary_classifier(0.5, sides=("fake",), logits=lambda aux: aux["classes"])
    turn |= {"fake_aux": {"classes": fake}}
    np.testing.assert_allclose(value(nested, **turn), of_fake, rtol=1e-6)
    with pytest.raises(ValueError, match="sides are of 'real' and 'fake', not \\('both',\\)"):
        terms.auxiliary_classifier(sides=("both",))


@pytest.mark.parametrize("make_term", [terms.feature_matching, terms.auxiliary_classifier])
def test_a_term_of_what_the_discriminator_does_not_return_is_one_sentence(make_term):
    with pytest.raises(ValueError, match=r"returns nothing else: let it return network.Output\(logits, aux\)"):
        value(make_term(), real_aux=None, fake_aux=None)


def test_consistency_is_the_squared_change_of_logits_under_a_transformation_of_either_side():
    x = jnp.array([[1.0], [2.0]])

    def turn(psi):
        return dict(
            real=x,
            fake=-x,
            real_logits=psi * x[:, 0],
            fake_logits=-2 * psi * x[:, 0],
            as_real=lambda x: psi * x[:, 0],
            as_fake=lambda x: 2 * psi * x[:, 0],
        )

    def shift(key, x):
        return x + jax.random.uniform(key)

    shifted = float(jax.random.uniform(KEY))
    for side, slope in (("real", 1.0), ("fake", 2.0)):
        term = terms.consistency(10.0, shift, side)
        assert (term.name, term.weight) == (f"consistency_{side}", 10.0)

        def penalty(psi, term=term):
            return jnp.mean(value(term, **turn(psi)))

        expected = 9 * (slope * shifted) ** 2, 6 * (slope * shifted) ** 2  # both D(x) and D(T(x)) learn
        np.testing.assert_allclose(jax.value_and_grad(penalty)(3.0), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="side is 'real' or 'fake', not 'both'"):
        terms.consistency(1.0, shift, "both")


def test_near_latents_have_near_logits_and_other_pictures():
    z = jnp.asarray(RNG.normal(size=(3, 2)).astype(np.float32))
    told, e = jnp.array([1.0, 2.0, 3.0]), jax.random.normal(KEY, (3, 2))

    def turn(psi, theta):
        def generate(z, told):
            return network.Output((theta * told[:, None] * z)[:, None, :, None], None)

        return dict(
            inputs=(z, told),
            condition=Conditions(generator=told),
            generator=generate,
            as_fake=lambda x: psi * jnp.sum(x, (1, 2, 3)),
        )

    def penalty(term, psi, theta):
        return jnp.mean(value(term, **turn(psi, theta)))

    consistent, diverse = terms.latent_consistency(5.0, 0.1), terms.latent_diversity(0.5, 0.1)
    assert (consistent.name, consistent.weight) == ("latent_consistency", 5.0)
    assert (diverse.name, diverse.weight) == ("latent_diversity", 0.5)
    step = 0.1 * told[:, None] * e
    expected = jnp.mean((3 * 2 * step.sum(1)) ** 2)
    found = jax.value_and_grad(functools.partial(penalty, consistent))(3.0, 2.0)
    np.testing.assert_allclose(found, (expected, 2 / 3 * expected), rtol=1e-4)
    expected = -jnp.mean((2 * step) ** 2)
    found = jax.value_and_grad(lambda theta: penalty(diverse, 3.0, theta))(2.0)
    np.testing.assert_allclose(found, (expected, expected), rtol=1e-4)
    for make in (terms.latent_consistency, terms.latent_diversity):
        assert abs(float(penalty(make(1.0, 0.0), 3.0, 2.0))) == 0
        with pytest.raises(ValueError, match=f"'{make.__name__}' moves latents, and this generator has none"):
            value(make(1.0), **turn(3.0, 2.0) | {"inputs": (told,)})


def test_orthogonality_does_not_mind_lengths_biases_and_embeddings():
    rotation = np.linalg.qr(RNG.normal(size=(4, 3)))[0].astype(np.float32) * [1.0, 2.0, 5.0]
    free = {
        "Dense": {"kernel": jnp.asarray(rotation), "bias": jnp.ones(3)},
        "Embed": {"embedding": jnp.ones((4, 3))},
        "Norm": {"scale": jnp.ones((4, 3))},
    }
    assert float(value(terms.orthogonal(), generator_params=free, gradient=abs)) == pytest.approx(0, abs=1e-9)
    kernel = RNG.normal(size=(2, 2, 3, 4)).astype(np.float32)
    products = kernel.reshape(12, 4).T @ kernel.reshape(12, 4)
    expected = np.sum((products - np.diag(np.diag(products))) ** 2)
    params = {"Conv": {"kernel": kernel}, "Other": {"Dense": {"kernel": kernel}}}
    found = value(terms.orthogonal(), discriminator_params=params)  # in the discriminator's turn
    assert float(found) == pytest.approx(2 * expected, rel=1e-5)
    chosen = terms.orthogonal(1.0, lambda path: path[0] == "Other")
    assert float(value(chosen, generator_params=params, gradient=abs)) == pytest.approx(expected, rel=1e-5)


# -------------------------------------------------------------------------- five methods, each by arguments of a step


class Generator(nn.Module):
    """Latents, and labels if there are any, -> images [B, 4, 4, 1]."""

    @nn.compact
    def __call__(self, z, label=None, *, train):
        z = z if label is None else jnp.concatenate([z, jax.nn.one_hot(label, 3)], axis=1)
        return nn.tanh(nn.Dense(16)(nn.tanh(nn.Dense(6)(z)))).reshape(-1, 4, 4, 1)


def patches_of(x):
    """[B, 4, 4, C] -> [B, 2, 2, 4 C]."""
    return x.reshape(-1, 2, 2, 2, 2, x.shape[-1]).swapaxes(2, 3).reshape(-1, 2, 2, 4 * x.shape[-1])


class Discriminator(nn.Module):
    """Images, beside a source if there is one -> logits [B], of patches, or of two scales with their features."""

    kind: str = "one"

    @nn.compact
    def __call__(self, x, source=None, *, train):
        x = x if source is None else jnp.concatenate([source, x], axis=-1)
        fine = nn.tanh(nn.Dense(5)(patches_of(x)))
        if self.kind == "patches":
            return nn.Dense(1)(fine)[..., 0]
        if self.kind == "two scales":
            coarse = nn.tanh(nn.Dense(5)(x.mean((1, 2))))
            logits = {"fine": nn.Dense(1)(fine)[..., 0], "coarse": nn.Dense(1)(coarse)[:, 0]}
            return network.Output(logits, {"fine": fine, "coarse": coarse})
        fine = fine.reshape(x.shape[0], -1)
        logits = nn.Dense(1)(fine)[:, 0]
        return network.Output(logits, nn.Dense(3)(fine)) if self.kind == "classes" else logits


class StyleGenerator(nn.Module):
    """Two layers, each with its style and noise; styles of two latents are mixed."""

    def setup(self):
        self.style = nn.Dense(4)
        self.modulation = [nn.Dense(6), nn.Dense(6)]
        self.layers = [nn.Dense(6), nn.Dense(16)]

    def mapping(self, z, *, train):
        first, second = (nn.tanh(self.style(x)) for x in (z, jax.random.normal(self.make_rng("mixing"), z.shape)))
        crossover = jax.random.bernoulli(self.make_rng("mixing"), 0.9, (z.shape[0], 1))
        return jnp.stack([first, jnp.where(crossover, second, first)], axis=1)

    def synthesis(self, w, *, train):
        x = jnp.ones((w.shape[0], 6))
        for i, layer in enumerate(self.layers):
            x = layer(x * (1 + self.modulation[i](w[:, i])))
            x = nn.tanh(x + 0.1 * jax.random.normal(self.make_rng("noise"), x.shape))
        return x.reshape(-1, 4, 4, 1)

    def __call__(self, z, *, train):
        return self.synthesis(self.mapping(z, train=train), train=train)


class Translator(nn.Module):
    """A source [B, 4, 4, 2] -> an image [B, 4, 4, 1], down, up, and across; dropout is its only noise."""

    @nn.compact
    def __call__(self, source, *, train):
        down = nn.tanh(nn.Dense(4)(patches_of(source)))
        middle = nn.Dropout(0.5, deterministic=not train)(nn.tanh(nn.Dense(4)(down)))
        up = nn.Dense(4)(jnp.concatenate([middle, down], axis=-1)).reshape(-1, 2, 2, 2, 2, 1).swapaxes(2, 3)
        return nn.tanh(nn.Dense(1)(jnp.concatenate([up.reshape(-1, 4, 4, 1), source], axis=-1)))


BATCH = {
    "image": RNG.uniform(-1, 1, (8, 4, 4, 1)).astype(np.float32),
    "source": RNG.uniform(-1, 1, (8, 4, 4, 2)).astype(np.float32),
    "label": RNG.integers(0, 3, 8).astype(np.int32),
}


METHODS = {
    "LeCam and consistency": dict(
        loss=adversarial.hinge,
        discriminator_terms=[
            terms.lecam(0.3, decay=0.5),
            terms.consistency(10.0, augmentation.translation),
            terms.consistency(5.0, augmentation.translation, "fake"),
        ],
    ),
    "latent consistency and the best half": dict(
        loss=adversarial.top_k(adversarial.non_saturating, 0.5),
        discriminator_terms=[terms.latent_consistency(5.0)],
        generator_terms=[terms.latent_diversity(0.5)],
    ),
    "fakes shown as real": dict(
        augment=augmentation.pseudo(8, num_images=16, target=-1.0, augment=augmentation.diff_augment()),
        condition=lambda batch, step, key: Conditions(generator=batch["label"]),
        num_discriminator_steps=2,
    ),
    "adaptive augmentation": dict(
        augment=augmentation.adaptive(8, num_images=16, target=-1.0, decay=0.5, pipeline=augmentation.blits),
        penalties=[penalties.r1(1.0)],
    ),
    "adaptive augmentation of all three groups": dict(
        augment=augmentation.adaptive(8, num_images=16, target=-1.0, decay=0.5),
        penalties=[penalties.r1(1.0)],
        num_discriminator_steps=2,
    ),
    "path length with style mixing": dict(
        players=(StyleGenerator(), Discriminator()), generator_terms=[terms.path_length(every=2)]
    ),
    "pix2pix": dict(
        players=(Translator(), Discriminator("patches")),
        condition=turns.told("source"),
        latent_dim=None,
        generator_terms=[terms.reconstruction(100.0)],
        rate=0.002,
    ),
    "two scales and their features": dict(
        players=(Generator(), Discriminator("two scales")),
        loss=adversarial.least_squares,
        generator_terms=[terms.feature_matching(), terms.orthogonal()],
    ),
}


def build(settings):
    """(init, train step)."""
    settings = dict(settings)
    players, rate = settings.pop("players", (Generator(), Discriminator())), settings.pop("rate", 0.02)
    arguments = dict(
        generator_optimizer=optax.sgd(rate),
        discriminator_optimizer=optax.sgd(rate),
        latent_dim=settings.pop("latent_dim", 3),
    )
    shared = ("condition", "generator_terms", "discriminator_terms", "augment")
    of_init = {name: settings[name] for name in shared if name in settings}
    return (
        lambda key: gan.init(key, *players, **arguments, **of_init, example=BATCH),
        gan.make_train_step(*players, **arguments, **settings),
    )


def three_steps(step, state, key):
    for _ in range(3):
        state, metrics = step(state, BATCH, key)
    return jax.device_get((state, metrics))


LONG = ("adaptive augmentation of all three groups", "fakes shown as real")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in METHODS])
def test_a_method_is_arguments_of_a_step_and_does_the_same_on_two_devices_and_in_two_runs_at_once(name):
    init, step = build(METHODS[name])
    keys = jax.random.split(jax.random.key(0), 2)
    states = jax.jit(jax.vmap(init))(keys)
    compiled = jax.jit(step)
    runs = [three_steps(compiled, jax.tree.map(lambda x, i=i: x[i], states), keys[i]) for i in range(2)]
    state, metrics = runs[0]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(runs))
    for player in ("generator", "discriminator"):
        assert float(metrics[f"{player}/update_norm"]) > 0
        for old, new in zip(*(jax.tree.leaves(getattr(s, player).params) for s in (states, state)), strict=True):
            assert np.any(old[0] != new)
    first = jax.tree.map(lambda x: x[0], states)
    divided = sharding.jit_step(step, sharding.make_mesh(2), donate=False)
    close(three_steps(divided, first, keys[0]), runs[0], rtol=1e-3, atol=1e-5)
    together = three_steps(jax.jit(jax.vmap(step, in_axes=(0, None, 0))), states, keys)
    for i in range(2):
        close(jax.tree.map(lambda x, i=i: x[i], together), runs[i], rtol=1e-3, atol=1e-5)


def test_an_auxiliary_classifier_teaches_both_players_classes_that_only_the_generator_is_told():
    init, step = build(
        dict(
            players=(Generator(), Discriminator("classes")),
            condition=lambda batch, step, key: Conditions(generator=batch["label"]),
            generator_terms=[terms.auxiliary_classifier()],
            discriminator_terms=[terms.auxiliary_classifier()],
            rate=0.1,
        )
    )
    compiled, state, found = jax.jit(step), init(KEY), []
    for _ in range(20):
        state, metrics = compiled(state, BATCH, KEY)
        found.append(metrics)
    for player, sides in (("generator", 1), ("discriminator", 2)):
        first, last = (float(m[f"{player}/auxiliary_classifier"]) for m in (found[0], found[-1]))
        assert last < 0.8 * first and first < 2 * sides * np.log(3)


def test_the_probability_of_an_adaptive_augmentation_moves_with_the_images_of_every_discriminator_step():
    init, step = build(METHODS["adaptive augmentation"])
    state = jax.eval_shape(init, KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state.discriminator.terms["augment"]) == {
        "probability": ((), jnp.float32),
        "sign": ((), jnp.float32),
    }
    _, metrics = jax.eval_shape(step, state, BATCH, KEY)
    assert {"augment/probability", "augment/sign"} <= set(metrics)
