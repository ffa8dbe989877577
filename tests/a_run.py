"""Run directories for tests of pages, made without training, and pages as a browser would read them."""

import html.parser
import json

import numpy as np

from jaxgen import experiment, images, report, run_directory
from jaxgen.run_directory import metrics_log
from jaxgen.system import System

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


def told(path, system, **facts):
    """RUN/system.json, as the loop writes it."""
    run_directory.write_facts(path, experiment.facts_of(system) | facts)


def system_of(**capabilities):
    return System(init=dict, train_step=dict, images_per_step=1, **capabilities)
