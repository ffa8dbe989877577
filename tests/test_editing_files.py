"""Pictures come out as the kind of file that they were: holiday photographs, transparent drawings, scans."""

import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxgen.editing import files

RANDOM = np.random.default_rng(0)


def pixels_of(height, width, channels, dtype=np.uint8):
    """A gradient with noise, so that JPEG has something to keep."""
    ramp = np.linspace(0.1, 0.9, height * width).reshape(height, width, 1)
    noisy = ramp + 0.03 * RANDOM.normal(size=(height, width, channels))
    return (np.clip(noisy, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def saved(path, pixels, **options):
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, **options)
    return path


def identity(picture):
    edited, everything = picture.blank(), slice(None)
    edited.draw(everything, everything, picture.pixels(), source=picture)
    return edited


@pytest.mark.parametrize("turn", range(1, 9))
def test_turns_are_those_of_exif_and_have_an_inverse(turn, tmp_path):
    pixels = pixels_of(5, 8, 3)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[files.ORIENTATION] = turn
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened))
    picture = files.read(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.levels, shown)
    np.testing.assert_array_equal(files.turned_back(picture.levels, turn), pixels)
    out = files.write(tmp_path / "out" / "a.png", identity(picture))
    with Image.open(out) as opened:
        assert opened.getexif()[files.ORIENTATION] == turn
        np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_a_holiday_photograph_keeps_its_turn_size_exif_and_profile(tmp_path):
    exif = Image.Exif()
    exif[files.ORIENTATION], exif[0x0110] = 6, "a camera"
    exif.get_ifd(0x8769)[0xA002] = 333
    path = saved(
        tmp_path / "IMG_1.JPG",
        pixels_of(251, 333, 3),
        format="JPEG",
        exif=exif,
        quality=92,
        icc_profile=b"a profile" * 20,
        dpi=(300, 300),
    )
    picture = files.read(path)
    assert picture.size == (333, 251) and picture.levels.flags.writeable is not None
    out = files.write(tmp_path / "out" / path.name, identity(picture))
    with Image.open(path) as before, Image.open(out) as after:
        assert after.size == before.size == (333, 251) and after.format == "JPEG" and after.mode == "RGB"
        assert after.getexif()[files.ORIENTATION] == 6 and after.getexif()[0x0110] == "a camera"
        assert after.info["icc_profile"] == before.info["icc_profile"] and after.info["dpi"] == (300, 300)
        assert np.abs(np.asarray(after).astype(int) - np.asarray(before)).mean() < 1.5
    larger = picture.blank(2)
    larger.draw(slice(None), slice(None), np.zeros((666, 502, 3), np.float32), source=picture)
    out = files.write(tmp_path / "out" / "larger.jpg", larger)
    with Image.open(out) as after:
        assert after.size == (666, 502) and after.getexif().get_ifd(0x8769)[0xA002] == 666


def test_the_same_picture_is_the_same_bytes(tmp_path):
    for ending in ("jpg", "png", "webp", "tif", "bmp", "gif"):
        path = saved(tmp_path / f"a.{ending}", pixels_of(20, 31, 3))
        found = [files.encoded(identity(files.read(path))) for _ in range(2)]
        assert found[0] == found[1]


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_what_is_lossless_stays_the_same_bits(ending, channels, tmp_path):
    if (ending, channels) == ("bmp", 4):
        pytest.skip("has no alpha")
    pixels = pixels_of(13, 17, channels)
    if channels == 4:
        pixels[..., 3] = RANDOM.integers(0, 256, (13, 17))
        pixels[:3, :, 3] = 0
    path = saved(tmp_path / f"a.{ending}", pixels)
    out = files.write(tmp_path / "out" / path.name, identity(files.read(path)))
    with Image.open(out) as after:
        np.testing.assert_array_equal(np.asarray(after).reshape(pixels.shape), pixels)


def test_lossless_webp_stays_lossless(tmp_path):
    pixels = pixels_of(13, 17, 3)
    path = saved(tmp_path / "a.webp", pixels, lossless=True)
    out = files.write(tmp_path / "out" / path.name, identity(files.read(path)))
    with Image.open(out) as after:
        np.testing.assert_array_equal(np.asarray(after), pixels)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_scan_of_16_bits_keeps_all_of_them_also_a_dark_one(ending, tmp_path):
    pixels = pixels_of(12, 9, 1, np.uint16) // 300  # all below 256: still 16 bits
    path = saved(tmp_path / f"scan.{ending}", pixels)
    picture = files.read(path)
    assert picture.levels.dtype == np.uint16 and picture.most == 65535
    np.testing.assert_allclose(picture.pixels(), pixels / 32767.5 - 1, atol=1e-6)
    out = files.write(tmp_path / "out" / path.name, identity(picture))
    with Image.open(out) as after:
        assert after.mode.startswith("I;16")
        np.testing.assert_array_equal(np.asarray(after), pixels[..., 0])
    assert files.read(out).pixels(channels=3).shape == (12, 9, 3)


def png_of_16_bit_colours():
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(range(12)) for _ in range(2)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_colours_of_16_bits_are_refused_since_they_would_be_read_as_8(tmp_path):
    (tmp_path / "deep.png").write_bytes(png_of_16_bit_colours())
    with pytest.raises(ValueError, match="colours of 16 bits, which would be read as 8 bits"):
        files.read(tmp_path / "deep.png")


def test_colours_are_multiplied_by_alpha_and_what_nobody_sees_is_no_black_fringe(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 200, np.array([0, 64, 128, 255], np.uint8)
    picture = files.read(saved(tmp_path / "a.png", pixels))
    share = pixels[..., 3:] / 255
    np.testing.assert_allclose(picture.pixels(), share * (pixels[..., :3] / 127.5) - 1, atol=1e-6)  # on black
    white = picture.pixels(background=1.0)
    np.testing.assert_allclose(white[:, 0], 1.0)
    np.testing.assert_allclose(white[:, 3], pixels[:, 3, :3] / 127.5 - 1, atol=1e-6)
    for background in (-1.0, 1.0, np.array([0.0, 0.5, 1.0], np.float32)):
        edited, everything = picture.blank(), slice(None)
        edited.draw(
            everything, everything, picture.pixels(background=background), background=background, source=picture
        )
        np.testing.assert_array_equal(edited.levels, pixels[..., :3])
        np.testing.assert_array_equal(edited.alpha, pixels[..., 3:])


def test_alpha_is_enlarged_with_the_picture(tmp_path):
    pixels = np.full((6, 8, 4), 255, np.uint8)
    pixels[:, :4, 3] = 0
    picture = files.read(saved(tmp_path / "a.png", pixels))
    large = picture.blank(3)
    assert large.alpha.shape == (18, 24, 1) and large.alpha[:, 0].max() == 0 and large.alpha[:, -1].min() == 255


def test_palettes_and_two_levels_become_eight_bits(tmp_path):
    rgb = Image.fromarray(pixels_of(8, 8, 3)).convert("P")
    rgb.save(tmp_path / "palette.png")
    picture = files.read(tmp_path / "palette.png")
    np.testing.assert_array_equal(picture.levels, np.asarray(rgb.convert("RGB")))
    Image.fromarray(pixels_of(8, 8, 1)[..., 0]).convert("1").save(tmp_path / "two.png")
    assert set(np.unique(files.read(tmp_path / "two.png").levels)) == {0, 255}
    rgb.save(tmp_path / "clear.png", transparency=int(np.asarray(rgb)[0, 0]))
    assert files.read(tmp_path / "clear.png").alpha.min() == 0


def test_a_cameras_jpeg_with_a_preview_is_a_jpeg(tmp_path):
    first, preview = (Image.fromarray(pixels_of(*size, 3)) for size in ((16, 24), (8, 12)))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    picture = files.read(tmp_path / "a.jpg")
    assert picture.format == "JPEG" and picture.size == (16, 24)
    with Image.open(files.write(tmp_path / "out" / "a.jpg", identity(picture))) as after:
        assert after.format == "JPEG" and after.size == (24, 16)


def test_what_cannot_be_kept_is_refused(tmp_path):
    Image.fromarray(pixels_of(8, 8, 4)).convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(ValueError, match="of the kind CMYK, and not grey or RGB"):
        files.read(tmp_path / "print.jpg")
    frames = [Image.fromarray(pixels_of(8, 8, 3)) for _ in range(3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="holds 3 frames"):
        files.read(tmp_path / "film.gif")
    Image.fromarray(RANDOM.normal(size=(4, 4)).astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="of the kind F"):
        files.read(tmp_path / "float.tif")


def test_a_picture_that_was_read_is_never_overwritten_also_under_another_name(tmp_path):
    path = saved(tmp_path / "a.png", pixels_of(5, 5, 3))
    os.link(path, tmp_path / "b.png")
    before = path.read_bytes()
    for target in (path, tmp_path / "b.png"):
        with pytest.raises(ValueError, match="is the picture that was read"):
            files.write(target, identity(files.read(path)))
    found = files.find([tmp_path])
    with pytest.raises(ValueError, match="choose another --output"):
        files.check_targets(found.named, tmp_path)
    files.check_targets(found.named, tmp_path / "out")
    assert path.read_bytes() == before and not list(tmp_path.glob("*.tmp"))


def test_files_of_folders_keep_their_order_and_their_subfolders(tmp_path):
    for name in ("b.png", "a/c.png", "a/d.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        saved(tmp_path / name, pixels_of(4, 4, 3))
    (tmp_path / "notes.txt").write_text("no picture")
    assert [name for _, name in files.find([tmp_path]).named] == ["a/c.png", "a/d.JPG", "b.png"]
    assert [name for _, name in files.find([tmp_path / "b.png", tmp_path / "a"]).named] == ["b.png", "c.png", "d.JPG"]
    saved(tmp_path / "c.png", pixels_of(4, 4, 3))
    with pytest.raises(ValueError, match="written under one name"):
        files.find([tmp_path / "c.png", tmp_path / "a"])
    with pytest.raises(FileNotFoundError, match="no.png does not exist"):
        files.find([tmp_path / "no.png"])


def test_a_mask_is_of_the_picture_as_it_is_shown(tmp_path):
    mask = np.zeros((4, 6, 1), np.uint8)
    mask[1:3, 2:5] = 255
    picture = files.read(saved(tmp_path / "mask.png", mask))
    np.testing.assert_array_equal(files.mask_of(picture, (4, 6))[..., 0], mask[..., 0] / 255)
    with pytest.raises(ValueError, match="as it is shown: it lies as the file does before it is turned"):
        files.mask_of(picture, (6, 4))


def test_a_picture_is_brought_to_a_size_as_training_data_are(tmp_path):
    from jaxgen.data import decode

    for height, width in ((40, 64), (64, 64), (9, 12)):
        path = saved(tmp_path / "a.png", pixels_of(height, width, 3))
        found = files.resized(files.read(path), (16, 16))
        expected = decode.decode_image(path, image_size=16)
        assert np.abs(found.levels.astype(int) - expected).max() <= 1
