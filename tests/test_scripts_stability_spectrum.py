"""`stability.py spectrum` and `sweep` on runs of the train script: numbers of a DCGAN, and refusals."""

import contextlib
import csv
import dataclasses
import io
import json

import jax
import numpy as np
import optax
import pytest
from in_process import call, script

from jaxgen import experiment
from jaxgen.stability import runs, spectrum, sweep_presets

pytestmark = pytest.mark.usefixtures("fast_compilation", "scripts_in_process")


@pytest.fixture(scope="module")
def directory(tmp_path_factory, scripts_in_process):
    """Tiny runs: a GAN with Adam and a penalty that draws random numbers, and a classifier."""
    path = tmp_path_factory.mktemp("runs")
    image = np.random.RandomState(0).randint(0, 256, (22, 28, 28, 1)).astype(np.uint8)
    np.savez(path / "digits.npz", image=image, label=np.arange(22) % 3)
    common = ["--data.name", "arrays", "--data.path", path / "digits.npz", "--batch-size", 4, "--num-devices", 1]
    common += ["--num-steps", 3, "--sample-every", 0, "--log-every", 1, "--checkpoint-every", 1]
    gan = ["--features", 2, "--latent-dim", 3, "--gradient-penalty", 0.5, "--generator.schedule", "constant"]
    gan += ["--generator.learning-rate", 0.002, "--r1", 0]
    assert call("train", "mnist-dcgan", "--directory", path / "gan", *common, *gan) == 0
    assert call("train", "mnist-cnn", "--directory", path / "cnn", "--widths", 2, *common) == 0
    return path


@pytest.fixture(scope="module")
def record(directory):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        options = ["--iterations", 12, "--probes", 4, "--latents", 2, "--step", 2, "--from-step", 1]
        assert call("stability", "spectrum", directory / "gan", "--json", *options) == 0
    assert output.getvalue().count("\n") == 1
    return json.loads(output.getvalue())


def test_the_record_holds_eigenvalues_with_residuals_and_rates(record):
    assert record["step"] == 2 and record["batch_size"] == 4
    assert record["learning_rates"] == {"generator": 0.002, "discriminator": 0.001}
    # The discriminator's schedule is a cosine over three steps.
    now = record["learning_rates_at_this_step"]
    assert now["generator"] == pytest.approx(0.002) and now["discriminator"] == pytest.approx(0.00025)
    moduli = np.hypot(*np.transpose(record["eigenvalues"]))
    assert len(moduli) == 12 == len(record["residuals"]) == len(record["errors"])
    assert (np.diff(moduli) <= 1e-9).all() and record["residuals"][0] < 1e-2 * moduli[0]
    assert record["symmetric_share"] + record["antisymmetric_share"] == pytest.approx(1)
    limits = record["largest_stable_rate"]
    assert set(limits) == {*spectrum.RULES, "the run's: Adam, b1 = 0, moments held"}
    assert all(limit["damped"] is None or limit["damped"] >= limit["all"] for limit in limits.values())
    modulus = np.hypot(*np.transpose(record["step_eigenvalues"]))
    assert record["spectral_radius"] == pytest.approx(modulus.max()) and modulus.max() > 0.98


def test_the_record_holds_layers_conditioning_and_the_line_between_two_checkpoints(record):
    layers = record["layers"]
    assert "generator/ConvTranspose_0" in layers and "discriminator/Conv_0" in layers
    for layer in layers.values():
        assert layer["operator"] == sorted(layer["operator"], reverse=True)
        assert layer["errors"][0] < 1e-2 * layer["operator"][0]
    assert 0 < record["conditioning"]["smallest_singular_value"] < record["conditioning"]["largest_singular_value"]
    path = record["path"]
    assert path["from_step"] == 1 and np.abs(path["angles"]).max() <= 1.0001 and min(path["norms"]) > 0


def test_people_get_sentences(record):
    text = "\n".join(script("stability").spectrum_text(record, 3))
    real, imaginary = record["eigenvalues"][0]
    assert f"{real:.5g}{imaginary:+.5g}i" in text
    for part in (
        "step 2, 4 images",
        "the generator's being 2 times as large",
        "at this step of its schedule",
        "spectral radius",
    ):
        assert part in text
    assert text.index("eigenvalues of the game") < text.index("rotation") < text.index("line from step 1 (0) to 2 (1)")


def test_people_are_told_what_grows_what_is_not_settled_and_where_nothing_moves(record):
    made = record | {"eigenvalues": [[-9.0, 0.0], [2.0, 1.0], [2.0, -1.0]], "residuals": [1e-3, 0.5, 0.5]}
    made |= {"spectral_radius": 1.0, "learning_rates_at_this_step": {"generator": 0.0, "discriminator": 0.0}}
    lines = script("stability").spectrum_text(made, 3)
    assert "  of 3 found, 2 have a positive real part: directions that grow, the fastest 2" in lines
    assert ["not settled: more --iterations" in line for line in lines[3:6]] == [False, True, True]
    assert any("the schedule is at rate 0, and nothing moves" in line for line in lines)
    text = script("stability").radius_text
    assert "nothing grows" in text(0.99, 0.1) and "grows 1.5 times in a step" in text(1.5, 0.1)


def test_the_lengths_of_gradients_are_those_of_the_log_and_clips_are_judged_by_them(directory, record):
    logged = [json.loads(line) for line in (directory / "gan" / "metrics.jsonl").read_text().splitlines()]
    (third,) = [line for line in logged if line["step"] == 3 and "discriminator/grad_norm" in line]
    norms = record["gradient_norms"]
    assert norms["discriminator"] == pytest.approx(third["discriminator/grad_norm"], rel=1e-4)
    text = "\n".join(script("stability").spectrum_text(record, 3))
    assert "the run does not clip; a clip above" in text and "`stability.py sweep RUN --clip 1 inf` tries both" in text
    clipped = {"generator": norms["generator"] / 4, "discriminator": 2 * norms["discriminator"]}
    text = "\n".join(script("stability").spectrum_text(record | {"clip_norms": clipped}, 3))
    assert "acts: rates of plain descent may be 4 times as large" in text and "does not act here" in text


def test_the_field_of_a_run_is_what_its_own_train_step_sees(directory):
    run = runs.load_gan(directory / "gan", step=2)
    after, metrics = jax.jit(run.train_step)(run.state, run.batch, run.key)
    field = jax.jit(run.field)
    assert metrics["discriminator/grad_norm"] == pytest.approx(
        float(optax.tree.norm(field(run.players).discriminator)), rel=1e-4
    )
    moved = run.players._replace(discriminator=after.discriminator.params)  # who moves before the generator
    assert metrics["generator/grad_norm"] == pytest.approx(float(optax.tree.norm(field(moved).generator)), rel=1e-4)


# A sweep of a run -----------------------------------------------------------------------------------------------------


def test_a_run_whose_schedules_ended_is_looked_at_where_it_still_moved(directory, monkeypatch):
    assert runs.moving_step(directory / "gan") == 3  # its generator's rate is constant
    config = runs.check_gan(directory / "gan")
    ended = dataclasses.replace(config, generator=dataclasses.replace(config.generator, schedule="linear"))
    monkeypatch.setattr(runs, "check_gan", lambda path: ended)
    assert runs.moving_step(directory / "gan") == 2
    assert runs.learning_rates(ended, 3) == (0, 0) and min(runs.learning_rates(ended, 2)) > 0


def test_a_run_is_trained_anew_at_other_rates_and_told_which_it_bears(directory, tmp_path, capsys):
    arguments = ["--discriminator-rate", "0.001", "1e30", "--clip", "1", "--steps", "6", "--records", "2"]
    assert call("stability", "sweep", directory / "gan", *arguments, "--directory", tmp_path / "made") == 0
    captured = capsys.readouterr()
    assert "2 networks, 6 steps each: generator_rate 0.002 x discriminator_rate 0.001 1e+30" in captured.err
    assert "x: fails, not finite, or a quality below 50 %" in captured.out
    own = "generator adam at 0.002 (constant), no clip, discriminator adam at 0.001 (cosine), no clip."
    assert f"The run itself: 3 steps, {own}" in captured.out
    rows = list(csv.DictReader((tmp_path / "made" / "members.csv").open()))
    assert [row["finite"] for row in rows] == ["True", "False"]
    columns = [line.split(": ")[0] for line in (tmp_path / "made" / "columns.txt").read_text().splitlines()]
    assert columns == list(rows[0])
    # Six steps teach so little that its score may count as a failure: say what does.
    assert call("stability", "sweep", directory / "gan", *arguments, "--directory", tmp_path / "made",
                "--failed-below", "-9") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "  all: 0.001; at 1e+30 1 of 1 failed\n" in out
    assert {"scores.png", "samples.png"} <= {file.name for file in (tmp_path / "made").iterdir()}
    capsys.readouterr()
    assert call("stability", "sweep", directory / "gan", *arguments, "--directory", directory / "gan") == 2
    assert "holds checkpoints of something else, a training run perhaps" in capsys.readouterr().err


def test_a_member_of_such_a_sweep_moves_as_the_run_does(directory):
    preset = sweep_presets.of_run(directory / "gan")
    assert "r1" not in preset.axes and preset.axes["discriminator_rate"] == (0.001, 0.004, 0.016, 0.064)
    run = runs.load_gan(directory / "gan", step=2)
    constant = {p: dataclasses.replace(getattr(run.config, p), schedule="constant") for p in run.players._fields}
    networks = experiment.build_networks(dataclasses.replace(run.config, **constant), (28, 28, 1), 3)
    settings = {f"{p}_rate": constant[p].learning_rate for p in constant} | {"clip": np.inf}
    program, key = preset.program(None, None), jax.random.key(7)
    start = program.init(settings, jax.random.key(run.config.seed))
    moved, metrics = jax.jit(lambda *given: program.step(settings, *given))(start, run.batch, key)
    expected, _ = jax.jit(networks.train_step)(networks.state, run.batch, jax.random.fold_in(key, 2))
    assert "penalty/gradient_penalty" in metrics
    for player in run.players._fields:
        found, wanted = (getattr(state, player).params for state in (moved, expected))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, wanted)
        assert not np.allclose(*(jax.tree.leaves(getattr(s, player).params)[0] for s in (start, moved)))


@pytest.mark.parametrize(
    "run, arguments, message",
    [
        ("cnn", [], "cnn is a Classifier, which has one player and no game"),
        ("nothing", [], "nothing does not exist"),
        ("gan", ["--beta", "1"], "a sweep of GANs cannot use beta"),
        ("gan", ["--metrics", "fid"], "has no test split of its own to be compared with"),
    ],
)
def test_what_run_cannot_be_swept_is_one_sentence_and_code_2(directory, tmp_path, capsys, run, arguments, message):
    assert call("stability", "sweep", directory / run, *arguments, "--directory", tmp_path / "made") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "run, arguments, message",
    [
        ("cnn", [], "cnn is a Classifier, which has one player and no game; give the run of a GAN"),
        ("nothing", [], "does not exist"),
        ("gan/checkpoints", [], "did you mean the run"),
        ("gan", ["--step", "7"], "no checkpoint of step 7"),
        ("gan", ["--from-step", "2", "--step", "2"], "--from-step 2 is the checkpoint itself; give another one"),
        ("gan", ["--from-step", "3", "--step", "2"], "--from-step 3 must be before the other checkpoint, 2"),
        ("gan", ["--batch-size", "0"], "the batch size must be at least 1, not 0"),
        ("gan", ["--iterations", "1"], "--iterations must be at least 2, not 1"),
        ("gan", ["--probes", "1"], "--probes must be at least 2, not 1"),
        ("gan", ["--latents", "-1"], "--latents must be at least 0, not -1"),
        ("gan", ["--top", "0"], "--top must be at least 1, not 0"),
    ],
)
def test_what_has_no_spectrum_is_one_sentence_and_code_2(directory, capsys, run, arguments, message):
    capsys.readouterr()
    assert call("stability", "spectrum", directory / run, *arguments) == 2
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert captured.out == "" and errors[0].startswith("error: ") and message in errors[0] and len(errors) == 2
