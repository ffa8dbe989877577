import functools
import html
import html.parser
import inspect
import json
import math
import re
import shlex
import time
from pathlib import Path

import in_process
import numpy as np
import pytest

from jaxgen import (
    building,
    command_line,
    configuration,
    experiment,
    images,
    metrics_log,
    options,
    report,
    report_curves,
    run_directory,
)
from jaxgen.commands import report as command
from jaxgen.system import Spec, System
from jaxgen.systems import cgan, classifier, dcgan, vae

VOID = {"meta", "img", "input", "br", "link", "wbr"}


class Page(html.parser.HTMLParser):
    """Collects text and tags, and fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.goes_on = [], [], [], False
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.goes_on = tag == "wbr"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.goes_on:  # a place where a line may break inside a word
            self.words[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)
        self.goes_on = False

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def count(self, tag, **attributes):
        return sum(t == tag and all(a.get(k) == v for k, v in attributes.items()) for t, a in self.tags)


def make_run(path, *, lines=30, samples=2, **config):
    run_directory.create(path, {"preset": "dcgan_mnist", "num_steps": 400, **config})
    started_with(path, "python scripts/train.py dcgan_mnist")
    with metrics_log.open_metrics(path, tensorboard=False) as log:
        for step in range(10, 10 * lines + 1, 10):
            log.write(
                step,
                {
                    "generator/loss": 1 / step,
                    "discriminator/loss": 2 / step,
                    "discriminator/real_logits": step,
                    "discriminator/fake_logits": -step,
                    "penalty/r1": 0.5,
                },
            )
            if step % 100 == 0:
                log.write(step, {"eval/fid": abs(step - 200) + 5.0, "eval/fid_std": 0.5, "eval/accuracy": step / 400})
    for index in range(samples):
        images.save_png(path / "samples" / f"{(index + 1) * 100:08d}.png", np.full([8, 8, 3], index, np.uint8))
    return path


def started_with(path, command, **others):
    (path / "environment.json").write_text(json.dumps({"command": command, **others}))


def read(path):
    text = report.write(path).read_text()
    return text, Page(text)


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
    assert page.text.index("step 200 Earlier") < page.text.index("step 100")  # the latest picture comes first


def test_the_command_writes_pages_anew_and_refuses_what_is_no_run(tmp_path, capsys):
    runs = [make_run(tmp_path / name) or tmp_path / name for name in ("a", "b")]
    assert command.main([str(run) for run in runs]) == 0
    assert capsys.readouterr().out.split() == [str(run / "report.html") for run in runs]
    assert "discriminator/loss" in (runs[1] / "report.html").read_text()
    for arguments, error in ((["--output", "x"], "no options"), ([str(tmp_path)], "is no run")):
        with pytest.raises((ValueError, FileNotFoundError), match=error):
            command.main(arguments)
    assert command.main([]) == 0 and "jaxgen report" in capsys.readouterr().out


def test_a_report_needs_no_network_and_no_other_file(tmp_path):
    text, page = read(make_run(tmp_path))
    assert "http" not in text and "//" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"@import|url\((?!#)", text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "image")
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
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= set(report_curves.COLOURS)
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
    assert "<script" not in text and page.count("script") == 0
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
    monkeypatch.setattr(report, "MAX_PICTURE_BYTES", 5000)
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
    beside = text[text.index('<div class="beside">') :]
    beside = beside[: beside.index("</div>")]
    assert 'alt="Samples, step 200"' in beside and 'alt="Real images, real images"' in beside
    assert page.count("img", alt="Real images, real images") == 1
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


def told(path, system, **facts):
    """RUN/system.json, as the loop writes it."""
    run_directory.write_facts(path, experiment.facts_of(system) | facts)


def system_of(**capabilities):
    return System(init=dict, train_step=dict, images_per_step=1, **capabilities)


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


def test_related_metrics_share_a_panel():
    names = ["generator/loss", "discriminator/loss", "discriminator/real_logits", "discriminator/fake_logits"]
    names += ["discriminator/grad_norm", "units/kl_0", "units/kl_1", "rate", "eval/fid", "eval/fid_std", "eval/kid_std"]
    assert report_curves.panels(names) == [
        ("eval", ["eval/fid"]),
        ("eval", ["eval/kid_std"]),
        ("generator and discriminator", ["generator/loss", "discriminator/loss"]),
        ("discriminator", ["discriminator/real_logits", "discriminator/fake_logits"]),
        ("discriminator", ["discriminator/grad_norm"]),
        ("other", ["units/kl_0", "units/kl_1"]),
        ("other", ["rate"]),
    ]


def test_no_panel_has_more_curves_than_colours_and_none_is_lost():
    names = [f"units/kl_{index}" for index in range(20)]
    arranged = report_curves.panels(names)
    assert [len(members) for _, members in arranged] == [8, 8, 4]
    assert [name for _, members in arranged for name in members] == names
    assert report_curves.MAX_CURVES <= len(report_curves.COLOURS)


def test_norms_over_orders_of_magnitude_get_a_logarithmic_axis(tmp_path):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        for step in range(50):
            log.write(step, {"generator/grad_norm": 10.0 ** (step / 20), "rate": 1.0 + step / 10, "loss": step - 10.0})
    text = read(tmp_path)[0].replace("<wbr>", "")
    figures = {name: "log scale" in f for f in text.split("<figure")[1:] for name in re.findall(r"</i>(\S+) <b>", f)}
    assert figures == {"generator/grad_norm": True, "rate": False, "loss": False}


def test_thinning_keeps_the_extremes_and_smoothing_keeps_the_mean():
    steps = np.arange(10_000)
    values = np.sin(steps / 500.0)
    values[4321], values[7777] = 50.0, -50.0
    values[100:400] = np.nan
    thin_steps, thin_values = report_curves._thinned(steps, values)
    assert len(thin_steps) <= 1000 and (np.diff(thin_steps) > 0).all()
    assert thin_values[thin_steps == 4321] == 50.0 and thin_values[thin_steps == 7777] == -50.0
    assert np.isnan(thin_values).any()
    smooth_steps, smooth_values = report_curves._smoothed(steps, np.where(steps == 3000, 1e30, 0.999))
    assert len(smooth_steps) <= 1000 and smooth_steps[0] == 0 and smooth_steps[-1] == 9999
    far = np.abs(smooth_steps - 3000) > 200
    np.testing.assert_allclose(smooth_values[far], 0.999, rtol=1e-12)


def test_lower_or_higher_is_better_by_name_and_unknown_names_get_no_best():
    assert [report._direction(f"eval/{name}") for name in ("fid", "nll", "fid_ema", "bits_per_dim")] == [1] * 4
    assert [report._direction(f"eval/{name}") for name in ("elbo", "inception_score", "precision")] == [-1] * 3
    assert [report._direction(f"eval/{name}") for name in ("fid_std", "num_fake", "seconds", "colour", "fiddle")] == [
        0
    ] * 5


def commands(path):
    """The commands of a report, as words."""
    text, _ = read(path)
    lines = re.findall(r"<pre>(.*?)</pre>", text)
    return [shlex.split(html.unescape(re.sub("<[^>]*>", "", line))) for line in lines]


def understood(words):
    """Parses a command with the command line of its own module; (its name, what it was asked to do)."""
    if words[0] == "jaxgen":
        name, arguments = words[1], words[2:]
    else:
        assert words[0] == "python" and words[1].startswith("scripts/")
        name, arguments = Path(words[1]).stem, words[2:]
    script = in_process.script(name)
    if name == "train":
        return name, script.parse(arguments)
    asked = {}
    target = getattr(script, name)

    @functools.wraps(target)
    def instead(*arguments, **options):
        asked.update(inspect.signature(target).bind(*arguments, **options).arguments)
        return "nothing"

    setattr(script, name, instead)
    assert script.main(arguments) == 0
    return name, asked


def make_typed_run(path, config, image_shape, *, checkpoint=True, facts=True):
    spec = Spec.of_images(image_shape, 10)
    stored = configuration.to_dict(config, preset="mnist-dcgan") | {"images": spec.to_dict()}
    run_directory.create(path, stored)
    if facts:
        system = building.build_system(config, spec)
        run_directory.write_facts(
            path, experiment.facts_of(system, has_test_split=config.data.has_test_split) | {"parameters": {"a": 1}}
        )
    started_with(path, shlex.join(["python", "scripts/train.py", "mnist-dcgan", "--directory", str(path)]))
    if checkpoint:
        (path / "checkpoints" / "1000").mkdir(parents=True)
    return path


RUNS = {
    "gan": (dcgan.Config(), (28, 28, 1), ["train", "sample", "evaluate"], ("fid", "kid", "prdc")),
    "stacked": (dcgan.Config(data=options.Data("stacked_mnist")), (28, 28, 3), ["train", "sample", "evaluate"], None),
    "large_stacked": (dcgan.Config(data=options.Data("stacked_mnist")), (32, 32, 3), ["train", "sample"], None),
    "emoji": (dcgan.Config(data=options.Data("emoji")), (64, 64, 3), ["train", "sample"], None),
    "no_test": (dcgan.Config(data=options.Data("arrays", path="a.npz")), (28, 28, 1), ["train", "sample"], None),
    "conditional": (cgan.Config(), (28, 28, 1), ["train", "sample", "evaluate"], ("fid", "kid", "prdc")),
    "vae": (
        vae.Config(data=options.Data(binarise="dynamic")),
        (28, 28, 1),
        ["train", "sample", "evaluate"],
        None,
    ),
    "vae_no_test": (
        vae.Config(data=options.Data("hub", path="a/b"), model="conv", likelihood="gaussian"),
        (28, 28, 1),
        ["train", "sample"],
        None,
    ),
    "classifier": (classifier.Config(), (28, 28, 1), ["train", "evaluate"], None),
}


@pytest.mark.filterwarnings("ignore:a gradient penalty beside batch normalisation")
@pytest.mark.parametrize("facts", [True, False])
@pytest.mark.parametrize("run", RUNS)
def test_each_command_is_one_that_its_module_takes_for_such_a_run(tmp_path, run, facts, monkeypatch):
    monkeypatch.setattr(command_line, "use_compilation_cache", lambda: None)
    config, shape, names, metrics = RUNS[run]
    run = make_typed_run(tmp_path / "my run", config, shape, facts=facts)
    found = dict(understood(words) for words in commands(run))
    assert list(found) == names
    assert found["train"].name == "mnist-dcgan" and found["train"].directory == str(run)
    if "sample" in found:
        assert found["sample"]["what"] == str(run)
    if "evaluate" in found:
        asked = found["evaluate"]
        assert (asked["what"], asked["reference"], asked["metrics"]) == (str(run), None, metrics or ())


def test_a_run_of_version_0_1_without_facts_is_offered_what_its_system_can(tmp_path):
    settings = configuration.to_dict(dcgan.Config())
    old = {"family": "GAN", "model": "dcgan", **{n: v for n, v in settings.items() if n not in ("system", "images")}}
    run_directory.create(tmp_path, old | {"images": {"image_shape": [28, 28, 1], "num_classes": 10}})
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    assert [words[:2] for words in commands(tmp_path)] == [["jaxgen", "sample"], ["jaxgen", "evaluate"]]
    run_directory.create(tmp_path / "other", old | {"family": "Flow", "images": {}})
    (tmp_path / "other" / "checkpoints" / "1").mkdir(parents=True)
    assert commands(tmp_path / "other") == []


def test_a_run_of_a_users_file_is_read_back_with_that_file(tmp_path):
    run = make_typed_run(tmp_path / "run", dcgan.Config(), (28, 28, 1))
    stored = run_directory.load_config(run)
    (run / "config.json").write_text(json.dumps(stored | {"system": "mine.py"}))
    started_with(run, "python /somewhere/bin/jaxgen train 'my systems/mine.py:other' --seed 1")
    train, sample, evaluate = commands(run)
    assert train == ["jaxgen", "train", "my systems/mine.py:other", "--seed", "1"]
    assert sample == ["jaxgen", "sample", str(run), "--system", "my systems/mine.py"]
    assert evaluate[:3] == ["jaxgen", "evaluate", str(run)] and evaluate[-2:] == ["--system", "my systems/mine.py"]
    started_with(run, "a notebook")
    assert commands(run)[0][-2:] == ["--system", "mine.py"]


def test_a_run_whose_system_nothing_names_is_read_back_in_python(tmp_path):
    run_directory.create(tmp_path, {"settings": {}, "seed": 0, "images": {"image_shape": [28, 28, 1]}})
    told(tmp_path, system_of(draw=dict))
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    assert commands(tmp_path) == []
    assert f"jaxgen.load('{tmp_path}', system=...)" in read(tmp_path)[1].text


def test_a_run_without_a_checkpoint_offers_only_to_start_again(tmp_path):
    config = vae.Config(data=options.Data(binarise="dynamic"))
    run = make_typed_run(tmp_path / "my run", config, (28, 28, 1), checkpoint=False)
    (run / "checkpoints" / "1000.orbax-checkpoint-tmp").mkdir(parents=True)
    _, page = read(run)
    assert [words[1] for words in commands(run)] == ["scripts/train.py"]
    assert "Start again" in page.text and "Resume" not in page.text


def test_the_command_of_the_last_start_is_repeated_and_only_one_of_the_training_script(tmp_path):
    run = make_typed_run(tmp_path / "my run", dcgan.Config(), (64, 64, 3))
    again = [{"command": "python scripts/train.py x --num-steps 9 --a 'b c'"}]
    started_with(run, "python scripts/train.py x", resumed=again)
    assert commands(run)[0] == ["python", "scripts/train.py", "x", "--num-steps", "9", "--a", "b c"]
    _, page = read(run)
    assert "the same command again python scripts/train.py x --num-steps 9 --a 'b c'" in page.text
    started_with(run, "python scripts/train.py x --seed 3", resumed=[{"date": "2026-01-01T00:00:00+00:00"}])
    assert commands(run)[0][-1] == "3"
    for other in ("python -m pytest tests/test_train.py", "notebook", "python scripts/train.py 'open", 3, None):
        started_with(run, other)
        assert [words[:2] for words in commands(run)] == [["jaxgen", "sample"]]


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
    assert "<th>data.<wbr>validation_<wbr>share</th>" in text and "data.validation_share" in page.text
    assert "<span>--num-steps</span> <span>3</span></pre>" in text
    for rule in ("overflow-wrap: normal", "white-space: pre-wrap", "pre span { white-space: pre; }"):
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
