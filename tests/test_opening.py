"""What evaluation opens is what training opens: one listing, one size, one report; and names mean one thing."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jaxgen import command_line, data, evaluation, opening, run_directory
from jaxgen.commands import sample

SIZE = (16, 12)  # width, height


def pictures(path, count, size=SIZE, mode="RGB", ending="png", **save):
    path.mkdir(parents=True, exist_ok=True)
    channels = len(Image.new(mode, (1, 1)).getbands())
    for i in range(count):
        pixels = np.random.RandomState(i).randint(0, 256, (size[1], size[0], channels), np.uint8).squeeze()
        Image.fromarray(pixels, mode).save(path / f"{i:03d}.{ending}", **save)
    return path


def claiming(side) -> bytes:
    """A PNG that says that it is so large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def opened(path):
    """What evaluation opens, and what it tells; training sees the same pictures."""
    with evaluation.kept_warnings() as said:
        side = opening.open_images(str(path))
    height, width, channels = side.dataset.image_shape
    trained = data.image_folder(path, image_size=(height, width), channels=channels, labelled=False)
    np.testing.assert_array_equal(side.dataset.arrays["image"], trained.arrays["image"])
    return side, " ".join(said)


def test_photographs_that_are_turned_by_exif_have_the_shape_that_they_are_shown_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ("png", "jpg", "tif"):
        side, _ = opened(pictures(tmp_path / ending, 3, ending=ending, exif=exif))
        assert side.dataset.image_shape == (16, 12, 3) and side.resize == "none"
    upright = [Image.open(file).transpose(Image.Transpose.ROTATE_270) for file in sorted((tmp_path / "png").iterdir())]
    np.testing.assert_array_equal(opened(tmp_path / "png")[0].dataset.arrays["image"], np.stack(upright))
    pictures(tmp_path / "png" / "more", 3)  # lying and not turned
    with pytest.raises(ValueError, match=r"images of 2 different sizes: 12x16 \(3\), 16x12 \(3\)"):
        opening.open_images(str(tmp_path / "png"))


def test_links_to_class_folders_are_followed_and_what_programs_leave_is_not_counted(tmp_path):
    pictures(tmp_path / "elsewhere", 4)
    pictures(tmp_path / "set" / "real", 3)
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    pictures(tmp_path / "set" / ".ipynb_checkpoints", 2, size=(5, 5))
    pictures(tmp_path / "set" / "__MACOSX", 2, size=(5, 5))
    (tmp_path / "set" / "thumbs.png").mkdir()
    side, said = opened(tmp_path / "set")
    assert side.dataset.num_examples == 7 and not said


@pytest.mark.parametrize(
    "content, reason",
    [
        (claiming(20_000), "exceeds limit"),
        (claiming(10_000), "claims 10000x10000 pixels"),
        (claiming(65_500), "exceeds limit"),
        (b"", "empty file"),
        (b"<html>", "no image by its first bytes"),
        ("truncated", "truncated"),
        ("text", "MAX_TEXT_CHUNK"),
    ],
    ids=["bomb", "large", "absurd", "empty", "page", "truncated", "text"],
)
def test_a_broken_file_is_named_and_its_size_does_not_count(tmp_path, content, reason):
    pictures(tmp_path, 30)
    if content == "truncated":
        pictures(tmp_path / "b", 1, size=(90, 70), mode="L")
        content = (tmp_path / "b" / "000.png").read_bytes()[:-3000]
        (tmp_path / "b" / "000.png").unlink()
    elif content == "text":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("a", "x" * 3_000_000, zip=True)
        Image.new("RGB", SIZE).save(tmp_path / "z.png", pnginfo=info)
        content = (tmp_path / "z.png").read_bytes()
    (tmp_path / "z.png").write_bytes(content)
    side, said = opened(tmp_path)
    assert side.dataset.num_examples == 30 and side.dataset.image_shape == (12, 16, 3) and side.resize == "none"
    assert "1 of 31 images are broken and were left out: z.png (" in said and reason in said


def test_pipes_and_devices_are_told_and_not_waited_for(tmp_path):
    pictures(tmp_path, 3)
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "y.png").symlink_to("/dev/zero")
    side, said = opened(tmp_path)
    assert side.dataset.num_examples == 3 and "2 special" in said


def test_every_ending_counts_and_ignored_ones_are_told(tmp_path):
    pictures(tmp_path, 2)
    pictures(tmp_path, 3, ending="bmp")
    pictures(tmp_path, 4, ending="tiff")
    (tmp_path / "raw.nef").write_bytes(b"x")
    side, said = opened(tmp_path)
    assert side.dataset.num_examples == 9 and "ignored 1 file that is no image (1 .nef)" in said


def test_grey_pictures_with_opacity_are_grey(tmp_path):
    side, _ = opened(pictures(tmp_path, 3, mode="LA"))
    assert side.resize == "none" and side.dataset.image_shape == (12, 16, 1)


def test_pictures_beside_a_foreign_configuration_are_no_run(tmp_path):
    pictures(tmp_path, 3)
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert opened(tmp_path)[0].dataset.num_examples == 3
    (tmp_path / "checkpoints").mkdir()
    assert run_directory.is_run(tmp_path)


def test_splits_that_are_taken_together_are_told(tmp_path):
    for split in ("train", "test"):
        pictures(tmp_path / split / "a", 3)
    assert "test, train look like splits, and are taken together" in opened(tmp_path)[1]


def test_a_name_that_means_a_set_and_something_here_is_refused_with_how_to_mean_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "mnist", 3)
    (tmp_path / "emoji").mkdir()
    for what in ("mnist", "emoji"):
        for function in (
            opening.open_images,
            opening.check_there,
            lambda name: sample.main([name, "--output", "a.png"]),
        ):
            with pytest.raises(
                ValueError, match=f"write {what}:test or {what}:train for the set, ./{what} for the other"
            ):
                function(what)
    assert opening.open_images("mnist:test", num=5).dataset.num_examples == 5
    for what in ("./mnist", "mnist/"):
        side = opening.open_images(what)
        assert side.dataset.num_examples == 3 and side.name == "./mnist" and not side.split
    monkeypatch.chdir("/")
    assert opening.is_built_in("mnist") and not opening.is_built_in("./mnist")


def test_a_feature_network_that_lies_here_under_the_name_of_the_packages_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluation.open_backbone("mnist-cnn", (28, 28, 1)).name == "mnist-cnn"
    (tmp_path / "mnist-cnn").mkdir()
    with pytest.raises(ValueError, match="write jaxgen:mnist-cnn for the package's, ./mnist-cnn for the other"):
        evaluation.open_backbone("mnist-cnn", (28, 28, 1))
    assert evaluation.open_backbone("jaxgen:mnist-cnn", (28, 28, 1)).name == "mnist-cnn"
    with pytest.raises(ValueError, match="is a folder, but not the run of a classifier"):
        evaluation.open_backbone("./mnist-cnn", (28, 28, 1))


def test_labels_that_are_none_cost_the_labels_and_not_the_images(tmp_path):
    image = np.random.RandomState(0).randint(0, 256, (4, 9, 9), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=image, arr_1=image)
    with pytest.warns(UserWarning, match="taken without labels"):
        assert opening.open_images(str(tmp_path / "a.npz")).dataset.class_names == ()


def test_escape_sequences_in_an_error_do_not_reach_the_terminal(tmp_path, capsys, monkeypatch):
    def fail():
        error = ValueError("no \x1b[31mred\x1b[0m\nfile")
        error.add_note("nor \x07 bell")
        raise error

    import warnings

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.raises(SystemExit):
        command_line.run(fail)
    printed = capsys.readouterr().err
    assert "\x1b" not in printed and "\x07" not in printed
    assert printed.splitlines()[:3] == [r"error: no \x1b[31mred\x1b[0m", "file", r"nor \x07 bell"]
    assert warnings.formatwarning("a\x1bb", UserWarning, "", 0) == "warning: a\\x1bb\n"
