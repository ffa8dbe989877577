"""Pairs in two folders, halves of pictures, two sets without pairs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen import data, options
from jaxgen.data import pairs
from jaxgen.system import Spec

KEY = jax.random.key(0)
RNG = np.random.RandomState(0)


def picture(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def noise(seed, height=8, width=8):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8)


def fill(folder, seeds, **size):
    for seed in seeds:
        picture(folder / f"{seed:03d}.png", noise(seed, **size))


def batch_of(dataset, rows, key=KEY):
    return dataset.prepare(dataset.fetch(np.asarray(rows)), key)


# Two folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_files_of_one_name_are_pairs_and_the_others_are_told(tmp_path, in_memory):
    for seed in range(6):
        picture(tmp_path / "a" / f"sub/{seed}.png", noise(seed))
    for seed in range(2, 8):
        picture(tmp_path / "b" / f"sub/{seed}.bmp", 255 - noise(seed))
    told = []
    limit = {} if in_memory else {"max_bytes_in_memory": 0}
    dataset = data.pair_folders(tmp_path / "a", tmp_path / "b", image_size=8, tell=told.append, **limit)
    assert dataset.num_examples == 4 and (dataset.arrays is not None) == in_memory
    assert any("2 of 6 sources have no partner and are left out: sub/0.png, sub/1.png" in line for line in told)
    assert any("2 of 6 targets have no partner and are left out: sub/6.bmp, sub/7.bmp" in line for line in told)
    batch = batch_of(dataset, [0, 3])
    np.testing.assert_allclose(batch["source"], -batch["image"], atol=1e-6)
    assert np.array_equal(batch["source"], data.to_unit_range(np.stack([noise(2), noise(5)])))
    assert Spec.of(dataset).batch["source"].shape == (8, 8, 3)


def test_sources_may_be_smaller_by_one_whole_number(tmp_path):
    for seed in range(4):
        picture(tmp_path / "small" / f"{seed}.png", noise(seed))
        picture(tmp_path / "large" / f"{seed}.png", np.repeat(np.repeat(noise(seed), 2, 0), 2, 1))
    dataset = data.pair_folders(tmp_path / "small", tmp_path / "large", image_size=16)
    batch = batch_of(dataset, range(4))
    assert batch["source"].shape == (4, 8, 8, 3) and np.array_equal(batch["image"][:, ::2, ::2], batch["source"])
    with pytest.raises(ValueError, match="2 times as large as their sources, which does not divide the image size 9x9"):
        data.pair_folders(tmp_path / "small", tmp_path / "large", image_size=9)


def test_pairs_are_held_out_together_by_their_names(tmp_path):
    fill(tmp_path / "a", range(20))
    fill(tmp_path / "b", range(20))
    opened = functools.partial(data.pair_folders, tmp_path / "a", tmp_path / "b", image_size=8, validation_share=0.25)
    train, test = opened(), opened(split="validation")
    assert (train.num_examples, test.num_examples) == (15, 5)
    for part in (train, test):
        assert np.array_equal(part.arrays["image"], part.arrays["source"])
    rows = {image.tobytes() for image in train.arrays["image"]} & {image.tobytes() for image in test.arrays["image"]}
    assert not rows and train.fingerprint != test.fingerprint


def test_a_broken_file_takes_its_partner_with_it(tmp_path):
    fill(tmp_path / "a", range(8))
    fill(tmp_path / "b", range(8))
    (tmp_path / "a" / "003.png").write_bytes(b"no image")
    cut = (tmp_path / "b" / "005.png").read_bytes()
    (tmp_path / "b" / "005.png").write_bytes(cut[: len(cut) // 2])
    told = []
    opened = functools.partial(
        data.pair_folders, tmp_path / "a", tmp_path / "b", image_size=8, max_broken_share=0.5, tell=told.append
    )
    dataset = opened()
    assert dataset.num_examples == 6 and np.array_equal(dataset.arrays["image"], dataset.arrays["source"])
    assert "003.png" in told[0] and "005.png" in told[1]
    batch = opened(max_bytes_in_memory=0).fetch(np.arange(7))
    assert np.array_equal(batch["image"], batch["source"])


def test_what_is_no_pair_is_refused_in_a_sentence(tmp_path):
    fill(tmp_path / "a", range(3))
    fill(tmp_path / "b", range(5, 8))
    opened = functools.partial(data.pair_folders, image_size=8)
    with pytest.raises(ValueError, match="no source has the name of a target .there are 000.png and 005.png."):
        opened(tmp_path / "a", tmp_path / "b")
    fill(tmp_path / "wide", range(3), width=9)
    with pytest.raises(
        ValueError, match="source 000.png has 8x8 pixels and its target 9x8: the two of a pair have one"
    ):
        opened(tmp_path / "a", tmp_path / "wide")
    fill(tmp_path / "mixed", [0])
    fill(tmp_path / "mixed", [1, 2], width=16, height=16)
    with pytest.raises(ValueError, match="source 001.png has 8x8 pixels and its target 16x16"):
        opened(tmp_path / "a", tmp_path / "mixed")
    picture(tmp_path / "b" / "005.bmp", noise(5))
    with pytest.raises(ValueError, match="several images are called 005, apart from their endings"):
        opened(tmp_path / "a", tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image found"):
        opened(tmp_path / "a", tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        opened(tmp_path / "a", tmp_path / "nothing")


# Halves ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_halves_of_a_picture_are_a_pair_in_either_direction(tmp_path, in_memory):
    for seed in range(4):
        picture(tmp_path / f"{seed}.png", np.concatenate([noise(seed), 255 - noise(seed)], axis=1))
    limit = {} if in_memory else {"max_bytes_in_memory": 0}
    there, back = (data.halves(tmp_path, image_size=8, direction=way, **limit) for way in pairs.DIRECTIONS)
    a, b = batch_of(there, range(4)), batch_of(back, range(4))
    assert np.array_equal(a["source"], data.to_unit_range(np.stack([noise(seed) for seed in range(4)])))
    np.testing.assert_allclose(a["image"], -a["source"], atol=1e-6)
    assert np.array_equal(a["image"], b["source"]) and np.array_equal(a["source"], b["image"])
    assert there.fingerprint != back.fingerprint and there.image_shape == (8, 8, 3)
    assert there.name.startswith("halves:")
    with pytest.raises(ValueError, match="left-to-right or right-to-left, not 'up'"):
        data.halves(tmp_path, image_size=8, direction="up")


def test_halves_are_cut_and_resized_each_on_its_own(tmp_path):
    left = np.zeros((20, 30, 3), np.uint8)
    picture(tmp_path / "a.png", np.concatenate([left, left + 255], axis=1))
    for size in (10, 40):
        batch = batch_of(data.halves(tmp_path, image_size=size), [0])
        assert float(batch["source"].max()) == -1 and float(batch["image"].min()) == 1


# Two sets without pairs -----------------------------------------------------------------------------------------------


def numbered(num, first=0):
    image = np.zeros((num, 4, 4, 1), np.uint8)
    image[:] = (first + np.arange(num))[:, None, None, None]
    return data.dataset.in_memory(f"{num} from {first}", image)


def number(image):
    return np.round((np.asarray(image)[:, 0, 0, 0] + 1) * 127.5).astype(int)


@pytest.mark.parametrize("stream", ["neither", "sources", "both"])
def test_both_sets_go_through_all_their_images_each_in_its_own_order(stream):
    images, sources = numbered(10), numbered(7, 100)
    if stream != "neither":
        sources = dataclasses.replace(sources, arrays=None)
    if stream == "both":
        images = dataclasses.replace(images, arrays=None)
    both = data.unpaired(sources, images)
    assert (both.num_examples, both.num_sources) == (10, 7) and (both.arrays is None) == (stream != "neither")
    seen = {"image": [], "source": []}
    for step in range(35):
        batch = data.batch(both, step, batch_size=4, seed=3, key=KEY)
        for name in seen:
            seen[name] += number(batch[name]).tolist()
    for name, num, first in (("image", 10, 0), ("source", 7, 100)):
        epochs = np.reshape(seen[name], (-1, num))
        assert np.array_equal(np.sort(epochs, axis=1), np.tile(first + np.arange(num), (len(epochs), 1)))
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    alone = [number(data.batch(images, step, batch_size=4, seed=3, key=KEY)["image"]).tolist() for step in range(35)]
    assert seen["image"] == sum(alone, [])  # as without sources
    again = data.batch(both, 20, batch_size=4, seed=3, key=KEY)
    assert number(again["source"]).tolist() == seen["source"][80:84]
    partners = {(a, b) for a, b in zip(seen["image"], seen["source"], strict=True)}
    assert len(partners) > 50  # of 70: no image is bound to a source


def test_equal_sets_are_not_read_in_equal_orders():
    both = data.unpaired(numbered(50), numbered(50))
    rows = data.batch_rows(both, 0, batch_size=50, seed=0)
    assert rows.shape == (50, 2) and np.mean(rows[:, 0] == rows[:, 1]) < 0.2


def test_gather_and_fetch_read_the_same_rows_and_one_number_means_both():
    both = data.unpaired(numbered(7, 100), numbered(10))
    for rows in (np.arange(10), np.array([[3, 6], [9, 0]])):
        gathered = jax.jit(both.gather)(both.arrays, rows)
        fetched = both.fetch(rows)
        assert set(gathered) == set(fetched) and all(np.array_equal(gathered[n], fetched[n]) for n in fetched)
    batch = batch_of(both, range(10))
    assert number(batch["source"]).tolist() == [*range(100, 107), 100, 101, 102]
    assert Spec.of(both).batch["source"].shape == (4, 4, 1)


def test_a_part_of_two_sets_is_a_part_of_each():
    part = data.subset(data.unpaired(numbered(7, 100), numbered(10)), 5)
    assert (part.num_examples, part.num_sources) == (5, 5)
    batch = data.batch(part, 0, batch_size=5, seed=0, key=KEY)
    assert sorted(number(batch["image"])) == [0, 2, 4, 6, 8] and sorted(number(batch["source"])) == [
        100,
        101,
        102,
        104,
        105,
    ]
    gathered = part.gather(part.arrays, data.batch_rows(part, 0, batch_size=5, seed=0))
    assert np.array_equal(part.prepare(gathered, KEY)["source"], batch["source"])


def test_the_order_of_images_without_sources_is_the_published_one():
    assert np.array_equal(data.epoch_permutation(0, 0, 10), data.epoch_permutation(0, 0, 10, 0))
    assert not np.array_equal(data.epoch_permutation(0, 0, 50), data.epoch_permutation(0, 0, 50, 1))


def test_the_true_partner_of_no_emoji_is_seen_in_training_and_is_the_truth_in_the_test_split():
    train = data.unpaired_emoji("train")
    noto = np.asarray(data.emoji("train").arrays["image"])
    twemoji = np.asarray(data.emoji("train").arrays["pair"])
    index = {image.tobytes(): i for i, image in enumerate(noto)}
    used = [image.tobytes() for image in np.asarray(train.arrays["source/image"])]
    assert len(used) == train.num_sources and 0.4 < train.num_sources / len(noto) < 0.6
    assert train.num_examples + train.num_sources == len(noto)
    images = {image.tobytes() for image in np.asarray(train.arrays["image"])}
    partners = [twemoji[index[source]].tobytes() in images for source in used]
    assert not any(partners)
    test = data.unpaired_emoji("test")
    batch = batch_of(test, range(5))
    pair = batch_of(data.emoji("test", drawn_by="twemoji"), range(5))
    assert test.num_sources == 0 and test.num_examples == 440
    assert np.array_equal(batch["image"], pair["image"]) and np.array_equal(batch["source"], pair["pair"])


def test_so_many_test_emoji_equal_a_training_image_and_no_other_is_near_one():
    for house, equal in (("noto", 2), ("twemoji", 3)):
        train, test = (data.emoji(split, image_size=16, drawn_by=house).arrays["image"] for split in ("train", "test"))
        whole = {image.tobytes() for image in data.emoji("train", drawn_by=house).arrays["image"]}
        same = [image.tobytes() in whole for image in data.emoji("test", drawn_by=house).arrays["image"]]
        assert sum(same) == equal
        train, test = (x.reshape(len(x), -1).astype(np.float32) for x in (train, test))
        squared = (test**2).sum(1)[:, None] + (train**2).sum(1) - 2 * test @ train.T
        rms = np.sqrt(np.maximum(squared, 0).min(axis=1) / test.shape[1])
        assert rms[np.array(same)].max() < 1 < 3 < rms[~np.array(same)].min()


# Settings -------------------------------------------------------------------------------------------------------------


def test_settings_open_pairs_halves_and_sets_without_pairs(tmp_path):
    for part, seeds in (("train", range(6)), ("test", range(6, 9))):
        fill(tmp_path / "a" / part, seeds)
        fill(tmp_path / "b" / part, seeds)
        for letter in "AB":
            fill(tmp_path / "c" / f"{part}{letter}", seeds if letter == "A" else list(seeds)[:-1])
        for seed in seeds:
            picture(tmp_path / "h" / part / f"{seed}.png", np.concatenate([noise(seed), 255 - noise(seed)], axis=1))
    at = functools.partial(options.Data, image_size=8)
    two = at("pairs", path=str(tmp_path / "a"), target_path=str(tmp_path / "b"))
    halves = at("halves", path=str(tmp_path / "h"), direction="right-to-left")
    without = at("unpaired", path=str(tmp_path / "c"))
    for config in (two, halves, without):
        options.check_data(config, {})
        options.check(config)
        assert config.has_test_split
        assert {"image", "source"} <= set(Spec.of(config.open("train")).batch)
    assert [two.open(split).num_examples for split in ("train", "test")] == [6, 3]
    assert [halves.open(split).num_examples for split in ("train", "test")] == [6, 3]
    train, test = without.open("train"), without.open("test")
    assert (train.num_examples, train.num_sources, test.num_examples, test.num_sources) == (5, 6, 2, 3)
    assert dataclasses.replace(without, num_examples=3).open("train").num_sources == 3
    flat = at("pairs", path=str(tmp_path / "a/train"), target_path=str(tmp_path / "b/train"), validation_share=0.34)
    assert [flat.open(split).num_examples for split in ("train", "test")] == [4, 2]
    own = dataclasses.replace(flat, test_path=str(tmp_path / "a/test"), test_target_path=str(tmp_path / "b/test"))
    assert [own.open(split).num_examples for split in ("train", "test")] == [6, 3]
    with pytest.raises(ValueError, match="the data set 'pairs' needs --data.target-path"):
        at("pairs", path=str(tmp_path / "a")).open("train")
    with pytest.raises(ValueError, match="needs --data.test-target-path"):
        dataclasses.replace(flat, test_path=str(tmp_path / "a/test")).open("test")
    with pytest.raises(
        ValueError, match="--data.direction is right-to-left, which means nothing for --data.name emoji"
    ):
        options.check_data(at("emoji", direction="right-to-left"), {})
