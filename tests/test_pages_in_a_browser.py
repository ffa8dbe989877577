"""Each kind of page in a headless Chromium: `pytest -m slow tests/test_pages_in_a_browser.py`."""

import json
import math

import browser
import numpy as np
import pytest
from a_run import make_run, system_of, told

from jaxgen import images, report
from jaxgen.editing import page as edited
from jaxgen.evaluation import page
from jaxgen.evaluation.pictures import Picture
from jaxgen.pages.pictures import Picture as PagePicture
from jaxgen.report import comparison
from jaxgen.stability import atlas, sweep, sweep_page, sweep_report
from jaxgen.stability.atlas import page as atlas_page
from jaxgen.stability.atlas import record as plates

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.find() is None, reason=f"none of {', '.join(browser.NAMES)} is on PATH"),
]

EVIL = '<script>console.error("ran")</script><img src=x onerror="console.error(1)">'
LONG = "a_setting_with_a_name_that_is_far_too_long_for_a_telephone" * 3


def noise(*shape):
    return np.random.RandomState(0).uniform(-1, 1, shape).astype(np.float32)


def a_run(path, learning_rate):
    make_run(path, samples=0, note=EVIL, learning_rate=learning_rate, **{LONG: LONG})
    facts = {"name": EVIL, "num_examples": 9, "image_shape": [28, 28, 1], "class_names": ["cat", EVIL]}
    (path / "data.json").write_text(json.dumps(facts))
    told(path, system_of(draw=dict, choices={"label": 2}))
    images.save_png(path / "real.png", images.grid(noise(9, 28, 28, 1), upscale=None))
    for step in (100, 200, 300):
        strips = images.grid(noise(2, 28, 8 * 28, 1) * step / 300, columns=1, padding=images.STRIP_PADDING)
        images.save_png(path / "samples" / f"{step:08d}.png", strips)
        images.save_png(path / "samples" / f"reconstructions_{step:08d}.png", strips)
    (path / "evaluation").mkdir()
    protocol = {"n_fake": 500, "run": path.name, "step": 300}
    evaluation = {"subject": path.name, "metrics": {"fid": learning_rate}, "protocol": protocol}
    (path / "evaluation" / "a.json").write_text(json.dumps(evaluation))
    return path


def a_sweep(path):
    settings = sweep.product({"discriminator_rate": [0.1, 0.2, 0.4]}, {"clip": [1.0, np.inf]}, {"seed": range(2)})
    score = np.where(settings["discriminator_rate"] > 0.2, np.nan, 0.9)
    table = settings | {"finite": np.isfinite(score), "final_score": score}
    result = sweep.Result(settings, table, np.array([10]), {"score": score[:, None]}, None, 1.0)
    drawn = {"drawn": noise(12, 16, 28, 28, 1), "real": noise(16, 28, 28, 1), "origin": EVIL}
    return sweep_page.write(path, EVIL, result, sweep_report.Scale(failed_below=0.5), **drawn)


def an_evaluation(path):
    pictures = [Picture(f"Pictures {EVIL}", EVIL, images.grid(noise(8, 28, 28, 1), columns=4), ("cat", EVIL))]
    metrics = {"fid": 3.0, "fid_standard_error": 0.1, "class_shares": [0.5, 0.5], LONG: math.inf}
    record = {"subject": EVIL, "metrics": metrics, "warnings": [EVIL]}
    record["protocol"] = {"n_fake": 500, "backbone": "mnist-cnn", LONG: EVIL}
    return page.write_page(path, record, pictures)


def an_atlas(directory, patch):
    def plate(*, run=None):
        figure, _ = plates.new_figure(9, 4)
        claims = [plates.Claim("eta_G " + EVIL, True), plates.Claim("measured"), plates.Claim("no", False)]
        return plates.Record("A1", EVIL, EVIL, [EVIL], claims, 10, 3, {}, figure)

    patch.setitem(atlas_page.PLATES, "A1", atlas_page.Plate(plate, {}))
    atlas.write(directory, ["A1"])
    return directory / "atlas.html"


def an_edit(path):
    before, after = (images.grid(noise(1, 64, 64, 3) * share) for share in (1, 0.5))
    both = [PagePicture.of(images.png_bytes(x), label) for x, label in ((before, "before"), (after, "after"))]
    views = [edited.View(EVIL, both[0], both[1], EVIL), edited.View(EVIL, both[0])]
    return edited.write(path, views, title="restore", subject=EVIL, settings={LONG: LONG}, failed={EVIL: EVIL})


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages")
    runs = [a_run(path / "a & <b>", 1e-3), a_run(path / "c#d?e%20", 2e-3)]
    with pytest.MonkeyPatch.context() as patch:
        return {
            "report": report.write(runs[0]),
            "other report": report.write(runs[1]),
            "runs side by side": comparison.write(runs),
            "evaluation": an_evaluation(path / "evaluation.html"),
            "sweep": a_sweep(path / "sweep.html"),
            "atlas": an_atlas(path / "atlas", patch),
            "edit": an_edit(path / "edited.html"),
        }


@pytest.fixture(scope="module")
def tab():
    with browser.tab(browser.find()) as tab:
        yield tab


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("kind", ["report", "runs side by side", "evaluation", "sweep", "atlas", "edit"])
def test_a_page_fits_its_window_shows_its_pictures_and_has_no_error(pages, tab, kind, width):
    tab.open(pages[kind], width=width)
    assert tab.value("document.images.length") > 0 and tab.faults() == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ('<div style="width:1300px">wide</div>', "scrolls sideways"),
        ('<img src="data:image/png;base64,AAAA" alt="broken">', "a picture does not load: broken"),
        ('<img src="elsewhere.png" alt="elsewhere">', "Content Security Policy"),
        ("<script>1</script>", "Content Security Policy"),
    ],
)
def test_a_page_that_is_broken_is_found(pages, tab, tmp_path, fault, told):
    text = pages["report"].read_text()
    (tmp_path / "broken.html").write_text(text.replace("<footer>", f"{fault}<footer>"))
    tab.open(tmp_path / "broken.html", width=1200)
    assert any(told in found for found in tab.faults())


def test_a_slider_goes_through_the_steps_by_the_keyboard(pages, tab):
    tab.open(pages["report"], width=1200)
    shown = "document.querySelector('.samples .large figcaption').textContent"
    source = "document.querySelector('.samples .large img').src"
    newest = tab.value(source)
    tab.value("document.querySelector('.samples input[type=range]').focus()")
    assert tab.value(shown) == "step 300"
    tab.press("ArrowLeft")
    assert tab.value(shown) == "step 200" and tab.value(source) != newest
    tab.press("Home")
    assert tab.value(shown) == "step 100"
    assert tab.value("document.activeElement.getAttribute('aria-valuetext')") == "step 100"
    assert tab.faults() == []


def test_before_and_after_lie_one_over_the_other_and_side_by_side_without_scripts(pages, tab):
    tab.open(pages["edit"], width=1200)
    left = "[...document.querySelectorAll('.wipe img')].map((image) => image.getBoundingClientRect().left)"
    assert len(set(tab.value(left))) == 1 and tab.faults() == []
    tab.value("document.querySelector('.wipe input').focus()")
    tab.press("Home")
    assert tab.value("document.querySelector('.wipe').style.getPropertyValue('--at')") == "0%"
    tab.open(pages["edit"], width=1200, scripts=False)
    assert len(set(tab.value(left))) == 2


def test_without_scripts_all_pictures_are_there(pages, tab):
    tab.open(pages["report"], width=1200, scripts=False)
    visible = "[...document.images].filter((image) => image.offsetParent && image.naturalWidth).length"
    assert tab.value(visible) == 7  # three steps of two kinds, and the real images
    assert tab.value("document.querySelector('.time').offsetParent === null")


def test_names_of_classes_stand_beside_their_rows(pages, tab):
    tab.open(pages["report"], width=390)
    middles = """(selector) => [...document.querySelectorAll(selector)].map((element) => {
      const box = element.getBoundingClientRect(); return (box.top + box.bottom) / 2; })"""
    names = tab.value(f"({middles})('.samples .classes li')")
    image = tab.value(
        "(({top, height}) => [top, height])(document.querySelector('.large img').getBoundingClientRect())"
    )
    for row, middle in enumerate(names):
        assert abs(middle - (image[0] + image[1] * (row + 0.5) / 2)) < image[1] / 20


def test_a_link_leads_to_the_report_of_a_run(pages, tab):
    tab.open(pages["runs side by side"], width=1200)
    links = tab.value("[...document.querySelectorAll('h2 a')].map((link) => link.href)")
    assert links == [pages[name].as_uri() for name in ("report", "other report")]


@pytest.mark.parametrize("kind", ["report", "evaluation", "sweep", "atlas"])
def test_a_page_is_dark_where_the_reader_wants_that(pages, tab, kind):
    brightness = "getComputedStyle(document.body).{}.match(/\\d+/g).slice(0, 3).reduce((sum, c) => sum + +c, 0)"
    for scheme, is_dark in (("light", False), ("dark", True)):
        tab.open(pages[kind], width=1200, scheme=scheme)
        paper, ink = (tab.value(brightness.format(name)) for name in ("backgroundColor", "color"))
        assert (paper < ink) == is_dark and abs(paper - ink) > 400
