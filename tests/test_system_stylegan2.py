"""StyleGAN2 as a system: its recipe, and what drawing can be told, in Python and on the command line."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from in_process import call
from PIL import Image

from jaxgen import augmentation, building, experiment, gan, loading, optim, turns
from jaxgen.losses import penalties
from jaxgen.system import Spec
from jaxgen.systems import dcgan, stylegan2

pytestmark = pytest.mark.usefixtures("scripts_in_process", "fast_compilation")


class Line(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, *, train):
        return jnp.squeeze(nn.Dense(self.features)(jnp.tanh(nn.Dense(4)(x))))


@pytest.mark.slow
def test_a_lazy_penalty_averaged_over_its_period_is_the_eager_one_in_value_and_gradient():
    """Optimisers that only record: parameters, and so the penalty of the same images, stay as they are."""
    batch, key, steps = {"image": jax.random.normal(jax.random.key(1), (8, 3))}, jax.random.key(2), 5
    recorders = {f"{player}_optimizer": optim.recording() for player in ("generator", "discriminator")}

    def averages(terms):
        players = Line(3), Line(1)
        settings = {"latent_dim": 2, "discriminator_terms": terms, **recorders}
        state, step = gan.init(jax.random.key(0), *players, **settings, example=batch), None
        step, found = jax.jit(gan.make_train_step(*players, **settings)), []
        for _ in range(steps):
            state, metrics = step(state, batch, key)
            found.append((metrics.get("penalty/r1", jnp.zeros(())), state.discriminator.opt_state.gradient))
        return jax.tree.map(lambda *x: sum(x) / steps, *found), found

    (lazy, lazy_gradient), one_by_one = averages([turns.from_penalty(penalties.r1(3.0), every=steps)])
    (eager, eager_gradient), _ = averages([turns.from_penalty(penalties.r1(3.0))])
    assert [float(value) > 0 for value, _ in one_by_one] == [True, False, False, False, False]
    np.testing.assert_allclose(lazy, eager, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), lazy_gradient, eager_gradient)
    (_, without), _ = averages([])
    assert optax.tree.norm(jax.tree.map(jnp.subtract, eager_gradient, without)) > 1e-2


def test_the_half_life_of_the_average_grows_with_the_images_seen_up_to_the_recipes():
    config = dataclasses.replace(stylegan2.TINY, batch_size=10, ema_half_life=1000.0, ema_ramp_up=0.05)
    assert float(config.ema_decay(0)) == 0  # the weights themselves
    for step, half_life in ((1, 0.5), (400, 200.0), (2000, 1000.0), (9999, 1000.0)):
        assert float(config.ema_decay(jnp.int32(step))) == pytest.approx(0.5 ** (10 / half_life), rel=1e-5)
    plain = dataclasses.replace(config, ema_ramp_up=0.0)
    assert float(plain.ema_decay(0)) == pytest.approx(0.1)  # a plain mean at first


def test_groups_of_changes_are_called_by_the_papers_letters():
    assert list(stylegan2.GROUPS) == ["b", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"]
    assert stylegan2.GROUPS["bgc"] == augmentation.BGC and stylegan2.GROUPS["bgcfnc"] == augmentation.ALL


def test_labels_that_the_data_do_not_have_are_refused():
    with pytest.raises(ValueError, match="these data have none; use --class-conditional False"):
        building.build_system(stylegan2.TINY, Spec.of_images((28, 28, 1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step, of the smallest system without what takes long to compile."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    config = dataclasses.replace(
        stylegan2.TINY,
        augmentation="none",
        path_length=0.0,
        r1=0.0,
        num_steps=1,
        num_devices=1,
        sample_every=0,
        class_conditional=False,
    )
    experiment.train(config, str(directory), progress=False)
    return directory


def drawn(run, tmp_path, *arguments):
    assert call("sample", run, *arguments, "--output", tmp_path / "drawn.npz") == 0
    return np.load(tmp_path / "drawn.npz")["image"]


@pytest.mark.slow
def test_truncation_is_told_on_the_command_line_and_brings_images_to_the_mean_one(run, tmp_path):
    all_of_it, same, mean = (
        drawn(run, tmp_path, "--num-images", 6, *told) for told in ((), ("--truncation", 1.0), ("--truncation", 0.0))
    )
    np.testing.assert_array_equal(all_of_it, same)
    assert np.any(all_of_it[0] != all_of_it[1])
    spread, noise = (np.abs(x.astype(int) - x[:1].astype(int)).max() for x in (all_of_it, mean))
    assert noise < 10 < 60 < spread  # of a strength that one step made


@pytest.mark.slow
def test_a_table_mixes_the_coarse_styles_of_its_rows_with_the_fine_ones_of_its_columns(run, tmp_path):
    table = drawn(run, tmp_path, "--mixing", 2, "--num-images", 3)
    assert table.shape == (16, 8, 8, 3) and np.all(table[0] == 255)
    trained = loading.load(run)
    z = trained.latents(jax.random.key(0), 6)
    coarse, fine = z[:3], z[3:]
    from jaxgen.images import to_uint8

    np.testing.assert_array_equal(table[1:4], to_uint8(np.asarray(trained.decode(fine))))
    np.testing.assert_array_equal(table[4::4], to_uint8(np.asarray(trained.decode(coarse))))
    own = trained.decode(coarse[1:2], mixing=2, fine=fine[2:3])
    np.testing.assert_allclose(table[4 + 4 + 3], to_uint8(np.asarray(own))[0], atol=1)
    for mixing, of in ((0, table[1:4]), (4, table[4::4])):
        mixed = drawn(run, tmp_path, "--mixing", mixing, "--num-images", 3)[4:].reshape(3, 4, 8, 8, 3)[:, 1:]
        for i in range(3):
            np.testing.assert_allclose(mixed[i, i].astype(int), of[i].astype(int), atol=1)
    assert call("sample", run, "--mixing", 2, "--num-images", 3, "--truncation", 0.5) == 0
    (picture,) = (run / "generated").glob("*_truncation-0.5_mixing-2.png")
    with Image.open(picture) as image:
        assert image.size[0] == image.size[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--truncation", 1.5), "truncation of StyleGAN2 is a number from 0 to 1, not 1.5"),
        (("--mixing", 7), "mixing of StyleGAN2 is a whole number from 0 to 4, not 7"),
    ],
)
def test_what_is_out_of_range_is_one_sentence(run, capsys, arguments, message):
    assert call("sample", run, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_another_system_says_what_it_can_be_told():
    system = building.build_system(dcgan.TINY, Spec.of_images((28, 28, 1)))
    with pytest.raises(ValueError, match="DCGAN cannot be told mixing: it is told only truncation"):
        loading.check_choices(system, {"mixing": 2})
