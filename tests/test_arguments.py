"""What the library's functions refuse, in one sentence with the cure: seeds, modules, variables, factories, images."""

import importlib
import inspect
import pkgutil
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jaxgen
from jaxgen import arguments, augmentation, classifier, data, gan, gradients, network, objective, sharding, turns, vae
from jaxgen.losses import adversarial, penalties, terms, variational
from jaxgen.metrics import likelihood
from jaxgen.stability import updates

KEY = jax.random.key(0)
IMAGE = np.zeros((2, 8, 8, 1), np.float32)


def modules_of_the_library():
    found = [jaxgen]
    for one in pkgutil.walk_packages(jaxgen.__path__, "jaxgen."):
        if not one.name.endswith("__main__"):
            found.append(importlib.import_module(one.name))
    return found


def public_functions():
    """{qualified name: function} of everything public that is defined in the library."""
    return {
        f"{module.__name__}.{name}": function
        for module in modules_of_the_library()
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey, lambda seed: jax.random.key(seed, impl="rbg")])
def test_keys_of_both_kinds_are_taken_alone_and_as_one_of_many(make):
    arguments.check_key(make(0))
    jax.eval_shape(arguments.check_key, make(0))
    jax.eval_shape(jax.vmap(arguments.check_key), jnp.stack([make(0), make(1)]))
    arguments.check_key(np.array([0, 7], np.uint32))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (7, r"not a seed: write jax\.random\.key\(7\)"),
        (np.int64(7), r"not a seed: write jax\.random\.key\(7\)"),
        (jnp.int32(7), r"not a seed: write jax\.random\.key\(seed\)"),
        (None, "such as jax.random.key(0), not None"),
        (0.5, "not 0.5"),
        ("0", "not '0'"),
        (jnp.zeros(2), "not an array of float32 of shape [2]"),
        (jax.random.split(KEY, 3), "one key, not an array of keys of shape [3]"),
        (jax.random.split(jax.random.PRNGKey(0), 3), "one key, not an array of keys of shape [3]"),
    ],
)
def test_what_is_no_key_is_refused(wrong, message):
    message = message if "\\" in message else re.escape(message)
    with pytest.raises(TypeError, match=message):
        arguments.check_key(wrong)


# Their `key` is no random key, or is not used; or they are steps' parts, which are given the step's own.
NO_RANDOM_KEY = {
    "jaxgen.arguments.check_key",
    "jaxgen.models.attention.attend",
    "jaxgen.gradients.plain",
    "jaxgen.network.init_with_output",  # a dict of keys, too
}
# These hand it to functions that check it, are told it by a step that did, or look at it only where a setting is drawn.
HANDED_ON = re.compile(
    r"jaxgen\.(evaluation|opening|drawing|loop|first_batch|dispatch|watching|data|commands\.sample|systems)\."
    r"|jaxgen\.metrics\.comparison\.two_sets\.(?!compare|of_)"
    r"|jaxgen\.degradations\.(blurring|compression|linear|resizing|noise\.number_between)"
    r"|jaxgen\.models\.normalisation\."  # an initialiser
)


def test_every_public_function_that_takes_a_key_refuses_a_seed_at_once():
    taken = {name: f for name, f in public_functions().items() if "key" in inspect.signature(f).parameters}
    used = {name: f for name, f in taken.items() if "    del key\n" not in inspect.getsource(f)}
    checked = {n: f for n, f in used.items() if n not in NO_RANDOM_KEY and not HANDED_ON.match(n)}
    assert {"jaxgen.gan.init", "jaxgen.vae.init", "jaxgen.sharding.draw", "jaxgen.metrics.fid.standard_error"} <= set(
        checked
    )
    for name, function in (checked | {"data.batch": data.batch}).items():
        needed = {
            parameter.name: object()
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        }
        with pytest.raises(TypeError, match="not a seed: write"):
            function(**needed | {"key": 0})
            pytest.fail(f"{name} takes 0 for a key")


class Net(nn.Module):
    """[B, ...] -> [B, ...] of another shape."""

    shape: tuple = ()

    @nn.compact
    def __call__(self, x, *, train):
        y = nn.Dense(int(np.prod(self.shape, initial=1)))(x.reshape(len(x), -1))
        return y.reshape(len(x), *self.shape)


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        y = nn.Dense(6)(x.reshape(len(x), -1))
        return y[:, :3], y[:, 3:]


SGD = optax.sgd(0.1)
PLAYERS = dict(generator_optimizer=SGD, discriminator_optimizer=SGD, latent_dim=3)
GENERATOR, DISCRIMINATOR = Net((8, 8, 1)), Net(())
VAE = (Encoder(), Net((8, 8, 1)))


@pytest.fixture(scope="module")
def states():
    """Shapes of a state of each family, which is all that a trace needs."""
    return {
        "gan": jax.eval_shape(lambda: gan.init(KEY, GENERATOR, DISCRIMINATOR, **PLAYERS)),
        "vae": jax.eval_shape(lambda: vae.init(KEY, *VAE, optimizer=SGD, image_shape=(8, 8, 1))),
        "classifier": jax.eval_shape(lambda: classifier.init(KEY, Net((4,)), optimizer=SGD, image_shape=(8, 8, 1))),
    }


def steps():
    return {
        "gan": gan.make_train_step(GENERATOR, DISCRIMINATOR, **PLAYERS),
        "vae": vae.make_train_step(*VAE, optimizer=SGD),
        "classifier": classifier.make_train_step(Net((4,)), optimizer=SGD),
    }


BATCH = {"image": IMAGE, "label": np.zeros(2, np.int32)}


@pytest.mark.parametrize("family", ["gan", "vae", "classifier"])
def test_a_step_refuses_a_seed_and_takes_a_key_of_older_code_also_under_jit_and_vmap(states, family):
    step, state = steps()[family], states[family]
    with pytest.raises(TypeError, match="not a seed"):
        jax.eval_shape(step, state, BATCH, 0)
    with pytest.raises(TypeError, match="one key, not an array of keys"):
        jax.eval_shape(step, state, BATCH, jax.random.split(KEY, 2))
    jax.eval_shape(step, state, BATCH, jax.random.PRNGKey(0))
    jax.eval_shape(jax.vmap(step, (None, None, 0)), state, BATCH, jax.random.split(KEY, 2))
    with pytest.raises(TypeError, match="not a seed"):
        sharding.jit_step(step, sharding.make_mesh(1))(state, BATCH, 0)


# Modules --------------------------------------------------------------------------------------------------------------


class WithoutTrain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)


class OfNNX(nnx.Module):
    def __call__(self, x, *, train):
        return x


class OfHaiku:
    init = staticmethod(lambda key, x: {})
    apply = staticmethod(lambda params, key, x: x)


WRONG_MODULES = [
    (WithoutTrain(), "__call__ of WithoutTrain does not take: write def __call__(self, x, *, train)"),
    (WithoutTrain, "not the class: write WithoutTrain(...)"),
    (nn.Sequential([nn.Dense(3)]), "__call__ of Dense does not take: call it in a module of your own"),
    (OfNNX(), "not OfNNX of Flax NNX"),
    (OfHaiku(), "not an OfHaiku: here a network holds no parameters"),
    (jnp.tanh, "not the function tanh"),
    (None, "not None"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_MODULES)
def test_a_network_is_an_instance_of_a_linen_module_that_takes_train(wrong, message):
    shape = {"image_shape": (8, 8, 1), "optimizer": SGD}
    calls = {
        "generator": [
            lambda: gan.init(KEY, wrong, DISCRIMINATOR, **PLAYERS),
            lambda: gan.make_train_step(wrong, DISCRIMINATOR, **PLAYERS),
        ],
        "discriminator": [
            lambda: gan.init(KEY, GENERATOR, wrong, **PLAYERS),
            lambda: gan.make_train_step(GENERATOR, wrong, **PLAYERS),
        ],
        "encoder": [lambda: vae.init(KEY, wrong, VAE[1], **shape), lambda: vae.make_eval_step(wrong, VAE[1])],
        "decoder": [
            lambda: vae.init(KEY, VAE[0], wrong, **shape),
            lambda: vae.make_train_step(VAE[0], wrong, optimizer=SGD),
        ],
        "model": [
            lambda: classifier.init(KEY, wrong, **shape),
            lambda: classifier.make_train_step(wrong, optimizer=SGD),
            lambda: classifier.make_eval_step(wrong),
        ],
    }
    for name, ways in calls.items():
        for call in ways:
            with pytest.raises(TypeError, match=f"^{name} .*{re.escape(message)}"):
                call()
    for call in (
        lambda: network.images_from(wrong, {}, IMAGE[:, 0, 0]),
        lambda: network.apply(wrong, {}, {}, IMAGE),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            call()


def test_a_network_that_is_told_something_says_how_it_is_called():
    told = dict(condition=turns.told("label"), example=BATCH)
    with pytest.raises(TypeError, match=r"generator is called with 2 inputs and train=.*Net\.__call__\(x, \*, train\)"):
        gan.init(KEY, GENERATOR, DISCRIMINATOR, **PLAYERS, **told)


# Functions that are handed over ---------------------------------------------------------------------------------------


def vector(discriminator_fn, real, fake, key):
    return jnp.zeros((3, 2))


def factory_of_four(weight=1.0, target=1.0, axis_name=None, other=None):
    return vector


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(penalties=[penalties.r1]), "penalty r1 does not take .*: penalties.r1"),
        (dict(penalties=[penalties.gradient_penalty]), "penalty gradient_penalty does not take"),
        (dict(penalties=[penalties.dragan]), "penalty dragan does not take"),
        (dict(penalties=[factory_of_four]), "'factory_of_four' returned the function vector: .* to be called first"),
        (dict(penalties="r1"), r"must be a list of functions: write penalties=\[penalties\.r1\(gamma=1\.0\)\]"),
        (dict(penalties=[vector]), r"'vector' returned an array of shape \[3, 2\]; a term is one number"),
        (dict(penalties=[lambda *_: 0.0, lambda *_: 0.0]), "two share one: <lambda>, <lambda>"),
        (dict(discriminator_terms=[terms.lecam]), r"not the function lecam; a factory is to be called"),
        (dict(generator_terms=[terms.path_length]), r"not the function path_length; a factory is to be called"),
        (dict(generator_terms=["l1"]), "not 'l1'"),
        (dict(generator_terms=[turns.term(lambda turn: "x", name="odd")]), "'odd' returned 'x'"),
        (dict(generator_terms=[turns.term(lambda turn: {}, name="odd")]), "'odd' returned a dict of nothing"),
        (
            dict(generator_terms=[turns.term(lambda turn: 0.0, name="odd", weight=optax.constant_schedule)]),
            "weight= of the term 'odd' must be a number, or a schedule",
        ),
        (dict(augment=augmentation.diff_augment), "diff_augment does not take; a factory is to be called"),
        (dict(augment=augmentation.adaptive), "adaptive does not take; a factory is to be called"),
        (dict(condition=turns.told), "told does not take; a factory is to be called"),
        (dict(gradients=gradients.accumulated), "accumulated does not take; a factory is to be called"),
        (dict(gradients=4), "gradients must be a function"),
        (dict(ema_decay=network.warmed_up), "ema_decay must be a number, or a schedule .* returned the function"),
        (dict(update_rule="simultaneous"), "update_rule must be a function such as gan.simultaneous, not"),
        (dict(loss="hinge"), "loss must be a pair of functions, .* not 'hinge'"),
        (dict(loss=adversarial.AdversarialLoss), "loss must be a pair of functions"),
        (dict(generator_optimizer=optax.adam), "generator_optimizer must be an optax transformation"),
    ],
)
def test_a_factory_that_was_not_called_or_a_name_is_refused_with_what_to_write(states, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        step = gan.make_train_step(GENERATOR, DISCRIMINATOR, **PLAYERS | settings)
        jax.eval_shape(step, states["gan"], BATCH, KEY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(likelihood="bernoulli"), "not 'bernoulli'"),
        (dict(likelihood=variational.Likelihood), "not the class Likelihood"),
        (dict(likelihood=variational.gaussian_log_likelihood), "not the function gaussian_log_likelihood"),
        (dict(beta="1"), "beta must be a number"),
        (dict(beta=optax.constant_schedule), "beta must be a number, .* the schedule returned the function"),
        (dict(gradients=gradients.accumulated), "a factory is to be called"),
    ],
)
def test_the_same_of_a_vae(states, settings, message):
    with pytest.raises(TypeError, match=message):
        step = vae.make_train_step(*VAE, **{"optimizer": SGD} | settings)
        jax.eval_shape(step, states["vae"], BATCH, KEY)


# Variables ------------------------------------------------------------------------------------------------------------


def test_variables_of_other_networks_and_whole_states_are_refused_with_what_to_give():
    encoder, decoder = VAE
    z, key = jnp.zeros((2, 3)), KEY
    parts = {"encoder": encoder.init(key, IMAGE, train=False), "decoder": decoder.init(key, z, train=False)}
    state = objective.init_group(parts, optimizer=SGD)
    images = jnp.zeros((2, 8, 8, 1))
    users = {
        "decoder": lambda variables: vae.sample(decoder, variables, z),
        "encoder": lambda variables: vae.encode(encoder, variables, images),
    }
    users["encoder "] = lambda variables: vae.reconstruct(encoder, decoder, variables, images)
    users[" encoder"] = lambda variables: vae.make_eval_step(*VAE)(variables, {"image": images}, key)
    users["  encoder"] = lambda variables: likelihood.make_eval_step(*VAE)(variables, {"image": images}, key)
    for name, use in users.items():
        use(state.ema)
        with pytest.raises(ValueError, match=rf"key '{name.strip()}', such as state.ema.* give all of state.ema, not"):
            use(state.ema[name.strip()])
        with pytest.raises(TypeError, match="not a whole State: give state.ema"):
            use(state)
        with pytest.raises(TypeError, match="not a Network: give its .variables"):
            use(state.network)
        with pytest.raises(TypeError, match="must be a dict such as state.ema, not None"):
            use(None)
    own = state.ema["decoder"]
    for variables, error, message in [
        (state.ema, ValueError, "not those of Net, they hold decoder, encoder"),
        (own["params"], ValueError, "not those of Net, they hold Dense_0"),
        (state.ema["encoder"], ValueError, "do not fit z of shape"),
        (state, TypeError, "not a whole State"),
        (state.network, TypeError, "not a Network"),
        ([own], TypeError, "not a list"),
    ]:
        with pytest.raises(error, match=message) as found:
            gan.sample(decoder, variables, z)
        assert "http" not in str(found.value)
    with pytest.raises(TypeError, match="not a whole State"):
        classifier.make_eval_step(Net((4,)))(state, BATCH, key)


def test_encoding_gives_the_posterior_as_the_evaluation_takes_it():
    encoder, decoder = VAE
    image = jnp.tanh(jax.random.normal(KEY, (5, 8, 8, 1)))
    state = vae.init(KEY, *VAE, optimizer=SGD, image_shape=(8, 8, 1))
    posterior = vae.encode(encoder, state.ema, image)
    assert isinstance(posterior, vae.Posterior)
    assert posterior.mean.shape == posterior.logvar.shape == (5, 3)
    numbers = vae.make_eval_step(*VAE)(state.ema, {"image": image}, KEY)
    np.testing.assert_array_equal(posterior.mean, numbers["posterior_mean"])
    kl = variational.gaussian_kl(*posterior)
    np.testing.assert_allclose(kl, numbers["rate"], rtol=1e-5)
    draws = vae.reparameterize(posterior.mean, posterior.logvar, jax.random.normal(KEY, (4000, 5, 3)))
    np.testing.assert_allclose(jnp.mean(draws, 0), posterior.mean, atol=0.1)
    np.testing.assert_allclose(jnp.log(jnp.var(draws, 0)), posterior.logvar, atol=0.15)
    np.testing.assert_array_equal(
        vae.reconstruct(*VAE, state.ema, image), vae.sample(decoder, state.ema, posterior.mean)
    )
    vae.encode(encoder, state.ema, image + 0.7)  # noise is no fault
    with pytest.raises(ValueError, match=r"scale with x / 127\.5 - 1"):
        vae.encode(encoder, state.ema, (image + 1) * 127.5)
    with pytest.raises(TypeError, match="uint8"):
        vae.encode(encoder, state.ema, jnp.zeros((5, 8, 8, 1), jnp.uint8))


@pytest.mark.parametrize("found", [jnp.zeros((2, 6)), (jnp.zeros((2, 3)),) * 3, (jnp.zeros((2, 3)), jnp.zeros(3))])
def test_an_encoder_that_returns_something_else_is_told_what_it_should(found):
    class Other(nn.Module):
        def __call__(self, x, *, train):
            return found

    with pytest.raises(ValueError, match=r"an encoder returns \(mean, logvar\), each \[B, latent_dim\], not"):
        vae.init(KEY, Other(), VAE[1], optimizer=SGD, image_shape=(8, 8, 1))


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gan", "vae", "classifier"])
@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((2, 8, 8, 1), np.uint8), TypeError, "127.5"),
        (np.zeros((2, 1, 8, 8), np.float32), ValueError, r"channels first: give x\.transpose"),
        (np.zeros((2, 3, 8, 9), np.float32), ValueError, "channels first"),
    ],
)
def test_bytes_and_channels_first_are_seen_by_a_compiled_step(states, family, image, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(steps()[family], states[family], BATCH | {"image": image}, KEY)


def test_what_the_values_tell_is_seen_outside_of_jit():
    with pytest.raises(ValueError, match=r"scale with x / 127\.5 - 1"):
        network.images_of({"image": np.full((2, 8, 8, 1), 255, np.float32)})
    with pytest.warns(UserWarning, match=r"none below 0, .* give 2 \* image - 1"):
        network.images_of({"image": np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 8, 8, 1)})
    with pytest.raises(TypeError, match="array of JAX or NumPy, not a list"):
        network.images_of({"image": IMAGE.tolist()})
    with pytest.raises(TypeError, match="dict with the key 'image', not a tuple"):
        network.images_of((IMAGE, 0))


def test_a_compiled_step_over_devices_sees_values_at_its_first_batch():
    step = sharding.jit_step(lambda state, batch, key: (state, {}), sharding.make_mesh(1), donate=False)
    with pytest.warns(UserWarning, match="none below 0"):
        step({"x": jnp.zeros(())}, {"image": np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 8, 8, 1)}, KEY)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 48)])
def test_an_image_shape_with_the_channels_first_is_refused(shape):
    for init in (lambda: vae.init(KEY, *VAE, optimizer=SGD, image_shape=shape),
                 lambda: classifier.init(KEY, Net((4,)), optimizer=SGD, image_shape=shape)):  # fmt: skip
        with pytest.raises(ValueError, match=r"expected \(H, W, C\), which looks like channels first"):
            init()


# Words ----------------------------------------------------------------------------------------------------------------


def test_no_default_of_a_public_function_is_nameless():
    shown = {}
    for name, function in public_functions().items():
        shown[name] = str(inspect.signature(function))
    for module in modules_of_the_library():
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and kind.__module__ == module.__name__ and not name.startswith("_"):
                for own, method in vars(kind).items():
                    if inspect.isfunction(method) and (own == "__init__" or not own.startswith("_")):
                        shown[f"{module.__name__}.{name}.{own}"] = str(inspect.signature(method))
    nameless = {name for name, text in shown.items() if "<lambda>" in text}
    assert nameless <= {"jaxgen.watching.make_evaluate"}


def test_records_of_functions_are_short_to_read():
    assert repr(variational.bernoulli) == (
        "Likelihood(log_prob=_bernoulli_log_prob, mean=_bernoulli_mean, sample=None)"
    )
    assert repr(adversarial.hinge) == "AdversarialLoss(generator=_negative_logit, discriminator=_hinge)"
    for record in (
        *(getattr(adversarial, name) for name in ("minimax", "non_saturating", "least_squares", "wasserstein")),
        terms.lecam(0.3),
        augmentation.adaptive(4),
        turns.from_penalty(penalties.r1()),
        updates.simultaneous(0.1),
    ):
        assert " at 0x" not in repr(record)
        assert len(repr(record)) < 160
