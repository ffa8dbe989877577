"""The atlas: every plate computes what it says, and the page needs no network."""

import functools
import json
import math
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from in_process import call

from jaxgen.stability import atlas
from jaxgen.stability.atlas import clipping, closed_forms, divergence, linear_vae, networks, page, record, simulation

pytestmark = pytest.mark.usefixtures("fast_compilation")
RUN = {"devices": jax.devices()[:1]}


def failed(found):
    return [claim.text for claim in found.claims if claim.agrees is False]


@pytest.mark.slow
def test_two_rates_and_r1_agree_with_the_exact_boundary_outside_a_band_of_one_cell():
    found = closed_forms.ttur_and_r1(num_ratios=13, num_gammas=12, num_steps=512)
    assert found.numbers["outside_of_band"] == 0 and found.cells == 5 * 13 * 12
    assert found.disagreeing <= 5 and not failed(found)
    shares = [found.numbers[name]["stable"].mean() for name in closed_forms.RULES]
    assert all(0 < share < 1 for share in shares)  # a map of one class would prove nothing


def test_a_wrong_boundary_would_be_noticed(monkeypatch):
    right = closed_forms._radius_in_theory
    monkeypatch.setattr(closed_forms, "_radius_in_theory", lambda n, rate, r, gamma: right(n, rate, r, 3 * gamma))
    found = closed_forms.ttur_and_r1(num_ratios=13, num_gammas=12, num_steps=512)
    assert found.disagreeing > 20 and found.numbers["outside_of_band"] > 0 and failed(found)


@pytest.mark.slow
def test_clipping_follows_its_closed_forms():
    found = clipping.clipping(num_rates=5, num_norms=7, num_steps=512)
    assert found.disagreeing == 0 and not failed(found)
    assert set(found.numbers["laws"]["joint"].ravel()) >= {"square-root growth", "exponential"}


def test_the_clipped_radius_is_that_of_the_steps_themselves():
    theta, psi, h, c = 1.0, 0.0, 0.3, 2.0
    radii = [1.0]
    for _ in range(40):
        scale = min(1.0, c / math.hypot(theta, psi))
        theta, psi = theta - h * scale * psi, psi + h * scale * theta
        radii.append(math.hypot(theta, psi))
    np.testing.assert_allclose(clipping.clipped_radius_in_theory(1.0, np.arange(41), h, c), radii, rtol=1e-12)


def test_limit_cycles_have_the_predicted_radii():
    found = closed_forms.limit_cycles(num_rates=2, num_turns=150)
    assert found.disagreeing == 0 and not failed(found)


@pytest.mark.slow
def test_the_spectrum_of_the_shift_gan_predicts_the_rate_at_which_it_diverges():
    found = divergence.shift_gan(dimension=2, gammas=(0.5,), num_steps=1024)
    assert found.disagreeing == 0 and not failed(found)
    assert list(found.numbers["predicted"]) == list(divergence.PREDICTABLE)


@pytest.mark.slow
def test_units_of_the_linear_vae_die_where_theory_says():
    found = linear_vae.collapse(
        eigenvalues=(2.0, 0.5), dimension=3, num_betas=4, num_steps=1500, batch_size=64, num_records=1, run=RUN
    )
    assert found.disagreeing == 0 and found.cells > 4
    assert found.numbers["theory"].max() > 0 and found.numbers["rates"]["beta-VAE"].shape == (4, 2)


def test_the_rate_in_theory_is_that_of_probabilistic_pca():
    # At beta = 1 and s^2 = 1: posterior variance 1 / l, variance of the mean 1 - 1 / l, prior N(0, 1).
    eigenvalue = 3.0
    kl = 0.5 * (1 / eigenvalue + (1 - 1 / eigenvalue) - 1 + math.log(eigenvalue))
    np.testing.assert_allclose(
        linear_vae.rate_in_theory(np.array([eigenvalue, 0.5]), 1.0, np.array([1.0])), [[kl, 0.0]]
    )


@pytest.mark.slow
def test_plates_of_networks_are_made():
    small = {"num_steps": 20, "num_records": 2, "num_samples": 50, "run": RUN}
    ring = networks.ring(
        ratios=(1.0, 3.0), clips=(math.inf, 1.0), gammas=(0.0,), num_seeds=1, width=4, batch_size=8, **small
    )
    assert ring.numbers["scores"]["SGD"].shape == (1, 2, 2, 1) and ring.cells == 1
    grid = networks.grid(losses=("hinge", "Wasserstein"), kinds=("none", "R1"), num_seeds=1, width=4, **small)
    assert grid.numbers["modes"].shape == (2, 2, 1)
    budget = networks.budget(num_members=3, width=4, batch_size=8, **small)
    assert all(len(curve) == 3 for curve in budget.numbers["curves"].values()) and budget.disagreeing == 0


@pytest.mark.slow
def test_the_spectrum_of_a_trained_network_is_compared_with_what_it_does():
    found = divergence.trained_ring(
        width=6, num_points=16, num_steps=500, settling_steps=500, test_steps=200, num_rates=13, num_iterations=30
    )
    assert set(found.numbers["predicted"]) == set(found.numbers["observed"]) and found.cells >= 1


def test_a_crossing_is_found_between_points():
    scale = np.array([1.0, 2.0, 3.0])
    assert divergence._crossing(scale, np.array([1.0, 1.0, 100.0]), 10.0) == pytest.approx(2.5)
    assert divergence._crossing(scale, np.array([1.0, np.nan, 1.0]), 10.0) == 2.0
    assert divergence._crossing(scale, np.array([20.0, 30.0, 40.0]), 10.0) == 1.0
    assert divergence._crossing(scale, np.ones(3), 10.0) == math.inf


def test_a_band_is_one_cell_wide_on_either_side():
    near = record.near_boundary(np.array([[0, 0, 0, 1, 1, 1]] * 4, bool))
    assert near.tolist() == [[False, False, True, True, False, False]] * 4


class _Addresses(HTMLParser):
    found: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href") and value]


@pytest.mark.slow
def test_the_command_writes_pictures_numbers_and_a_page_that_loads_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    small = {"A1": {"num_ratios": 5, "num_gammas": 4, "num_steps": 64}, "A3": {"num_rates": 2, "num_turns": 150}}
    for name, arguments in small.items():
        monkeypatch.setitem(page.PLATES, name, page.Plate(page.PLATES[name].make, arguments))
    assert call("stability", "atlas", "A3", "A1", "--quick", "--directory", tmp_path / "made") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("A3  Limit cycles: 0 of") and "cells disagree; open" in lines[-1]
    made = tmp_path / "made"
    assert {file.name for file in made.iterdir()} == {"atlas.html"} | {
        f"{name}.{kind}" for name in small for kind in ("png", "svg", "json")
    }
    assert (made / "A1.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (made / "A1.svg").read_text()
    numbers = json.loads((made / "A1.json").read_text())
    text = (made / "atlas.html").read_text()
    reader = _Addresses()
    reader.feed(text)
    assert reader.found and all(x.startswith(("#", "data:image/png;base64,")) for x in reader.found)
    total = re.search(r"([\d,]+) of ([\d,]+) comparisons of theory with simulation disagree", text)
    assert int(total[2].replace(",", "")) == numbers["cells"] + json.loads((made / "A3.json").read_text())["cells"]
    for claim in numbers["claims"]:
        assert claim["text"].split(":")[0] in text or "“" in claim["text"]


def test_a_plate_that_is_there_is_kept_unless_it_is_asked_for_again(tmp_path, monkeypatch):
    calls, told = [], []

    def make(*, size=3, run=None, progress=False):
        calls.append((size, run))
        figure, _ = record.new_figure(2, 2)
        claims = [record.Claim(f"{size} of 3", True)]
        return record.Record("A1", "Title", "Question?", ["Theory."], claims, 3, 1, {"x": np.ones(2)}, figure)

    monkeypatch.setitem(page.PLATES, "A1", page.Plate(make, {"size": 2}, True))
    write = functools.partial(atlas.write, tmp_path, ["A1"], tell=told.append)
    write(atlas.FULL)
    (kept,) = write(atlas.FULL)
    assert len(calls) == 1 and kept.figure is None and kept.claims == [record.Claim("3 of 3", True)]
    assert told[1].endswith("(kept)") and "Question?" in (tmp_path / "atlas.html").read_text()
    write(atlas.QUICK)  # other arguments
    write(atlas.QUICK, again=True)
    assert [size for size, _ in calls] == [3, 2, 2]
    full, quick, again = (run["directory"] for _, run in calls)
    assert full != quick == again  # the sweeps of one plate are found again, and those of another are not mistaken
    # Of a run that was killed, or of another program.
    for made, content in enumerate((b"{", b"[1, 2]", b"3", b"", '{"a": 1}'.encode("utf-16")), 4):
        (tmp_path / "A1.json").write_bytes(content)
        write(atlas.QUICK)
        assert len(calls) == made


def test_every_sweep_of_a_plate_has_a_folder_of_its_own(tmp_path):
    run = {"directory": tmp_path, "devices": 1}
    assert record.folder(run, "SGD") == {"directory": tmp_path / "SGD", "devices": 1}
    assert record.folder(None, "SGD") == {} and run["directory"] == tmp_path


def test_slopes_are_those_of_the_time_in_which_the_game_is_linear():
    time = np.arange(2000)
    slow_beneath_fast = 1e-6 * (np.exp(0.001 * time) + np.exp(-0.01 * time))
    saturating = np.minimum(1e-6 * np.exp(0.05 * time), 3.0)
    vanishing = np.maximum(1e-6 * np.exp(-0.1 * time), 1e-17)
    found = simulation.linear_slopes(np.stack([slow_beneath_fast, saturating, vanishing]))
    np.testing.assert_allclose(found, [0.001, 0.05, -0.1], rtol=1e-3)


def test_a_plate_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="no plate of the atlas is called A0; there are A1, A2"):
        atlas.write(tmp_path, ["A0"])
    assert list(tmp_path.iterdir()) == []


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda made: (made / "A1.json").unlink(),
        lambda made: cut(made / "A1.json"),
        lambda made: (made / "A1.json").write_text((made / "A1.json").read_text().replace('"cells": 3', '"cells": 4')),
        lambda made: (made / "A1.json").write_text(
            (made / "A1.json").read_text().replace('"cells": 3', '"cells": "x"')
        ),
        lambda made: (made / "A1.png").unlink(),
        lambda made: cut(made / "A1.png"),
        lambda made: (made / "A1.png").write_bytes(b""),
        lambda made: (made / "A1.png").write_bytes((made / "A2.png").read_bytes()),
        lambda made: (made / "A1.svg").unlink(),
    ],
)
@pytest.mark.slow
def test_a_damaged_plate_is_made_anew_and_the_others_are_kept(tmp_path, monkeypatch, damage):
    calls = []

    def plate(name):
        def make():
            calls.append(name)
            figure, _ = record.new_figure(2 + len(calls), 2)
            return record.Record(name, "Title", "Question?", ["Theory."], [], 3, 0, {"x": [1.5, math.nan]}, figure)

        return page.Plate(make, {})

    for name in ("A1", "A2"):
        monkeypatch.setitem(page.PLATES, name, plate(name))
    atlas.write(tmp_path, ["A1", "A2"])
    (tmp_path / "notes.txt").write_text("mine")
    atlas.write(tmp_path, ["A1", "A2"])
    assert calls == ["A1", "A2"]
    damage(tmp_path)
    records = atlas.write(tmp_path, ["A1", "A2"])
    assert calls == ["A1", "A2", "A1"] and [made.cells for made in records] == [3, 3]
    atlas.write(tmp_path, ["A1", "A2"])
    assert len(calls) == 3 and (tmp_path / "notes.txt").read_text() == "mine"


def test_a_directory_in_the_place_of_a_plate_or_of_the_page_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setitem(page.PLATES, "A1", page.Plate(lambda: pytest.fail("it was computed"), {}))
    for name in ("A1.json", "A1.png", "atlas.html"):
        (tmp_path / name).mkdir()
        with pytest.raises(OSError, match=f"could not write .*{name}: a directory lies there.*: move it away"):
            atlas.write(tmp_path, ["A1"])
        (tmp_path / name).rmdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not make the directory .*file: something that is not a directory"):
        atlas.write(tmp_path / "file", ["A1"])


def test_plates_of_an_older_atlas_which_hold_no_checksums_are_kept(tmp_path, monkeypatch):
    figure, _ = record.new_figure(2, 2)
    whole = record.Record("A1", "Title", "Question?", ["Theory."], [], 3, 0, {}, figure)
    monkeypatch.setitem(page.PLATES, "A1", page.Plate(lambda: whole, {}))
    atlas.write(tmp_path, ["A1"])
    stored = json.loads((tmp_path / "A1.json").read_text())
    older = {name: value for name, value in stored.items() if name not in ("crc32", "png_crc32")}
    assert len(older) == len(stored) - 2
    (tmp_path / "A1.json").write_text(json.dumps(older))
    (kept,) = atlas.write(tmp_path, ["A1"])
    assert kept.figure is None
