"""Where a person reads, no digest stands alone: what it is of comes first, in words, and then its beginning."""

import doctest
import json
import re

from a_run import Page, make_run, read

from jaxgen import fingerprints
from jaxgen.evaluation import page as evaluation_page
from jaxgen.metrics import protocol
from jaxgen.report import comparison

DIGITS = {"name": "mnist/train", "num_examples": 60_000, "image_shape": [28, 28, 1], "class_names": list("0123456789")}
PROTOCOL = {
    "fake": "runs/digits",
    "fake_sha256": "12" * 32,
    "reference": "mnist",
    "reference_split": "test",
    "reference_sha256": "34" * 32,
    "n_real": 10_000,
    "n_fake": 500,
    "image_shape": [28, 28, 1],
    "backbone": "inception-v3-fid",
    "backbone_sha256": "56" * 32,
    "config_sha256": "78" * 32,
    "preset": "mnist-gan",
}


def alone(text):
    """Hexadecimal numbers of 12 digits or more in front of which nobody says what they are."""
    return [found for found in re.findall(r"(.{0,60})\b[0-9a-f]{12,}\b", text) if "fingerprint of " not in found]


def with_data(run, **changes):
    (run / "data.json").write_text(json.dumps(DIGITS | changes))
    return run


def images(fingerprint, **others):
    return {"images": {"image_shape": [28, 28, 1], "data_fingerprint": fingerprint} | others, "data": {"name": "mnist"}}


def test_the_words_of_a_digest_are_those_of_its_protocol():
    assert doctest.testmod(fingerprints).failed == 0
    told = {name: fingerprints.entry(name, PROTOCOL) for name in fingerprints.ENTRIES if name in PROTOCOL}
    assert told == {
        "reference_sha256": "10,000 images of mnist:test, 28 × 28 pixels (fingerprint of the reference's images: "
        "343434343434...)",
        "fake_sha256": "500 images of runs/digits, 28 × 28 pixels (fingerprint of the evaluated images: "
        "121212121212...)",
        "backbone_sha256": "inception-v3-fid (fingerprint of the backbone's weights: 565656565656...)",
        "config_sha256": "mnist-gan (fingerprint of the settings but the seed: 787878787878...)",
    }
    assert fingerprints.entry("train_sha256", PROTOCOL) == "not stated"
    assert fingerprints.entry("fake_sha256", {"fake_sha256": "12" * 32}).startswith("images (fingerprint of the")
    of_run = {"data": {"name": "emoji"}, "split": "test", "n_real": 7, "reference_sha256": "ab" * 32}  # by itself
    assert fingerprints.entry("reference_sha256", of_run).startswith("7 images of emoji:test (fingerprint of")


def test_the_page_and_the_lines_of_an_evaluation_name_data_and_weights_in_words(tmp_path):
    record = {"subject": "runs/digits", "metrics": {"fid": 3.0}, "protocol": PROTOCOL}
    text = Page(evaluation_page.write_page(tmp_path / "page.html", record, []).read_text()).text
    assert "reference_sha256 10,000 images of mnist:test, 28 × 28 pixels (fingerprint of the" in text
    assert "Features inception-v3-fid (fingerprint of its weights: 565656565656...)." in text
    lines = evaluation_page.in_words(record)
    assert lines[-1] == "features: inception-v3-fid (fingerprint of its weights: 565656565656...)"
    assert not alone(text) and not alone("\n".join(lines))


def test_a_table_says_of_each_digest_what_it_is_of():
    found = protocol.records({"metrics": {"fid": 3.0}, "protocol": PROTOCOL}, subject="a")
    other = protocol.records({"metrics": {"fid": 4.0}, "protocol": PROTOCOL | {"backbone_sha256": "9a" * 32}})
    for text in (protocol.table(found), protocol.table([*found, *other], mix=True)):
        assert "reference mnist, reference_split test, fingerprint of the reference's images 343434343434..." in text
        assert not alone(text)


def test_a_report_names_the_data_before_their_fingerprint(tmp_path):
    config = images("0123456789abcdef", held_out_fingerprint="fedcba9876543210") | {"frozen_sha256": "ab" * 32}
    _, page = read(with_data(make_run(tmp_path / "run", **config)))
    words = "images.data_fingerprint mnist/train: 60,000 images of 28 × 28 pixels, grey (fingerprint of the data: "
    assert f"{words}0123456789ab...)" in page.text
    assert "held_out_fingerprint held-out images of mnist (fingerprint of the data: fedcba987654...)" in page.text
    assert "frozen_sha256 networks that are not trained (fingerprint of their weights: abababababab...)" in page.text
    assert not alone(page.text)
    (tmp_path / "run" / "data.json").unlink()  # of an older run, or lost
    assert "images.data_fingerprint mnist (fingerprint of the data: 0123456789ab...)" in read(tmp_path / "run")[1].text


def test_runs_side_by_side_are_of_data_that_have_names(tmp_path):
    runs = [
        with_data(make_run(tmp_path / name, **images(digest)), num_examples=number)
        for name, digest, number in (("a", "a" * 16, 1000), ("b", "b" * 16, 2000))
    ]
    runs.append(make_run(tmp_path / "c"))  # which does not say what its data are
    for run, digest in zip(runs, ("34", "9a", "9a"), strict=True):
        (run / "evaluation").mkdir()
        record = {"metrics": {"fid": 1.0}, "protocol": PROTOCOL | {"reference_sha256": digest * 32}}
        (run / "evaluation" / "a.json").write_text(json.dumps(record))
    text = Page(comparison.write(runs).read_text()).text
    first, second = (
        f"mnist/train: {number} images of 28 × 28 pixels, grey (fingerprint of the data: {c * 12}...)"
        for number, c in (("1,000", "a"), ("2,000", "b"))
    )
    assert f"images.data_fingerprint {first} {second} not set" in text
    assert "reference_sha256: 10,000 images of mnist:test, 28 × 28 pixels (fingerprint of the reference's" in text
    assert not alone(text)
