"""`jaxgen stability spectrum` and `sweep` on runs: numbers of a DCGAN, a system of one's own, and refusals."""

import contextlib
import csv
import dataclasses
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from in_process import call

from jaxgen import building, data, experiment, systems
from jaxgen.stability import runs, spectrum, spectrum_report, sweep_presets
from jaxgen.system import Spec

# A GAN is trained and taken apart here; what the commands call is tested in test_stability_spectrum.py.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compilation", "scripts_in_process")]


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
    text = "\n".join(spectrum_report.text(record, 3))
    assert not record["spectral_norm"] and "are held" not in text
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
    lines = spectrum_report.text(made, 3)
    assert "  of 3 found, 2 have a positive real part: directions that grow, the fastest 2" in lines
    assert ["not settled: more --iterations" in line for line in lines[3:6]] == [False, True, True]
    assert any("the schedule is at rate 0, and nothing moves" in line for line in lines)
    text = spectrum_report.radius_text
    assert "nothing grows" in text(0.99, 0.1) and "grows 1.5 times in a step" in text(1.5, 0.1)


def test_the_lengths_of_gradients_are_those_of_the_log_and_clips_are_judged_by_them(directory, record):
    logged = [json.loads(line) for line in (directory / "gan" / "metrics.jsonl").read_text().splitlines()]
    (third,) = [line for line in logged if line["step"] == 3 and "discriminator/grad_norm" in line]
    norms = record["gradient_norms"]
    assert norms["discriminator"] == pytest.approx(third["discriminator/grad_norm"], rel=1e-4)
    text = "\n".join(spectrum_report.text(record, 3))
    assert (
        "the run does not clip; a clip above" in text and "`jaxgen stability sweep RUN --clip 1 inf` tries both" in text
    )
    clipped = {"generator": norms["generator"] / 4, "discriminator": 2 * norms["discriminator"]}
    text = "\n".join(spectrum_report.text(record | {"clip_norms": clipped}, 3))
    assert "acts: rates of plain descent may be 4 times as large" in text and "does not act here" in text


def test_the_field_of_a_run_is_what_its_own_train_step_sees(directory):
    run = runs.load_game(directory / "gan", step=2)
    after, metrics = jax.jit(run.system.train_step)(run.state, run.batch, run.key)
    field = jax.jit(run.field)
    assert metrics["discriminator/grad_norm"] == pytest.approx(
        float(optax.tree.norm(field(run.players).discriminator)), rel=1e-4
    )
    moved = run.players._replace(discriminator=after.discriminator.params)  # who moves before the generator
    assert metrics["generator/grad_norm"] == pytest.approx(float(optax.tree.norm(field(moved).generator)), rel=1e-4)


def test_a_run_in_half_precision_is_looked_at_in_single_precision(directory, tmp_path):
    half = shutil.copytree(directory / "gan", tmp_path / "half")
    stored = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(stored | {"precision": "bfloat16"}))
    assert runs.open_run(half).game.generator.dtype is jnp.bfloat16
    run, whole = runs.load_game(half, step=2, batch_size=6), runs.load_game(directory / "gan", step=2)
    assert run.game.generator.dtype is run.game.discriminator.dtype is jnp.float32
    assert run.batch["image"].shape[0] == 6 and whole.batch["image"].shape[0] == 4
    jax.tree.map(np.testing.assert_array_equal, run.players, whole.players)


# A sweep of a run -----------------------------------------------------------------------------------------------------


def test_a_run_whose_schedules_ended_is_looked_at_where_it_still_moved(directory, tmp_path):
    assert runs.moving_step(directory / "gan") == 3  # its generator's rate is constant
    ended = shutil.copytree(directory / "gan", tmp_path / "ended")
    stored = json.loads((ended / "config.json").read_text())
    stored["generator"]["schedule"] = "linear"
    (ended / "config.json").write_text(json.dumps(stored))
    assert runs.moving_step(ended) == 2
    opened = runs.open_run(ended)
    assert runs.learning_rates(opened, 3) == (0, 0) and min(runs.learning_rates(opened, 2)) > 0


@pytest.mark.slow
def test_a_run_is_trained_anew_at_other_rates_and_told_which_it_bears(directory, tmp_path, capsys):
    arguments = ["--discriminator-rate", "0.001", "1e30", "--clip", "1", "--num-steps", "6", "--records", "2"]
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


@pytest.mark.slow
def test_a_member_of_such_a_sweep_moves_as_the_run_does(directory):
    preset = sweep_presets.of_run(directory / "gan")
    assert "r1" not in preset.axes and preset.axes["discriminator_rate"] == (0.001, 0.004, 0.016, 0.064)
    run = runs.load_game(directory / "gan", step=2)
    config = run.opened.config
    constant = {p: dataclasses.replace(getattr(config, p), schedule="constant") for p in run.players._fields}
    system = building.build_system(dataclasses.replace(config, **constant), Spec.of_images((28, 28, 1), 3))
    settings = {f"{p}_rate": constant[p].learning_rate for p in constant} | {"clip": np.inf}
    program, key = preset.program(None, None), jax.random.key(7)
    start = program.init(settings, jax.random.key(config.seed))
    moved, metrics = jax.jit(lambda *given: program.step(settings, *given))(start, run.batch, key)
    first = system.init(jax.random.key(config.seed))
    expected, _ = jax.jit(system.train_step)(first, run.batch, jax.random.fold_in(key, 2))
    assert "penalty/gradient_penalty" in metrics
    for player in run.players._fields:
        found, wanted = (getattr(state, player).params for state in (moved, expected))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, wanted)
        assert not np.allclose(*(jax.tree.leaves(getattr(s, player).params)[0] for s in (start, moved)))


@pytest.mark.parametrize(
    "run, arguments, message",
    [
        ("cnn", [], "cnn is a run of the system 'classifier', which is no game: the stability laboratory needs a two-"),
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
        ("cnn", [], "cnn is a run of the system 'classifier', which is no game: the stability laboratory needs a two-"),
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


QUICK = ["--json", "--iterations", 12, "--probes", 2, "--latents", 0, "--no-layers", "--no-train-step"]


def test_a_damaged_checkpoint_is_passed_over_and_one_that_was_asked_for_is_told(directory, tmp_path, capsys):
    run = shutil.copytree(directory / "gan", tmp_path / "run")
    (run / "checkpoints" / "3" / "record" / "metadata").write_bytes(b"")
    (run / "checkpoints" / "notes.txt").write_text("mine")
    capsys.readouterr()
    with pytest.warns(UserWarning, match="the checkpoint of step 3 is damaged: .* Trying step 2 instead"):
        assert call("stability", "spectrum", run, *QUICK) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["step"] == 2 and not record["schedule_ended_after"]
    assert call("stability", "spectrum", run, *QUICK, "--step", 3) == 2
    told = capsys.readouterr().err
    assert "error: the checkpoint of step 3 is damaged" in told
    assert "Bring back a copy of it, or take another step: 1, 2" in told
    with pytest.warns(UserWarning, match="Trying step 2 instead"):
        assert call("stability", "spectrum", run, *QUICK, "--from-step", 2) == 2
    assert "--from-step 2 must be before the other checkpoint, 2" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    assert call("stability", "spectrum", run, *QUICK) == 2
    assert "no checkpoint in" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["spectrum", "sweep"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda stored: json.dumps(stored)[:-9], "config.json is damaged"),
        (lambda stored: "", "config.json is empty; restore it from a copy"),
        (lambda stored: "[]", "config.json is damaged (it holds a list, not an object)"),
        (lambda stored: json.dumps({n: v for n, v in stored.items() if n != "seed"}), "does not say seed, as train"),
        (lambda stored: json.dumps(stored | {"images": []}), "it does not say what the images were"),
        (lambda stored: json.dumps(stored | {"num_steps": "many"}), "--num-steps"),
        (lambda stored: json.dumps(stored | {"latent_dim": -1}), "--latent-dim must be at least 1"),
        (lambda stored: json.dumps(stored | {"system": 3}), "its system is 3, which is no name"),
    ],
)
def test_damaged_settings_of_a_run_are_one_message(directory, tmp_path, capsys, command, damage, message):
    run = shutil.copytree(directory / "gan", tmp_path / "run")
    (run / "config.json").write_text(damage(json.loads((run / "config.json").read_text())))
    capsys.readouterr()
    options = QUICK if command == "spectrum" else ["--directory", tmp_path / "made"]
    assert call("stability", command, run, *options) == 2
    told = capsys.readouterr().err
    assert message in told and str(run) in told and not (tmp_path / "made").exists()


# A system of one's own ------------------------------------------------------------------------------------------------

OWN = '''
import dataclasses

from flax import linen as nn

from jaxgen import turns
from jaxgen.models.spectral_norm import SpectralDense
from jaxgen.options import Optimizer
from jaxgen.systems.shared import two_player
from jaxgen.systems.preset import Preset


class Generator(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, z, label, *, train):
        hidden = nn.tanh(nn.Dense(3)(z) + nn.Embed(self.num_classes, 3)(label))
        return nn.tanh(nn.Dense(28 * 28)(hidden)).reshape(-1, 28, 28, 1)


class Discriminator(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, label, *, train):
        hidden = nn.tanh(SpectralDense(3)(x.reshape(len(x), -1), train=train))
        return SpectralDense(1)(hidden + nn.Embed(self.num_classes, 3)(label), train=train)[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """Two small players that are told a label."""


def build(config, spec):
    players = Generator(spec.num_classes), Discriminator(spec.num_classes)
    told = {"num_labels": spec.num_classes, "condition": turns.told_shuffled_labels()}
    return two_player.build(config, spec, *players, name="mine", **told)


SGD = Optimizer(name="sgd", learning_rate=0.1, b1=0.0)
PRESETS = {"mine": Preset("told labels", Config(generator=SGD, discriminator=SGD, num_discriminator_steps=2, r1=0.1))}
'''


@pytest.fixture(scope="module")
def own(directory):
    """(the file of a system that is told labels, spectrally normalised; a run of it)."""
    file, run = directory / "mine.py", directory / "own"
    file.write_text(OWN)
    common = ["--data.name", "arrays", "--data.path", directory / "digits.npz", "--batch-size", 4, "--num-devices", 1]
    common += ["--num-steps", 2, "--sample-every", 0, "--log-every", 1, "--latent-dim", 2]
    assert call("train", file, "--directory", run, *common) == 0
    return file, run


@pytest.mark.slow
def test_a_system_of_ones_own_that_is_told_labels_has_a_spectrum(own, capsys):
    file, run = own
    capsys.readouterr()
    options = ["--iterations", 12, "--probes", 2, "--latents", 5, "--system", file]
    assert call("stability", "spectrum", run, "--json", *options) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["spectral_norm"] and "spectral normalisation are held" in "\n".join(spectrum_report.text(record))
    assert record["batch_size"] == 4 and record["optimizers"] == {"generator": "sgd", "discriminator": "sgd"}
    assert "the run's: gradient descent, momentum 0" in record["largest_stable_rate"]
    assert {"generator/Dense_0", "discriminator/SpectralDense_0"} <= set(record["layers"])
    assert record["layers"]["discriminator/SpectralDense_0"]["matrix"][0] < 2
    assert 0 < record["conditioning"]["smallest_singular_value"]
    assert call("stability", "spectrum", run) == 2
    assert "it is a run of mine.py, which is no part of jaxgen: give the file with --system" in capsys.readouterr().err


@pytest.mark.slow
def test_a_system_of_ones_own_that_is_told_labels_is_swept(own, tmp_path, capsys):
    file, run = own
    options = ["--discriminator-rate", "0.1", "0.2", "--clip", "inf", "--steps", "4", "--records", "2", "--seeds", "2"]
    options += ["--r1", "0.1", "--failed-below", "-1e9", "--system", file, "--directory", tmp_path / "made"]
    assert call("stability", "sweep", run, *options, "--block-size", "4", "--num-devices", "1") == 0
    captured = capsys.readouterr()
    assert "generator_rate 0.1 x discriminator_rate 0.1 0.2 x clip inf x r1 0.1 x seed 0 1" in captured.err
    assert "Nothing failed in this grid: the limit lies above 0.2" in captured.out
    rows = list(csv.DictReader((tmp_path / "made" / "members.csv").open()))
    assert len(rows) == 4 and all(np.isfinite(float(row["final_score"])) for row in rows)
    assert len({row["final_score"] for row in rows}) == 4
    assert (tmp_path / "made" / "samples.png").exists()
    assert call("stability", "sweep", "ring", "--system", file, "--directory", tmp_path / "ring") == 2
    assert "ring is a sweep of this package; a system of your own is for a run of it" in capsys.readouterr().err


@pytest.mark.slow
def test_optimisers_that_do_not_tell_their_rates_leave_out_what_needs_them(own, tmp_path):
    file, _ = own
    module, digits = (
        systems.from_file(file),
        data.from_arrays("digits", np.zeros((16, 28, 28, 1), np.uint8), np.arange(16) % 3),
    )
    config = dataclasses.replace(module.PRESETS["mine"].config, batch_size=4, latent_dim=2, num_discriminator_steps=1)
    system = module.build(config, Spec.of(digits))
    system = dataclasses.replace(system, game=system.game._replace(players=None))
    experiment.train_system(system, digits, tmp_path / "run", num_steps=1, num_devices=1, progress=False)
    run = runs.load_game(tmp_path / "run", system=system, dataset=digits)
    record = spectrum_report.of_run(run, "run", iterations=12, train_step=False, layers=False, probes=2, latents=0)
    assert record["learning_rates"] is None is record["learning_rates_at_this_step"]
    assert set(record["largest_stable_rate"]) == set(spectrum.RULES)
    text = "\n".join(spectrum_report.text(record))
    assert "the generator's being equal" in text and "optax objects, which do not tell them" in text
    assert "the run has" not in text and "whether it is clipped is not known" in text
    preset = sweep_presets.of_run(tmp_path / "run", system=system, dataset=digits)
    assert set(preset.axes) == {"clip"}  # rates are nowhere to be read
    with pytest.raises(ValueError, match="give --generator-rate, --discriminator-rate, and --optimizer adam or sgd"):
        preset.program(None, None)
    assert preset.program("sgd", None).name.endswith("sgd, its own")
    with pytest.raises(ValueError, match="does not say where its data are"):
        runs.load_game(tmp_path / "run", system=system)
    with pytest.raises(ValueError, match="the batch size of a system of your own is the system's: it takes 4 images"):
        runs.load_game(tmp_path / "run", system=system, dataset=digits, batch_size=8)
