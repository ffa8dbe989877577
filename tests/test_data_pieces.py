import errno
import os

import numpy as np
import pytest
from in_process import call
from PIL import Image

from jaxgen import data, files, options
from jaxgen.data import pieces

pytestmark = pytest.mark.usefixtures("scripts_in_process")


def photograph(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8).squeeze()


def pixels_of(folder):
    """{path below the folder: pixels}"""
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


@pytest.fixture
def photographs(tmp_path):
    root = tmp_path / "photographs"
    (root / "b").mkdir(parents=True)
    Image.fromarray(photograph(70, 100)).save(root / "a.png")
    Image.fromarray(photograph(32, 64, 1)).save(root / "b" / "c.bmp")
    return root


def test_pieces_hold_the_pixels_of_their_photograph_and_the_last_ones_end_at_its_edge(photographs, tmp_path):
    done = pieces.cut(photographs, tmp_path / "cut", size=32, step=24)
    assert done == (tmp_path / "cut", 2, 3 * 4 + 1 * 3)
    found = pixels_of(tmp_path / "cut")
    tops, lefts = [0, 24, 38], [0, 24, 48, 68]  # of 70 and 100
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            expected = photograph(70, 100)[top : top + 32, left : left + 32]
            np.testing.assert_array_equal(found.pop(f"a_{row:02d}_{column:02d}.png"), expected)
    for column, left in enumerate([0, 24, 32]):
        np.testing.assert_array_equal(found.pop(f"b/c_00_{column:02d}.png"), photograph(32, 64, 1)[:, left : left + 32])
    assert not found and sorted(os.listdir(tmp_path)) == ["cut", "photographs"]


def test_without_a_step_pieces_that_fit_do_not_overlap(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(photograph(64, 96)).save(tmp_path / "in" / "a.png")
    assert pieces.cut(tmp_path / "in", tmp_path / "out", size=32).num_pieces == 2 * 3
    found = pixels_of(tmp_path / "out")
    rows = [np.hstack([found[f"a_{row:02d}_{column:02d}.png"] for column in range(3)]) for row in range(2)]
    np.testing.assert_array_equal(np.vstack(rows), photograph(64, 96))


def test_photographs_are_turned_as_they_are_shown_and_keep_what_is_transparent_or_grey(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(photograph(16, 24)).save(root / "turned.png", exif=exif)
    Image.fromarray(photograph(16, 16, 1, 4)).save(root / "clear.png")
    Image.fromarray(photograph(16, 16, 2, 1)).save(root / "grey.png")
    Image.fromarray(photograph(16, 16, 3, 1).astype(np.uint16) * 257).save(root / "deep.png")
    Image.fromarray(photograph(16, 16, 4, 1)).convert("P").save(root / "palette.png")
    pieces.cut(root, tmp_path / "out", size=16)
    found = pixels_of(tmp_path / "out")
    turned = np.rot90(photograph(16, 24), -1)
    np.testing.assert_array_equal(found["turned_00_00.png"], turned[:16])
    np.testing.assert_array_equal(found["turned_01_00.png"], turned[8:])
    np.testing.assert_array_equal(found["clear_00_00.png"], photograph(16, 16, 1, 4))
    np.testing.assert_array_equal(found["grey_00_00.png"], photograph(16, 16, 2, 1))
    np.testing.assert_array_equal(found["deep_00_00.png"], photograph(16, 16, 3, 1))
    np.testing.assert_array_equal(found["palette_00_00.png"][..., 0], photograph(16, 16, 4, 1))
    assert not Image.open(tmp_path / "out" / "turned_00_00.png").getexif()


def test_two_folders_that_are_cut_alike_are_pairs_again_also_of_unlike_sizes(tmp_path):
    for name, side in (("small", 1), ("large", 2)):
        (tmp_path / name).mkdir()
        for i in range(2):
            image = photograph(20, 30, i).repeat(side, 0).repeat(side, 1)
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
        pieces.cut(tmp_path / name, tmp_path / f"{name}_cut", size=12 * side, step=8 * side)
    opened = data.pair_folders(tmp_path / "small_cut", tmp_path / "large_cut", image_size=24)
    batch = opened.fetch(np.arange(opened.num_examples))
    assert opened.num_examples == 2 * 2 * 4
    np.testing.assert_array_equal(batch["image"], batch["source"].repeat(2, 1).repeat(2, 2))


def test_whole_photographs_are_held_out_and_pairs_on_the_same_side(tmp_path):
    for name, ending in (("sources", "bmp"), ("targets", "png")):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.fromarray(photograph(16, 32, i)).save(tmp_path / name / f"{i}.{ending}")
        done = pieces.cut(tmp_path / name, tmp_path / f"{name}_cut", size=16, validation_share=0.2)
        assert done == (tmp_path / f"{name}_cut", 10, 20)
        assert sorted(os.listdir(done.root)) == ["test", "train"]
        assert len(os.listdir(done.root / "test")) == 2 * 2
    sources, targets = (pixels_of(tmp_path / f"{name}_cut") for name in ("sources", "targets"))
    assert sources.keys() == targets.keys()
    photographs = {
        split: {name.split("/")[1][0] for name in targets if name.startswith(split)} for split in ("train", "test")
    }
    assert len(photographs["train"]) == 8 and not photographs["train"] & photographs["test"]
    assert options.Data("folder", path=str(tmp_path / "targets_cut"), image_size=16).open("test").num_examples == 4
    with pytest.raises(ValueError, match="targets_cut holds train and test already"):
        pieces.cut(tmp_path / "targets_cut", tmp_path / "again", size=8, validation_share=0.2)
    assert sorted(os.listdir(pieces.cut(tmp_path / "targets_cut", tmp_path / "again", size=8).root)) == [
        "test",
        "train",
    ]
    with pytest.raises(ValueError, match="validation_share=0.01 of 10 images leaves 0 for"):
        pieces.cut(tmp_path / "targets", tmp_path / "none", size=8, validation_share=0.01)


def test_an_interrupted_cut_goes_on_and_nothing_is_there_before_it_is_whole(photographs, tmp_path, monkeypatch):
    pieces.cut(photographs, tmp_path / "at_once", size=32)

    def until_the_first(photographs, total, what):
        yield next(iter(photographs))
        raise KeyboardInterrupt

    settings = {"size": 32, "num_threads": 1, "progress": until_the_first}
    with pytest.raises(KeyboardInterrupt):
        pieces.cut(photographs, tmp_path / "cut", **settings)
    assert not (tmp_path / "cut").exists()
    unfinished = tmp_path / "cut.unfinished"
    (unfinished / ".a_00_00.png.1234.tmp").write_bytes(b"half")  # as a kill leaves it
    (unfinished / "a_00_01.png").unlink()
    kept = (unfinished / "a_00_00.png").stat().st_mtime_ns
    for other in ({"size": 31}, {"size": 32, "step": 5}, {"size": 32, "validation_share": 0.5}):
        with pytest.raises(ValueError, match=r"cut.unfinished holds pieces of other photographs, or of another size"):
            pieces.cut(photographs, tmp_path / "cut", **other)
    pieces.cut(photographs, tmp_path / "cut", size=32)
    assert (tmp_path / "cut" / "a_00_00.png").stat().st_mtime_ns == kept
    assert sorted(os.listdir(tmp_path)) == ["at_once", "cut", "photographs"]
    assert [p.name for p in (tmp_path / "cut").rglob("*") if p.name.startswith(".")] == []
    one, other = pixels_of(tmp_path / "at_once"), pixels_of(tmp_path / "cut")
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_what_has_no_pieces_is_told(photographs, tmp_path):
    Image.fromarray(photograph(20, 300)).save(photographs / "flat.png")
    (photographs / "broken.png").write_bytes((photographs / "a.png").read_bytes()[:1000])
    (photographs / "notes.txt").write_text("none")
    told = []
    assert pieces.cut(photographs, tmp_path / "cut", size=32, tell=told.append).num_photographs == 2
    assert len(told) == 3
    assert "ignored 1 file that is no image (1 .txt)" in told[0]
    assert "1 of 4 images are broken and were left out: broken.png" in told[1]
    assert "left out 1 of 4 photographs, which are smaller than 32x32 pixels: flat.png (300x20)" in told[2]
    with pytest.raises(ValueError, match="broken.png"):
        pieces.cut(photographs, tmp_path / "strict", size=32, max_broken_share=0.0)


def test_what_cannot_be_cut_is_one_sentence_and_leaves_nothing_in_the_way(photographs, tmp_path):
    with pytest.raises(ValueError, match=r"none of the 2 photographs has 99x99 pixels; a.png has most, 100x70: give a"):
        pieces.cut(photographs, tmp_path / "cut", size=99)
    assert pieces.cut(photographs, tmp_path / "cut", size=32).num_photographs == 2
    with pytest.raises(ValueError, match=r"cut is not empty \(a_00_00.png\): choose a new or empty folder"):
        pieces.cut(photographs, tmp_path / "cut", size=32)
    with pytest.raises(ValueError, match="in lies in the folder that is cut"):
        pieces.cut(photographs, photographs / "in", size=32)
    with pytest.raises(ValueError, match="step must be at least 1 pixel, not 0"):
        pieces.cut(photographs, tmp_path / "other", size=32, step=0)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        pieces.cut(tmp_path / "nowhere", tmp_path / "other", size=32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no image found"):
        pieces.cut(tmp_path / "empty", tmp_path / "other", size=32)
    Image.fromarray(photograph(40, 40)).save(photographs / "a.jpg")
    with pytest.raises(ValueError, match="a.jpg and a.png would have pieces of the same names: rename one"):
        pieces.cut(photographs, tmp_path / "other", size=32)
    assert not (tmp_path / "other").exists()


def test_a_full_disk_is_told_and_is_no_broken_photograph(photographs, tmp_path, monkeypatch):
    def full(path, content):
        with files.explained(path, "write"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        write = files.write_atomically
        patch.setattr(
            files, "write_atomically", lambda path, x: (full if str(path).endswith("png") else write)(path, x)
        )
        with pytest.raises(OSError, match="the disk is full: free some space, then run the same command again"):
            pieces.cut(photographs, tmp_path / "cut", size=32)
    assert pieces.cut(photographs, tmp_path / "cut", size=32).num_photographs == 2


def test_the_command_says_how_to_train_on_what_it_wrote(photographs, tmp_path, capsys):
    assert call("cut", photographs, tmp_path / "cut", "--size", 32, "--step", 24) == 0
    told = capsys.readouterr()
    assert "15 pieces of 32x32 pixels from 2 photographs" in told.out
    line = f"--data.name folder --data.path {tmp_path / 'cut'} --data.image-size 32"
    assert line in told.out and "neighbours would be trained on" in told.out
    assert data.image_folder(tmp_path / "cut", image_size=32, labelled=None).num_examples == 15
    assert call("cut", photographs, tmp_path / "held", "--size", 32, "--validation-share", 0.5) == 0
    assert "neighbours" not in capsys.readouterr().out
    assert call("cut", photographs, tmp_path / "cut", "--size", 32) == 2
    assert "is not empty" in capsys.readouterr().err
