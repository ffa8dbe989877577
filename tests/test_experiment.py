"""Experiments: every preset builds, says what does not fit together, trains, and is read back."""

import dataclasses
import json
import warnings

import chex
import jax
import numpy as np
import optax
import pytest
from in_process import script

from jaxgen import (
    building,
    checkpoint,
    configuration,
    drawing,
    experiment,
    loading,
    options,
    report,
    run_directory,
    sharding,
    starting,
    vae,
)
from jaxgen.system import Spec
from jaxgen.systems import article, classifier, dcgan
from jaxgen.systems import vae as vaes

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.fixture(autouse=True, scope="module")
def no_report():
    """Matplotlib takes a second for each report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda directory: None)
        yield


@pytest.mark.parametrize(
    "config, shape, message",
    [
        (dcgan.Config(batch_size=0), (28, 28, 1), "--batch-size must be at least 1, not 0"),
        (dcgan.Config(num_steps=0), (28, 28, 1), "--num-steps must be at least 1, not 0"),
        (dcgan.Config(), (100, 100, 3), "28 to 64 pixels, not 100"),
        (dcgan.Config(), (32, 28, 3), "DCGAN makes square images, but the data are 32x28; see --data.image-size"),
        (article.Config(), (64, 64, 3), "56x56 images, but the data are 64x64.*--data.image-size 56"),
        (dcgan.Config(r1=-1.0), (28, 28, 1), "--r1 must be at least 0 and finite, not -1"),
        (dcgan.Config(loss="hing"), (28, 28, 1), "no loss 'hing'; did you mean 'hinge'?"),
        (dcgan.Config(num_discriminator_steps=0), (28, 28, 1), "--num-discriminator-steps must be at least 1"),
        (
            dcgan.Config(generator=options.Optimizer(learning_rate=0.0)),
            (28, 28, 1),
            "--generator.learning-rate must be above 0",
        ),
        (
            dcgan.Config(generator=options.Optimizer(learning_rate=-1.0)),
            (28, 28, 1),
            "--generator.learning-rate must be above 0",
        ),
        (
            dcgan.Config(discriminator=options.Optimizer(clip_norm=0.0)),
            (28, 28, 1),
            "--discriminator.clip-norm must be above 0",
        ),
        (
            dcgan.Config(discriminator=options.Optimizer(skip_norm=-2.0)),
            (28, 28, 1),
            "--discriminator.skip-norm must be above 0",
        ),
        (dcgan.Config(discriminator=options.Optimizer(name="adm")), (28, 28, 1), "no optimiser 'adm'; did you mean"),
        (dcgan.Config(generator=options.Optimizer(schedule="cos")), (28, 28, 1), "no schedule 'cos'; did you mean"),
        (dcgan.Config(precision="float8"), (28, 28, 1), "no precision 'float8'"),
        (vaes.Config(model="transformer"), (28, 28, 1), "no model 'transformer'"),
        (vaes.Config(), (28, 28, 1), "needs binarised images: --data.binarise dynamic"),
        (vaes.Config(likelihood="gaussian"), (28, 28, 1), "use --model conv"),
        (vaes.Config(model="conv", likelihood="gaussian"), (100, 100, 1), "28 to 64 pixels, not 100"),
        (vaes.Config(likelihood="poisson"), (28, 28, 1), "no likelihood 'poisson'"),
        (classifier.Config(), (4, 4, 1), "at least 8 pixels"),
    ],
)
def test_settings_that_do_not_fit_are_named(config, shape, message):
    with pytest.raises(ValueError, match=message):
        _ = building.build_system(config, Spec.of_images(shape, 10)).shapes


@pytest.mark.slow
def test_the_update_rule_that_a_flag_names_is_that_of_the_step():
    """Simultaneous players: the same discriminator, another generator. Looking ahead changes both."""
    batch = {"image": jax.random.uniform(jax.random.key(1), (2, 28, 28, 1), minval=-1.0)}
    tiny = ["--features", "1", "--latent-dim", "2", "--batch-size", "2", "--num-discriminator-steps", "1"]

    def moved(*flags):
        config = script("train").parse(["mnist-dcgan", *tiny, *flags]).config
        system = building.build_system(config, Spec.of_images((28, 28, 1), 10))
        state, _ = jax.jit(system.train_step)(system.init(jax.random.key(0)), batch, jax.random.key(2))
        return [
            np.concatenate([np.ravel(x) for x in jax.tree.leaves(p.params)])
            for p in (state.generator, state.discriminator)
        ]

    default = moved()
    alternating, simultaneous, ahead = (moved("--update-rule", name) for name in options.UPDATE_RULES)
    np.testing.assert_array_equal(np.concatenate(default), np.concatenate(alternating))
    np.testing.assert_allclose(simultaneous[1], alternating[1], atol=1e-6)
    for other, player in ((simultaneous, 0), (ahead, 0), (ahead, 1)):
        assert np.abs(other[player] - alternating[player]).max() > 1e-4


def test_a_penalty_beside_batch_normalisation_in_the_discriminator_is_warned_of():
    with pytest.warns(UserWarning, match="--discriminator-batch-norm False"):
        building.build(dcgan.Config(r1=1.0, features=2))


def test_a_classifier_of_data_without_labels_is_refused():
    with pytest.raises(ValueError, match="needs labels, and these data have none"):
        building.build_system(classifier.Config(), Spec.of_images((28, 28, 1)))


@pytest.mark.parametrize(
    "config, error, message",
    [
        (options.Data(name="mnst"), ValueError, "no data set 'mnst'; did you mean 'mnist'?"),
        (options.Data(name="folder"), ValueError, "'folder' needs --data.path"),
        (options.Data(name="folder", path="/does/not/exist"), FileNotFoundError, "no such folder"),
        (options.Data(name="arrays"), ValueError, "'arrays' needs --data.path"),
        (options.Data(image_size=100), ValueError, "image_size"),
        (options.Data(binarise="dynamc"), ValueError, "no binarisation 'dynamc'; did you mean 'dynamic'?"),
    ],
)
def test_data_that_cannot_be_opened_are_named(config, error, message):
    with pytest.raises(error, match=message):
        config.open("train")


def test_an_evaluation_on_few_images_is_warned_of(tmp_path):
    for name, count in (("few", 99), ("enough", 100)):
        np.savez(
            tmp_path / f"{name}.npz", image=np.random.RandomState(0).randint(0, 256, (count, 28, 28)).astype("uint8")
        )
    few = options.Data(name="arrays", path=str(tmp_path / "enough.npz"), test_path=str(tmp_path / "few.npz"))
    vae_config = vaes.Config(data=few, model="conv", likelihood="gaussian", features=2, latent_dim=2)
    gan_config = dcgan.Config(data=few, features=2, eval_metric="fid")
    for config in (vae_config, gan_config):
        with pytest.warns(UserWarning, match="only 99 held-out images for evaluation"):
            building.build(config)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            building.build(dataclasses.replace(config, data=dataclasses.replace(few, test_path=few.path)))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="no image found"):
        options.Data(name="folder", path=str(tmp_path)).open("train")


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twenty labelled 28x28 images as a file."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    image = np.random.RandomState(0).randint(0, 256, (20, 28, 28, 1)).astype(np.uint8)
    np.savez(path, image=image, label=np.arange(20) % 3)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits):
    """A run of a tiny VAE, whose data are gone."""
    private = digits.with_name("private.npz")
    private.write_bytes(digits.read_bytes())
    config = vaes.Config(
        data=options.Data(name="arrays", path=str(private), test_path=str(private)),
        model="conv",
        likelihood="discretized_logistic",
        features=4,
        latent_dim=2,
        batch_size=8,
        num_steps=2,
        num_devices=1,
        optimizer=options.Optimizer(learning_rate=1e-3),
    )
    directory = tmp_path_factory.mktemp("runs") / "vae"
    result = experiment.train(config, str(directory), preset="test", progress=False)
    private.unlink()
    return config, directory, result


@pytest.mark.slow
def test_a_run_evaluates_and_samples_what_its_preset_names(run):
    config, directory, result = run
    assert {"eval/elbo", "eval/rate", "eval/distortion"} <= set(result.evaluation)
    names = {path.name for path in (directory / "samples").iterdir()}
    assert names == {"00000002.png", "reconstructions_00000002.png"}
    assert checkpoint.read_record(directory / "checkpoints", 2)["metrics"] == result.evaluation
    stored = run_directory.load_config(directory)
    assert stored["preset"] == "test" and stored["images"]["image_shape"] == [28, 28, 1]


def test_a_run_is_read_back_without_its_data_and_draws_the_same_images_for_the_same_seed(run):
    config, directory, result = run
    trained = loading.load(str(directory))
    assert trained.config == config and trained.record["step"] == 2
    for a, b in zip(jax.tree.leaves(trained.state), jax.tree.leaves(result.state), strict=True):
        np.testing.assert_array_equal(a, b)
    draws = [drawing.generate(trained, 5, jax.random.key(seed), batch_size=2) for seed in (1, 1, 2)]
    assert draws[0].shape == (5, 28, 28, 1) and draws[0].dtype == np.float32 and np.abs(draws[0]).max() <= 1
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert len({image.tobytes() for image in draws[0]}) == 5
    with pytest.raises(ValueError, match="at least 1, not 0"):
        drawing.generate(trained, 0, jax.random.key(0))


def test_images_are_drawn_by_all_devices_and_are_the_same_on_any_number_of_them(run):
    trained = loading.load(str(run[1]))
    one, eight, three = (
        drawing.generate(trained, 13, jax.random.key(1), batch_size=9, mesh=sharding.make_mesh(number))
        for number in (1, 8, 3)
    )
    np.testing.assert_allclose(eight, one, atol=1e-5)
    np.testing.assert_allclose(three, one, atol=1e-5)


def test_samples_and_evaluation_are_divided_over_the_devices_and_the_same_on_one(digits, monkeypatch):
    shares, sample = [], vae.sample

    def spy(decoder, variables, z, *label, **options):
        jax.debug.inspect_array_sharding(z, callback=lambda s: shares.append(s.shard_shape(z.shape)[0]))
        return sample(decoder, variables, z, *label, **options)

    monkeypatch.setattr(vae, "sample", spy)
    config = vaes.Config(
        data=options.Data(name="arrays", path=str(digits), test_path=str(digits)),
        model="conv",
        likelihood="discretized_logistic",
        features=4,
        latent_dim=2,
        num_devices=1,
    )
    results = []
    for number in (1, 8):
        built = building.build(dataclasses.replace(config, num_devices=number))
        state = built.system.init(jax.random.key(0))
        results.append((built.sample(state), built.evaluate(state)))
    assert sorted(shares) == [8, 20, 20, 64]  # 64 latents are divided; 20 reconstructions cannot be
    for name, images in results[0][0].items():
        np.testing.assert_allclose(results[1][0][name], images, atol=1e-5)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-5)


def test_what_cannot_be_read_back_is_explained(run, tmp_path):
    _, directory, _ = run
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7.*available steps: \\[2\\]"):
        loading.load(str(directory), step=7)
    with pytest.raises(run_directory.RunDirectoryError, match="does not exist"):
        loading.load(str(tmp_path / "nothing"))
    run_directory.create(tmp_path / "empty", configuration.to_dict(vaes.Config()))
    with pytest.raises(ValueError, match="does not say what the images were"):
        loading.load(str(tmp_path / "empty"))
    edited = run_directory.load_config(directory) | {"features": 8}
    run_directory.create(tmp_path / "edited", edited)
    (tmp_path / "edited" / "checkpoints").symlink_to(directory / "checkpoints")
    with pytest.raises(checkpoint.CheckpointMismatch, match="another model"):
        loading.load(str(tmp_path / "edited"))


def tiny_classifier(path, **changes) -> classifier.Config:
    settings = {"widths": (4,), "batch_size": 8, "num_steps": 2, "num_devices": 1, "shift": 0, "dropout": 0.0}
    return classifier.Config(data=options.Data(name="arrays", path=str(path)), **settings | changes)


def test_a_run_is_made_longer_and_told_what_that_does_to_a_schedule(tmp_path, digits):
    config = tiny_classifier(digits)  # cosine
    experiment.train(config, str(tmp_path / "cosine"), progress=False)
    longer = dataclasses.replace(config, num_steps=4)
    with pytest.warns(UserWarning, match=r"had 2 steps and now has 4\. .*optimizer's is cosine.* higher"):
        assert experiment.train(longer, str(tmp_path / "cosine"), progress=False).step == 4
    assert run_directory.load_config(tmp_path / "cosine")["num_steps"] == 4
    with pytest.raises(ValueError, match=r"at step 4 already, beyond --num-steps 2; .* --num-steps 4, as it had"):
        experiment.train(config, str(tmp_path / "cosine"), progress=False)
    assert run_directory.load_config(tmp_path / "cosine")["num_steps"] == 4
    config = dataclasses.replace(config, optimizer=options.Optimizer())
    experiment.train(config, str(tmp_path / "constant"), progress=False)
    longer = dataclasses.replace(config, num_steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert experiment.train(longer, str(tmp_path / "constant"), progress=False).step == 4
    with pytest.raises(run_directory.ConfigMismatch, match=r"widths: \[4\] there, \[8\] asked"):
        experiment.train(dataclasses.replace(longer, widths=(8,)), str(tmp_path / "constant"), progress=False)


@pytest.mark.slow
def test_a_new_run_begins_with_the_networks_of_another_and_with_fresh_optimisers(tmp_path, digits):
    still = options.Optimizer(learning_rate=1e-30)
    config = tiny_classifier(digits, optimizer=options.Optimizer(), num_steps=3)
    experiment.train(config, str(tmp_path / "first"), progress=False)
    again = dataclasses.replace(config, optimizer=still, num_steps=1, seed=7)
    made = experiment.train(again, str(tmp_path / "second"), start_from=tmp_path / "first", progress=False)
    first, second = (loading.load(tmp_path / name).state for name in ("first", "second"))
    chex.assert_trees_all_equal(first.network.params, second.network.params)
    counts = {int(count) for _, count in optax.tree.get_all_with_path(second.network.opt_state, "count")}
    assert made.step == 1 and counts == {1}
    # Gone on with, it is its own run: nothing is taken twice.
    longer = dataclasses.replace(again, num_steps=2)
    assert experiment.train(longer, str(tmp_path / "second"), start_from=tmp_path / "none", progress=False).step == 2


def test_what_cannot_be_begun_with_leaves_no_directory(tmp_path, digits):
    config = tiny_classifier(digits)
    experiment.train(config, str(tmp_path / "first"), progress=False)
    wider = dataclasses.replace(config, widths=(8,))
    with pytest.raises(
        ValueError,
        match=r"the network of .*first is another network: .* arrays differ, such as .*8.* here, .*4.* there",
    ):
        experiment.train(wider, str(tmp_path / "second"), start_from=tmp_path / "first", progress=False)
    with pytest.raises(run_directory.RunDirectoryError, match="does not exist"):
        experiment.train(config, str(tmp_path / "second"), start_from=tmp_path / "none", progress=False)
    with pytest.raises(ValueError, match="no network.Network"):
        starting.with_networks_of({"step": 0}, {"step": 1}, "another")
    assert not (tmp_path / "second").exists()


def test_a_run_of_a_version_without_a_setting_goes_on_where_the_setting_has_its_default(tmp_path, digits):
    config = tiny_classifier(digits, optimizer=options.Optimizer())
    experiment.train(config, str(tmp_path / "run"), progress=False)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    del stored["label_smoothing"], stored["optimizer"]["weight_decay"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    with pytest.raises(run_directory.ConfigMismatch, match="label_smoothing: not there, 0.1 asked"):
        experiment.train(dataclasses.replace(config, label_smoothing=0.1), str(tmp_path / "run"), progress=False)
    assert experiment.train(dataclasses.replace(config, num_steps=3), str(tmp_path / "run"), progress=False).step == 3
    assert loading.load(str(tmp_path / "run")).config == dataclasses.replace(config, num_steps=3)


def test_a_batch_that_the_devices_cannot_share_is_refused_before_the_data_are_opened(tmp_path):
    config = tiny_classifier("/does/not/exist.npz", batch_size=12, num_devices=8)
    with pytest.raises(ValueError, match="cannot be divided over 8 devices"):
        experiment.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_data_that_changed_since_the_run_began_are_refused(tmp_path, digits):
    path = tmp_path / "digits.npz"
    path.write_bytes(digits.read_bytes())
    experiment.train(tiny_classifier(path), str(tmp_path / "run"), progress=False)
    with np.load(path) as archive:
        np.savez(path, image=255 - archive["image"], label=archive["label"])
    with pytest.raises(run_directory.ConfigMismatch, match="data_fingerprint"):
        experiment.train(tiny_classifier(path), str(tmp_path / "run"), progress=False)


def test_nan_in_an_array_file_is_named(tmp_path):
    image = np.zeros((20, 28, 28, 1), np.float32)
    image[3, 1, 2, 0] = np.nan
    np.savez(tmp_path / "bad.npz", image=image, label=np.arange(20) % 3)
    with pytest.raises(ValueError, match=r"1 values are NaN or infinite, the first is nan at \(3, 1, 2, 0\)"):
        experiment.train(tiny_classifier(tmp_path / "bad.npz"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
