"""`scripts/stability_bench.py`: the networks that it compares, its picture, and (slow) that it goes on where it was."""

import json
import math
import sys

import jax
import pytest
from PIL import Image

from jaxgen import files


@pytest.fixture(scope="module")
def bench(scripts):
    return scripts("stability_bench")


def sizes(bench, name):
    rule = bench.adam(1e-3, None)
    game = bench.games()[name]
    rules = {"generator_optimizer": rule, "discriminator_optimizer": rule}
    state = jax.eval_shape(lambda: game.init(jax.random.key(0), **rules))
    return [sum(x.size for x in jax.tree.leaves(player.params)) for player in (state.generator, state.discriminator)]


def test_without_spectral_normalisation_the_players_are_as_large_as_with_it(bench):
    assert sizes(bench, "SNGAN") == sizes(bench, "SNGAN without spectral norm") == [31_745, 4_265]


def test_the_picture_shows_whatever_is_there(bench, tmp_path):
    numbers = {"median": 80.0, "failures": 0, "seeds": 3}
    rows = [
        {"gan": "SNGAN", "penalty": "R1", "discriminator_rate": bench.RATE, "clip": 1.0} | numbers,
        {"gan": "R3GAN", "penalty": "no penalty", "discriminator_rate": bench.RATE * 16, "clip": math.inf} | numbers,
        {"gan": "R3GAN", "penalty": "R1", "discriminator_rate": bench.RATE, "clip": 0.1}
        | {"median": math.nan, "failures": 3, "seeds": 3},
    ]
    bench.drawn(rows, tmp_path / "two.png")
    bench.drawn(rows[:1], tmp_path / "one.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.width == one.width and two.height == 2 * one.height


def test_steps_that_cannot_be_scored_are_refused_in_a_sentence(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", str(tmp_path / "new"), "--steps", "10"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "--steps 10 must be a multiple of 4" in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_part_is_trained_and_is_there_at_the_next_call(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "RATIOS", (1,))
    monkeypatch.setattr(bench, "CLIPS", (1.0, math.inf))
    given = [str(tmp_path), "--only", "SNGAN without spectral norm", "--penalties", "no penalty"]
    monkeypatch.setattr(sys, "argv", ["bench", *given, "--steps", "4", "--batch-size", "4", "--seeds", "2"])
    bench.main()
    path = tmp_path / "sngan-without-spectral-norm-no-penalty" / bench.ROWS
    rows = files.decoded(json.loads(path.read_text()))
    assert [(row["clip"], row["seeds"], row["steps"]) for row in rows] == [(1.0, 2, 4), (math.inf, 2, 4)]
    assert all(row["lowest"] <= row["median"] <= row["highest"] < 100 for row in rows)
    with Image.open(path.with_name("samples.png")) as picture:
        assert picture.width > 16 * 32 and picture.height > 2 * 32
    before = path.stat().st_mtime_ns
    bench.main()
    assert path.stat().st_mtime_ns == before and capsys.readouterr().out.count("results.png") == 2
