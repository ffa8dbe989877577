"""Records: numbers of unlike protocols do not stand in one table unless somebody asks for it."""

import json
import re

import pytest

from jaxgen.metrics import protocol
from jaxgen.metrics.protocol import Record

BASE = {"backbone": "net", "backbone_sha256": "ab" * 32, "n_real": 10_000, "n_fake": 10_000, "seed": 0}


def record(subject="a", metric="fid", value=1.0, **changes):
    return Record(subject, metric, value, BASE | changes)


def test_a_table_of_like_numbers_has_a_row_a_subject_and_its_protocol_below():
    text = protocol.table([record("a"), record("a", "kid", 0.125), record("b", value=12.3456789)])
    lines = text.splitlines()
    assert lines[:4] == ["|  | fid | kid |", "| --- | --- | --- |", "| a | 1 | 0.125 |", "| b | 12.35 |  |"]
    assert "backbone net, fingerprint of the backbone's weights abababababab..., n_real 10000" in lines[-1]
    assert "seed" not in lines[-1]


@pytest.mark.parametrize(
    "name, other, shown",
    [
        ("n_fake", 5000, "n_fake: 10000 (a); 5000 (b)"),
        (
            "backbone_sha256",
            "cd" * 32,
            "backbone_sha256: net (fingerprint of the backbone's weights: abababababab...) (a); "
            "net (fingerprint of the backbone's weights: cdcdcdcdcdcd...) (b)",
        ),
        ("resize", "bicubic", "resize: not stated (a); bicubic (b)"),
        ("reference_split", "train", "reference_split: not stated (a); train (b)"),
    ],
)
def test_unlike_numbers_are_refused_with_what_differs_and_where(name, other, shown):
    found = [record("a"), record("b", **{name: other})]
    with pytest.raises(protocol.UnlikeProtocols, match=re.escape(shown)) as raised:
        protocol.table(found)
    assert "--mix" in str(raised.value) and str(raised.value).count("\n  ") == 1
    assert protocol.differences(found) == {name: [BASE.get(name), other]}


def test_a_mixed_table_marks_what_is_unlike_and_tells_how():
    found = [record("a"), record("b", value=2.0, n_fake=5000), record("b", value=3.0), record("c", n_fake=5000)]
    lines = protocol.table(found, mix=True).splitlines()
    assert lines[2:5] == ["| a | 1 |", "| b | 2 [1]; 3 |", "| c | 1 [1] |"]
    assert lines[-1] == "[1] n_fake 5000 instead of 10000" and "n_fake" not in lines[-2]


def test_other_metrics_may_have_other_protocols():
    protocol.require_alike([record("a"), record("b"), record("a", "kid", subset_size=1000)])


def test_seeds_become_mean_and_standard_deviation_and_the_same_draw_counts_once():
    seeds = [record(value=v, seed=s, run="a") for s, v in enumerate((1.0, 2.0, 3.0))]
    assert "| a | 2 ± 1 (n = 3 draws) |" in protocol.table(seeds)
    assert protocol.table([*seeds, record("b", run="b")]).endswith("Seed: 0 or 1 or 2 (a); 0 (b)")
    assert "| a | 1 |" in protocol.table([seeds[0], seeds[0]])


def test_several_draws_of_one_training_are_one_training():
    draws = [(0, 0, 1.0), (0, 1, 3.0), (1, 0, 4.0)]  # training's seed, draw's seed, value
    runs = [record(value=v, training_seed=t, seed=s, config_sha256="x") for t, s, v in draws]
    assert "| a | 3 ± 1.4 (n = 2 trainings) |" in protocol.table(runs)


def test_a_floor_has_no_spread_over_trainings():
    runs = [record(metric=m, training_seed=i, seed=0) for i in range(3) for m in ("modes", "fid_floor")]
    assert "| a | 1 ± 0 (n = 3 trainings) | 1 |" in protocol.table(runs)


def test_what_was_evaluated_may_differ_and_is_told_below_the_table():
    vae = record("vae", images="means of the decoder", weights="the latest")
    text = protocol.table([record("gan", images="the generator's output", weights="the latest"), vae])
    told = text.splitlines()[-2:]
    assert told == ["Images: the generator's output (gan); means of the decoder (vae)", "Weights: the latest"]
    assert "Images: not stated (pictures); means" in protocol.table([record("pictures"), vae])
    assert "Images" not in protocol.table([record("pictures")])


def test_two_checkpoints_of_one_run_are_two_rows_and_not_two_seeds():
    text = protocol.table([record(step=100), record(value=2.0, step=200)])
    assert "| a at step 100 | 1 |\n| a at step 200 | 2 |" in text


def test_runs_of_one_preset_and_configuration_can_be_one_row_and_of_two_cannot():
    runs = [
        record(f"runs/{i}", value=float(i), run=f"runs/{i}", preset="gan", config_sha256="x", training_seed=i, step=9)
        for i in range(3)
    ]
    assert "| gan | 1 ± 1 (n = 3 trainings) |" in protocol.table(protocol.by_preset(runs))
    assert "| runs/2 | 2 |" in protocol.table(runs)
    other = record("runs/other", preset="gan", config_sha256="y")
    with pytest.raises(protocol.UnlikeProtocols, match="runs/0 and runs/other began as gan"):
        protocol.by_preset([*runs, other])
    assert protocol.by_preset([record("pictures")]) == [record("pictures")]


def test_an_evaluation_becomes_one_record_for_each_number(tmp_path):
    stored = {
        "subject": "x",
        "metrics": {"fid": 1.5, "precision": 0.5, "class_shares": [0.5, 0.5], "kid": float("nan")},
        "protocol": BASE,
        "settings": {"precision": {"num_neighbours": 5}},
    }
    found = protocol.records(stored)
    assert [r.metric for r in found] == ["fid", "precision", "kid"]
    assert found[1].protocol == BASE | {"num_neighbours": 5} and found[0].protocol == BASE
    (tmp_path / "evaluation").mkdir()
    for i in range(2):
        (tmp_path / "evaluation" / f"{i}.json").write_text(json.dumps(stored | {"subject": f"run {i}"}))
    assert [r.subject for r in protocol.read(tmp_path)] == ["run 0"] * 3 + ["run 1"] * 3
    del stored["subject"]
    (tmp_path / "mine.json").write_text(json.dumps(stored))
    assert protocol.read(tmp_path / "mine.json")[0].subject == "mine"


def stored(value, metric="fid", **changes):
    return {"subject": "a", "metrics": {metric: value}, "protocol": BASE | changes}


def test_an_evaluation_joins_one_of_its_protocol_and_takes_no_other_ones_place(tmp_path):
    path = tmp_path / "deep" / "a.json"
    first = stored(1.0, commit="old") | {"warnings": ["few"], "settings": {"fid": {"rank_deficient": "no"}}}
    assert protocol.write(path, first) == (path, first)
    file, whole = protocol.write(path, stored(2.0, "kid", commit="new"))
    assert file == path and json.loads(path.read_text()) == whole
    assert whole["metrics"] == {"fid": 1.0, "kid": 2.0} and whole["warnings"] == ["few"]
    made = {r.metric: (r.protocol["commit"], r.protocol.get("rank_deficient")) for r in protocol.read(path)}
    assert made == {"fid": ("old", "no"), "kid": ("new", None)}
    assert protocol.write(path, stored(3.0, commit="new"))[1]["metrics"] == {"kid": 2.0, "fid": 3.0}  # made again

    other, _ = protocol.write(path, stored(9.0, n_fake=50))
    assert other != path and other.name.startswith("a_") and protocol.read(path)[1].value == 3.0
    assert protocol.write(path, stored(8.0, n_fake=50))[0] == other  # found again
    assert protocol.write(path, stored(7.0, n_fake=60))[0] not in (path, other)
    with pytest.raises(protocol.UnlikeProtocols, match=re.escape(f"n_fake: 10000 ({path}); 50 ({other})")):
        protocol.table([*protocol.read(path), *protocol.read(other)])
    near = {"settings": {"kid": {"train": "x"}}}
    third, _ = protocol.write(path, stored(5.0, "kid") | near)  # the file has a kid without: it stays, too
    assert third not in (path, other) and protocol.stored(path)["metrics"]["kid"] == 2.0
    path.write_text('{"metrics": ')  # cut short by somebody else
    assert protocol.write(path, first) == (path, first)


def test_images_of_one_name_that_changed_are_two_rows_and_seeds_of_one_set_are_no_draws():
    changed = [record("photos", value=v, fake_sha256=sha * 64) for v, sha in ((1.0, "a"), (3.0, "b"))]
    rows = protocol.table(changed).splitlines()[2:4]
    assert rows == [
        "| photos (fingerprint of the images: aaaaaaaaaaaa...) | 1 |",
        "| photos (fingerprint of the images: bbbbbbbbbbbb...) | 3 |",
    ]
    same = [record("photos", value=2.0, seed=seed, fake_sha256="a" * 64) for seed in range(2)]
    assert "| photos | 2 |" in protocol.table(same)
    same[1] = record("photos", value=4.0, seed=1, fake_sha256="a" * 64)
    assert "| photos | 3 (mean of 2 seeds) |" in protocol.table(same)  # no error: the images are the same


def test_one_reference_under_two_names_is_one():
    found = [record("a", reference=name, reference_sha256="c" * 64) for name in ("test", "/photos/test")]
    protocol.require_alike(found)
    found.append(record("b", reference="test", reference_sha256="d" * 64))
    with pytest.raises(protocol.UnlikeProtocols) as raised:
        protocol.require_alike(found[::2])
    # Both are of one name and number: that they are other images, their fingerprints tell.
    one, other = (f"10,000 images of test (fingerprint of the reference's images: {c * 12}...)" for c in "cd")
    assert f"reference_sha256: {one} (a); {other} (b)" in str(raised.value)
    assert f"reference_sha256 {other} instead of {one}" in protocol.table(found[::2], mix=True)


def test_what_is_no_evaluation_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such evaluation"):
        protocol.read(tmp_path / "absent.json")
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="holds no evaluation: .* sweep ... --metrics"):
        protocol.read(tmp_path)
    for name, text in {"cut": '{"metrics": ', "list": "[1]", "other": '{"a": 1}'}.items():
        (tmp_path / f"{name}.json").write_text(text)
        with pytest.raises(ValueError, match=f"{name}.json is no evaluation with `metrics` .*; leave it out"):
            protocol.read(tmp_path / f"{name}.json")
    (tmp_path / "empty.json").write_text('{"metrics": {}, "protocol": {}}')
    with pytest.raises(ValueError, match="empty.json is no evaluation: it holds no number; leave it out"):
        protocol.read(tmp_path / "empty.json")
    (tmp_path / "utf-16.json").write_bytes('{"metrics": {}}'.encode("utf-16"))
    with pytest.raises(ValueError, match="utf-16.json is no evaluation"):
        protocol.read(tmp_path / "utf-16.json")
    with pytest.raises(ValueError, match="no numbers to show"):
        protocol.table([])


def test_what_only_some_metrics_depend_on_is_told_with_their_names():
    fid, kid, share = (
        protocol.Record("a", metric, 1.0, entries)
        for metric, entries in (
            ("fid", {"n_real": 10, "backbone": "cnn"}),
            ("kid", {"n_real": 10, "backbone": "cnn", "subset_size": 5}),
            ("confident_share", {"n_real": 10, "threshold": 0.9}),
        )
    )
    below = protocol.table([fid, kid, share]).splitlines()[4:]
    assert below == [
        "Protocol: n_real 10",
        "  of fid, kid: backbone cnn",
        "  of kid: subset_size 5",
        "  of confident_share: threshold 0.9",
    ]
