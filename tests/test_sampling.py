"""What drawing can be told beside labels: truncated latents, standing statistics, films; the commands of its page."""

import dataclasses
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from a_run import make_run
from flax import linen as nn
from in_process import call, script
from PIL import Image
from test_readme import PAGES, ROOT, commands

from jaxgen import building, drawing, experiment, images, interpolation, loading, turns
from jaxgen.loading import Trained
from jaxgen.models.batch_norm import ConditionalBatchNorm
from jaxgen.system import MissingCapability, Spec
from jaxgen.systems import dcgan, progan, stylegan2, vae
from jaxgen.systems.shared import two_player

pytestmark = pytest.mark.usefixtures("scripts_in_process", "fast_compilation")
KEY = jax.random.key(3)


class Linear(nn.Module):
    """A linear map, normalised by the batch: [B, D], and labels [B] where there are classes -> [B, 2, 2, 1]."""

    num_classes: int = 0
    norm: bool = True

    @nn.compact
    def __call__(self, z, label=None, *, train):
        x = nn.Dense(4, name="map", bias_init=nn.initializers.normal(3.0))(z)
        if self.num_classes:
            x = x + nn.Embed(self.num_classes, 4, name="shift")(label)
            x = ConditionalBatchNorm(self.num_classes, momentum=0.8, name="norm")(x, label, train=train)
        elif self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return x.reshape(-1, 2, 2, 1)


class Judge(nn.Module):
    @nn.compact
    def __call__(self, x, label=None, *, train):
        return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


def trained_of(system, spec):
    return Trained(system, jax.jit(system.init)(jax.random.key(0)), {}, {}, spec)


def linear(num_classes=0, **settings):
    """A run of the linear generator, not trained."""
    spec = Spec.of_images((2, 2, 1), num_classes)
    config = two_player.TwoPlayers(latent_dim=3, batch_size=8)
    generator = Linear(num_classes, **settings)
    told = {"condition": turns.told("label")} if num_classes else {}
    system = two_player.build(config, spec, generator, Judge(), name="linear", num_labels=num_classes, **told)
    return trained_of(system, spec)


# Truncation -----------------------------------------------------------------------------------------------------------


def test_latents_are_those_of_always_unless_they_are_truncated_and_then_none_lies_beyond():
    run = linear()
    np.testing.assert_array_equal(run.latents(KEY, 5), jax.random.normal(KEY, (5, 3)))
    np.testing.assert_array_equal(run.draw(KEY, 5), run.decode(jax.random.normal(KEY, (5, 3))))
    z = np.asarray(run.latents(KEY, 20_000, truncation=0.5), float)
    assert 0.499 < np.abs(z).max() <= 0.5
    density, mass = np.exp(-0.125) / np.sqrt(2 * np.pi), 0.3829249
    np.testing.assert_allclose(z.var(), 1 - 2 * 0.5 * density / mass, rtol=0.02)  # of the truncated normal
    np.testing.assert_allclose(z.mean(), 0, atol=0.01)
    np.testing.assert_allclose(
        run.draw(KEY, 5, truncation=0.5), run.decode(run.latents(KEY, 5, truncation=0.5)), rtol=1e-6
    )
    assert np.abs(run.latents(KEY, 5, truncation=0.0)).max() < 1e-30


def test_every_system_with_normal_latents_can_truncate_them_and_others_mean_something_else_or_nothing():
    spec = Spec.of_images((32, 32, 3), 10)
    gan = building.build_system(dcgan.TINY, spec)
    assert gan.choices == {"truncation": two_player.TRUNCATION} and gan.latent_choices == ("truncation",)
    assert gan.protocol["latents"] == "standard normal, not truncated"
    assert not building.build_system(progan.TINY, spec).choices
    style = building.build_system(stylegan2.TINY, spec)
    assert style.choices["truncation"][:2] == (0, 1) and not style.latent_choices
    assert building.build_system(vae.TINY, spec).latent_choices == ("temperature",)


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda run: run.draw(KEY, 2, truncation=6.0), "truncation of linear is a number from 0 to 5, not 6.0"),
        (
            lambda run: run.decode(jnp.zeros((2, 3)), truncation=1.0),
            "of its latents, which decode is given: tell latents",
        ),
        (lambda run: run.latents(KEY, 2, label=1), "label of linear is of its images: tell decode, or draw"),
        (lambda run: run.latents(KEY, 2, psi=1), "cannot be told psi"),
        (lambda run: drawing.with_choices(run, label=1), "label is told where images are drawn"),
    ],
)
def test_what_is_told_to_the_wrong_one_is_one_sentence(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(linear(2))


def test_a_temperature_is_the_deviation_of_a_vaes_latents():
    spec = Spec.of_images((28, 28, 1))
    run = trained_of(building.build_system(vae.TINY, spec), spec)
    z = jax.random.normal(KEY, (4, 3))
    np.testing.assert_array_equal(run.latents(KEY, 4), z)
    np.testing.assert_allclose(run.latents(KEY, 4, temperature=0.7), 0.7 * z, rtol=1e-6)
    cold = run.draw(KEY, 4, temperature=0.0)
    np.testing.assert_allclose(cold, np.broadcast_to(cold[:1], cold.shape), atol=1e-5)


def test_a_run_that_is_always_told_something_draws_so_and_its_protocol_says_it():
    run = linear()
    told = drawing.with_choices(run, truncation=0.5)
    np.testing.assert_array_equal(told.draw(KEY, 4), run.draw(KEY, 4, truncation=0.5))
    words = "standard normal; truncation 0.5 (coordinates of latents beyond it are drawn again)"
    assert told.system.protocol["latents"] == words
    with pytest.raises(ValueError, match="cannot be told truncation"):
        told.draw(KEY, 4, truncation=0.5)
    assert run.system.protocol["latents"] == "standard normal, not truncated" and drawing.with_choices(run) is run


# Standing statistics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [0, 2])
def test_standing_statistics_are_mean_and_variance_over_all_batches_together(num_classes):
    run = linear(num_classes)
    label = {"label": [1, 0, 0]} if num_classes else {}
    standing = drawing.with_standing_statistics(run, KEY, num_batches=3, batch_size=16, truncation=1.5, **label)
    params = run.variables["generator"]["params"]
    z = [run.system.latents(jax.random.fold_in(KEY, i), 16, truncation=1.5) for i in range(3)]
    x = np.concatenate(z) @ params["map"]["kernel"] + params["map"]["bias"]
    if num_classes:
        x = x + np.asarray(params["shift"]["embedding"])[np.tile(np.resize([1, 0, 0], 16), 3)]
    found = standing.variables["generator"]["batch_stats"]["norm"]
    np.testing.assert_allclose(found["mean"], x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["var"], x.var(axis=0), rtol=1e-4)
    assert abs(np.asarray(x).mean()) > 0.1  # so that running averages, 0 and 1 at first, are others
    drawn = standing.draw(KEY, 8, truncation=1.5, **({"label": 1} if num_classes else {}))
    assert np.abs(drawn - run.draw(KEY, 8, truncation=1.5, **({"label": 1} if num_classes else {}))).max() > 0.1


def test_standing_statistics_depend_on_their_key_alone_and_leave_the_run_as_it_was():
    run = linear()
    before = jax.tree.map(np.asarray, run.variables)
    once, again, other = (
        drawing.with_standing_statistics(run, key, num_batches=2) for key in (KEY, KEY, jax.random.key(9))
    )
    jax.tree.map(np.testing.assert_array_equal, once.variables, again.variables)
    means = [x.variables["generator"]["batch_stats"]["norm"]["mean"] for x in (once, other)]
    assert np.abs(means[0] - means[1]).max() > 0
    jax.tree.map(np.testing.assert_array_equal, run.variables, before)
    assert once.state is run.state
    assert once.system.protocol["batch_statistics"] == "standing, of 2 batches of 256 drawn images"
    np.testing.assert_array_equal(
        once.variables["generator"]["params"]["map"]["kernel"], before["generator"]["params"]["map"]["kernel"]
    )


@pytest.mark.slow
def test_every_layer_of_a_published_generator_gets_standing_statistics_from_a_single_batch_as_training_sees_it():
    """With one batch, what is drawn in evaluation is what the same batch is in training."""
    spec = Spec.of_images((28, 28, 1))
    run = trained_of(building.build_system(dcgan.TINY, spec), spec)
    standing = drawing.with_standing_statistics(run, KEY, num_batches=1, batch_size=16)
    z = run.latents(jax.random.fold_in(KEY, 0), 16)
    generator, variables = run.system.game.generator, run.variables["generator"]
    expected, _ = jax.jit(lambda z: generator.apply(variables, z, train=True, mutable=["batch_stats"]))(z)
    np.testing.assert_allclose(standing.decode(z), expected, rtol=1e-3, atol=1e-5)
    assert np.abs(run.decode(z) - expected).max() > 1e-3


def test_a_generator_without_batch_normalisation_has_no_statistics_to_stand():
    spec = Spec.of_images((32, 32, 3))
    runs = [linear(norm=False), trained_of(building.build_system(vae.TINY, spec), spec)]
    for run in runs:
        with pytest.raises(ValueError, match=f"{run.system.name} draws without batch normalisation"):
            drawing.with_standing_statistics(run, KEY)
    with pytest.raises(ValueError, match="at least one batch of 2 images, not 0 of 250"):
        drawing.with_standing_statistics(linear(), KEY, num_batches=0)


# Films ----------------------------------------------------------------------------------------------------------------


def test_a_film_goes_through_its_latents_on_the_circle_with_one_class_a_tile():
    run = linear(2)
    films = drawing.interpolate(
        run, KEY, num=3, num_frames=6, num_latents=2, batch_size=8, label=[1, 0], truncation=2.0
    )
    assert films.shape == (6, 3, 2, 2, 1)
    points = np.asarray(run.latents(KEY, 6, truncation=2.0)).reshape(2, 3, 3)
    start, share = interpolation.loop(6, 2)
    for frame in range(6):
        z = interpolation.slerp(points[start[frame]], points[(start[frame] + 1) % 2], share[frame])
        np.testing.assert_allclose(films[frame], run.decode(z, label=np.array([1, 0, 1])), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_style_generator_goes_straight_from_style_to_style():
    spec = Spec.of_images((8, 8, 3))
    config = dataclasses.replace(stylegan2.TINY, class_conditional=False, augmentation="none")
    run = trained_of(building.build_system(config, spec), spec)
    generator, variables = run.system.game.generator, run.variables["generator"]
    z = run.latents(KEY, 4)

    @jax.jit
    def through_styles(z):
        styles = generator.apply(variables, z, train=False, method="mapping")
        between = jnp.concatenate([styles[2:], (styles[:2] + styles[2:]) / 2])
        return jnp.split(generator.apply(variables, between, train=False, method="synthesis"), 2)

    second, middle = through_styles(z)
    films = drawing.interpolate(run, KEY, num=2, num_frames=4, num_latents=2)
    np.testing.assert_allclose(films[1], middle, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(films[2], second, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(films[1], films[3], rtol=1e-3, atol=1e-4)  # back on the same way
    with pytest.raises(ValueError, match="told by toward= and share= together"):
        run.decode(z, share=0.5)


def codes_of(key, n):
    return jax.random.randint(key, (n, 4), 0, 9)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"decode": None}, "needs a system that can decode latents"),
        ({"latents": None}, "linear has no latents"),
        ({"latents": codes_of, "latent_choices": ()}, "no real numbers: nothing lies between"),
    ],
)
def test_systems_whose_latents_no_film_can_go_through_are_refused(changes, message):
    run = linear()
    run = dataclasses.replace(run, system=dataclasses.replace(run.system, **changes))
    with pytest.raises(MissingCapability, match=message):
        drawing.interpolate(run, KEY)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num": 0}, "number of films must be at least 1"),
        ({"num_latents": 1}, "at least 2 latents"),
        ({"truncation": 9.0}, "from 0 to 5"),
        ({"label": [0]}, "no chosen class"),
    ],
)
def test_what_is_no_film_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        drawing.interpolate(linear(), KEY, **options)


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps of a DCGAN, at the place that the page names."""
    place = tmp_path_factory.mktemp("page")
    fast = dataclasses.replace(dcgan.TINY.generator, learning_rate=0.3)  # so that images differ after two steps
    config = dataclasses.replace(dcgan.TINY, num_steps=2, num_devices=1, sample_every=1, generator=fast)
    experiment.train(config, str(place / "runs" / "mnist-dcgan"), progress=False)
    return place / "runs" / "mnist-dcgan"


def film_at(path):
    with Image.open(path) as film:
        durations = []
        for i in range(film.n_frames):
            film.seek(i)
            film.load()
            durations.append(film.info["duration"])
        return film.format, film.n_frames, sum(durations)


@pytest.mark.slow
def test_films_and_standing_statistics_are_asked_for_on_the_command_line(run, tmp_path, capsys):
    few = ("--num-images", 2, "--num-frames", 6, "--num-latents", 3, "--seconds", 2)
    assert call("sample", run, "--film", *few, "--truncation", 0.5) == 0
    assert capsys.readouterr().out == f"{run}/generated/00000002_0_truncation-0.5.webp\n"
    assert film_at(run / "generated" / "00000002_0_truncation-0.5.webp") == ("WEBP", 6, 2000)
    assert call("sample", run, "--film", *few, "--output", tmp_path / "film.gif") == 0
    assert film_at(tmp_path / "film.gif") == ("GIF", 6, 2000)
    for name, told in (("a", ()), ("b", ("--standing-statistics", 2)), ("c", ("--standing-statistics", 2))):
        assert call("sample", run, "--num-images", 4, *told, "--output", tmp_path / f"{name}.npz") == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz")["image"] for name in "abc")
    assert np.array_equal(b, c) and not np.array_equal(a, b)


def test_a_film_over_training_has_a_frame_for_each_picture_and_holds_the_last(run, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "load", None)  # nothing is restored or computed
    assert call("sample", run, "--over-training") == 0
    assert film_at(run / "generated" / "over_training.webp") == ("WEBP", 2, 3000)
    many = make_run(tmp_path / "many", samples=3)
    images.save_png(many / "samples" / "reconstructions_00000100.png", np.zeros((4, 4), np.uint8))
    assert call("sample", many, "--over-training", "--seconds", 1, "--output", tmp_path / "x.gif") == 0
    assert film_at(tmp_path / "x.gif") == ("GIF", 3, 3000)


def test_no_or_unlike_pictures_make_no_film(tmp_path, capsys):
    empty, unlike = (make_run(tmp_path / name, samples=samples) for name, samples in (("empty", 0), ("unlike", 2)))
    assert call("sample", empty, "--over-training") == 2
    assert "empty/samples holds 0 pictures of samples, and a film is of two or more" in capsys.readouterr().err
    images.save_png(unlike / "samples" / "00000300.png", np.zeros((4, 8), np.uint8))
    assert call("sample", unlike, "--over-training") == 2
    assert "00000100.png has 8x8 pixels and 00000300.png 8x4" in capsys.readouterr().err
    assert call("sample", tmp_path / "nothing", "--over-training") == 2
    assert "nothing does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seconds", "3"], "--seconds would be ignored: a picture has no frames; is --film missing?"),
        (["--num-frames", "3"], "--num-frames would be ignored"),
        (["--film", "--separate"], "--separate would be ignored: --film writes one film"),
        (["--film", "--mixing", "2"], "--mixing would be ignored"),
        (["--film", "--output", "x.png"], "ends in .webp or .gif, not to x.png"),
        (["--over-training", "--output", "x.mp4"], "ends in .webp or .gif, not to x.mp4"),
        (["--over-training", "--truncation", "1"], "--over-training shows pictures that are there"),
        (["--output", "x.webp"], "should end in .png or .npz"),
        (["--temperature", "0.5"], "DCGAN cannot be told temperature: it is told only truncation"),
        (["--film", "--seconds", "0"], "--seconds must be"),
    ],
)
def test_options_that_would_be_ignored_are_refused(run, capsys, arguments, message):
    assert call("sample", run, *arguments) == 2
    assert message in capsys.readouterr().err


def test_large_images_make_fewer_films_side_by_side():
    from jaxgen.commands.sample import num_of_film

    assert [num_of_film((size, size, 3), 0) for size in (28, 128, 256, 1024)] == [16, 16, 4, 1]
    assert [num_of_film((28, 28, 1), classes) for classes in (2, 10, 32)] == [16, 10, 32]


# Its page -------------------------------------------------------------------------------------------------------------


LOCAL = [words for words in commands("sample") if "://" not in words[0]]  # of a bucket a copy is read


@pytest.mark.parametrize("arguments", LOCAL, ids=" ".join)
def test_sample_commands_that_pages_show_are_understood(arguments, monkeypatch, capsys):
    command = script("sample")
    asked = []

    @functools.wraps(command.sample)
    def recorded(*given, **options):
        asked.append(inspect.signature(command.sample).bind(*given, **options).arguments)

    monkeypatch.setattr(command, "sample", recorded)
    command.main(arguments)
    assert asked[0]["what"] == arguments[0]


def test_the_python_of_the_page_runs(run, monkeypatch, tmp_path):
    monkeypatch.chdir(run.parent.parent)
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGES[ROOT / "docs" / "sampling.md"], re.S)
    namespace = {}
    exec(compile(snippet, "sampling.md", "exec"), namespace)
    assert namespace["nine"].shape == (9, 28, 28, 1) and namespace["films"].shape == (24, 4, 28, 28, 1)
    assert film_at("films.webp") == ("WEBP", 24, 2000) and film_at("first.gif")[0] == "GIF"
