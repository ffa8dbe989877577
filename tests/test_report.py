import base64
import hashlib
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
from a_run import Page, make_run, read, started_with, system_of, told

from jaxgen import images, report, run_directory
from jaxgen.commands import report as command
from jaxgen.pages import curves
from jaxgen.report import numbers, reading
from jaxgen.run_directory import metrics_log


def test_a_report_of_a_whole_run_shows_every_part(tmp_path):
    text, page = read(make_run(tmp_path / "first"))
    assert "dcgan_mnist" in page.text and "first" in page.text
    assert "step 300 of 400" in page.text
    assert page.count("progress", max="400", value="300") == 1
    for heading in ("Samples", "Evaluation", "Generator and discriminator", "Configuration", "Environment", "Commands"):
        assert f"<h2>{heading}</h2>" in text
    assert "fid 105 latest, step 300 best 5, step 200" in page.text
    assert "accuracy 0.75 latest, step 300 best 0.75, step 300" in page.text
    assert page.count("svg") == 5  # fid, accuracy, the two losses, the two logits, r1
    assert page.text.index("step 200 Over time Earlier") < page.text.index("step 100")  # the latest picture comes first


def test_the_command_writes_pages_anew_and_refuses_what_is_no_run(tmp_path, capsys):
    runs = [make_run(tmp_path / name) or tmp_path / name for name in ("a", "b")]
    assert command.main([str(run) for run in runs]) == 0
    written = [*(run / "report.html" for run in runs), tmp_path / "comparison-of-a-and-b.html"]
    assert capsys.readouterr().out.split() == [str(file) for file in written] and all(map(Path.exists, written))
    assert "discriminator/loss" in (runs[1] / "report.html").read_text()
    for arguments, error in ((["--output", "x"], "no options"), ([str(tmp_path)], "is no run")):
        with pytest.raises((ValueError, FileNotFoundError), match=error):
            command.main(arguments)
    assert command.main([]) == 0 and "jaxgen report" in capsys.readouterr().out


def test_the_command_writes_each_page_and_no_comparison_of_one_run_or_of_too_many(tmp_path, capsys, monkeypatch):
    runs = [str(make_run(tmp_path / name)) for name in ("a", "b")]
    assert command.main([runs[0], f"{runs[0]}/"]) == 0 and capsys.readouterr().err == ""
    monkeypatch.setattr(curves, "MAX_CURVES", 1)
    assert command.main(runs) == 0
    assert "no page of all was written: more than 1 runs" in capsys.readouterr().err
    assert not list(tmp_path.glob("comparison*")) and (tmp_path / "b" / "report.html").exists()


def test_a_report_needs_no_network_and_no_other_file(tmp_path):
    text, page = read(make_run(tmp_path))
    assert "://" not in text and not re.search(r"@import|url\((?!#)", text)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The browser itself refuses whatever else might come in, and runs this one script.
    assert policy.startswith("default-src 'none'; img-src data:;") and policy.endswith(f"script-src 'sha256-{digest}'")
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "image")
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")


def test_the_identifiers_of_a_page_are_unique_and_all_references_resolve(tmp_path):
    text, page = read(make_run(tmp_path))
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers)) > 5
    references = re.findall(r"url\(#([^)]*)\)", text) + re.findall(r'href="#([^"]*)"', text)
    assert references and set(references) <= set(identifiers)


def test_the_curves_take_their_ink_from_the_page_in_light_and_dark(tmp_path):
    text, _ = read(make_run(tmp_path))
    svg = text[text.index("<svg") : text.rindex("</svg>")]
    assert "currentColor" in svg and "var(--line)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= set(curves.COLOURS)
    assert "prefers-color-scheme: dark" in text


def test_an_empty_directory_still_gives_a_page(tmp_path):
    text, page = read(tmp_path)
    assert "No metrics were logged yet." in page.text and "no status" in page.text
    assert "<img" not in text and "<svg" not in text


@pytest.mark.parametrize("missing", ["config.json", "environment.json", "metrics.jsonl", "samples"])
def test_a_missing_piece_leaves_the_others(tmp_path, missing):
    make_run(tmp_path)
    if missing == "samples":
        for file in (tmp_path / "samples").iterdir():
            file.unlink()
        (tmp_path / "samples").rmdir()
    else:
        (tmp_path / missing).unlink()
    text, _ = read(tmp_path)
    shown = {
        "config.json": "<h2>Configuration</h2>",
        "environment.json": "<h2>Environment</h2>",
        "metrics.jsonl": "<svg",
        "samples": "<h2>Samples</h2>",
    }
    assert {name for name, mark in shown.items() if mark not in text} == {missing}


def test_damaged_pieces_are_named_and_left_out(tmp_path):
    make_run(tmp_path)
    for name in ("config.json", "status.json"):
        (tmp_path / name).write_bytes(b'{"preset"')
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "a": 1}\n{"st\n{"step": 3, "a": 1}\n')
    (tmp_path / "samples" / "00000300.png").write_bytes(b"")
    (tmp_path / "samples" / "notes.txt").write_text("mine")
    _, page = read(tmp_path)
    assert "config.json is damaged" in page.text and "status.json is damaged" in page.text
    assert "metrics.jsonl, line 2 is damaged" in page.text
    assert "samples/00000300.png is not a PNG file" in page.text
    assert page.count("img") == 2


def test_a_directory_in_the_place_of_a_file_is_named_and_left_out(tmp_path, capsys):
    make_run(tmp_path)
    for name in ("status.json", "metrics.jsonl", "real.png", "samples/00000300.png"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).mkdir()
    assert command.main([str(tmp_path)]) == 0
    told = capsys.readouterr().err.splitlines()
    text = (tmp_path / "report.html").read_text()
    for name in ("status.json", "metrics.jsonl", "real.png", "samples/00000300.png"):
        assert any(
            line.startswith("warning: could not read") and f"{name}: a directory lies there" in line for line in told
        ), name
        assert f"{name}: a directory lies there" in text


def test_one_point_is_drawn_as_a_point(tmp_path):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        log.write(1, {"loss": 0.5})
    text, page = read(tmp_path)
    assert page.count("use") >= 1 and "0.5" in page.text and "step 1" in page.text


def test_values_that_are_not_finite_are_marked_and_their_first_step_named(tmp_path):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        for step in range(1, 301):
            log.write(step, {"a": math.nan if step > 200 else 1.0, "b": math.nan, "c": math.inf if step == 7 else step})
    text, page = read(tmp_path)
    assert "Not finite: b from step 1 (300 of 300 values), c from step 7 (1 of 300 values)" in page.text
    assert "a from step 201 (100 of 300 values)" in page.text
    assert "no finite value" in page.text and '<b class="bad">NaN</b>' in text
    assert page.count("svg") == 2
    paths = "".join(re.findall(r'<path d="([^"]*)"', text))
    assert "nan" not in paths.lower() and "inf" not in paths.lower()


@pytest.mark.parametrize("value", [1e300, -1e300, 1e-300, 0.0, 1e30])
def test_extreme_values_can_be_drawn(tmp_path, value, recwarn):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        for step in range(1, 201):
            log.write(step, {"constant": value, "spike": value if step == 100 else 1.0, "both": value * (-1) ** step})
    _, page = read(tmp_path)
    assert page.count("svg") == 3
    assert not [str(warning.message) for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_everything_from_outside_is_escaped(tmp_path):
    evil = '<script>alert("x")</script>&$\\frac$'
    run = tmp_path / "a<b>&'c"
    run_directory.create(run, {"preset": evil, "note": evil, evil: 1})
    run_directory.write_status(run, "stopped", step=3, message=evil)
    with metrics_log.open_metrics(run, tensorboard=False) as log:
        for step in range(1, 4):
            log.write(step, {evil: step, f"eval/{evil}": step, f"_{evil}": step})
    images.save_png(run / "samples" / f"{evil.replace('/', '')}_0010.png", np.zeros([2, 2, 3], np.uint8))
    (run / "status.json").write_text(json.dumps({"status": evil, "step": evil, "message": evil}))
    text, page = read(run)
    assert "<script" not in text and page.count("script") == 0  # a single picture needs no slider
    assert page.text.count(evil) >= 6


@pytest.mark.parametrize("status", run_directory.STATUSES)
def test_the_status_of_the_run_is_shown(tmp_path, status):
    run_directory.create(tmp_path, {"train": {"num_steps": 2000}})
    run_directory.write_status(tmp_path, status, step=1200, message="because of this")
    text, page = read(tmp_path)
    assert f'<span class="badge {status}">{status}</span> step 1,200 of 2,000' in text
    assert "because of this" in page.text


def test_many_samples_are_thinned_to_first_last_and_evenly_spaced_ones(tmp_path):
    make_run(tmp_path, samples=100)
    _, page = read(tmp_path)
    assert page.count("img") == 24
    assert "24 of 100 are shown; all are in samples/." in page.text
    shown = sorted(int(re.search(r"step ([\d,]+)", a["alt"])[1].replace(",", "")) for t, a in page.tags if t == "img")
    assert shown[0] == 100 and shown[-1] == 10000 and set(np.diff(shown)) <= {400, 500}


def test_large_samples_are_bounded_and_the_last_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_PICTURE_BYTES", 5000)
    noise = np.random.RandomState(0).randint(0, 256, [30, 30, 3]).astype(np.uint8)
    for step in (1, 2, 3, 4, 5):
        images.save_png(tmp_path / "samples" / f"{step:08d}.png", noise)
    _, page = read(tmp_path)
    assert [a["alt"] for t, a in page.tags if t == "img"] == ["Samples, step 5"]


def test_kinds_of_pictures_get_their_own_sections(tmp_path):
    for name in ("00000100", "00000200", "reconstructions_00000200", "final"):
        images.save_png(tmp_path / "samples" / f"{name}.png", np.zeros([2, 2, 3], np.uint8))
    text, page = read(tmp_path)
    assert re.findall(r"<h2>([^<]*)</h2>", text)[:3] == ["Samples", "Final", "Reconstructions"]
    assert page.count("img") == 4


def described(path, **changes):
    facts = {"name": "pets <1>", "num_examples": 1234, "image_shape": [32, 48, 3], "class_names": ["cat", "dog"]}
    (path / "data.json").write_text(json.dumps(facts | changes))
    images.save_png(path / "real.png", np.zeros([8, 8, 3], np.uint8))


def test_the_data_are_told_and_real_images_stand_beside_the_samples(tmp_path):
    make_run(tmp_path / "run", samples=2)
    described(tmp_path / "run")
    text = report.write(tmp_path / "run").read_text()
    page = Page(text)
    assert "pets <1>: 1,234 images of 32 × 48 pixels, colour; 2 classes (cat, dog)" in page.text
    beside = text[text.index('<div class="first">') : text.index("<h2>Evaluation</h2>")]
    assert 'alt="Samples, step 200"' in beside and 'alt="Real images"' in beside
    assert page.count("img", alt="Real images") == 1
    described(tmp_path / "run", class_names=[f"kind {i}" for i in range(21)], image_shape=[8, 8, 1])
    text = Page(report.write(tmp_path / "run").read_text()).text
    assert "8 × 8 pixels, grey; 21 classes (kind 0," in text and "kind 19, ...)" in text and "kind 20" not in text


def test_real_images_are_shown_without_samples_and_damaged_facts_are_left_out(tmp_path):
    make_run(tmp_path / "run", samples=0)
    described(tmp_path / "run", class_names=None)
    page = Page(report.write(tmp_path / "run").read_text())
    assert "Real images" in page.text and "Training data" not in page.text
    described(tmp_path / "run", class_names=[])
    (tmp_path / "run" / "real.png").write_bytes(b"no picture")
    text = Page(report.write(tmp_path / "run").read_text()).text
    assert "pixels, colour; no labels" in text and "real.png is not a PNG file" in text


def test_reconstructions_say_which_is_the_original(tmp_path):
    make_run(tmp_path / "run")
    images.save_png(tmp_path / "run" / "samples" / "reconstructions_00000100.png", np.zeros([8, 8, 3], np.uint8))
    text = Page(report.write(tmp_path / "run").read_text()).text
    assert text.count("left an original, right its reconstruction") == 1


def test_rows_of_a_picture_are_named_where_its_size_says_that_they_are_classes(tmp_path):
    names = [f"<{i}>" for i in range(20)]
    make_run(tmp_path, samples=0)
    described(tmp_path, class_names=names, image_shape=[8, 8, 3])
    told(tmp_path, system_of(draw=dict, choices={"label": 20}))
    strips = images.grid(np.zeros([16, 16, 8 * 16, 3]), columns=1, padding=images.STRIP_PADDING)  # enlarged twice
    images.save_png(tmp_path / "samples" / "00000100.png", strips)
    _, page = read(tmp_path)
    assert [attributes["title"] for tag, attributes in page.tags if tag == "li"] == names[:16]
    assert "The first 16 of 20 classes." in page.text and "Rows are classes" not in page.text
    images.save_png(tmp_path / "samples" / "00000200.png", images.grid(np.zeros([64, 8, 8, 3])))  # a system's own view
    _, page = read(tmp_path)
    assert page.count("li") == 0 and "Rows are classes, the first 16 of 20" in page.text


def test_a_running_run_tells_the_time_that_is_left(tmp_path):
    run_directory.create(tmp_path, {"num_steps": 1000})
    write_lines(tmp_path, [100, 200, 300], [10, 20, 30])
    for status, is_told in (("running", True), ("finished", False)):
        run_directory.write_status(tmp_path, status, step=400)
        assert ("time left 1 min 0 s at the latest speed" in read(tmp_path)[1].text) == is_told


def test_what_draws_without_a_number_of_quality_says_how_to_get_one(tmp_path):
    draws, measures = system_of(draw=dict), system_of(draw=dict, measure=dict)
    for name, lines, system, hinted in (
        ("a", 9, draws, 1),
        ("b", 30, draws, 0),
        ("c", 9, measures, 0),
        ("d", 9, system_of(classify=dict), 0),
    ):
        told(make_run(tmp_path / name, lines=lines), system)
        assert Page(report.write(tmp_path / name).read_text()).text.count("--eval-metric fid") == hinted
    make_run(tmp_path / "e", lines=9)  # nobody knows
    assert "--eval-metric" not in Page(report.write(tmp_path / "e").read_text()).text


def test_networks_are_listed_with_their_parameters_and_damaged_facts_are_left_out(tmp_path):
    make_run(tmp_path)
    told(tmp_path, system_of(draw=dict), parameters={"generator": 1234567, "discriminator": 1000})
    text = read(tmp_path)[1].text
    assert "Networks: system generator 1,234,567 parameters" in text and "together 1,235,567 parameters" in text
    told(tmp_path, system_of(draw=dict), parameters={"network": 7})
    text = read(tmp_path)[1].text
    assert "network 7 parameters" in text and "together" not in text
    (tmp_path / "system.json").write_text(json.dumps({"can": 3, "choices": 4, "parameters": {"a": None}}))
    text, page = read(tmp_path)
    assert "<h2>Networks" not in text and "step 300 of 400" in page.text
    (tmp_path / "system.json").write_text('{"can"')
    assert "system.json is damaged" in read(tmp_path)[1].text


def test_the_rows_of_a_class_conditional_runs_samples_are_its_classes(tmp_path):
    make_run(tmp_path)
    described(tmp_path)
    told(tmp_path, system_of(draw=dict))
    assert "Rows are classes" not in read(tmp_path)[1].text
    told(tmp_path, system_of(draw=dict, choices={"label": 2}))
    text = read(tmp_path)[1].text
    assert "Samples Rows are classes, from the top: cat, dog. " in text and text.count("Rows are") == 1
    described(tmp_path, class_names=[f"<{i}>" for i in range(20)])
    text = read(tmp_path)[1].text
    assert "Rows are classes, the first 16 of 20, from the top: <0>, <1>," in text and "<14>, <15>. " in text


def test_lower_or_higher_is_better_by_name_and_unknown_names_get_no_best():
    assert [numbers.direction(f"eval/{name}") for name in ("fid", "nll", "fid_ema", "bits_per_dim")] == [1] * 4
    assert [numbers.direction(f"eval/{name}") for name in ("elbo", "inception_score", "precision")] == [-1] * 3
    unknown = ("fid_std", "num_fake", "seconds", "colour", "fiddle")
    assert [numbers.direction(f"eval/{name}") for name in unknown] == [0] * 5


def test_a_pause_between_two_sessions_is_not_training_time(tmp_path):
    times = [*range(0, 100, 10), *range(100_000, 100_100, 10)]
    lines = [json.dumps({"step": step, "time": t, "a": 1}) for step, t in enumerate(times, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    _, page = read(tmp_path)
    assert "time trained 3 min 0 s" in page.text
    assert "steps a second 0.1 over the last 10 log lines" in page.text


def write_lines(path, steps, times):
    lines = [json.dumps({"step": step, "time": moment, "a": 1}) for step, moment in zip(steps, times, strict=True)]
    (path / "metrics.jsonl").write_text("\n".join(lines))


def test_names_break_after_their_signs_and_commands_between_their_arguments(tmp_path):
    run = make_run(tmp_path, data={"validation_share": 0.1})
    started_with(run, "python scripts/train.py x --num-steps 3")
    text, page = read(run)
    assert "<dt>data.<wbr>validation_<wbr>share</dt>" in text and "data.validation_share" in page.text
    assert "<span>--num-steps</span> <span>3</span></pre>" in text
    for rule in ("word-break: normal", "white-space: pre-wrap", "pre span { white-space: pre; }"):
        assert rule in text


def test_a_short_restart_is_not_training_time(tmp_path):
    # Killed after its line at 40 s, started again at 51 s, and 18 s after that line the next one.
    write_lines(tmp_path, [100, 200, 300, 400, 500], [1030.5, 1040.5, 1058.5, 1060.5, 1062.5])
    _, page = read(tmp_path)
    assert "time trained 32 s between log lines, restarts and long gaps left out" in page.text  # nobody knows
    dates = ["1970-01-01T00:16:51+00:00", "1970-01-01T01:17:31+01:00"]
    started_with(tmp_path, "", date=dates[0], resumed=[{"date": dates[0]}, {"date": "damaged"}, 3, {}])
    _, page = read(tmp_path)
    assert "time trained 32 s" in page.text  # a start before the first line is in no gap
    started_with(tmp_path, "", date=dates[0], resumed=[{"date": "damaged"}, {"date": dates[1]}])
    _, page = read(tmp_path)
    assert "time trained 14 s" in page.text
    assert "steps a second 50 over the last 3 log lines" in page.text


def test_where_the_step_goes_back_no_training_time_is_counted(tmp_path):
    write_lines(tmp_path, [100, 200, 300, 200, 300], [0, 10, 20, 38, 48])
    _, page = read(tmp_path)
    assert "time trained 30 s" in page.text


def test_a_path_that_is_no_directory_is_refused(tmp_path):
    with pytest.raises(run_directory.RunDirectoryError, match="nowhere is not a directory"):
        report.write(tmp_path / "nowhere")


def test_writing_again_replaces_the_report_and_leaves_nothing_else(tmp_path):
    make_run(tmp_path, lines=1, samples=0)
    report.write(tmp_path)
    before = {file.name for file in tmp_path.iterdir()}
    assert report.write(tmp_path) == tmp_path / "report.html"
    assert {file.name for file in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_a_long_run_is_reported_within_seconds_and_megabytes(tmp_path):
    rng = np.random.RandomState(0)
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(5000):
            record = {f"group{i % 5}/metric_{chr(97 + i)}": value for i, value in enumerate(rng.randn(25))}
            file.write(json.dumps({"step": step, "time": step, **record}) + "\n")
    report.write(tmp_path)  # imports matplotlib
    started = time.process_time()
    path = report.write(tmp_path)
    assert time.process_time() - started < 5.0  # measured 0.6; the slack is for a busy machine
    assert path.stat().st_size < 2e6
    assert Page(path.read_text()).count("svg") == 25
