"""Systems of variational autoencoders: counts, settings, what is refused. The mathematics: test_latent_models.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import data, description, optim, systems
from jaxgen.data import binarisation
from jaxgen.options import Data
from jaxgen.system import Spec
from jaxgen.systems import cvae, flexible_vae, iwae, m2, regularised_vae

DIGITS = Spec.of_images((28, 28, 1), 10)
static = jax.jit(binarisation.static)

pytestmark = pytest.mark.usefixtures("fast_compilation")


@functools.cache
def counts(preset):
    config = systems.PRESETS[preset].config
    return systems.module_of(config).build(config, DIGITS).parameters


def test_the_networks_of_the_iwae_paper_have_their_exact_numbers_of_parameters():
    assert counts("mnist-iwae-1") == counts("mnist-iwae-1-short") == {"encoder": 217_300, "decoder": 207_984}
    assert sum(counts("mnist-iwae-1").values()) == 425_284
    two = {"encoder": 237_400, "posterior": 30_300, "prior": 35_400, "decoder": 217_984}
    assert counts("mnist-iwae-2") == counts("mnist-iwae-2-short") == two
    assert sum(two.values()) == 521_084


def test_what_other_systems_add_to_the_network_of_the_paper():
    d, k = 40, 500
    encoder, decoder = 784 * 200 + 200 + 200 * 200 + 200, d * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784

    def heads(*sizes):
        return encoder + 201 * sum(sizes)

    assert counts("mnist-vampprior") == {"encoder": heads(d, d), "decoder": decoder, "prior": k * 784}
    assert counts("mnist-planar-vae") == {"encoder": heads(d, d, 10 * d, 10 * d, 10), "decoder": decoder}
    step = (d + 1) * 320 + 65 * 320 + 2 * 321 * d  # masked weights are counted, too
    assert counts("mnist-iaf-vae") == {"encoder": heads(d, d, 64), "decoder": decoder, "posterior": 2 * step}
    assert counts("mnist-svae")["encoder"] == heads(11, 1)
    assert counts("mnist-realnvp-prior")["prior"] == 8 * (21 * 64 + 65 * 40)
    told = {"encoder": 217_300 + 10 * 200, "decoder": 207_984 + 10 * 200}
    assert counts("mnist-cvae") == told
    assert counts("mnist-m2") == told | {"classifier": encoder + 201 * 10}


def test_every_preset_describes_itself_without_data():
    for module in (iwae, regularised_vae, flexible_vae, cvae, m2):
        for preset in module.PRESETS.values():
            spec = description.spec_of(preset.config, preset)
            module.build(preset.config, spec)


def test_the_stages_of_the_iwae_paper_are_eight_and_end_at_a_tenth():
    rate = optim.in_stages(1e-3, 9_840_000)
    ends = 3000 * np.cumsum(3 ** np.arange(8))
    assert ends[-1] == 9_840_000
    rates = [float(rate(int(end) - 1)) for end in ends]
    np.testing.assert_allclose(rates, [1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4], rtol=1e-6)
    np.testing.assert_allclose([float(rate(int(end))) for end in ends[:-1]], rates[1:], rtol=1e-6)
    assert float(rate(0)) == pytest.approx(1e-3)
    step = optax.adam(rate)
    state = jax.eval_shape(lambda x: step.update(x, step.init(x)), jnp.zeros(3))
    assert state[0].dtype == jnp.float32


def test_static_binarisation_draws_once_with_the_grey_levels_as_probabilities():
    images = jnp.asarray(data.mnist("test").arrays["image"][:400], jnp.float32) / 127.5 - 1
    images = images.reshape(-1, 28, 28, 1)
    drawn = static(images, jax.random.key(0))
    np.testing.assert_array_equal(drawn[:7], static(images[:7], jax.random.key(1)))
    np.testing.assert_array_equal(drawn[3], static(images[3], jax.random.key(1)))
    assert set(np.unique(drawn)) == {-1, 1}
    np.testing.assert_array_equal(np.asarray(drawn)[np.abs(images) == 1], np.asarray(images)[np.abs(images) == 1])
    grey = np.abs(np.asarray(images)) < 1
    difference = (np.asarray(drawn) - np.asarray(images))[grey]
    assert abs(difference.mean()) < 4 * difference.std() / grey.sum() ** 0.5
    same = jnp.tile(jnp.zeros((1, 28, 28, 1)), (2, 1, 1, 1))  # equal images have equal draws, and others do not
    moved = static(same.at[1, 0, 0, 0].set(0.5), jax.random.key(0))
    assert np.mean(np.asarray(moved[0] != moved[1])) > 0.4


def test_known_labels_are_a_share_that_stays():
    images = jnp.asarray(data.mnist("test").arrays["image"][:2000], jnp.float32).reshape(-1, 28, 28, 1) / 127.5 - 1
    images = static(images, jax.random.key(0))
    known = m2.is_known(images, 6000, 60_000)
    share, error = float(known.mean()), (0.1 * 0.9 / len(images)) ** 0.5
    assert abs(share - 0.1) < 4 * error
    assert bool(jnp.all(m2.is_known(images[:50], 60_000, 60_000)))
    wider = m2.is_known(images, 12_000, 60_000)
    assert bool(jnp.all(wider | ~known))


@pytest.mark.slow
def test_the_bound_of_an_unlabelled_image_is_largest_where_the_classifier_is_the_posterior_of_the_label():
    """sum_y q (L_y - log q) <= log sum_y exp L_y, with equality at q = softmax(L): M2's U is a bound of log p(x)."""
    of_each = jnp.array([-3.0, -1.0, -2.5])

    def bound(logits):
        log_q = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(log_q) * (of_each - log_q))

    assert float(bound(of_each)) == pytest.approx(float(jax.nn.logsumexp(of_each)), rel=1e-6)
    assert float(bound(jnp.zeros(3))) < float(bound(of_each))
    config = dataclasses.replace(m2.TINY, num_labels=60_000)
    labelled, none = (
        m2.build(dataclasses.replace(config, num_labels=number, classification=0.0), DIGITS) for number in (60_000, 1)
    )
    batch = {"image": jnp.sign(jax.random.normal(jax.random.key(0), (8, 28, 28, 1))), "label": jnp.arange(8)}
    state, key = labelled.init(jax.random.key(1)), jax.random.key(2)
    known, m = jax.jit(labelled.train_step)(state, batch, key)
    unknown, u = jax.jit(none.train_step)(state, batch, key)
    still = jax.tree.map(np.array_equal, known.network.params["classifier"], state.network.params["classifier"])
    assert all(jax.tree.leaves(still))  # only its own loss, which has no weight here, and U move the classifier
    moved = jax.tree.map(np.array_equal, unknown.network.params["classifier"], state.network.params["classifier"])
    assert not all(jax.tree.leaves(moved))
    assert float(m["known"]) == 1 and float(u["known"]) == 0
    assert float(m["loss"]) == pytest.approx(float(m["distortion"] + m["rate"] + np.log(10)), rel=1e-5)


def test_what_does_not_go_together_is_refused_in_a_sentence():
    grey = Data()
    unlabelled = Spec.of_images((28, 28, 1))
    for module, changes, spec, message in (
        (iwae, dict(data=grey), DIGITS, "needs binarised images"),
        (iwae, dict(bound="miwae", num_samples=5, groups=2), DIGITS, "5 samples cannot be divided into 2 groups"),
        (flexible_vae, dict(posterior="von_mises_fisher", prior="sphere", latent_dim=1), DIGITS, "2 or more, not 1"),
        (flexible_vae, dict(posterior="von_mises_fisher"), DIGITS, "does not go with the prior"),
        (flexible_vae, dict(posterior="iaf"), DIGITS, "which iaf flows do not have"),
        (regularised_vae, dict(deterministic=True), DIGITS, "--capacity-weight needs"),
        (regularised_vae, dict(num_components=3), DIGITS, "goes with --deterministic"),
        (cvae, {}, unlabelled, "these images have none"),
        (cvae, dict(data=grey), DIGITS, "needs binarised images"),
        (m2, {}, unlabelled, "these images have none"),
        (m2, dict(data=Data(binarise="dynamic")), DIGITS, "take --data.binarise static"),
        (m2, dict(num_labels=70_000), DIGITS, "70000 labels cannot be known of 60000 images"),
    ):
        with pytest.raises(ValueError, match=message):
            module.build(dataclasses.replace(module.TINY, **changes), spec)
    system = cvae.build(cvae.TINY, DIGITS)
    with pytest.raises(ValueError, match="is told labels, and these images have none"):
        jax.eval_shape(system.train_step, system.shapes, {"image": jnp.ones((8, 28, 28, 1))}, jax.random.key(0))
