"""`jaxgen edit`: pictures in, pictures out, of runs that translate and of runs that decode."""

import dataclasses
import functools
import inspect
import json
import re
from contextlib import nullcontext
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from a_run import Page
from in_process import call, script
from PIL import Image
from test_editing_files import pixels_of, saved
from test_readme import PAGES, ROOT
from test_readme import commands as page_commands

import jaxgen
from jaxgen import building, commands, loading
from jaxgen.editing import decoder as decoders
from jaxgen.editing import files
from jaxgen.editing.translator import translator
from jaxgen.loading import Trained
from jaxgen.options import Data
from jaxgen.system import Space, Spec, System
from jaxgen.systems import vae
from jaxgen.systems.shared.degrading import Holes

pytestmark = pytest.mark.usefixtures("scripts_in_process", "fast_compilation")
KEY = jax.random.key(0)
SHAPE = (8, 8, 3)


def trained_of(capabilities, batch=None, variables=None, shape=SHAPE, **settings):
    spec = Spec.of_images(shape)
    spec = Spec({**spec.batch, **(batch or {})}, settings.pop("num_classes", 0))
    system = System(init=dict, train_step=dict, images_per_step=1, name="tiny", **capabilities)
    state = SimpleNamespace(ema=variables or {}, step=7)
    return Trained(system, state, {}, {}, spec, **settings)


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def blurred(x, variables):
    """A 3x3 mean times a variable; beyond the borders is 0."""
    around, near = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (-1, 0, 1)
    total = sum(jnp.roll(around, (i, j), (1, 2)) for i in near for j in near)
    return variables["gain"] * total[:, 1:-1, 1:-1] / 9


def blurring(channels=3):
    return trained_of(
        {"translate": lambda variables, batch, key: blurred(batch["source"], variables)},
        {"source": shape(8, 8, channels)},
        {"gain": jnp.float32(1.0)},
        (8, 8, channels),
    )


def enlarging():
    def translate(variables, batch, key):
        return jnp.repeat(jnp.repeat(batch["source"], 2, axis=1), 2, axis=2)

    return trained_of({"translate": translate}, {"source": shape(4, 4, 3)})


def filling():
    def translate(variables, batch, key):
        filled = jnp.full_like(batch["source"], 0.5)
        return jnp.where(batch["mask"] > 0, filled, batch["source"] + 0.3)  # it spoils what is known

    return trained_of({"translate": translate}, {"source": shape(*SHAPE), "mask": shape(8, 8, 1)})


def kernel():
    return jax.random.normal(KEY, (4, 192)) * jnp.array([[0.2], [0.14], [0.1], [0.07]])


def decoding(**others):
    """A linear decoder of images."""

    def decode(variables, z, **told):
        shift = 0.0 if "label" not in told else 0.2 * told["label"][:, None, None, None]
        return (z @ variables["generator"]["params"]["map"]["kernel"]).reshape(-1, *SHAPE) + shift

    capabilities = {"decode": decode, "latents": lambda key, n: jax.random.normal(key, (n, 4)), **others}
    variables = {"generator": {"params": {"map": {"kernel": kernel()}}}}
    classes = others.get("choices", {}).get("label", 0)
    names = tuple("abc"[:classes])
    return trained_of(capabilities, variables=variables, num_classes=classes, class_names=names)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """What the next command loads."""

    def use(trained):
        monkeypatch.setattr(loading, "load", lambda *_, **__: trained)
        return tmp_path / "run"

    return use


def drawn(z, path, label=0):
    image = np.asarray(z @ kernel()).reshape(SHAPE) + 0.2 * label
    assert np.abs(image).max() <= 1
    return saved(path, np.rint((image + 1) * 127.5).astype(np.uint8))


# Translation ----------------------------------------------------------------------------------------------------------


def test_tiles_of_a_photograph_are_the_photograph_as_a_whole(tmp_path):
    path = saved(tmp_path / "a.png", pixels_of(70, 93, 3))
    picture = files.read(path)
    whole = translator(blurring(), key=KEY).picture(picture)
    editor = translator(blurring(), key=KEY, whole=0, side=20)
    assert editor.field.radius == 1
    np.testing.assert_array_equal(editor.picture(picture).levels, whole.levels)
    expected = np.asarray(blurred(picture.pixels()[None], {"gain": 1.0})[0])
    np.testing.assert_array_equal(whole.levels, np.rint((expected + 1) * 127.5).astype(np.uint8))


def test_a_picture_too_large_for_a_network_that_sees_everything_is_refused(tmp_path):
    def normed(variables, batch, key):
        return batch["source"] - jnp.mean(batch["source"], axis=(1, 2), keepdims=True)

    editor = translator(trained_of({"translate": normed}, {"source": shape(*SHAPE)}), key=KEY, whole=100)
    picture = files.read(saved(tmp_path / "a.png", pixels_of(20, 20, 3)))
    with pytest.raises(ValueError, match="20x20 pixels are more than are taken as a whole .100.*sees further"):
        editor.picture(picture)
    whole = translator(trained_of({"translate": normed}, {"source": shape(*SHAPE)}), key=KEY, whole=100, side=0)
    assert whole.picture(picture).size == (20, 20)


def test_a_folder_comes_out_as_it_went_in_and_what_is_broken_is_named(run, tmp_path, capsys):
    exif = Image.Exif()
    exif[files.ORIENTATION] = 6
    folder = tmp_path / "in"
    (folder / "holiday").mkdir(parents=True)
    saved(folder / "holiday" / "large.jpg", pixels_of(131, 173, 3), exif=exif)
    clear = pixels_of(9, 12, 4)
    clear[:4, :, 3] = 0
    saved(folder / "clear.png", clear)
    saved(folder / "scan.png", pixels_of(11, 7, 1, np.uint16))
    (folder / "broken.png").write_bytes((folder / "clear.png").read_bytes()[:-40])
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    directory = run(enlarging())
    out = tmp_path / "out"
    assert call("edit", directory, "restore", folder, "--output", out) == 1
    said = capsys.readouterr()
    assert "3 files in" in said.out and f"not edited: {folder / 'broken.png'}" in said.out
    assert not (out / "broken.png").exists() and {p: p.read_bytes() for p in before} == before
    with Image.open(out / "holiday" / "large.jpg") as image:
        assert image.size == (346, 262) and image.getexif()[files.ORIENTATION] == 6
    with Image.open(out / "clear.png") as image:
        assert image.mode == "RGBA" and image.size == (24, 18) and np.asarray(image)[0, 0, 3] == 0
    with Image.open(out / "scan.png") as image:
        assert image.mode == "I;16"
        scan = np.asarray(Image.open(folder / "scan.png")).repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(np.asarray(image), scan)
    record = json.loads((out / "edited.json").read_text())
    assert [entry["source"] for entry in record["written"]] == [
        str(folder / name) for name in ("clear.png", "holiday/large.jpg", "scan.png")
    ]
    assert list(record["failed"]) == [str(folder / "broken.png")] and record["step"] == 7
    page = Page((out / "edited.html").read_text())
    assert page.count("input", type="range") == 3 and "broken.png" in page.text
    first = {path: path.read_bytes() for path in out.rglob("*.*") if path.suffix != ".html"}
    assert call("edit", directory, "restore", folder, "--output", out, "--json") == 1
    again = json.loads(capsys.readouterr().out)
    assert again["written"] == record["written"]
    assert {path: path.read_bytes() for path in first} == first  # byte for byte


def test_the_smallest_picture_is_mirrored_to_what_a_network_takes(tmp_path):
    def translate(variables, batch, key):
        x = batch["source"]
        if x.shape[1] % 8 or x.shape[2] % 8:
            raise ValueError("multiples of 8 only")
        return -x

    editor = translator(trained_of({"translate": translate}, {"source": shape(8, 8, 3)}), key=KEY)
    for size in ((1, 1), (3, 9)):
        pixels = pixels_of(*size, 3)
        edited = editor.picture(files.read(saved(tmp_path / "a.png", pixels)))
        np.testing.assert_array_equal(edited.levels, 255 - pixels)


def test_a_grey_network_is_given_colours_one_by_one_and_a_grey_picture_stays_grey(tmp_path):
    colours = files.read(saved(tmp_path / "a.png", pixels_of(9, 12, 3)))
    by_colour = translator(blurring(1), key=KEY).picture(colours)
    np.testing.assert_array_equal(by_colour.levels, translator(blurring(3), key=KEY).picture(colours).levels)
    grey = files.read(saved(tmp_path / "b.png", pixels_of(9, 12, 1)))
    edited = [translator(blurring(n), key=KEY).picture(grey).levels.astype(int) for n in (1, 3)]
    assert edited[0].shape == (9, 12, 1) and np.abs(edited[0] - edited[1]).max() <= 1


def test_the_noise_of_a_picture_is_told_in_levels_of_255(tmp_path):
    def translate(variables, batch, key):
        return batch["source"][..., :3] * 0 + batch["source"][..., 3:]

    told = trained_of({"translate": translate}, {"source": shape(8, 8, 4)})
    picture = files.read(saved(tmp_path / "a.png", pixels_of(9, 12, 3)))
    edited = translator(told, key=KEY, noise_level=51).picture(picture)
    np.testing.assert_array_equal(edited.levels, round(255 * (51 / 127.5 + 1) / 2))
    with pytest.raises(ValueError, match="give --noise-level"):
        translator(told, key=KEY)
    with pytest.raises(ValueError, match="and tiny is not"):
        translator(blurring(), key=KEY, noise_level=3)


def test_labels_and_directions_are_told_to_runs_that_know_them(tmp_path):
    def translate(variables, batch, key, label=None, direction="to_image"):
        sign = {"to_image": 1, "to_source": -1}[direction]
        return batch["image"] * 0 + sign * 0.1 * label[:, None, None, None]

    told = trained_of({"translate": translate}, num_classes=5)
    picture = files.read(saved(tmp_path / "a.png", pixels_of(9, 12, 3)))
    edited = translator(told, key=KEY, label=4, direction="to_source").picture(picture)
    np.testing.assert_array_equal(edited.levels, round(127.5 * 0.6))
    for settings, message in (({}, "give --label"), ({"label": 5}, "no label 5")):
        with pytest.raises(ValueError, match=message):
            translator(told, key=KEY, **settings)
    with pytest.raises(ValueError, match="without being told a direction: leave --direction out"):
        translator(blurring(), key=KEY, direction="to_source")


def test_a_picture_of_many_tiles_tells_how_far_it_is(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxgen.command_line.SECONDS_BETWEEN_LINES", 0.0)
    path = saved(tmp_path / "large.png", pixels_of(1030, 1030, 3))
    words = ["--tile", 128, "--no-page", "--output", tmp_path / "out"]
    assert call("edit", run(blurring()), "restore", path, *words) == 0
    said = capsys.readouterr().err
    assert "tiles of large.png ..." in said and "tiles of large.png: 50 of " in said
    small = saved(tmp_path / "small.png", pixels_of(20, 20, 3))
    assert call("edit", run(blurring()), "restore", small, *words) == 0
    assert "tiles of" not in capsys.readouterr().err


# Completion -----------------------------------------------------------------------------------------------------------


def test_known_pixels_stay_as_they_are_whatever_the_network_does(run, tmp_path):
    path = saved(tmp_path / "a.png", pixels_of(20, 30, 3))
    assert call("edit", run(filling()), "complete", path, "--hole", "centre", "--output", tmp_path / "out") == 0
    before, after = (np.asarray(Image.open(p)) for p in (path, tmp_path / "out" / "a.png"))
    hole = np.zeros((20, 30), bool)
    hole[5:15, 8:23] = True
    hole[:, 22:23] = np.asarray(hole[:, 22:23])
    changed = (before != after).any(axis=-1)
    assert changed[6:14, 9:21].all() and not changed[:5].any() and not changed[:, :7].any()
    assert set(np.unique(after[6:14, 9:21])) == {191}


@pytest.mark.filterwarnings("error:.*reaches further")
def test_a_run_that_learnt_the_middle_warns_of_other_holes(run, tmp_path):
    config = SimpleNamespace(source=Holes("centre", 0.5), data=Data("emoji"))
    trained = dataclasses.replace(filling(), config=config)
    path = saved(tmp_path / "a.png", pixels_of(8, 8, 3))
    for name, rows, said in (("inside", slice(3, 5), False), ("above", slice(0, 5), True)):
        mask = np.zeros((8, 8, 1), np.uint8)
        mask[rows, 2:6] = 255
        told = saved(tmp_path / f"{name}.png", mask)
        with pytest.warns(UserWarning, match="either side; a hole here reaches further") if said else nullcontext():
            assert call("edit", run(trained), "complete", path, "--mask", told, "--output", tmp_path / name) == 0


def test_a_mask_may_be_a_file_or_a_folder_of_the_pictures_names(run, tmp_path, capsys):
    folder, masks = tmp_path / "in", tmp_path / "masks"
    folder.mkdir()
    masks.mkdir()
    for name in ("a", "b", "c"):
        saved(folder / f"{name}.png", pixels_of(8, 10, 3))
    mask = np.zeros((8, 10, 1), np.uint8)
    mask[:4, 5:] = 255
    saved(masks / "a.png", mask)
    saved(masks / "b.bmp", 255 - mask)
    code = call("edit", run(filling()), "complete", folder, "--mask", masks, "--output", tmp_path / "out")
    assert code == 1 and "holds no mask called c.png" in capsys.readouterr().out
    for name, filled in (("a", mask), ("b", 255 - mask)):
        before, after = (np.asarray(Image.open(p / f"{name}.png")) for p in (folder, tmp_path / "out"))
        np.testing.assert_array_equal((before != after).any(-1) | (after == 191).all(-1), filled[..., 0] > 0)


def test_a_run_that_decodes_completes_with_the_conditional_mean(run, tmp_path):
    z = np.array([0.8, -0.5, 0.3, 0.6])
    path = drawn(z, tmp_path / "a.png")
    out = tmp_path / "out"
    settings = ["--hole", "centre", "--noise", 0.02, "--num-steps", 600, "--output", out]
    assert call("edit", run(decoding()), "complete", path, *settings) == 0
    before, after = (np.asarray(Image.open(p)).astype(int) for p in (path, out / "a.png"))
    hole = np.zeros((8, 8), bool)
    hole[2:6, 2:6] = True
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert np.abs(after - before).max() <= 3  # what was hidden is found again


# Latents --------------------------------------------------------------------------------------------------------------


def test_inversion_finds_the_latents_and_keeps_them(run, tmp_path):
    zs = np.array([[0.8, -0.5, 0.3, 0.6], [-0.2, 0.4, -0.9, 0.1], [0, 0, 0, 0.5]])
    paths = [drawn(z, tmp_path / f"{i}.png") for i, z in enumerate(zs)]
    out = tmp_path / "out"
    settings = ["--noise", 0.01, "--num-steps", 500, "--output", out]
    assert call("edit", run(decoding()), "invert", *paths, *settings) == 0
    kept = np.load(out / "latents.npz")
    assert kept["name"].tolist() == ["0.png", "1.png", "2.png"]
    np.testing.assert_allclose(kept["latents"], zs, atol=0.01)
    for path in paths:
        assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(Image.open(out / path.name))).max() <= 1
    one = tmp_path / "one"
    assert call("edit", run(decoding()), "invert", paths[1], *settings[:-1], one) == 0
    np.testing.assert_allclose(np.load(one / "latents.npz")["latents"], kept["latents"][1:2], atol=1e-3)


def test_the_class_that_fits_is_found_and_one_that_is_asked_for_is_kept(run, tmp_path):
    path = drawn(np.array([0.3, -0.5, 0.3, 0.2]), tmp_path / "a.png", label=2)
    trained = decoding(choices={"label": 3})
    settings = ["--noise", 0.02, "--output", tmp_path / "out"]
    assert call("edit", run(trained), "invert", path, *settings) == 0
    assert np.load(tmp_path / "out" / "latents.npz")["label"].tolist() == [2]
    assert call("edit", run(trained), "invert", path, "--label", "b", *settings) == 0
    assert np.load(tmp_path / "out" / "latents.npz")["label"].tolist() == [1]
    assert call("edit", run(trained), "invert", path, "--label", "bb", *settings) == 2


def test_a_tuned_generator_draws_what_no_latent_does(run, tmp_path):
    path = saved(tmp_path / "a.png", pixels_of(8, 8, 3))
    record = {}
    for steps in (0, 300):
        out = tmp_path / str(steps)
        assert call("edit", run(decoding()), "invert", path, "--tuning-steps", steps, "--output", out) == 0
        record[steps] = json.loads((out / "edited.json").read_text())["written"][0]["psnr"]
    assert record[300] > record[0] + 1


def test_pictures_of_another_size_are_refused_unless_they_are_to_be_resized(run, tmp_path, capsys):
    path = saved(tmp_path / "a.png", pixels_of(20, 30, 3))
    assert call("edit", run(decoding()), "invert", path, "--output", tmp_path / "out") == 1
    assert "has 30x20 pixels, and the run draws 8x8: --resize" in capsys.readouterr().out
    assert call("edit", run(decoding()), "invert", path, "--resize", "--output", tmp_path / "out") == 0
    assert Image.open(tmp_path / "out" / "a.png").size == (8, 8)


@pytest.mark.slow
def test_a_walk_goes_along_the_directions_of_the_largest_change(run, tmp_path):
    found = decoders.Decoder.of(decoding()).directions(KEY, by="images", num=2)
    weights = decoders.Decoder.of(decoding()).directions(KEY, by="weights", num=2)
    np.testing.assert_allclose(np.abs(np.sum(found.rows * weights.rows, axis=1)), 1, atol=0.1)
    out = tmp_path / "out"
    assert call("edit", run(decoding()), "walk", "--num-directions", 2, "--by", "weights", "--output", out) == 0
    assert sorted(p.name for p in out.glob("*.png")) == [f"drawn_{i}_walk.png" for i in range(4)]
    path = drawn(np.array([0.8, -0.5, 0.3, 0.6]), tmp_path / "a.png")
    assert call("edit", run(decoding()), "walk", path, "--film", "--num-directions", 1, "--output", out) == 0
    assert (out / "a_walk.webp").exists()


def test_a_mixture_begins_and_ends_at_the_pictures(run, tmp_path):
    zs = {"a": np.array([0.8, -0.5, 0.3, 0.6]), "b": -np.ones(4) / 2}
    paths = [drawn(z, tmp_path / f"{name}.png") for name, z in zs.items()]
    out = tmp_path / "out"
    assert call("edit", run(decoding()), "mix", *paths, "--noise", 0.01, "--output", out) == 0
    assert (out / "a_b_mix.png").exists() and not (out / "a_b_styles.png").exists()
    assert call("edit", run(decoding()), "mix", paths[0], "--output", out) == 2


def styled(**others):
    """Styles w = tanh(z), of two layers, the first of which draws the upper half."""

    def decode(variables, w, **told):
        w = w if w.ndim == 3 else jnp.stack([w, w], axis=1)
        rows = jnp.einsum("bld,do->blo", w, variables["generator"]["params"]["map"]["kernel"][:, :96])
        halves = [rows[:, i].reshape(-1, 4, 8, 3) for i in (0, 1)]
        return jnp.concatenate(halves, axis=1)

    of = lambda variables, z, **told: jnp.tanh(z)  # noqa: E731
    spaces = {"w": Space(of, decode), "w+": Space(lambda v, z, **told: jnp.stack([of(v, z)] * 2, axis=1), decode)}
    return decoding(spaces=spaces, **others)


def test_spaces_of_styles_are_inverted_walked_and_mixed(run, tmp_path):
    half = np.asarray(jnp.array([0.5, -0.3, 0.2, 0.1]) @ kernel()[:, :96]).reshape(4, 8, 3)
    other = np.asarray(jnp.array([-0.4, 0.3, 0.2, -0.1]) @ kernel()[:, :96]).reshape(4, 8, 3)
    image = np.rint((np.concatenate([half, other]) + 1) * 127.5).astype(np.uint8)
    path, out = saved(tmp_path / "a.png", image), tmp_path / "out"
    psnr = {}
    for space in ("w", "w+"):
        settings = ["--space", space, "--noise", 0.01, "--num-steps", 500, "--output", out]
        assert call("edit", run(styled()), "invert", path, *settings) == 0
        psnr[space] = json.loads((out / "edited.json").read_text())["written"][0]["psnr"]
    assert psnr["w+"] > 40 > psnr["w"]
    assert call("edit", run(styled()), "walk", path, "--space", "w", "--num-directions", 2, "--output", out) == 0
    second = saved(tmp_path / "b.png", image[::-1].copy())
    assert call("edit", run(styled()), "mix", path, second, "--space", "w+", "--output", out) == 0
    assert (out / "a_b_styles.png").exists()
    assert call("edit", run(styled()), "walk", path, "--space", "v", "--output", out) == 2


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trained, words, message",
    [
        (
            decoding,
            ["translate", "a.png"],
            "jaxgen edit translate needs a system that can translate images; tiny",
        ),
        (blurring, ["invert", "a.png"], "jaxgen edit invert needs a system that can decode latents"),
        (blurring, ["complete", "a.png"], "told what is missing by --mask FILE or by --hole centre"),
        (blurring, ["complete", "a.png", "--hole", "centre"], "translates without being told a mask"),
        (filling, ["restore", "a.png"], "fills holes, and is told where they are: use jaxgen edit RUN complete"),
        (blurring, ["restore", "a.png", "--hole", "centre"], "--hole would be ignored: it is for complete"),
        (decoding, ["invert", "a.png", "--label", "3"], "draws images of no chosen class: leave --label out"),
        (decoding, ["complete", "a.png", "--hole", "centre", "--tile", "64"], "--tile is for runs that translate"),
        (decoding, ["walk", "--space", "w"], "tiny has no latents 'w'; it has z"),
        (decoding, ["walk", "--num-directions", "9"], "latents of 4 numbers have no 9 directions"),
        (blurring, ["restore", "no.png"], "no.png does not exist"),
        (blurring, ["restore"], "name what to restore"),
        (blurring, ["restore", "a.png", "--output", "."], "a.png is a picture that is read, and would be overwritten"),
        (blurring, ["restore", "a.png", "--output", "a.png"], "something that is not a directory lies there"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(trained, words, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.png", pixels_of(8, 8, 3))
    before = (tmp_path / "a.png").read_bytes()
    assert call("edit", run(trained()), *words) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ")
    assert (tmp_path / "a.png").read_bytes() == before


def test_the_command_says_first_what_it_reads():
    assert commands.first_line(["edit", "runs/a", "restore", "x.png", "y.png"]) == "reading runs/a ..."


# Its page -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", page_commands("edit"), ids=" ".join)
def test_edit_commands_that_pages_show_are_understood(arguments, monkeypatch):
    command = script("edit")
    asked = []

    @functools.wraps(command.edit)
    def recorded(*given, **options):
        asked.append(inspect.signature(command.edit).bind(*given, **options).arguments)
        return "", 0

    monkeypatch.setattr(command, "edit", recorded)
    assert command.main(arguments) == 0
    assert [str(asked[0]["run"]), asked[0]["action"]] == arguments[:2]


@pytest.mark.slow
def test_the_python_of_the_page_runs(monkeypatch):
    spec = Spec.of_images((28, 28, 1))
    system = building.build_system(vae.TINY, spec)
    trained = Trained(system, jax.jit(system.init)(KEY), {}, {}, spec)
    monkeypatch.setattr(jaxgen, "load", lambda directory: trained)
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGES[ROOT / "docs" / "editing.md"], re.S)
    namespace = {}
    exec(compile(snippet, "editing.md", "exec"), namespace)
    assert namespace["frames"].shape == (3, 4, 28, 28, 1) and namespace["three"].shape == (3, 28, 28, 1)
    assert namespace["field"].radius == 1 and namespace["large"].shape == (300, 200, 3)
    np.testing.assert_array_equal(namespace["completed"][:, 14:], namespace["images"][:, 14:])
    np.testing.assert_array_equal(namespace["frames"][1], trained.decode(namespace["found"].latents))
