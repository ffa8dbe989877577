"""scripts/stability.py as people use it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from in_process import SCRIPTS
from in_process import call as call_script

pytestmark = pytest.mark.usefixtures("scripts_in_process")

KEYS = [
    "eigenvalues",
    "step_eigenvalues",
    "spectral_radius",
    "stable",
    "largest_stable_rate",
    "final",
    "final_radius",
    "growth_law",
]


def call(*arguments) -> int:
    return call_script("stability", *arguments)


@pytest.fixture
def dirac(capsys):
    def run(arguments, steps=200):
        assert call("dirac", "--json", "--num-steps", steps, *arguments.split()) == 0
        output = capsys.readouterr().out
        assert output.count("\n") == 1
        return json.loads(output)

    return run


@pytest.mark.slow
def test_the_output_is_one_json_object_with_these_keys(dirac):
    record = dirac("--loss wasserstein --update simultaneous --r1 1 --start 1 0", steps=31)
    assert list(record) == KEYS
    np.testing.assert_allclose(record["eigenvalues"], [[-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], atol=1e-12)
    np.testing.assert_allclose(record["step_eigenvalues"], [[0.95, 0.1 * 0.75**0.5], [0.95, -0.1 * 0.75**0.5]])
    assert record["spectral_radius"] == pytest.approx(np.hypot(0.95, 0.1 * 0.75**0.5))
    assert record["stable"] is True
    assert record["largest_stable_rate"] == pytest.approx(1.0, rel=1e-8)
    w = np.linalg.matrix_power([[1, -0.1], [0.1, 0.9]], 31) @ [1, 0]
    np.testing.assert_allclose(record["final"], w, rtol=1e-9)
    assert record["final_radius"] == pytest.approx(np.linalg.norm(w))
    assert record["growth_law"] == "decay"


@pytest.mark.slow
def test_every_option_reaches_the_simulation(dirac):
    base = "--start 1 0.5"
    settings = [
        "--update simultaneous",
        "--update simultaneous --loss non-saturating",
        "--update simultaneous --loss wasserstein",
        "--update simultaneous --r1 0.5",
        "--update simultaneous --instance-noise 0.5",
        "--update simultaneous --momentum -0.3",
        "--update simultaneous --clip joint --clip-norm 0.1",
        "--update simultaneous --clip per-player --clip-norm 0.1",
        "--update alternating",
        "--update alternating --momentum -0.3",
        "--update-rule alternating --num-discriminator-steps 2",
        "--update alternating --generator-rate 0.3",
        "--update alternating --discriminator-rate 0.3",
        "--update extragradient",
        "--update optimistic",
        "--update consensus",
        "--update consensus --consensus-weight 0.5",
        "--update lookahead",
        "--update lookahead --lookahead-steps 2",
        "--update lookahead --lookahead-alpha 0.9",
        "--update alternating --start 1 -0.5",
    ]
    ends = [tuple(dirac(f"{base} {setting}", steps=40)["final"]) for setting in settings]
    assert len(set(ends)) == len(settings)
    assert dirac(f"{base} --discriminator-steps 2", steps=40)["final"] == list(ends[10])  # the name of before
    # R1 and R2 are the same for a linear discriminator, and alternating is the default.
    assert dirac(f"{base} --update simultaneous --r2 0.5", steps=40)["final"] == list(ends[3])
    assert dirac(base, steps=40)["final"] == list(ends[8])


def test_an_exploding_run_is_valid_json(dirac):
    record = dirac("--loss wasserstein --update simultaneous --generator-rate 1e3 --discriminator-rate 1e3")
    assert record["final_radius"] is None and record["growth_law"] == "exponential"
    assert record["stable"] is False and record["largest_stable_rate"] == 0


def test_a_clip_looks_stable_by_its_last_value_and_its_law_tells(dirac):
    options = "--loss wasserstein --update simultaneous --clip joint --clip-norm 0.1 --start 1 0"
    record = dirac(options, steps=5000)
    assert record["growth_law"] == "square-root growth"
    assert record["final_radius"] == pytest.approx(np.sqrt(1 + 5000 * 0.01**2), rel=1e-9)


@pytest.mark.slow
def test_without_json_it_speaks_to_people(capsys):
    assert call("dirac", "--steps", 100, "--r1", 0.6) == 0
    output = capsys.readouterr().out
    assert "in closed form           -0.3+0.4i, -0.3-0.4i" in output
    assert ": stable" in output and "growth law                 decay" in output
    assert call("dirac", "--steps", 4000, "--update", "simultaneous") == 0
    output = capsys.readouterr().out
    assert "none: unstable at every rate" in output and "Eigenvalues tell of small deviations" in output
    assert call("dirac", "--steps", 100, "--clip", "joint") == 0
    assert "The clip does not act at (0, 0)" in capsys.readouterr().out
    assert call("dirac", "--steps", 100, "--r1", 1, "--update", "simultaneous") == 0  # a double eigenvalue
    assert "eigenvalues of one update  0.95+0i, 0.95+0i" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--generator-rate 0", "--generator-rate must be above 0, not 0"),
        ("--discriminator-rate -1", "--discriminator-rate must be above 0, not -1"),
        ("--discriminator-rate nan", "--discriminator-rate must be above 0, not nan"),
        ("--r1 -1", "--r1 must be at least 0 and finite, not -1"),
        ("--r2 inf", "--r2 must be at least 0 and finite, not inf"),
        ("--instance-noise -0.1", "--instance-noise must be at least 0 and finite, not -0.1"),
        ("--momentum 1", "--momentum must be between -1 and 1, not 1"),
        ("--momentum 0.5 --update optimistic", "--momentum is for simultaneous and alternating updates, not for opt"),
        ("--discriminator-steps 0", "--num-discriminator-steps must be at least 1, not 0"),
        ("--discriminator-steps 2 --update extragradient", "is for alternating updates, not for extragradient"),
        ("--clip joint --clip-norm -1", "--clip-norm must be above 0, not -1"),
        ("--clip-norm 1", "--clip-norm does nothing without --clip joint or --clip per-player"),
        ("--consensus-weight 0", "--consensus-weight must be above 0, not 0"),
        ("--lookahead-steps 0", "--lookahead-steps must be at least 1, not 0"),
        ("--lookahead-alpha 2", "--lookahead-alpha must be above 0 and at most 1, not 2"),
        ("--steps 30", "--num-steps must be at least 31, not 30"),
        ("--start nan 1", "--start must be a list of values, each a finite number, not (nan, 1.0)"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(capsys, arguments, message):
    assert call("dirac", *arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    errors = captured.err.splitlines()
    assert len(errors) == 2 and errors[0].startswith("error: ") and message in errors[0]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["dirac", "--update", "alternatin"], ["invalid choice 'alternatin'", "'alternating'"]),
        (["dirac", "--start", "1"], ["--start"]),
        (["dirac", "--generator-rte", "1"], ["--generator-rte"]),
        (["diracc"], ["diracc"]),
    ],
)
def test_wrong_options_are_explained(capsys, arguments, messages):
    assert call(*arguments) == 2
    errors = capsys.readouterr().err
    assert all(message in errors for message in messages)


def test_help_and_the_script_itself():
    def start(*arguments):
        return subprocess.run(
            [sys.executable, SCRIPTS / "stability.py", *arguments], capture_output=True, text=True, timeout=120
        )

    for arguments in ([], ["--help"]):
        helped = start(*arguments)
        assert helped.returncode == 0 and helped.stderr == "" and "dirac" in helped.stdout
    options = start("dirac", "--help").stdout
    for option in (
        "--loss",
        "--r1",
        "--r2",
        "--instance-noise",
        "--update",
        "--generator-rate",
        "--discriminator-rate",
    ):
        assert option in options
    for option in (
        "--momentum",
        "--num-discriminator-steps",
        "--clip",
        "--clip-norm",
        "--num-steps",
        "--start",
        "--json",
    ):
        assert option in options
    judged = start("dirac", "--json", "--steps", "50")
    assert (
        judged.returncode == 0 and judged.stderr == "setting up dirac ...\n" and list(json.loads(judged.stdout)) == KEYS
    )
