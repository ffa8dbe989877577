import errno
import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen import images


def test_every_stored_level_survives_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(images.to_uint8(levels.astype(dtype) / 127.5 - 1), levels)


def test_to_uint8_rounds_to_the_nearest_level_and_clips():
    x = [-np.inf, -3.0, -1.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.0, 1.5, np.inf]
    np.testing.assert_array_equal(images.to_uint8(np.array(x)), [0, 0, 0, 0, 1, 255, 255, 255])


def test_to_uint8_takes_bfloat16_jax_arrays():
    x = jnp.array([-1.0, 0.5, 1.0], jnp.bfloat16)
    np.testing.assert_array_equal(images.to_uint8(x), [0, 191, 255])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_])
def test_to_uint8_refuses_stored_pixels_that_would_turn_white(dtype):
    with pytest.raises(TypeError, match=r"floats in \[-1, 1\].*127\.5"):
        images.to_uint8(np.ones([2, 2], dtype))


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_puts_every_image_at_its_documented_pixel(channels):
    x = np.random.RandomState(0).uniform(-1, 1, [5, 4, 6, channels]).astype(np.float32)
    padding, scale, columns = 3, 2, 2
    picture = images.grid(jnp.asarray(x), columns=columns, padding=padding, background=0.2, upscale=scale)
    assert picture.dtype == np.uint8 and picture.shape == (3 * (8 + 3) + 3, 2 * (12 + 3) + 3, 3)
    left_over = np.ones(picture.shape[:2], bool)
    for n in range(5):
        top, left = 3 + n // 2 * 11, 3 + n % 2 * 15
        expected = np.kron(images.to_uint8(x[n]), np.ones([2, 2, 1], np.uint8))
        expected = np.repeat(expected, 3 // channels, axis=-1)
        np.testing.assert_array_equal(picture[top : top + 8, left : left + 12], expected)
        left_over[top : top + 8, left : left + 12] = False
    assert (picture[left_over] == 153).all()  # (0.2 + 1) * 127.5; padding and the empty sixth cell


def test_grid_is_about_square_by_default_and_never_wider_than_its_images():
    x = np.zeros([7, 2, 2, 1])
    assert images.grid(x, padding=0).shape == (3 * 2, 3 * 2, 3)
    assert images.grid(x, padding=0, columns=50).shape == (2, 7 * 2, 3)


def test_grid_draws_nan_pixels_in_magenta_and_only_those():
    x = np.full([1, 2, 2, 3], -1.0)
    x[0, 0, 1, 2] = np.nan
    picture = images.grid(x, padding=0)
    assert picture[0, 1].tolist() == [255, 0, 255]
    assert picture.sum() == 510


@pytest.mark.parametrize("size,columns", [(28, 8), (32, 10), (64, 8), (100, 4), (8, 3), (448, 1)])
def test_automatic_upscale_makes_a_grid_that_people_can_read(size, columns):
    height, width, _ = images.grid(np.zeros([columns**2, size, size, 1]), columns=columns, upscale=None).shape
    assert 400 <= width <= 900 and height == width


def test_automatic_upscale_leaves_wide_grids_and_bounds_tall_ones():
    assert images.grid(np.zeros([4, 512, 512, 1]), padding=0, upscale=None).shape == (1024, 1024, 3)
    assert images.grid(np.zeros([40, 28, 28, 1]), columns=1, padding=0, upscale=None).shape == (1120, 28, 3)


@pytest.mark.parametrize(
    "shape,message",
    [
        ([2, 4, 4, 2], r"1 \(grey\) or 3 \(RGB\).*\(2, 4, 4, 2\)"),
        ([2, 3, 4, 4], r"NCHW"),
        ([4, 4, 3], r"\[N, H, W, C\], got \(4, 4, 3\)"),
        ([0, 4, 4, 3], r"nothing to draw.*\(0, 4, 4, 3\)"),
    ],
)
def test_grid_names_the_shape_it_cannot_draw(shape, message):
    with pytest.raises(ValueError, match=message):
        images.grid(np.zeros(shape))


@pytest.mark.parametrize("option", [{"columns": 0}, {"padding": -1}, {"background": 255}, {"upscale": 0}])
def test_grid_names_the_option_that_is_out_of_range(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        images.grid(np.zeros([1, 2, 2, 1]), **option)


def test_save_png_writes_the_exact_pixels_and_makes_the_directory(tmp_path):
    picture = images.grid(np.random.RandomState(0).uniform(-1, 1, [4, 5, 5, 3]))
    path = images.save_png(tmp_path / "samples" / "00000010.png", picture)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert [entry.name for entry in path.parent.iterdir()] == ["00000010.png"]


def test_save_png_takes_one_float_image_and_grey_ones(tmp_path):
    images.save_png(tmp_path / "grey.png", np.full([2, 3, 1], 1.0))
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == "L" and image.size == (3, 2) and image.getpixel((0, 0)) == 255


def test_save_png_refuses_a_batch(tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*grid"):
        images.save_png(tmp_path / "a.png", np.zeros([2, 4, 4, 3]))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_picture_and_names_the_file(tmp_path, monkeypatch):
    path = images.save_png(tmp_path / "a.png", np.zeros([2, 2]))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="a.png: the disk is full: free some space"):
        images.save_png(path, np.ones([2, 2]))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_a_file_in_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "samples").write_text("mine")
    with pytest.raises(OSError, match="samples"):
        images.save_png(tmp_path / "samples" / "a.png", np.zeros([2, 2]))
    assert (tmp_path / "samples").read_text() == "mine"


def frames_of(num, shape=(4, 6, 3)):
    return np.random.RandomState(1).uniform(-1, 1, [num, *shape]).astype(np.float32)


def read_film(path):
    with Image.open(path) as film:
        frames, durations = [], []
        for i in range(film.n_frames):
            film.seek(i)
            film.load()
            frames.append(np.asarray(film.convert("RGB")))
            durations.append(film.info["duration"])
        return film.format, film.info["loop"], np.stack(frames), durations


@pytest.mark.parametrize("ending, kind", [("webp", "WEBP"), ("gif", "GIF")])
def test_a_film_has_all_frames_takes_its_time_and_repeats(tmp_path, ending, kind):
    path = images.save_film(tmp_path / "new" / f"film.{ending}", frames_of(7), seconds=1.5, hold=0.5)
    found, loop, frames, durations = read_film(path)
    assert (found, loop, len(frames)) == (kind, 0, 7)
    assert sum(durations) == 2000 and durations[-1] - durations[0] in range(490, 511)
    assert max(durations[:-1]) - min(durations[:-1]) <= 10


def test_films_side_by_side_are_grids_whose_enlarged_pixels_are_kept(tmp_path):
    films = frames_of(3, (2, 4, 6, 1))
    path = images.save_film(tmp_path / "film.webp", jnp.asarray(films), seconds=1, columns=2)
    _, _, frames, _ = read_film(path)
    expected = [images.grid(frame, columns=2, upscale=512 // 12) for frame in films]
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize(
    "name, frames, seconds, message",
    [
        ("film.mp4", frames_of(2), 1, "ends in .webp or .gif, not to .*film.mp4"),
        ("film.webp", frames_of(1), 1, "at least two frames, not 1"),
        ("film.webp", frames_of(2)[..., :2], 1, r"got \(2, 4, 6, 2\)"),
        ("film.webp", frames_of(2)[0], 1, r"got \(4, 6, 3\)"),
        ("film.webp", frames_of(2), 0, "some seconds, not 0"),
        ("film.webp", frames_of(2), np.inf, "some seconds, not inf"),
        ("film.gif", frames_of(60), 1, "60 frames in 1 seconds are more than 50 a second"),
    ],
)
def test_what_is_no_film_is_refused_and_nothing_is_written(tmp_path, name, frames, seconds, message):
    with pytest.raises(ValueError, match=message):
        images.save_film(tmp_path / name, frames, seconds=seconds)
    assert not list(tmp_path.iterdir())
