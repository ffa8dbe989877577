import sys

import numpy as np
import pytest
from PIL import Image

from jaxgen import data


def pixels(i):
    return np.full((10, 12, 3), i * 10, np.uint8)


def build(datasets, n=12, **columns):
    features = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}
    table = {"picture": [Image.fromarray(pixels(i)) for i in range(n)], "label": [i % 3 for i in range(n)]}
    for name, (values, feature) in columns.items():
        table[name], features[name] = values, feature
    return datasets.Dataset.from_dict(table, features=datasets.Features(features))


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_HUB_OFFLINE", True)
    return module


@pytest.mark.parametrize("max_bytes_in_memory", [0, 2**20])
def test_a_saved_data_set_gives_its_images_and_labels(datasets, tmp_path, max_bytes_in_memory):
    build(datasets).save_to_disk(str(tmp_path / "saved"))
    dataset = data.hub_dataset(str(tmp_path / "saved"), image_size=8, max_bytes_in_memory=max_bytes_in_memory)
    assert (dataset.arrays is None) == (max_bytes_in_memory == 0)
    assert dataset.class_names == ("cat", "dog", "eel") and dataset.image_shape == (8, 8, 3)
    raw = dataset.fetch(np.array([11, 0, 4]))
    assert raw["image"][:, 0, 0, 0].tolist() == [110, 0, 40] and raw["label"].tolist() == [2, 0, 1]
    assert raw["label"].dtype == np.int32


def test_the_split_of_a_saved_dictionary_is_chosen(datasets, tmp_path):
    both = datasets.DatasetDict(train=build(datasets), test=build(datasets, 3))
    both.save_to_disk(str(tmp_path / "saved"))
    assert data.hub_dataset(str(tmp_path / "saved"), split="test", image_size=8).num_examples == 3
    with pytest.raises(ValueError, match="no split 'dev', only train, test"):
        data.hub_dataset(str(tmp_path / "saved"), split="dev", image_size=8)


def load(monkeypatch, datasets, table, **options):
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split, revision: table)
    return data.hub_dataset("someone/something", image_size=8, **options)


def test_columns_are_found_or_must_be_chosen(datasets, monkeypatch):
    images = ([Image.fromarray(pixels(0))] * 12, datasets.Image())
    with pytest.raises(ValueError, match="2 columns of type Image.*picture, second.*image_key"):
        load(monkeypatch, datasets, build(datasets, second=images))
    assert load(monkeypatch, datasets, build(datasets, second=images), image_key="second").arrays["image"].max() == 0
    with pytest.raises(ValueError, match="'label' is not of type Image"):
        load(monkeypatch, datasets, build(datasets), image_key="label")
    with pytest.raises(ValueError, match="no column 'kind'"):
        load(monkeypatch, datasets, build(datasets), label_key="kind")
    coarse = ([0] * 12, datasets.ClassLabel(names=["x"]))
    two = build(datasets, coarse=coarse).rename_column("label", "fine")
    with pytest.raises(ValueError, match="several label columns.*labelled=False"):
        load(monkeypatch, datasets, two)
    assert load(monkeypatch, datasets, two, label_key="coarse").class_names == ("x",)
    assert "label" not in load(monkeypatch, datasets, two, labelled=False).arrays


def test_strings_become_sorted_classes(datasets, monkeypatch):
    kinds = (["pear", "fig", "apple"] * 4, datasets.Value("string"))
    dataset = load(monkeypatch, datasets, build(datasets, kind=kinds), label_key="kind")
    assert dataset.class_names == ("apple", "fig", "pear")
    assert dataset.arrays["label"][:3].tolist() == [2, 1, 0]


def test_a_test_split_marked_with_minus_one_is_unlabelled_and_holes_are_refused(datasets, monkeypatch):
    label = datasets.Value("int64")
    assert load(monkeypatch, datasets, build(datasets, label=([-1] * 12, label))).class_names == ()
    with pytest.raises(ValueError, match="1 of 12 labels are missing"):
        load(monkeypatch, datasets, build(datasets, label=([None] + [0] * 11, label)))
    with pytest.raises(ValueError, match="negative labels"):
        load(monkeypatch, datasets, build(datasets, label=([-1] + [0] * 11, label)))


def test_images_follow_the_rules_of_folders(datasets, monkeypatch):
    table = build(datasets)
    deep = [Image.fromarray(np.full((8, 8), 32768, np.uint16))] * 12
    dataset = load(monkeypatch, datasets, build(datasets, deep=(deep, datasets.Image())), image_key="deep", channels=1)
    assert set(np.unique(dataset.arrays["image"])) == {128}
    holes = [None, None] + [Image.fromarray(pixels(1))] * 10
    broken = build(datasets, holes=(holes, datasets.Image()))
    with pytest.raises(ValueError, match=r"2 of 12 images are broken.*row 0 \(no image in this row\)"):
        load(monkeypatch, datasets, broken, image_key="holes")
    kept = load(monkeypatch, datasets, broken, image_key="holes", max_broken_share=0.2)
    assert kept.num_examples == 10 and kept.arrays["label"].tolist() == table["label"][2:]


def test_a_data_set_that_cannot_be_loaded_is_named_with_what_to_check(datasets, monkeypatch):
    def fail(*args, **kwargs):
        raise FileNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match="'nobody/nothing'.*could not be loaded.*doesn't exist.*Check the name"):
        data.hub_dataset("nobody/nothing", image_size=8)


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "jaxgen\[hub\]"'):
        data.hub_dataset("mnist", image_size=28)
