"""Class-conditional systems: labels reach both players, are chosen on the command line, or are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call
from PIL import Image

from jaxgen import building, data, drawing, loading, optim
from jaxgen.models import spectral_norm
from jaxgen.system import Spec
from jaxgen.systems import cgan, sngan, stylegan2

pytestmark = pytest.mark.usefixtures("scripts_in_process", "fast_compilation")
SPEC = Spec.of_images((28, 28, 1), 10)
SYSTEMS = pytest.mark.parametrize("module", [cgan, sngan, stylegan2], ids=["cgan", "sngan", "stylegan2"])


def batch_of(system, label):
    shape = (system.images_per_step, 28, 28, 1)
    return {
        "image": jax.random.uniform(jax.random.key(1), shape, minval=-1.0),
        "label": jnp.full(shape[0], label, jnp.int32),
    }


@SYSTEMS
@pytest.mark.slow
def test_another_label_is_another_image_and_another_logit(module):
    system = building.build_system(module.TINY, SPEC)
    state = system.init(jax.random.key(0))
    # Class scales are alike before training: move them apart.
    noise = iter(jax.random.split(jax.random.key(2), 1000))
    variables = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(next(noise), x.shape, x.dtype), system.variables(state)
    )
    z = system.latents(jax.random.key(3), 1)
    drawn = [system.decode(variables, z, jnp.array([label])) for label in range(10)]
    assert len({np.asarray(image).tobytes() for image in drawn}) == 10
    judged = [system.discriminate(variables, {"image": drawn[0], "label": jnp.array([label])}) for label in range(10)]
    assert len({float(logit[0]) for logit in judged}) == 10


@pytest.mark.slow
def test_the_spectral_vectors_move_by_the_discriminators_passes_and_not_by_the_generators_turn():
    """Two passes (real, fake) for each of two discriminator updates, on weights that a recording optimiser holds."""
    system = building.build_system(sngan.TINY, SPEC)
    recorders = {f"{player}_optimizer": optim.recording() for player in ("generator", "discriminator")}
    state = system.game.init(jax.random.key(0), **recorders)
    after, _ = jax.jit(system.game.train_step(**recorders))(state, batch_of(system, 3), jax.random.key(1))
    before_u, after_u = (s.discriminator.model_state["spectral_norm"]["SpectralDense_0"]["u"] for s in (state, after))
    kernel = state.discriminator.params["SpectralDense_0"]["kernel"]
    block = "DiscriminatorBlock_0"
    w = state.discriminator.params[block]["SpectralConv_0"]["kernel"]
    u0, u1 = (s.discriminator.model_state["spectral_norm"][block]["SpectralConv_0"]["u"] for s in (state, after))
    for matrix, start, found in ((kernel, before_u, after_u), (w, u0, u1)):
        _, expected = spectral_norm.power_iteration(matrix.reshape(-1, matrix.shape[-1]), start, num_iterations=4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(u0, u1, atol=1e-3)


@SYSTEMS
def test_data_without_labels_are_refused_by_name(module):
    config = dataclasses.replace(module.TINY)
    with pytest.raises(ValueError, match="these data have none"):
        building.build_system(config, Spec.of_images((28, 28, 1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny conditional run of three named classes."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("apple", "pear", "plum"):
        (folder / name).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    directory = tmp_path_factory.mktemp("runs") / "fruit"
    arguments = ["mnist-cgan", "--data.name", "folder", "--data.path", folder, "--data.image-size", 32]
    arguments += ["--features", 2, "--latent-dim", 4, "--batch-size", 8, "--num-steps", 2, "--num-devices", 1]
    assert call("train", *arguments, "--data.validation-share", 0, "--directory", directory) == 0
    return directory


def test_a_picture_has_a_row_for_each_class_that_is_asked_for_by_name_or_number(run, tmp_path):
    trained = loading.load(run)
    assert trained.class_names == ("apple", "pear", "plum")
    assert call("sample", run, "--output", tmp_path / "all.npz") == 0
    assert np.load(tmp_path / "all.npz")["image"].shape == (3 * 8, 32, 32, 3)
    assert call("sample", run, "--label", "plum", 0, "--num-images", 6, "--output", tmp_path / "two.npz") == 0
    drawn = np.load(tmp_path / "two.npz")["image"]
    assert call("sample", run, "--label", "plum,0", "--num-images", 6, "--output", tmp_path / "same.npz") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "same.npz")["image"], drawn)
    expected = drawing.generate(trained, 6, jax.random.key(0), label=[2, 0])
    from jaxgen import images

    np.testing.assert_array_equal(drawn, images.to_uint8(expected[[0, 2, 4, 1, 3, 5]]))
    for picture in (run / "samples").glob("*.png"):
        with Image.open(picture) as image:
            assert image.size[0] > image.size[1]  # eight in a row, three rows


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--label", "plumm"], "no class 'plumm'; did you mean 'plum'? There is: apple, pear, plum"),
        (["--label", "3"], "there is no label 3; class-conditional DCGAN has the labels 0 to 2"),
    ],
)
def test_a_class_that_there_is_not_is_one_sentence(run, capsys, arguments, message):
    assert call("sample", run, *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[0]


@pytest.mark.slow
def test_a_run_that_is_told_no_label_says_so(tmp_path, capsys):
    arguments = ["mnist-dcgan", "--features", 1, "--latent-dim", 2, "--batch-size", 8, "--num-steps", 1]
    assert call("train", *arguments, "--num-devices", 1, "--directory", tmp_path / "run") == 0
    assert call("sample", tmp_path / "run", "--label", "3") == 2
    assert "DCGAN draws images of no chosen class: it was trained without labels" in capsys.readouterr().err


def test_labels_that_are_asked_for_in_turns_reach_the_images_and_a_seed_draws_them_again(run):
    trained = loading.load(run)
    batches = list(drawing.generate_batches(trained, 7, jax.random.key(0), batch_size=4, label=[1, 2]))
    assert [batch["label"].tolist() for batch in batches] == [[1, 2, 1, 2], [1, 2, 1]]
    random = next(drawing.generate_batches(trained, 40, jax.random.key(0)))
    assert set(random["label"].tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="no label 5"):
        drawing.generate(trained, 2, jax.random.key(0), label=[5])
    for label, message in ((3, "no label 3"), (-1, "no label -1"), ("cat", "a label is a whole number from 0 to 2")):
        with pytest.raises(ValueError, match=message):
            trained.draw(jax.random.key(0), 2, label=label)
    with pytest.raises(ValueError, match="cannot be told mixing: it is told only label, truncation"):
        trained.draw(jax.random.key(0), 2, mixing=1)
    assert trained.draw(jax.random.key(0), 2, label=1).shape == (2, 32, 32, 3)
    digits = data.mnist("test").fetch(np.arange(2))
    assert "label" in digits  # the embedded sets are labelled, so that the default has something to be told
