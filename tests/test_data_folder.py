import functools
import io
import logging
import os
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen import data
from jaxgen.data import decode


def encode(pixels, extension="png", **options):
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}[extension], **options)
    return stream.getvalue()


def plain(colour, size=(10, 8)):
    return Image.new("RGB", size, colour)


def noise(seed, shape=(24, 24, 3)):
    return np.random.RandomState(seed).randint(0, 256, shape, np.uint8)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else encode(content))


def folder_of_noise(path, count=20):
    for i in range(count):
        write(path / f"{i:03d}.png", noise(i))


# Pixels


def test_an_image_of_the_wanted_size_keeps_its_pixels():
    pixels = noise(0, (16, 16, 3))
    np.testing.assert_array_equal(decode.decode_image(encode(pixels), image_size=16), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = (255, 0, 0)  # red at the top left; no two of the eight turns look the same
    upright[8:, :12] = (0, 0, 255)
    undo = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = orientation
    source = encode(np.ascontiguousarray(undo(upright)), "png", exif=exif)
    np.testing.assert_array_equal(decode.decode_image(source, image_size=(16, 24)), upright)


def test_a_jpeg_rotated_by_exif_stands_upright():
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = 6  # the camera was held in portrait: turn clockwise to show
    lying = Image.fromarray(np.concatenate([np.full((16, 8, 3), 250, np.uint8), np.zeros((16, 8, 3), np.uint8)], 1))
    pixels = decode.decode_image(encode(lying, "jpg", exif=exif, quality=95), image_size=16)
    assert pixels[:6].min() > 200 and pixels[-6:].max() < 50


def test_malformed_exif_does_not_spoil_an_image():
    source = encode(plain("red"), "jpg", exif=b"Exif\x00\x00garbage garbage garbage")
    assert decode.decode_image(source, image_size=4)[..., 0].min() > 240


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 257, 32768, 65535]] * 4, np.uint16)
    pixels = decode.decode_image(encode(Image.fromarray(values)), image_size=4, channels=1)
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 1, 128, 255])
    rgb = decode.decode_image(encode(Image.fromarray(values)), image_size=4, channels=3)
    np.testing.assert_array_equal(rgb[0], [[0] * 3, [1] * 3, [128] * 3, [255] * 3])


def test_mode_i_integers_are_scaled_as_sixteen_bits():
    image = Image.fromarray(np.array([[0, 65535]] * 2, np.int32))
    assert image.mode == "I"
    stream = io.BytesIO()
    image.save(stream, "TIFF")
    pixels = decode.decode_image(stream.getvalue(), image_size=2, channels=1)
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 255])


def test_transparency_is_composited_on_the_named_colour():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, :2] = (255, 0, 0, 255)
    rgba[:, 2:] = (9, 9, 9, 0)
    for background, expected in (("white", (255, 255, 255)), ("#00ff00", (0, 255, 0)), ("black", (0, 0, 0))):
        pixels = decode.decode_image(encode(rgba), image_size=4, background=background)
        np.testing.assert_array_equal(pixels[0, 3], expected)
        np.testing.assert_array_equal(pixels[0, 0], (255, 0, 0))
    rgba[..., 3] = 128
    half = decode.decode_image(encode(rgba), image_size=4, background="white")
    np.testing.assert_allclose(half[0, 0], (255, 127, 127), atol=1)


def test_grey_with_alpha_palettes_and_transparent_colours_are_composited_too():
    la = np.zeros((4, 4, 2), np.uint8)
    assert decode.decode_image(encode(Image.fromarray(la, "LA")), image_size=4, background="red")[0, 0, 0] == 255
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    np.testing.assert_array_equal(decode.decode_image(encode(palette), image_size=4)[0, 0], (0, 0, 255))
    transparent = encode(palette, transparency=1)
    np.testing.assert_array_equal(decode.decode_image(transparent, image_size=4, background="red")[0, 0], (255, 0, 0))
    rgb = encode(plain((1, 2, 3)), transparency=(1, 2, 3))
    np.testing.assert_array_equal(decode.decode_image(rgb, image_size=4, background="red")[0, 0], (255, 0, 0))


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma():
    grey = decode.decode_image(encode(noise(0, (8, 8))), image_size=8)
    np.testing.assert_array_equal(grey, np.repeat(noise(0, (8, 8))[..., None], 3, -1))
    green = decode.decode_image(encode(plain((0, 255, 0))), image_size=4, channels=1)
    assert green.shape == (4, 4, 1) and abs(int(green[0, 0, 0]) - 0.587 * 255) < 1


def test_cmyk_jpegs_become_rgb():
    source = encode(plain("white").convert("CMYK"), "jpg")
    assert decode.decode_image(source, image_size=4).min() > 250


def test_the_centre_crop_drops_both_sides_equally_and_squash_keeps_all():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert decode.decode_image(encode(wide), image_size=10).min() == 255
    squashed = decode.decode_image(encode(wide), image_size=10, crop=decode.squash)
    assert 0.2 < squashed.mean() / 255 < 0.45 and squashed[0, 0, 0] == 0
    tall = wide.swapaxes(0, 1)
    assert decode.decode_image(encode(np.ascontiguousarray(tall)), image_size=10).min() == 255


def test_crops_follow_the_proportions_of_the_target():
    assert decode.centre_crop(plain("red", (100, 100)), (20, 10)).size == (100, 50)
    assert decode.centre_crop(plain("red", (100, 10)), (10, 20)).size == (5, 10)
    assert decode.centre_crop(plain("red", (1, 1)), (10, 20)).size == (1, 1)
    assert decode.decode_image(encode(plain("red", (1000, 3))), image_size=(5, 7)).shape == (5, 7, 3)


def test_area_is_the_block_mean_and_lanczos_is_not():
    pixels = noise(0, (16, 16, 3))
    means = pixels.reshape(4, 4, 4, 4, 3).mean((1, 3))
    small = decode.decode_image(encode(pixels), image_size=4)
    assert np.abs(small - means).max() <= 1
    sharp = decode.decode_image(encode(pixels), image_size=4, resize=decode.lanczos)
    assert np.abs(sharp - means).max() > 1


def test_enlarging_by_area_is_smooth():
    step = np.zeros((2, 2, 3), np.uint8)
    step[:, 1] = 255
    assert len(np.unique(decode.decode_image(encode(step), image_size=16)[0, :, 0])) > 4


def test_an_image_that_claims_too_many_pixels_is_broken(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match="11x11 pixels.*MAX_IMAGE_PIXELS"):
            decode.decode_image(encode(plain("red", (11, 11))), image_size=4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode.decode_image(encode(plain("red", (11, 11))), image_size=4).shape == (4, 4, 3)


# Folders


def test_class_folders_become_labels_in_sorted_order_at_any_depth(tmp_path):
    write(tmp_path / "b" / "x.png", plain("blue"))
    write(tmp_path / "a" / "deep" / "deeper" / "x.png", plain("red"))
    write(tmp_path / "c" / "x.png", plain("lime"))
    dataset = data.image_folder(tmp_path, image_size=4)
    assert dataset.class_names == ("a", "b", "c") and dataset.num_examples == 3
    raw = dataset.fetch(np.arange(3))
    for image, label in zip(raw["image"], raw["label"], strict=True):
        np.testing.assert_array_equal(image[0, 0], [(255, 0, 0), (0, 0, 255), (0, 255, 0)][label])
    batch = jax.jit(dataset.prepare)(raw, jax.random.key(0))
    data.check_batch(batch, image_shape=(4, 4, 3), num_classes=3)


def test_a_flat_folder_is_unlabelled(tmp_path):
    folder_of_noise(tmp_path, 3)
    dataset = data.image_folder(tmp_path, image_size=8, channels=1)
    assert dataset.class_names == () and dataset.image_shape == (8, 8, 1)
    assert set(dataset.fetch(np.arange(2))) == {"image"}


def test_extensions_in_capitals_all_three_formats_and_any_names_are_read(tmp_path):
    write(tmp_path / "A.PNG", plain("red"))
    write(tmp_path / "b.JpG", encode(plain("red"), "jpg"))
    write(tmp_path / "c.jpeg", encode(plain("red"), "jpg"))
    write(tmp_path / "d.WEBP", encode(plain("red"), "webp", lossless=True))
    write(tmp_path / "日本 emoji 🎨 ü.png", plain("red"))
    write(tmp_path / "gif inside.jpg", encode(plain("red"), "gif"))
    dataset = data.image_folder(tmp_path, image_size=4)
    assert dataset.num_examples == 6
    assert (np.abs(dataset.arrays["image"].astype(int) - [255, 0, 0]) <= 3).all()


def test_a_name_that_is_not_unicode_is_read_and_reported(tmp_path):
    folder_of_noise(tmp_path, 3)
    try:
        with open(os.fsencode(tmp_path) + b"/\xff\xfe.png", "wb") as file:
            file.write(b"")
    except OSError:
        pytest.skip("this file system wants Unicode")
    with pytest.raises(ValueError, match=r"\\udcff\\udcfe.png \(empty file\)"):
        data.image_folder(tmp_path, image_size=4, max_broken_share=0.0)
    with open(os.fsencode(tmp_path) + b"/\xff\xfe.png", "wb") as file:
        file.write(encode(plain("red")))
    assert data.image_folder(tmp_path, image_size=4).num_examples == 4


def test_hidden_and_other_files_are_ignored_and_counted(tmp_path, caplog):
    folder_of_noise(tmp_path, 2)
    write(tmp_path / ".hidden.png", plain("red"))
    write(tmp_path / ".cache" / "x.png", plain("red"))
    write(tmp_path / "__MACOSX" / "x.png", b"junk")
    write(tmp_path / "notes.txt", b"x")
    write(tmp_path / "README", b"x")
    with caplog.at_level(logging.INFO, "jaxgen.data"):
        assert data.image_folder(tmp_path, image_size=4).num_examples == 2
    assert "ignored 4 files" in caplog.text and "1 .txt" in caplog.text and "2 hidden" in caplog.text


def test_every_ending_that_the_decoder_knows_is_listed(tmp_path):
    from jaxgen.data import listing

    Image.init()
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in decode.FORMATS}
    assert known <= set(listing.EXTENSIONS)
    for ending in ("bmp", "gif", "tif", "TIFF", "jfif", "apng"):
        pixels = plain((255, 0, 0))
        kind = {"gif": "GIF", "bmp": "BMP", "jfif": "JPEG", "apng": "PNG"}.get(ending, "TIFF")
        if kind == "GIF":  # of an animation the first frame
            pixels.save(tmp_path / f"a.{ending}", kind, save_all=True, append_images=[plain("blue"), plain("lime")])
        else:
            pixels.save(tmp_path / f"a.{ending}", kind)
    dataset = data.image_folder(tmp_path, image_size=4)
    assert dataset.num_examples == 6
    assert (np.abs(dataset.arrays["image"].astype(int) - [255, 0, 0]) <= 3).all()


def test_what_was_ignored_and_left_out_is_told_in_lines(tmp_path):
    folder_of_noise(tmp_path, 20)
    write(tmp_path / "notes.txt", b"x")
    write(tmp_path / "raw.NEF", b"x")
    write(tmp_path / "page.jpg", b"<html>404</html>")
    lines = []
    data.image_folder(tmp_path, image_size=4, tell=lines.append)
    assert len(lines) == 2
    assert lines[0].endswith("ignored 2 files that are no images (1 .txt, 1 .nef)") or ".nef, 1 .txt" in lines[0]
    assert "1 of 21 images are broken and were left out: page.jpg (no image by its first bytes)" in lines[1]
    for name in ("notes.txt", "raw.NEF", "page.jpg"):
        (tmp_path / name).unlink()
    write(tmp_path / ".DS_Store", b"x")  # nobody's picture
    write(tmp_path / ".ipynb_checkpoints" / "x.png", plain("red"))
    lines.clear()
    assert data.image_folder(tmp_path, image_size=4, tell=lines.append).num_examples == 20 and not lines


def test_pipes_devices_and_folders_that_are_called_images_are_not_opened(tmp_path):
    folder_of_noise(tmp_path, 3)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "thumbs.png").mkdir()
    lines = []
    assert data.image_folder(tmp_path, image_size=4, tell=lines.append).num_examples == 3
    assert "2 special" in lines[0]


def test_escape_sequences_in_the_names_of_files_are_spelt_out(tmp_path, caplog):
    folder_of_noise(tmp_path, 3)
    write(tmp_path / "\x1b[31mred\x1b[0m.png", b"")
    lines = []
    data.image_folder(tmp_path, image_size=4, tell=lines.append)
    assert r"\x1b[31mred" in lines[0] and lines[0].isprintable()


def test_the_look_of_an_image_is_its_size_as_it_is_decoded(tmp_path):
    exif = Image.Exif()
    for orientation in (1, 3, 6, 8):
        exif[decode.ORIENTATION_TAG] = orientation
        for ending in ("png", "jpg", "webp", "tiff"):
            path = tmp_path / f"{orientation}.{ending}"
            Image.fromarray(np.arange(600, dtype=np.uint8).reshape(10, 20, 3)).save(path, exif=exif)
            upright = (10, 20) if orientation in (6, 8) else (20, 10)
            assert decode.look(path) == (*upright, False)
            if ending in ("png", "tiff"):  # nothing is cut off or blurred
                pixels = decode.decode_image(path, image_size=upright[::-1])
                assert sorted(pixels[..., 0].ravel()) == sorted(np.arange(600, dtype=np.uint8)[::3])
    # A PNG may tell its orientation after its pixels, and Pillow reads it there.
    content = encode(plain("red", (20, 10)), "png", exif=exif)
    at = content.index(b"eXIf") - 4
    length = int.from_bytes(content[at : at + 4], "big") + 12
    chunk, without = content[at : at + length], content[:at] + content[at + length :]
    end = without.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(without[:end] + chunk + without[end:])
    assert decode.look(tmp_path / "late.png")[:2] == (10, 20)
    assert decode.decode_image(tmp_path / "late.png", image_size=(20, 10)).shape == (20, 10, 3)
    for mode in ("L", "LA", "1", "I;16"):
        Image.new(mode, (4, 4)).save(tmp_path / "grey.png")
        assert decode.look(tmp_path / "grey.png").is_grey


def test_links_are_followed_but_not_in_circles_and_dangling_ones_are_broken(tmp_path):
    write(tmp_path / "elsewhere" / "x.png", plain("red"))
    root = tmp_path / "root"
    write(root / "a" / "y.png", plain("red"))
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "z.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (root / "a" / "up").symlink_to(root)
    dataset = data.image_folder(root, image_size=4)
    assert dataset.class_names == ("a", "b") and dataset.num_examples == 3
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"1 of 4 images.*gone.png \(dangling link\)"):
        data.image_folder(root, image_size=4, max_broken_share=0.0)


def test_the_order_and_the_fingerprint_do_not_depend_on_where_the_folder_is(tmp_path):
    for name in ("one", "two"):
        folder_of_noise(tmp_path / name, 5)
    one, two = (data.image_folder(tmp_path / name, image_size=8) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    np.testing.assert_array_equal(one.arrays["image"], two.arrays["image"])
    assert data.image_folder(tmp_path / "one", image_size=9).fingerprint != one.fingerprint
    assert data.image_folder(tmp_path / "one", image_size=8, crop=decode.squash).fingerprint != one.fingerprint
    large = [data.image_folder(tmp_path / "one", image_size=8, max_bytes_in_memory=0) for _ in range(2)]
    assert large[0].fingerprint == large[1].fingerprint
    write(tmp_path / "one" / "new.png", plain("red"))
    assert data.image_folder(tmp_path / "one", image_size=8).fingerprint != one.fingerprint


def test_decoding_while_training_gives_the_same_rows_as_decoding_into_memory(tmp_path):
    for i in range(12):
        write(tmp_path / "ab"[i % 2] / f"{i}.png", noise(i))
    memory = data.image_folder(tmp_path, image_size=8)
    disk = data.image_folder(tmp_path, image_size=8, max_bytes_in_memory=0, num_threads=3)
    assert disk.arrays is None and memory.arrays is not None
    indices = np.array([11, 0, 5, 5, 2])
    for name in ("image", "label"):
        np.testing.assert_array_equal(memory.fetch(indices)[name], disk.fetch(indices)[name])
    raw = list(data.sequential_batches(disk, 5))
    np.testing.assert_array_equal(raw[1][0]["image"], memory.arrays["image"][5:10])


# Broken files


def truncated(seed=0):
    whole = encode(noise(seed, (64, 64, 3)), "jpg")
    return whole[: len(whole) // 2]


def test_a_truncated_jpeg_among_many_is_left_out_and_reported(tmp_path, caplog):
    folder_of_noise(tmp_path, 30)
    write(tmp_path / "015b.jpg", truncated())
    dataset = data.image_folder(tmp_path, image_size=8, max_broken_share=0.05)
    assert dataset.num_examples == 30
    assert "1 of 31 images are broken and were left out" in caplog.text and "015b.jpg" in caplog.text
    expected = np.stack([decode.decode_image(encode(noise(i)), image_size=8) for i in range(30)])
    np.testing.assert_array_equal(dataset.arrays["image"], expected)


@pytest.mark.parametrize("max_bytes_in_memory", [0, 2**20])
def test_one_broken_file_of_a_small_folder_is_reported_and_tolerated_unless_none_may_be(
    tmp_path, caplog, max_bytes_in_memory
):
    folder_of_noise(tmp_path, 12)
    write(tmp_path / "005.png", encode(noise(0))[:500])  # a good header, and then nothing

    def read(**options):
        dataset = data.image_folder(tmp_path, image_size=8, max_bytes_in_memory=max_bytes_in_memory, **options)
        return dataset.fetch(np.arange(dataset.num_examples))["image"]

    assert len(read()) == (11 if max_bytes_in_memory else 12)  # left out, or replaced while training
    assert "005.png" in caplog.text
    with pytest.raises(ValueError, match="1 of 12 images are broken, more than the 0 that max_broken_share=0 allows"):
        read(max_broken_share=0.0)
    write(tmp_path / "006.png", encode(noise(0))[:500])
    with pytest.raises(ValueError, match="2 of 12 images are broken, more than the 1 .* allows.*005.png.*006.png"):
        data.image_folder(tmp_path, image_size=8)


def test_a_folder_whose_only_image_is_broken_is_refused(tmp_path):
    write(tmp_path / "a.png", encode(noise(0))[:500])
    with pytest.raises(ValueError, match="none of the 1 images can be decoded: a.png"):
        data.image_folder(tmp_path, image_size=8)


def test_labels_stay_with_their_images_when_broken_ones_are_left_out(tmp_path):
    for i in range(10):
        write(tmp_path / "ab"[i % 2] / f"{i}.png", plain("red" if i % 2 else "blue"))
    write(tmp_path / "a" / "2.png", b"")
    write(tmp_path / "a" / "4.png", encode(noise(0))[:300])
    raw = data.image_folder(tmp_path, image_size=4, max_broken_share=0.5).arrays
    assert len(raw["label"]) == 8
    np.testing.assert_array_equal(raw["image"][:, 0, 0, 0] == 255, raw["label"] == 1)


def test_too_many_broken_files_are_an_error_that_names_some(tmp_path):
    folder_of_noise(tmp_path, 20)
    write(tmp_path / "empty.png", b"")
    write(tmp_path / "page.jpg", b"<html>404</html>")
    with pytest.raises(ValueError, match=r"2 of 22 images.*empty.png \(empty file\); page.jpg \(no image by its first"):
        data.image_folder(tmp_path, image_size=8)
    assert data.image_folder(tmp_path, image_size=8, max_broken_share=0.1).num_examples == 20


def test_a_file_that_breaks_while_training_is_replaced_by_the_next_the_same_after_a_resume(tmp_path, caplog):
    folder_of_noise(tmp_path, 20)
    for name in ("004.png", "005.png", "019.png"):
        write(tmp_path / name, encode(noise(0))[:500])  # a good header, and then nothing

    def open_folder():
        return data.image_folder(tmp_path, image_size=8, max_bytes_in_memory=0, max_broken_share=0.2, num_threads=2)

    dataset = open_folder()
    assert dataset.num_examples == 20
    images = dataset.fetch(np.arange(20))["image"]
    for row, used in ((3, 3), (4, 6), (5, 6), (6, 6), (19, 0)):
        np.testing.assert_array_equal(images[row], decode.decode_image(encode(noise(used)), image_size=8))
    assert "004.png" in caplog.text or "005.png" in caplog.text
    resumed = open_folder().fetch(np.array([5, 19, 4]))["image"]  # in another order, with nothing known
    np.testing.assert_array_equal(resumed, images[[5, 19, 4]])
    np.testing.assert_array_equal(dataset.fetch(np.arange(20))["image"], images)


def test_a_replacement_brings_its_own_label(tmp_path):
    write(tmp_path / "a" / "x.png", encode(noise(0))[:500])
    write(tmp_path / "b" / "x.png", plain("red"))
    dataset = data.image_folder(tmp_path, image_size=4, max_bytes_in_memory=0, max_broken_share=0.5)
    raw = dataset.fetch(np.array([0, 1]))
    assert raw["label"].tolist() == [1, 1] and (raw["image"][..., 0] == 255).all()


def test_too_many_files_that_break_while_training_are_an_error(tmp_path):
    folder_of_noise(tmp_path, 20)
    for i in range(4):
        write(tmp_path / f"{i:03d}.png", encode(noise(0))[:500])
    dataset = data.image_folder(tmp_path, image_size=8, max_bytes_in_memory=0, max_broken_share=0.1)
    # Threads decode several at once: the fourth may be found before the third is counted.
    with pytest.raises(
        ValueError, match=r"[34] of 20 images are broken, more than the 2 that max_broken_share=0\.1 allows"
    ):
        dataset.fetch(np.arange(20))


# Errors and options


def test_missing_paths_files_and_empty_folders_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.image_folder(tmp_path / "missing", image_size=8)
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="link that leads nowhere"):
        data.image_folder(tmp_path / "link", image_size=8)
    write(tmp_path / "f" / "a.txt", b"x")
    with pytest.raises(NotADirectoryError, match="give the folder"):
        data.image_folder(tmp_path / "f" / "a.txt", image_size=8)
    with pytest.raises(ValueError, match=r"no image found.*1 other files, e.g. \.txt"):
        data.image_folder(tmp_path / "f", image_size=8)


def test_a_folder_without_permission_says_so(tmp_path, monkeypatch):
    write(tmp_path / "closed" / "x.png", plain("red"))
    scandir = os.scandir

    def deny(path):  # chmod does not stop the superuser, who often runs tests
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(PermissionError, match="closed: no permission.*chmod"):
        data.image_folder(tmp_path, image_size=8)


def test_images_beside_class_folders_are_an_error_that_says_what_to_do(tmp_path):
    write(tmp_path / "stray.png", plain("red"))
    write(tmp_path / "a" / "x.png", plain("red"))
    with pytest.raises(ValueError, match=r"stray.png.*labelled=False"):
        data.image_folder(tmp_path, image_size=8)
    dataset = data.image_folder(tmp_path, image_size=8, labelled=False)
    assert dataset.num_examples == 2 and dataset.class_names == ()
    lines = []
    dataset = data.image_folder(tmp_path, image_size=8, labelled=None, tell=lines.append)
    assert dataset.num_examples == 2 and dataset.class_names == ()
    assert "1 images (e.g. stray.png) lie beside 1 subfolders" in lines[0] and "without labels" in lines[0]


def test_split_folders_are_not_taken_for_classes(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split / "cat" / "x.png", plain("red"))
    with pytest.raises(ValueError, match="look like splits.*train"):
        data.image_folder(tmp_path, image_size=8)
    assert data.image_folder(tmp_path / "train", image_size=8).class_names == ("cat",)
    assert data.image_folder(tmp_path, image_size=8, class_names=("val", "train")).class_names == ("val", "train")


def test_the_split_folders_of_a_folder_are_found(tmp_path):
    from jaxgen.data import folder

    write(tmp_path / "Train" / "cat" / "x.png", plain("red"))
    write(tmp_path / "val" / "cat" / "x.png", plain("red"))
    (tmp_path / "docs").mkdir()  # no images: no class either
    assert folder.split_folders(tmp_path) == {"train": "Train", "validation": "val"}
    write(tmp_path / "validation" / "cat" / "x.png", plain("red"))
    assert folder.split_folders(tmp_path) == {}  # which of the two?
    (tmp_path / "validation" / "cat" / "x.png").rename(tmp_path / "docs" / "x.png")
    assert folder.split_folders(tmp_path) == {}
    (tmp_path / "docs" / "x.png").rename(tmp_path / "x.png")
    assert folder.split_folders(tmp_path) == {}


def test_given_class_names_fix_the_labels_of_a_folder_that_lacks_some(tmp_path, caplog):
    for name in ("cat", "dog", "eel"):
        write(tmp_path / "one" / name / "x.png", plain("red"))
    write(tmp_path / "two" / "eel" / "x.png", plain("red"))
    (tmp_path / "two" / "cat").mkdir()
    one = data.image_folder(tmp_path / "one", image_size=4)
    two = data.image_folder(tmp_path / "two", image_size=4, class_names=one.class_names)
    assert two.arrays["label"].tolist() == [2]
    assert data.image_folder(tmp_path / "two", image_size=4).class_names == ("eel",)
    assert "cat holds no images" in caplog.text
    with pytest.raises(ValueError, match="not in class_names: eel"):
        data.image_folder(tmp_path / "two", image_size=4, class_names=("cat", "dog"))


def test_the_validation_share_is_held_out_by_name(tmp_path):
    folder_of_noise(tmp_path, 40)

    def part(split):
        return data.image_folder(tmp_path, image_size=24, split=split, validation_share=0.25)

    train, validation = part("train"), part("validation")
    assert (train.num_examples, validation.num_examples) == (30, 10)
    rows = {image.tobytes() for d in (train, validation) for image in d.arrays["image"]}
    assert len(rows) == 40
    assert train.fingerprint != validation.fingerprint
    before = {image.tobytes() for image in validation.arrays["image"]}
    write(tmp_path / "000b.png", noise(99))
    after = {image.tobytes() for image in part("validation").arrays["image"]}
    assert len(before & after) >= 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "positive integer"),
        ({"image_size": (8, 8, 3)}, "height, width"),
        ({"image_size": 8, "channels": 4}, "channels must be 1"),
        ({"image_size": 8, "background": "whight"}, "'whight'"),
        ({"image_size": 8, "split": "valid"}, "'valid'"),
        ({"image_size": 8, "split": "validation"}, "needs a validation_share"),
        ({"image_size": 8, "validation_share": 1.0}, r"\[0, 1\)"),
        ({"image_size": 8, "validation_share": 0.01}, "leaves 0 for validation"),
        ({"image_size": 8, "class_names": ("a",)}, "no subfolders"),
    ],
)
def test_options_without_meaning_are_refused(tmp_path, options, message):
    folder_of_noise(tmp_path, 3)
    with pytest.raises(ValueError, match=message):
        data.image_folder(tmp_path, **options)


def test_a_partial_is_a_crop_too_and_its_arguments_count(tmp_path):
    def corner(image, size, offset):
        return image.crop((offset, offset, offset + size[0], offset + size[1]))

    folder_of_noise(tmp_path, 2)
    a, b = (data.image_folder(tmp_path, image_size=8, crop=functools.partial(corner, offset=i)) for i in (0, 5))
    np.testing.assert_array_equal(b.arrays["image"][0], noise(0)[5:13, 5:13])
    assert a.fingerprint != b.fingerprint


def test_opening_reads_headers_and_decodes_nothing_of_a_large_set(tmp_path, monkeypatch):
    folder_of_noise(tmp_path, 50)
    monkeypatch.setattr(decode, "decode_image", lambda *args, **kwargs: pytest.fail("decoded an image"))
    assert data.image_folder(tmp_path, image_size=8, max_bytes_in_memory=0).num_examples == 50
