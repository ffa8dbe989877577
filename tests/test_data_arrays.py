import os

import numpy as np
import pytest

from jaxgen import data

GREY = np.random.RandomState(0).randint(0, 256, (6, 8, 8), np.uint8)
COLOUR = np.random.RandomState(1).randint(0, 256, (6, 8, 8, 3), np.uint8)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("image_key", ["image", "images", "x", "arr_0"])
@pytest.mark.parametrize("label_key", ["label", "labels", "y", None])
def test_the_usual_names_in_an_npz_are_found(tmp_path, image_key, label_key):
    labels = {} if label_key is None else {label_key: np.arange(6)}
    dataset = data.array_file(save(tmp_path / "a.npz", **{image_key: COLOUR}, **labels))
    raw = dataset.fetch(np.array([4, 1]))
    np.testing.assert_array_equal(raw["image"], COLOUR[[4, 1]])
    if label_key is None:
        assert set(raw) == {"image"} and dataset.class_names == ()
    else:
        assert raw["label"].tolist() == [4, 1] and dataset.class_names == tuple("012345")


def test_other_names_are_chosen_and_missing_or_ambiguous_ones_listed(tmp_path):
    path = save(tmp_path / "a.npz", x_train=COLOUR, y_train=np.arange(6)[:, None])
    with pytest.raises(ValueError, match="no images found.*x_train, y_train.*image_key"):
        data.array_file(path)
    with pytest.raises(ValueError, match="no array 'foo'"):
        data.array_file(path, image_key="foo")
    dataset = data.array_file(path, image_key="x_train", label_key="y_train", class_names="abcdef")
    assert dataset.arrays["label"].tolist() == list(range(6)) and dataset.class_names == tuple("abcdef")
    with pytest.raises(ValueError, match="both images and x could be the images"):
        data.array_file(save(tmp_path / "b.npz", images=COLOUR, x=COLOUR))


def test_grey_images_get_a_channel_axis(tmp_path):
    np.save(tmp_path / "a.npy", GREY)
    dataset = data.array_file(tmp_path / "a.npy")
    assert dataset.image_shape == (8, 8, 1)
    np.testing.assert_array_equal(dataset.arrays["image"][..., 0], GREY)


def test_a_large_npy_is_mapped_and_gives_the_same_rows(tmp_path):
    floats = (COLOUR / 127.5 - 1).astype(np.float32)
    for name, array in (("u", COLOUR), ("f", floats)):
        np.save(tmp_path / f"{name}.npy", array)
        mapped = data.array_file(tmp_path / f"{name}.npy", max_bytes_in_memory=100)
        assert mapped.arrays is None
        raw = mapped.fetch(np.array([5, 0, 5]))
        assert type(raw["image"]) is np.ndarray
        np.testing.assert_array_equal(raw["image"], array[[5, 0, 5]])
        np.testing.assert_array_equal(data.array_file(tmp_path / f"{name}.npy").arrays["image"], array)


def test_a_large_npz_stays_on_the_host_with_its_labels(tmp_path):
    dataset = data.array_file(save(tmp_path / "a.npz", image=COLOUR, label=np.arange(6)), max_bytes_in_memory=100)
    assert dataset.arrays is None
    assert dataset.fetch(np.array([3]))["label"].tolist() == [3]


def test_floats_in_the_unit_range_are_taken_as_they_are(tmp_path):
    floats = np.linspace(-1, 1, 6 * 64).reshape(6, 8, 8, 1)
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "a.npy", floats.astype(dtype))
        image = data.array_file(tmp_path / "a.npy").arrays["image"]
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, floats.astype(dtype).astype(np.float32))


def test_a_range_that_the_values_hardly_fill_is_told(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(0, 1, 2 * 8 * 8).reshape(2, 8, 8))
    with pytest.warns(UserWarning, match=r"values from 0 to 1 fill hardly any of value_range=\(0, 255\)"):
        data.array_file(tmp_path / "a.npy", value_range=(0, 255))


@pytest.mark.parametrize(
    ("array", "value_range"),
    [
        (GREY / 255.0, (0, 1)),
        (GREY.astype(np.float32), (0, 255)),
        (GREY.astype(np.int64), (0, 255)),
        (GREY.astype(np.uint16) * 257, (0, 65535)),
        (GREY / 127.5 - 1, (-1, 1)),
    ],
)
def test_other_ranges_are_never_guessed_but_mapped_when_given(tmp_path, array, value_range):
    np.save(tmp_path / "a.npy", array)
    if value_range != (-1, 1):
        with pytest.raises(ValueError, match="value_range"):
            data.array_file(tmp_path / "a.npy")
    image = data.array_file(tmp_path / "a.npy", value_range=value_range).arrays["image"]
    np.testing.assert_allclose(image[..., 0], GREY / 127.5 - 1, atol=1e-6)
    assert image.dtype == np.float32


def test_values_outside_of_the_given_range_are_an_error(tmp_path):
    np.save(tmp_path / "a.npy", GREY.astype(np.float32))
    with pytest.raises(ValueError, match=r"values from 0 to 255, outside of value_range=\(0, 1\)"):
        data.array_file(tmp_path / "a.npy", value_range=(0, 1))
    with pytest.raises(ValueError, match="black < white"):
        data.array_file(tmp_path / "a.npy", value_range=(1, 0))


def test_masks_of_zeros_and_ones_are_not_taken_for_dark_images(tmp_path):
    np.save(tmp_path / "a.npy", GREY > 127)
    assert set(np.unique(data.array_file(tmp_path / "a.npy").arrays["image"])) == {-1.0, 1.0}
    np.save(tmp_path / "b.npy", (GREY > 127).astype(np.uint8))
    with pytest.raises(ValueError, match=r"value_range=\(0, 1\)"):
        data.array_file(tmp_path / "b.npy")
    image = data.array_file(tmp_path / "b.npy", value_range=(0, 1)).arrays["image"]
    assert set(np.unique(image)) == {-1.0, 1.0}


def test_nan_and_infinity_are_counted_and_located(tmp_path, monkeypatch):
    from jaxgen.data import arrays

    monkeypatch.setattr(arrays, "CHUNK_BYTES", 2 * 64 * 8)  # two images a chunk
    floats = GREY / 127.5 - 1
    floats[3, 2, 1] = np.nan
    floats[5, 0, 0] = np.inf
    np.save(tmp_path / "a.npy", floats)
    with pytest.raises(ValueError, match=r"2 values are NaN or infinite, the first is nan at \(3, 2, 1, 0\)"):
        data.array_file(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(5), "5 labels for 6 images"),
        (np.array([0, 1, -1, 0, -1, 0]), "2 negative labels, the first at row 2"),
        (np.linspace(0, 1, 6), "float64, expected integers"),
        (np.eye(6, dtype=int), "argmax"),
        (np.array([0, 1, 2, 3, 4, 10**9]), "too large for a class number"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        data.array_file(save(tmp_path / "a.npz", image=COLOUR, label=labels))


@pytest.mark.parametrize("kind", ["U", "S"])
def test_labels_may_be_names_and_count_from_one(tmp_path, kind):
    names = np.array(["cat", "dog", "ant", "dog", "cat", "cat"]).astype(kind)
    dataset = data.array_file(save(tmp_path / "a.npz", image=COLOUR, label=names))
    assert dataset.class_names == ("ant", "cat", "dog") and dataset.arrays["label"].tolist() == [1, 2, 0, 2, 1, 1]
    dataset = data.array_file(tmp_path / "a.npz", class_names=("dog", "cat", "ant", "eel"))
    assert dataset.arrays["label"].tolist() == [1, 0, 2, 0, 1, 1] and dataset.class_names[3] == "eel"
    with pytest.raises(ValueError, match="1 of the labels' names are no classes, e.g. 'ant': there are cat, dog"):
        data.array_file(tmp_path / "a.npz", class_names=("cat", "dog"))
    dataset = data.array_file(save(tmp_path / "b.npz", image=COLOUR, label=np.array([1, 2, 3, 3, 2, 1])))
    assert dataset.class_names == ("1", "2", "3") and dataset.arrays["label"].tolist() == [0, 1, 2, 2, 1, 0]
    # Another file of the same classes, which lacks the first one.
    part = save(tmp_path / "c.npz", image=COLOUR, label=np.array([2, 3, 3, 3, 2, 2]))
    assert data.array_file(part, class_names=dataset.class_names).arrays["label"].tolist() == [1, 2, 2, 2, 1, 1]
    assert data.array_file(tmp_path / "b.npz", class_names="xyz").arrays["label"].tolist() == [0, 1, 2, 2, 1, 0]


def test_classes_without_images_are_told(tmp_path, caplog):
    dataset = data.array_file(save(tmp_path / "a.npz", image=COLOUR, label=np.array([0, 5, 9, 9, 0, 5])))
    assert len(dataset.class_names) == 10
    assert "a.npz: 7 of 10 classes hold no images: 1, 2, 3, 4, 6, ..." in caplog.text
    with pytest.warns(UserWarning, match="gap: 1 of 3 classes hold no images: 1"):
        data.from_arrays("gap", COLOUR, np.array([0, 2, 2, 2, 0, 0]))


def test_labels_can_be_left_out_and_what_is_no_label_is_told_where_labels_are_not_asked_for(tmp_path, caplog):
    masks = save(tmp_path / "a.npz", arr_0=COLOUR, arr_1=GREY)
    with pytest.raises(ValueError, match=r"labels have the shape \(6, 8, 8\)"):
        data.array_file(masks)
    assert data.array_file(masks, labelled=False).class_names == () and not caplog.text
    assert data.array_file(masks, labelled=None).class_names == ()
    assert "labels have the shape (6, 8, 8)" in caplog.text and "taken without labels" in caplog.text
    with pytest.raises(ValueError, match="labels have the shape"):  # asked for by name
        data.array_file(masks, labelled=None, label_key="arr_1")
    assert data.array_file(save(tmp_path / "b.npz", image=COLOUR, label=np.arange(6)), labelled=None).class_names


@pytest.mark.parametrize("max_bytes", [10, 2**20])
def test_opacity_is_composited_on_the_background_as_for_folders(tmp_path, max_bytes):
    from PIL import Image

    rgba = np.random.RandomState(2).randint(0, 256, (6, 8, 8, 4), np.uint8)
    for name, image in (("rgba", rgba), ("la", rgba[..., 2:])):
        np.save(tmp_path / f"{name}.npy", image)
        for background in ("white", "#2080ff"):
            options = {"background": background, "max_bytes_in_memory": max_bytes}
            dataset = data.array_file(tmp_path / f"{name}.npy", **options)
            assert dataset.image_shape == (8, 8, image.shape[-1] - 1)
            picture = Image.fromarray(image[1]).convert("RGBA")
            expected = Image.alpha_composite(Image.new("RGBA", (8, 8), background), picture)
            expected = expected.convert("L" if name == "la" else "RGB")
            found = dataset.fetch(np.array([1]))["image"]
            assert found.dtype == np.uint8
            np.testing.assert_allclose(
                found[0].squeeze().astype(float), np.asarray(expected).astype(float), atol=1.5, err_msg=name
            )
    np.save(tmp_path / "floats.npy", rgba / 255.0)
    floats = data.array_file(tmp_path / "floats.npy", value_range=(0, 1)).fetch(np.arange(6))["image"]
    whole = data.array_file(tmp_path / "rgba.npy").fetch(np.arange(6))["image"]
    np.testing.assert_allclose(floats, whole / 127.5 - 1, atol=0.005)
    np.save(tmp_path / "floats.npy", rgba / 127.5 - 1)
    with pytest.raises(ValueError, match="4 channels, the last of which may be opacity, and are floats"):
        data.array_file(tmp_path / "floats.npy")


def test_every_flipped_bit_of_an_npz_is_one_error_that_names_it_or_changes_nothing(tmp_path):
    """Nothing is lost or shifted in silence: directory, heads and data are all covered by names and checksums."""
    images = np.random.RandomState(3).randint(0, 256, (3, 5, 6, 1), np.uint8)
    label = np.arange(3)
    random = np.random.RandomState(4)
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "whole.npz", image=images, label=label)
        whole = (tmp_path / "whole.npz").read_bytes()
        refused = 0
        for bit in random.choice(8 * len(whole), 600, replace=False):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            (tmp_path / "a.npz").write_bytes(damaged)
            try:
                dataset = data.array_file(tmp_path / "a.npz", labelled=None)
            except ValueError as error:
                refused += 1
                assert str(error).startswith(f"{tmp_path / 'a.npz'}: ") and "\n" not in str(error)
            else:
                np.testing.assert_array_equal(dataset.arrays["image"], images)
                assert dataset.arrays["label"].tolist() == [0, 1, 2]
        assert refused > 200


@pytest.mark.parametrize("shape", [(4, 8, 8), (60, 8, 8), (10**15, 8, 8)])
def test_a_head_that_does_not_fit_its_file_is_damage(tmp_path, shape):
    np.save(tmp_path / "a.npy", GREY)
    content = (tmp_path / "a.npy").read_bytes()
    head = str(GREY.shape).encode()
    other = str(shape).encode()
    padding = len(other) - len(head)
    content = content.replace(head, other).replace(b" " * padding + b"\n", b"\n", 1)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.npy: damaged or cut short \(its array should have [\d,]+ bytes by its head"
    ):
        data.array_file(tmp_path / "a.npy")


def test_an_entry_that_is_no_array_and_one_that_unpacks_to_gigabytes_are_refused(tmp_path, monkeypatch):
    import zipfile

    from jaxgen.data import npz

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("image.npy", b"no array at all")
    with pytest.raises(ValueError, match=r"a\.npz: damaged or cut short \(.*magic"):
        data.array_file(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", image=np.zeros((50, 64, 64), np.uint8), junk=np.zeros(10**6, np.uint8))
    monkeypatch.setattr(npz, "MAX_BYTES", 10**5)
    with pytest.raises(ValueError, match=r"b\.npz: the array 'image' would unpack [\d,]+ bytes to 204,928"):
        data.array_file(tmp_path / "b.npz")


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="a pipe, a socket or a device"):
        data.array_file(tmp_path / name)


def test_escape_sequences_in_names_are_spelt_out(tmp_path):
    path = save(tmp_path / "a\x1b[31m.npz", **{"\x1b[2Jy": COLOUR})
    with pytest.raises(ValueError) as raised:
        data.array_file(path)
    assert r"a\x1b[31m.npz" in str(raised.value) and r"\x1b[2Jy" in str(raised.value)
    assert str(raised.value).isprintable()


def test_pickled_objects_are_refused_without_being_loaded(tmp_path):
    ragged = np.empty(2, object)
    ragged[:] = [GREY[0], COLOUR[0]]
    np.save(tmp_path / "a.npy", ragged, allow_pickle=True)
    for path in (tmp_path / "a.npy", save(tmp_path / "a.npz", image=ragged)):
        with pytest.raises(ValueError, match="Python objects"):
            data.array_file(path)


def test_damaged_and_foreign_files_are_named(tmp_path):
    np.save(tmp_path / "a.npy", COLOUR)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(save(tmp_path / "b.npz", image=COLOUR).read_bytes()[:-60])
    (tmp_path / "text.npz").write_bytes(b"hello")
    (tmp_path / "wrong.npz").write_bytes(whole)
    (tmp_path / "wrong.npy").write_bytes((tmp_path / "b.npz").read_bytes())
    for name in ("cut.npy", "empty.npy", "cut.npz", "text.npz", "wrong.npz", "wrong.npy"):
        with pytest.raises(ValueError, match=name):
            data.array_file(tmp_path / name)
    with pytest.raises(ValueError, match="text.npz: it is no NumPy file, whatever its name"):
        data.array_file(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="cut.npz: damaged or cut short .*again"):
        data.array_file(tmp_path / "cut.npz")
    with pytest.raises(ValueError, match="cut.npy"):
        data.array_file(tmp_path / "cut.npy", max_bytes_in_memory=10)
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.array_file(tmp_path / "none.npy")
    with pytest.raises(ValueError, match="image_folder"):
        data.array_file(tmp_path)
    with pytest.raises(ValueError, match=".npz and .npy"):
        data.array_file(save(tmp_path / "b.npz", image=COLOUR).rename(tmp_path / "b.zip"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 8), r"expected \[N, H, W, C\] or \[N, H, W\]$"),
        ((), "expected"),
        ((6, 784), r"if each row is an image, save images.reshape\(-1, 28, 28\) instead"),
        ((0, 8, 8, 3), "no images"),
        ((6, 3, 8, 8), "channels first"),
        ((6, 1, 28, 28), "channels first"),
        ((6, 2, 28, 28), "channels first"),
        ((6, 8, 8, 5), "5 channels"),
        ((6, 8, 3, 8), "out of order"),
    ],
)
def test_wrong_shapes_are_refused(tmp_path, shape, message):
    np.save(tmp_path / "a.npy", np.full(shape, 7, np.uint8))
    with pytest.raises(ValueError, match=message):
        data.array_file(tmp_path / "a.npy")


def test_the_fingerprint_sees_the_pixels(tmp_path):
    prints = []
    for array in (GREY, GREY, np.ascontiguousarray(GREY[::-1])):
        np.save(tmp_path / "a.npy", array)
        prints.append(data.array_file(tmp_path / "a.npy").fingerprint)
    assert prints[0] == prints[1] != prints[2]
