"""How gradients are taken: slices of a batch, added up, are the whole batch, for every train step and every device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import augmentation, classifier, gan, gradients, network, objective, optim, sharding, turns, vae
from jaxgen.losses import adversarial, penalties, terms, variational
from jaxgen.models import mlp

KEY = jax.random.key(2)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (12, 2, 2, 1)).astype(np.float32)
BATCH = {"image": IMAGES}
LATENT_DIM = 3

pytestmark = pytest.mark.usefixtures("fast_compilation")


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


class Generator(nn.Module):
    """Latents -> images [B, 2, 2, 1], and beside them whole numbers."""

    norm: bool = False
    dropout: float = 0.0
    aux: bool = False

    @nn.compact
    def __call__(self, z, *, train):
        x = nn.Dense(4)(z)
        x = nn.BatchNorm(use_running_average=not train)(x) if self.norm else x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        image = jnp.tanh(x).reshape(-1, 2, 2, 1)
        return network.Output(image, jnp.argmax(x, axis=-1)) if self.aux else image


class Discriminator(nn.Module):
    """Images -> logits [B]. With `counts` it keeps how often it was called, and how bright images are on average."""

    norm: bool = False
    counts: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(x.shape[0], -1)
        if self.counts:
            mean = self.variable("brightness", "mean", jnp.zeros, ())
            calls = self.variable("brightness", "calls", jnp.zeros, (), jnp.int32)
            if train and not self.is_initializing():
                mean.value, calls.value = 0.5 * mean.value + 0.5 * jnp.mean(x), calls.value + 1
        x = nn.Dense(3)(x)
        x = nn.BatchNorm(use_running_average=not train)(x) if self.norm else x
        return nn.Dense(1)(nn.tanh(x))[:, 0]


PLAYERS = Generator(), Discriminator()


def make(players=PLAYERS, optimizer=None, **options):
    """(state, train step) of a GAN."""
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    arguments = dict(generator_optimizer=optimizer, discriminator_optimizer=optimizer, latent_dim=LATENT_DIM)
    step = gan.make_train_step(*players, **arguments, **options)
    shared = {name: x for name, x in options.items() if name in ("generator_terms", "discriminator_terms", "augment")}
    return gan.init(KEY, *players, **arguments, **shared), step


GAMES = {
    "penalties and terms with state": dict(
        penalties=[penalties.r1(0.5)],
        discriminator_terms=[terms.lecam(0.3)],
        generator_terms=[terms.reconstruction(2.0)],
        augment=augmentation.adaptive(4, pipeline=lambda key, images, probability: images * (1 + probability)),
    ),
    "looks ahead, several turns, pairs, whole numbers": dict(
        players=(Generator(aux=True), Discriminator(counts=True)),
        loss=adversarial.relativistic,
        num_discriminator_steps=2,
        update_rule=gan.extragradient,
    ),
}


@functools.cache
def whole_and_in_slices(name):
    """(state, state and metrics after a step on the whole batch, and after one on two slices of it)."""

    @jax.jit
    def both():
        state, whole = make(**GAMES[name])
        _, in_slices = make(**GAMES[name], gradients=gradients.accumulated(2))
        return state, whole(state, BATCH, KEY), in_slices(state, BATCH, KEY)

    return both()


@pytest.mark.parametrize("name", GAMES)
def test_slices_of_a_gans_batch_are_the_whole_batch_for_both_players(name):
    _, whole, in_slices = whole_and_in_slices(name)
    close(in_slices, whole, rtol=1e-5, atol=1e-6)


def test_each_player_may_have_its_own_way_and_a_way_is_any_function():
    def doubled(gradient_of, examples, key):
        found, rest = gradient_of(examples, key)
        return jax.tree.map(lambda x: 2 * x, found), rest

    @jax.jit
    def both(state):
        options = dict(update_rule=gan.simultaneous, optimizer=optim.recording())
        ways = gradients.plain, (doubled, gradients.accumulated(3))
        return [make(**options, gradients=way)[1](state, BATCH, KEY)[0] for way in ways]

    whole, found = both(make(optimizer=optim.recording())[0])
    of_generator, of_discriminator = (
        [state.generator.opt_state.gradient for state in (whole, found)],
        [state.discriminator.opt_state.gradient for state in (whole, found)],
    )
    close(of_generator[1], jax.tree.map(lambda x: 2 * x, of_generator[0]), rtol=1e-5, atol=1e-6)
    close(of_discriminator[1], of_discriminator[0], rtol=1e-5, atol=1e-6)


def test_in_slices_the_fake_images_of_a_whole_batch_are_never_there():
    class Wide(nn.Module):
        @nn.compact
        def __call__(self, z, *, train):
            return Generator()(nn.tanh(nn.Dense(LATENT_DIM)(jnp.sin(nn.Dense(20_000)(z)))), train=train)

    def temporaries(num_slices):
        state, step = make(players=(Wide(), Discriminator()), gradients=gradients.accumulated(num_slices))
        batch = jax.tree.map(lambda x: jnp.concatenate([x] * 16), BATCH)
        return jax.jit(step).lower(state, batch, KEY).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(16) < temporaries(1) / 10


def test_slices_of_a_batch_that_is_divided_over_devices_are_the_whole_batch():
    name = "penalties and terms with state"
    state, expected, _ = whole_and_in_slices(name)
    step = make(**GAMES[name], gradients=gradients.accumulated(3))[1]
    found = sharding.jit_step(step, sharding.make_mesh(2), donate=False)(state, BATCH, KEY)
    close(jax.device_get(found), expected, rtol=1e-5, atol=1e-6)


LABELLED = BATCH | {"label": RNG.integers(0, 3, 12).astype(np.int32)}


class Encoder(nn.Module):
    """A posterior so narrow that it does not matter what is drawn."""

    @nn.compact
    def __call__(self, x, *, train):
        mean = nn.Dense(2)(x.reshape(x.shape[0], -1))
        return mean, jnp.full_like(mean, -60.0)


class Classifier(nn.Module):
    dropout: float = 0.0
    norm: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dropout(self.dropout, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x) if self.norm else x)


def autoencoder(way, optimizer):
    modules = Encoder(), mlp.BernoulliDecoder(image_shape=(2, 2, 1), widths=(3,))
    state = vae.init(KEY, *modules, optimizer=optimizer, image_shape=(2, 2, 1))
    step = vae.make_train_step(*modules, optimizer=optimizer, gradients=way, likelihood=variational.bernoulli)
    return state, step


def digits(way, optimizer, **options):
    model = Classifier(**options)
    state = classifier.init(KEY, model, optimizer=optimizer, image_shape=(2, 2, 1))
    return state, classifier.make_train_step(model, optimizer=optimizer, gradients=way)


def regression(way, optimizer):
    model = Classifier()

    def mean_square(params, model_state, batch, key, step):
        output, model_state = network.apply(model, params, model_state, batch["image"], key=key)
        loss = jnp.mean((output - batch["label"][:, None]) ** 2)
        return loss, (model_state, {"loss": loss})

    variables = model.init(KEY, IMAGES, train=True)
    return objective.init(variables, optimizer=optimizer), objective.make_train_step(
        mean_square, optimizer=optimizer, gradients=way
    )


@pytest.mark.parametrize("build", [autoencoder, digits, regression])
def test_slices_of_a_batch_are_the_whole_batch_for_one_network(build):
    @jax.jit
    def both(state):
        ways = gradients.plain, gradients.accumulated(4)
        found = [build(way, optax.sgd(0.1, momentum=0.9))[1](state, LABELLED, KEY) for way in ways]
        for _, metrics in found:
            metrics.pop("active_units", None)  # a count, of each slice
            metrics.pop("importance_weighted_bound", None)  # of what was drawn
        return found

    whole, in_slices = both(build(gradients.plain, optax.sgd(0.1, momentum=0.9))[0])
    close(in_slices, whole, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ by themselves


def square(examples, key):
    """Gradients and the rest of a batch, by hand."""
    x = examples["x"]
    return {"w": jnp.mean(x)}, {"largest": jnp.max(x), "rows": jnp.array(x.shape[0]), "number": 1.0}


def test_slice_i_holds_every_nth_example_and_draws_with_its_own_key():
    seen = []

    def gradient_of(examples, key):
        noise = jax.random.normal(key)
        jax.debug.callback(lambda x, noise: seen.append((x.tolist(), float(noise))), examples["x"], noise, ordered=True)
        return jnp.sum(examples["x"]), noise

    x = jnp.arange(6.0)
    total, noise = jax.jit(lambda: gradients.accumulated(3)(gradient_of, {"x": x}, KEY))()
    jax.effects_barrier()
    draws = [float(jax.random.normal(jax.random.fold_in(KEY, i))) for i in range(3)]
    assert [slice for slice, _ in seen] == [[0, 3], [1, 4], [2, 5]]
    np.testing.assert_allclose([drawn for _, drawn in seen], draws, rtol=1e-6)
    assert float(total) == 15 / 3 and float(noise) == pytest.approx(np.mean(draws), rel=1e-5)


def test_everything_is_averaged_but_whole_numbers_which_are_those_of_a_slice():
    found, rest = gradients.accumulated(2)(square, {"x": jnp.arange(4.0)}, KEY)
    assert float(found["w"]) == 1.5
    assert {name: float(x) for name, x in rest.items()} == {"largest": 2.5, "rows": 2, "number": 1}
    assert rest["rows"].dtype == jnp.int32


def test_one_slice_is_the_whole_batch_and_none_is_refused():
    assert gradients.accumulated(1) is gradients.plain
    with pytest.raises(ValueError, match="number of micro-batches must be at least 1, not 0"):
        gradients.accumulated(0)


def test_dropout_differs_from_slice_to_slice():
    seen = []

    def images(turn):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), turn.fake)
        return 0.0

    state, step = make(
        (Generator(dropout=0.5), Discriminator()),
        gradients=(gradients.accumulated(2), gradients.plain),
        generator_terms=[turns.term(images)],
        sample_latent=lambda key, shape: jnp.ones(shape),
    )
    jax.block_until_ready(jax.jit(step)(state, BATCH, KEY))
    jax.effects_barrier()
    assert len(seen) == 2 and seen[0].shape[0] == 6 and np.any(seen[0] != seen[1])


# ------------------------------------------------------------------------------------------------------------ refused


def traced(**options):
    jax.eval_shape(lambda: (lambda state, step: step(state, BATCH, KEY))(*make(**options)))


SLICED = gradients.accumulated(2)


@pytest.mark.parametrize(
    ("players", "ways"),
    [
        ((Generator(norm=True), Discriminator()), SLICED),
        ((Generator(norm=True), Discriminator()), (SLICED, gradients.plain)),
        ((Generator(), Discriminator(norm=True)), (gradients.plain, SLICED)),
        ((Generator(), Discriminator(norm=True)), (SLICED, gradients.plain)),  # through which the generator learns
    ],
)
def test_batch_normalisation_is_refused_in_whatever_network_sees_slices(players, ways):
    with pytest.raises(ValueError, match=r"cannot be taken in micro-batches .*batch normalisation.*batch_stats"):
        traced(players=players, gradients=ways)


def test_batch_normalisation_outside_of_slices_is_none_of_their_business():
    traced(players=(Generator(norm=True), Discriminator()), gradients=(gradients.plain, SLICED))


def test_batch_normalisation_of_one_network_is_refused_too():
    with pytest.raises(ValueError, match="by a network with batch normalisation"):
        jax.eval_shape(
            lambda: (lambda state, step: step(state, LABELLED, KEY))(*digits(SLICED, optax.sgd(0.1), norm=True))
        )


class Coupled(Discriminator):
    couples_images = True


class CoupledGenerator(Generator):
    couples_images = True


@pytest.mark.parametrize(
    ("players", "ways"),
    [
        ((Generator(), Coupled()), (gradients.plain, SLICED)),
        ((Generator(), Coupled()), (SLICED, gradients.plain)),
        ((CoupledGenerator(), Discriminator()), (SLICED, gradients.plain)),
    ],
)
def test_networks_that_say_that_images_affect_each_other_are_refused_at_once(players, ways):
    with pytest.raises(ValueError, match="Coupled.* lets images of a batch affect each other"):
        make(players=players, gradients=ways)
    make(players=players, gradients=gradients.plain)


def test_a_batch_that_does_not_divide_is_one_sentence_and_so_is_an_array_without_a_row_for_each_image():
    with pytest.raises(ValueError, match="5 micro-batches need a batch of a multiple of 5 images, not 12"):
        traced(gradients=gradients.accumulated(5))

    class Codebook(nn.Module):
        @nn.compact
        def __call__(self, z, *, train):
            return network.Output(Generator()(z, train=train), {"usage": jnp.zeros(64), "entropy": jnp.zeros(())})

    with pytest.raises(ValueError, match="needs a row for each image; here they have 12, 64, no rows"):
        traced(players=(Codebook(), Discriminator()), gradients=(gradients.plain, SLICED))
    traced(players=(Codebook(), Discriminator()), gradients=SLICED)  # each slice has what the generator makes for it
