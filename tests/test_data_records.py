"""Files of records: what a folder gives they give, whatever interrupts a conversion, and damage is told."""

import dataclasses
import functools
import json
import os
import threading

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call
from PIL import Image

from jaxgen import checkpoint, data, loop, opening, options
from jaxgen.data import conversion, convertible, folder, records
from jaxgen.run_directory import metrics_log

pytest.importorskip("grain")
CLASSES = ("cat", "dog")


def pictures(path, count=60, size=(20, 24)):
    """JPEG, one of them turned by EXIF, PNG with an alpha channel, and grey PNG, in folders of two classes."""
    for i in range(count):
        where = path / CLASSES[i % 2]
        where.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(i).randint(0, 256, (*size, 4), np.uint8)
        if i % 3 == 0:
            exif = Image.Exif()
            exif[0x0112] = 6 if i == 0 else 1
            Image.fromarray(pixels[..., :3]).save(where / f"{i:03d}.jpg", exif=exif)
        else:
            Image.fromarray(pixels if i % 3 == 1 else pixels[..., 0]).save(where / f"{i:03d}.png")
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data") / "photos")


def converted(source, destination, *, encoding="original", image_size=None, num_shards=3, **settings):
    found = folder.find_images(source)
    read = convertible.of_folder(found, encoding=encoding, image_size=image_size)
    return conversion.convert({"train": read}, destination, num_shards=num_shards, **settings)


def assert_equal_rows(one, other, rows):
    one, other = one.fetch(rows), other.fetch(rows)
    assert set(one) == set(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


# The same numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding, image_size", [("original", None), ("png", 16), ("raw", 16), ("png", (12, 16))])
@pytest.mark.parametrize("max_bytes_in_memory", [0, 2**20])
def test_records_of_a_folder_hold_its_pixels_and_labels_in_its_order(
    photos, tmp_path, encoding, image_size, max_bytes_in_memory
):
    path = converted(photos, tmp_path / "records", encoding=encoding, image_size=image_size)
    opened = dict(image_size=image_size or 16, max_bytes_in_memory=max_bytes_in_memory)
    expected, dataset = data.image_folder(photos, **opened), data.record_files(path, **opened)
    assert dataset.class_names == CLASSES and dataset.num_examples == 60
    assert (dataset.arrays is None) == (max_bytes_in_memory == 0)
    assert_equal_rows(expected, dataset, np.random.RandomState(0).permutation(60))
    assert data.record_files(path).image_shape == (*expected.image_shape[:2], 3) if image_size else (64, 64, 3)


def test_a_record_is_what_was_packed_and_other_bytes_are_none():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for label in (None, 0, 70_000):
        back = records.unpack(records.pack(records.Record(pixels, label)))
        np.testing.assert_array_equal(back.image, pixels)
        assert back.label == label
        assert records.unpack(records.pack(records.Record(b"a file", label))) == (b"a file", label)
    packed = records.pack(records.Record(pixels, 1))
    for wrong in (b"", b"none" + packed[4:], packed[:-1], packed[:4] + b"\x07" + packed[5:]):
        with pytest.raises(ValueError):
            records.unpack(wrong)


@flax.struct.dataclass
class State:
    step: jax.Array
    weights: jax.Array


def toy_step(state, batch, key):
    """Weights that no two orders of images give: each step weighs its batch by its number and position."""
    position = jnp.arange(1.0, 1 + len(batch["image"]))[:, None, None, None]
    weights = 0.9 * state.weights + (position * batch["image"]).sum(0) + batch["label"].sum()
    return state.replace(step=state.step + 1, weights=weights), {"loss": jnp.abs(weights).mean()}


def train(dataset, directory, num_steps=20):
    state = State(jnp.zeros((), jnp.int32), jnp.zeros(dataset.image_shape))
    settings = dict(batch_size=8, key=jax.random.key(0), num_devices=1, log_every=5, checkpoint_every=10)
    directory.mkdir(exist_ok=True)
    loop.train(toy_step, state, dataset, directory=directory, num_steps=num_steps, progress=False, **settings)
    leaves = checkpoint.read_record(directory / "checkpoints", num_steps)["leaves"]
    return leaves, metrics_log.read_metrics(directory)


@pytest.mark.slow  # eight programs
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_records_is_that_on_the_folder_to_the_bit_also_when_it_is_stopped_and_with_workers(
    photos, tmp_path, workers
):
    path = converted(photos, tmp_path / "records")
    opened = dict(image_size=16, max_bytes_in_memory=0)
    expected, _ = train(data.image_folder(photos, **opened), tmp_path / "a")
    dataset = dataclasses.replace(data.record_files(path, **opened), workers=workers)
    straight, log = train(dataset, tmp_path / "b")
    train(dataset, tmp_path / "c", num_steps=10)
    resumed, _ = train(dataset, tmp_path / "c")
    in_memory, of_memory = train(data.record_files(path, image_size=16), tmp_path / "d")
    assert expected == straight == resumed == in_memory
    assert all(0 <= line["data_wait"] <= 1 for line in log if "images_per_second" in line)
    assert not any("data_wait" in line for line in of_memory)


# Interruptions and damage ---------------------------------------------------------------------------------------------


def test_an_interrupted_conversion_opens_nothing_and_goes_on_with_the_files_that_are_whole(photos, tmp_path):
    def interrupt(begins, total, what):
        for begin in begins:
            if "file 2 of 3" in what:
                raise KeyboardInterrupt
            yield begin

    path = tmp_path / "records"
    with pytest.raises(KeyboardInterrupt):
        converted(photos, path, progress=interrupt)
    kept = "train-00000-of-00003.array_record"
    assert sorted(os.listdir(path)) == ["partial.json", kept]
    with pytest.raises(FileNotFoundError, match="no dataset.json in it.*the same command goes on"):
        data.record_files(path)
    with pytest.raises(ValueError, match="conversion of other images, or in another way, that was not finished"):
        converted(photos, path, encoding="png", image_size=16)
    before = (path / kept).stat().st_mtime_ns
    (path / ".train-00001-of-00003.array_record.0badcafe.tmp").write_bytes(b"of a killed conversion")
    converted(photos, path)
    assert not list(path.glob(".*"))
    assert (path / kept).stat().st_mtime_ns == before and not (path / "partial.json").exists()
    converted(photos, tmp_path / "at once")
    for name in os.listdir(path):
        if name != records.INDEX:
            assert (path / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()
    assert converted(photos, path) == path  # finished: nothing to do
    with pytest.raises(ValueError, match="holds records of other images, or made in another way"):
        converted(photos, path, num_shards=2)
    with pytest.raises(ValueError, match="is not empty .*cat"):
        converted(photos, photos)


def changed(path, position, value=b"\xff" * 8):
    content = bytearray(path.read_bytes())
    content[position : position + len(value)] = value
    path.write_bytes(content)


def test_files_that_were_cut_changed_or_lost_are_named_when_they_are_opened(photos, tmp_path):
    path = converted(photos, tmp_path / "records")
    file, labels = path / "train-00001-of-00003.array_record", path / "train-labels.int32"
    content, of_labels, index = file.read_bytes(), labels.read_bytes(), (path / records.INDEX).read_bytes()

    def refused(kind, match):
        with pytest.raises(kind, match=match):
            data.record_files(path, image_size=16)

    file.write_bytes(content[:-100])
    refused(ValueError, rf"{file.name} has {len(content) - 100:,} bytes and not {len(content):,}: it was cut")
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    refused(ValueError, rf"{file.name} holds 0 records and not 20: it is damaged")
    file.unlink()
    refused(FileNotFoundError, rf"{file.name} is not there; copy it")
    file.write_bytes(content)
    changed(labels, 4)
    refused(ValueError, "train-labels.int32 is not as it was written")
    labels.write_bytes(of_labels)
    (path / records.INDEX).write_bytes(index.replace(b'"cat"', b'"rat"'))
    refused(ValueError, "dataset.json is not as it was written")
    (path / records.INDEX).write_bytes(b"{")
    refused(ValueError, "dataset.json is not as it was written")
    (path / records.INDEX).write_bytes(index)
    assert data.record_files(path, image_size=16).num_examples == 60
    with pytest.raises(ValueError, match="has no split 'test', only train"):
        data.record_files(path, split="test")


def test_a_damaged_record_is_replaced_by_the_next_as_a_broken_file_of_a_folder_is(photos, tmp_path):
    path = converted(photos, tmp_path / "records", encoding="raw", image_size=16, num_shards=1)
    file = path / "train-00000-of-00001.array_record"
    image = data.record_files(path).arrays["image"]
    changed(file, file.read_bytes().index(image[7].tobytes()) + 100)
    dataset = data.record_files(path, max_bytes_in_memory=0)
    got = dataset.fetch(np.array([6, 7, 8]))
    np.testing.assert_array_equal(got["image"], image[[6, 8, 8]])
    told = []
    assert data.record_files(path, tell=told.append).num_examples == 59  # in memory: left out
    assert len(told) == 1 and "record 7 (" in told[0] and "hash mismatch" in told[0]
    with pytest.raises(ValueError, match="1 of 60 images are broken.*max_broken_share=0 allows"):
        data.record_files(path, max_broken_share=0.0)


def test_broken_files_of_a_folder_are_told_and_left_out_of_its_records(tmp_path):
    source = pictures(tmp_path / "photos")
    whole = data.image_folder(source, image_size=16)
    broken = source / "cat" / "006.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    told = []
    path = converted(source, tmp_path / "records", tell=told.append)
    assert len(told) == 1 and "1 of 60 images are broken and were left out: cat/006.jpg" in told[0]
    dataset = data.record_files(path, image_size=16)
    assert_equal_rows(data.image_folder(source, image_size=16, tell=told.append), dataset, np.arange(59))
    row = sorted(file.name for file in (source / "cat").iterdir()).index("006.jpg")
    np.testing.assert_array_equal(dataset.arrays["image"], np.delete(whole.arrays["image"], row, axis=0))
    with pytest.raises(ValueError, match="more than the 0 that max_broken_share=0 allows"):
        converted(source, tmp_path / "none", max_broken_share=0.0)


# Workers --------------------------------------------------------------------------------------------------------------


def refuse(rows):
    raise OSError(5, "the disk is gone")


@pytest.mark.slow  # processes that import JAX
def test_processes_bring_the_batches_of_threads_in_their_order_and_errors_when_their_turn_comes(photos, tmp_path):
    path = converted(photos, tmp_path / "records")
    small = data.subset(data.record_files(path, image_size=16, max_bytes_in_memory=0), 50)
    noisy = data.degraded(small, functools.partial(data.random_shift, max_shift=2))
    for dataset in (small, noisy, data.image_folder(photos, image_size=16, max_bytes_in_memory=0)):
        rows = functools.partial(data.batch_rows, dataset, batch_size=8, seed=3)
        threads = data.prefetch(dataset.fetch, rows, 5, stop_step=20)
        for one, other in zip(threads, data.prefetch(dataset.fetch, rows, 5, stop_step=20, num_workers=2), strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
    with pytest.raises(OSError, match="the disk is gone") as raised:
        next(data.prefetch(refuse, rows, 7, num_workers=1))
    assert raised.value.__notes__ == ["This happened while reading the batch of step 7."]


def test_fewer_than_no_workers_and_data_that_cannot_be_sent_are_refused():
    lock = threading.Lock()
    with pytest.raises(ValueError, match="cannot be sent to other processes .*read them without workers"):
        data.prefetch(lambda rows: {"lock": lock}, lambda step: np.arange(3), num_workers=1)
    with pytest.raises(ValueError, match="num_workers must be at least 0, got -1"):
        data.prefetch(lambda rows: {}, lambda step: np.arange(3), num_workers=-1)


@pytest.mark.slow
def test_a_hundred_thousand_images_stream_each_once_and_memory_stays_as_it_was(tmp_path, scripts):
    module = scripts("benchmark_data")
    found = module.stream(tmp_path, 100_000, 64, lambda line: None)
    assert found["distinct_images"] == 100_000 // 64 * 64
    _, _, tenth, _, all_of_it = found["resident_bytes"].values()
    assert all_of_it - tenth < 30 * 2**20 < found["bytes"]  # not what was read: 100 MB


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_keeps_what_training_holds_out_and_says_how_to_train(photos, tmp_path, capsys):
    path = tmp_path / "records"
    assert call("convert", photos, path, "--image-size", 16, "--validation-share", 0.2) == 0
    assert "48 train and 12 test images in 2 files" in capsys.readouterr().out
    of_folder = options.Data("folder", str(photos), image_size=16, validation_share=0.2)
    of_records = options.Data("records", str(path))
    assert of_records.has_test_split
    for split in ("train", "test"):
        one, other = of_folder.open(split), of_records.open(split)
        assert one.class_names == other.class_names
        assert_equal_rows(one, other, np.arange(one.num_examples))
    side = opening.open_images(str(path))
    assert side.split == "test" and side.dataset.num_examples == 12
    assert json.loads((path / records.INDEX).read_bytes())["made"]["source"] == str(photos)


def test_arrays_are_converted_grey_as_they_are_and_floats_are_refused(tmp_path, capsys):
    image = np.random.RandomState(0).randint(0, 256, (12, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "grey.npz", image=image, label=np.arange(12) % 3)
    for encoding in ("png", "raw"):
        assert call("convert", tmp_path / "grey.npz", tmp_path / encoding, "--encoding", encoding) == 0
        dataset = options.Data("records", str(tmp_path / encoding)).open("train")
        np.testing.assert_array_equal(dataset.arrays["image"], image)
        assert dataset.arrays["label"].tolist() == (np.arange(12) % 3).tolist()
        assert data.record_files(tmp_path / encoding, channels=3, image_size=4).image_shape == (4, 4, 3)
    floats = data.from_arrays("floats", np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1))
    with pytest.raises(ValueError, match="floats holds float32 images, and records hold 8 bits"):
        convertible.of_dataset(floats)
    with pytest.raises(ValueError, match="has a source beside each image"):
        convertible.of_dataset(data.pair_as_source(data.from_arrays("pairs", image, pair=image)))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("nowhere", "out"), "nowhere does not exist: give a folder of images"),
        (("photos", "out", "--encoding", "png"), "--encoding png of a folder needs --image-size"),
        (("photos", "out", "--encoding", "original", "--image-size", "8"), "leave one out"),
        (("mnist", "out", "--channels", "1"), "--channels would be ignored for mnist"),
        (("photos", "out", "--size", "8"), "Unrecognized"),
        (("photos", "gs://bucket/out"), "is an URL"),
    ],
)
def test_what_the_command_cannot_do_is_a_sentence(photos, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(photos.parent)
    assert call("convert", *arguments) == 2
    assert said in "".join(capsys.readouterr())
    assert not (photos.parent / "out").exists()


def test_without_grain_a_sentence_says_how_to_install_it(photos, tmp_path, monkeypatch):
    path = converted(photos, tmp_path / "records")
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    for attempt in (
        lambda: data.record_files(path),
        lambda: data.prefetch(refuse, lambda step: np.arange(3), num_workers=1),
    ):
        with pytest.raises(ImportError, match=r'pip install "jaxgen\[grain\]"'):
            attempt()
