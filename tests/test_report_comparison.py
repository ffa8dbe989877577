import json

import pytest
from a_run import Page, make_run

from jaxgen import run_directory
from jaxgen.metrics import protocol
from jaxgen.pages import curves
from jaxgen.report import comparison
from jaxgen.run_directory import metrics_log


def page_of(runs):
    text = comparison.write(runs).read_text()
    return text, Page(text)


def evaluated(run, metrics, name="a.json", **others):
    told = {"run": run.name, "step": 300, "n_fake": 500, "reference_sha256": "r" * 64} | others
    (run / "evaluation").mkdir(exist_ok=True)
    stored = {"subject": run.name, "metrics": metrics, "protocol": told}
    (run / "evaluation" / name).write_text(json.dumps(stored))


def compared(*runs):
    def records(run):
        return [record for file in sorted((run / "evaluation").iterdir()) for record in protocol.read(file)]

    return comparison.compared_evaluations({run.name: records(run) for run in runs})


def test_runs_stand_side_by_side_with_what_differs(tmp_path):
    runs = [make_run(tmp_path / name, r1=weight, seed=0) for name, weight in (("a", 0.1), ("b", 10.0))]
    text, page = page_of(runs)
    assert "2 runs side by side" in page.text and page.text.count("step 300 of 400") == 2
    assert "setting a b r1 0.1 10.0" in page.text and "3 other settings are the same in all runs." in page.text
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["a/report.html", "b/report.html"]
    # One panel for each of fid, accuracy, two losses, two logits and r1, in each of which both runs have a curve.
    panels = [part[: part.index("</figcaption>")] for part in text.split('<figure class="panel">')[1:]]
    assert len(panels) == 7
    assert all(
        f'background:{colour}"></i>{name} <b>' in panel
        for panel in panels
        for name, colour in zip("ab", curves.COLOURS, strict=False)
    )
    assert "penalty/r1 0.5 0.5" in page.text  # the last numbers


def test_a_run_keeps_its_colour_where_another_lacks_the_metric(tmp_path):
    for name, metrics in (("a", ["x"]), ("b", ["x", "y"]), ("c", ["x", "y"])):
        run_directory.create(tmp_path / name, {})
        with metrics_log.open_metrics(tmp_path / name, tensorboard=False) as log:
            log.write(1, dict.fromkeys(metrics, 0.5))
    text, _ = page_of([tmp_path / name for name in "abc"])
    panel = text[text.index("<h3>y</h3>") :]
    panel = panel[: panel.index("</svg>")]
    assert curves.COLOURS[0] not in panel and all(f'background:{curves.COLOURS[i]}"' in panel for i in (1, 2))


def test_numbers_of_one_protocol_are_compared_with_their_errors(tmp_path):
    runs = [make_run(tmp_path / name) for name in "ab"]
    for run, fid in zip(runs, (3.0, 2.5), strict=True):
        evaluated(run, {"fid": 9.0, "fid_standard_error": 0.1}, "older.json", step=200)
        evaluated(run, {"fid": fid, "fid_standard_error": 0.25, "fid_of_train": 1.0})
    assert compared(*runs) == ({"fid": ["3 ± 0.25", "2.5 ± 0.25"]}, [])
    assert "fid 3 ± 0.25 2.5 ± 0.25" in page_of(runs)[1].text


def test_numbers_of_unlike_protocols_are_not_compared_and_what_differs_is_told(tmp_path):
    a, b, c = runs = [make_run(tmp_path / name) for name in "abc"]
    evaluated(a, {"fid": 3.0, "kid": 0.1})
    evaluated(b, {"fid": 2.0, "kid": 0.2})
    evaluated(c, {"fid": 1.0, "kid": 0.3}, n_fake=200)
    rows, unlike = compared(*runs)
    assert rows == {"fid": ["3", "2", ""], "kid": ["0.1", "0.2", ""]}
    assert unlike == [(["fid", "kid"], ["n_fake: 500 (a), 500 (b), 200 (c)"])]
    text = page_of([b, c])[1].text
    assert "not compared" in text.lower() and "n_fake: 500 (b), 200 (c)" in text and "fid 2" not in text


def test_numbers_of_the_log_are_doubted_where_they_were_measured_otherwise(tmp_path):
    runs = [make_run(tmp_path / str(n), eval_images=n) for n in (1000, 2000)]
    assert "cannot be compared as it stands: the runs differ in eval_images." in page_of(runs)[1].text
    assert "as it stands" not in page_of([runs[0], make_run(tmp_path / "c", eval_images=1000)])[1].text


def test_a_damaged_evaluation_is_told_and_left_out(tmp_path):
    runs = [make_run(tmp_path / name) for name in "ab"]
    evaluated(runs[0], {"fid": 3.0})
    (runs[0] / "evaluation" / "b.json").write_text("{")
    assert "an evaluation was left out" in page_of(runs)[1].text


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [make_run(tmp_path / folder / "run") for folder in ("x", "y")]
    text, page = page_of(runs)
    assert (
        "x/run" in page.text and "y/run" in page.text and (tmp_path / "x" / "comparison-of-run-and-run.html").exists()
    )
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == [
        "run/report.html",
        "../y/run/report.html",
    ]


def test_what_cannot_be_compared_is_refused(tmp_path):
    run = make_run(tmp_path / "a")
    with pytest.raises(ValueError, match="1 runs do not fit on one page: give 2 to 8"):
        comparison.write([run])
    with pytest.raises(ValueError, match="a is named twice"):
        comparison.write([run, tmp_path / "." / "a"])
    with pytest.raises(run_directory.RunDirectoryError, match="nowhere is not a directory"):
        comparison.write([run, tmp_path / "nowhere"])


def test_everything_from_outside_is_escaped(tmp_path):
    evil = '<script>alert("x")</script>'
    runs = [make_run(tmp_path / f"<b>{i}&", note=f"{evil}{i}", **{evil: i}) for i in range(2)]
    for run in runs:
        (run / "status.json").write_text(json.dumps({"status": evil, "step": 1, "message": evil}))
        evaluated(run, {evil: 1.0}, **{evil: run.name})
    text, page = page_of(runs)
    assert text.count("<script") == text.count('<script>\n"use strict"') == 1  # our own
    assert page.count("b") == text.count("<b>") and page.text.count(evil) >= 5
