"""`jaxgen evaluate` on anybody's images: what is opened, what is kept, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from in_process import call
from PIL import Image

from jaxgen import data, evaluation, loading, opening, run_directory
from jaxgen.evaluation import page as evaluation_page
from jaxgen.evaluation import pictures
from jaxgen.metrics import comparison, features
from jaxgen.run_directory import metrics_log

pytestmark = pytest.mark.usefixtures("fast_compilation", "scripts_in_process")


def error_lines(capsys, *arguments) -> list[str]:
    assert call("evaluate", *arguments) == 2
    return capsys.readouterr().err.splitlines()


def error_of(capsys, *arguments) -> str:
    return next(line for line in error_lines(capsys, *arguments) if line.startswith("error: "))


def record_of(capsys, *arguments) -> dict:
    assert call("evaluate", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def digits(first, last):
    return data.mnist("test").fetch(np.arange(first, last))


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """40 digits as PNG files, the same as an array file, and 50 others as one."""
    path = tmp_path_factory.mktemp("sides")
    few, others = digits(0, 40), digits(40, 90)
    (path / "pictures").mkdir()
    for i, image in enumerate(few["image"]):
        Image.fromarray(image[..., 0]).save(path / "pictures" / f"{i:03d}.png")
    np.savez(path / "same.npz", image=few["image"], label=few["label"] % 3)
    np.savez(path / "others.npz", image=others["image"], label=others["label"] % 3)
    return path


@pytest.fixture(scope="module")
def gan(tmp_path_factory, sides):
    """A tiny GAN, evaluated while it was trained."""
    path = tmp_path_factory.mktemp("runs") / "gan"
    arguments = ["--data.name", "arrays", "--data.path", sides / "others.npz", "--data.test-path", sides / "same.npz"]
    arguments += ["--batch-size", 8, "--num-steps", 3, "--num-devices", 1, "--features", 4, "--sample-every", 0]
    arguments += ["--checkpoint-every", 1, "--evaluate-every", 1, "--keep-last", 1]
    arguments += ["--eval-metric", "fid", "--eval-images", 12, "--generator.learning-rate", 0.1]
    assert call("train", "mnist-dcgan", *arguments, "--directory", path) == 0
    return path


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_of_pictures_is_evaluated_like_the_array_of_the_same_pixels(sides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    records = []
    for name in ("pictures", "same.npz"):
        arguments = [sides / name, sides / "others.npz", "--metrics", "kid", "prdc", "inception_score", "confidence"]
        records.append(record_of(capsys, *arguments, "--no-pictures"))
    folder, array = records
    assert folder["metrics"] == array["metrics"] and folder["settings"] == array["settings"]
    protocol = folder["protocol"]
    assert protocol["fake_sha256"] == array["protocol"]["fake_sha256"] != protocol["reference_sha256"]
    assert (protocol["n_fake"], protocol["n_real"]) == (40, 50)
    assert protocol["backbone_sha256"] == features.SHIPPED["mnist-cnn"] and protocol["resize"] == "none"
    assert protocol["reference_split"] == "all of it" and protocol["seed"] == 0 and protocol["jaxgen"]
    assert folder["metrics"]["confident_share"] > 0.9 and len(folder["metrics"]["class_shares"]) == 10
    files = sorted((tmp_path / "evaluation").glob("*.json"))
    assert len(files) == 2 and json.loads(files[0].read_text()) in records


def test_a_set_against_itself_has_distance_zero_and_few_images_are_said(sides, tmp_path, capsys):
    with pytest.warns(UserWarning, match="only 40 (real|fake) images for 128 features"):
        record = record_of(capsys, sides / "pictures", sides / "same.npz", "--metrics", "fid", "--output", tmp_path)
    assert record["metrics"]["fid"] < 1e-6 < record["metrics"]["fid_floor"]
    assert record["settings"]["fid"]["rank_deficient"] == "real, fake"
    (page,) = tmp_path.glob("*.html")
    assert any(text.startswith("only 40 fake images for 128 features") for text in record["warnings"])
    assert page.read_text().count("<b>Note:</b>") == len(record["warnings"]) >= 3  # few, few, the same images
    assert "Nearest reference images" in page.read_text()  # no training images were named


def test_training_images_that_are_handed_over_as_samples_are_found_to_be_copies(sides, tmp_path, capsys):
    arguments = [sides / "same.npz", sides / "others.npz", "--train", sides / "pictures", "--metrics", "kid"]
    with pytest.warns(UserWarning, match="100.0% of the images are nearer to a training image"):
        metrics = record_of(capsys, *arguments, "--output", tmp_path)["metrics"]
    assert metrics["nearest_ratio"] == 0 and metrics["nearer_share"] == 1
    (page,) = tmp_path.glob("*.html")
    text = page.read_text().replace("<wbr>", "")
    assert text.count("data:image/png;base64,") == 2 and "Nearest training images" in text and "nearest_ratio" in text
    assert "://" not in text and "n_train 40, n_held_out 50" in text  # the settings of a number stand beside it


def test_other_training_images_under_one_name_take_no_place(sides, tmp_path, capsys):
    train, output = tmp_path / "train.npz", tmp_path / "out"
    arguments = [sides / "same.npz", sides / "others.npz", "--train", train, "--metrics", "kid", "--no-pictures"]
    for first in (90, 190):
        np.savez(train, image=digits(first, first + 40)["image"])
        assert call("evaluate", *arguments, "--output", output) == 0
    records = [json.loads(file.read_text()) for file in output.iterdir()]
    assert len(records) == 2 and len({r["settings"]["nearest_ratio"]["train_sha256"] for r in records}) == 2
    capsys.readouterr()
    assert "train_sha256" in "".join(error_lines(capsys, "--table", output))


def test_the_reference_as_training_images_is_told_to_measure_no_copying(sides, tmp_path, capsys):
    arguments = [sides / "same.npz", sides / "others.npz", "--train", sides / "others.npz", "--metrics", "kid"]
    with pytest.warns(UserWarning, match="is both the reference and the images of training"):
        record = record_of(capsys, *arguments, "--no-pictures", "--output", tmp_path)
    assert "nearest_ratio" not in record["metrics"]


def test_the_picture_of_neighbours_begins_with_what_is_nearest(sides):
    fake = opening.open_images(str(sides / "others.npz"))
    train = data.from_arrays("train", digits(40 + 33, 40 + 34)["image"].repeat(3, axis=0))  # the 34th of the others
    found = pictures.pictures(fake, features.shipped("mnist-cnn"), train, num=1)
    title, caption, picture, _ = found[1]
    assert title == "Nearest training images" and caption.startswith("Of 50 images the 1 that are nearest")
    copy = digits(73, 74)["image"][0, :, :, 0]
    assert picture.shape[0] == 2 + 7 * 28 + 2  # enlarged
    assert np.array_equal(picture[2:-2:7, 2:198:7, 0], copy) and np.array_equal(picture[2:-2:7, -198:-2:7, 0], copy)


def test_a_run_is_compared_with_its_own_test_split_and_its_latents_are_shown(gan, capsys):
    record = record_of(capsys, gan, "--metrics", "kid", "--num-images", 30)
    protocol = record["protocol"]
    assert protocol["reference_split"] == "test" and (protocol["n_fake"], protocol["n_real"]) == (30, 40)
    assert protocol["step"] == 3 and protocol["preset"] == "mnist-dcgan" and protocol["run"] == str(gan)
    assert {"kid", "nearest_ratio", "discriminator_overfitting", "logit_of_held_out"} <= set(record["metrics"])
    assert (protocol["latents"], protocol["images"]) == ("standard normal, not truncated", "the generator's output")
    assert protocol["weights"] == "moving average, half-life 10,000 images" and protocol["precision"] == "float32"
    (page,) = (gan / "evaluation").glob("00000003_against_*.html")
    assert all(f"<h2>{title}</h2>" in page.read_text() for title in ("Interpolations", "Traversals", "Protocol"))
    # The same images, exported by another script, have the same numbers.
    assert call("sample", gan, "--num", 30, "--output", gan / "drawn.npz") == 0
    capsys.readouterr()
    own = run_directory.load_config(gan)["data"]["test_path"]
    exported = record_of(capsys, gan / "drawn.npz", own, "--metrics", "kid", "--no-pictures", "--output", gan / "e")
    assert exported["protocol"]["fake_sha256"] == protocol["fake_sha256"]
    assert exported["metrics"]["kid"] == pytest.approx(record["metrics"]["kid"], rel=1e-6)


def test_a_run_whose_training_images_are_gone_is_evaluated_without_them(gan, sides, tmp_path, capsys):
    train = sides / "others.npz"
    train.rename(tmp_path / "away.npz")
    try:
        arguments = [gan, sides / "same.npz", "--metrics", "kid", "--num-images", 30, "--no-pictures"]
        with pytest.warns(UserWarning, match="the images that .* was trained on cannot be opened.* If they have moved"):
            metrics = record_of(capsys, *arguments, "--output", tmp_path)["metrics"]
        assert "kid" in metrics and "nearest_ratio" not in metrics
        # Its own test images are enough where no other reference is named.
        with pytest.warns(UserWarning, match="cannot be opened"):
            record = record_of(capsys, gan, *arguments[2:], "--output", tmp_path)
        assert record["protocol"]["reference_split"] == "test"
    finally:
        (tmp_path / "away.npz").rename(train)
    test = sides / "same.npz"
    test.rename(tmp_path / "away.npz")
    try:
        assert "same.npz: no such file" in error_of(capsys, gan, "--metrics", "kid", "--num-images", 30)
    finally:
        (tmp_path / "away.npz").rename(test)


def test_a_gan_is_evaluated_while_it_trains_and_its_best_checkpoint_is_kept(gan):
    lines = {line["step"]: line for line in metrics_log.read_metrics(gan) if "eval/fid" in line}
    assert sorted(lines) == [1, 2, 3]
    assert {"eval/fid_floor", "eval/discriminator_overfitting"} <= set(lines[1])
    assert all(line["eval/fid"] > line["eval/fid_floor"] for line in lines.values())  # noise is no digits
    best = min(lines, key=lambda step: lines[step]["eval/fid"])
    kept = {int(path.name) for path in (gan / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {best, 3}


@pytest.mark.slow
def test_stacked_mnist_counts_modes_beside_those_of_real_images(tmp_path, capsys):
    arguments = ["--features", 4, "--batch-size", 8, "--num-steps", 1, "--num-devices", 1, "--sample-every", 0]
    assert call("train", "stacked-mnist-dcgan", *arguments, "--directory", tmp_path / "run") == 0
    capsys.readouterr()
    record = record_of(capsys, tmp_path / "run", "--num-images", 500)
    metrics, protocol = record["metrics"], record["protocol"]
    # 500 draws from 1,000 modes hit 394 on average, and their divergence is known.
    assert 360 < metrics["modes_of_test_images"] < 425
    assert metrics["kl_of_test_images"] == pytest.approx(metrics["kl_floor"], rel=0.1)
    assert metrics["modes"] < 100 and metrics["kl"] > 2  # one step teaches nothing
    assert protocol["n_fake"] == 500 and protocol["backbone_sha256"] == features.SHIPPED["mnist-cnn"]
    assert protocol["preset"] == "stacked-mnist-dcgan" and protocol["training_seed"] == 0


@pytest.mark.slow
def test_a_vae_has_its_binarisation_k_and_bits_a_real_pixel(sides, tmp_path, capsys):
    arguments = ["--data.image-size", 32, "--batch-size", 8, "--num-steps", 1, "--num-devices", 1, "--latent-dim", 3]
    # 10,000 test images are evaluated at the end of training and again, with one sample each.
    assert call("train", "mnist-vae", *arguments, "--directory", tmp_path / "vae") == 0
    capsys.readouterr()
    record = record_of(capsys, tmp_path / "vae")
    metrics, protocol = record["metrics"], record["protocol"]
    assert (protocol["binarisation"], protocol["split"], protocol["samples"]) == ("dynamic", "test", 1)
    assert protocol["dims"] == 784  # not 32 x 32: padding is no data
    assert (protocol["n_real"], protocol["weights"]) == (10_000, "the latest")
    assert metrics["nll"] == -metrics["importance_weighted_bound"]
    assert metrics["bits_per_dim"] == pytest.approx(metrics["nll"] / (784 * np.log(2)))
    # Its pictures are means, which no binary image is: the record of a comparison says so.
    images = opening.drawing_of(loading.load(tmp_path / "vae"))["images"]
    assert images.startswith("means of the decoder's distribution (bernoulli), not draws from it")
    assert "trained on binarised images (dynamic)" in images


def test_stored_numbers_make_a_table_unless_their_protocols_differ(sides, tmp_path, capsys):
    for num in (40, 30):
        arguments = ["--metrics", "kid", "--no-pictures", "--output", tmp_path / str(num), "--num-real", num]
        assert call("evaluate", sides / "pictures", sides / "others.npz", *arguments) == 0
    capsys.readouterr()
    assert call("evaluate", "--table", tmp_path / "40", "--metrics", "kid") == 0
    heading, _, row = capsys.readouterr().out.splitlines()[:3]
    assert heading == "|  | kid | kid_standard_error | kid_of_equal_sets |" and row.startswith(
        f"| {sides / 'pictures'} |"
    )
    assert call("evaluate", "--table", tmp_path / "40", tmp_path / "30") == 2
    errors = capsys.readouterr().err
    assert "these values of kid cannot stand in one table" in errors and "n_real: 40" in errors
    assert call("evaluate", "--table", tmp_path / "40", tmp_path / "30", "--mix") == 0
    assert "n_real 30 instead of 40" in capsys.readouterr().out
    capsys.readouterr()
    assert (
        call("evaluate", sides / "pictures", sides / "others.npz", "--metrics", "prdc", "--output", tmp_path / "p") == 0
    )
    assert call("evaluate", "--table", tmp_path / "p", "--metrics", "prdc") == 0
    assert "|  | precision | recall | density | coverage |" in capsys.readouterr().out
    assert "no evaluation has fid; there is: kid" in error_of(capsys, "--table", tmp_path / "40", "--metrics", "fid")


@pytest.mark.slow
def test_a_reference_among_the_training_images_measures_no_copying(sides, tmp_path, capsys):
    arguments = [sides / "same.npz", sides / "others.npz", "--train", "mnist:test", "--metrics", "kid", "--no-pictures"]
    with pytest.warns(UserWarning, match="others.npz is among the training images mnist/test: .* is not measured"):
        record = record_of(capsys, *arguments, "--output", tmp_path)
    assert "nearest_ratio" not in record["metrics"]


def test_no_evaluation_takes_the_place_of_another(sides, tmp_path, capsys):
    arguments = [sides / "pictures", sides / "others.npz", "--no-pictures", "--output", tmp_path]
    for more in (["--metrics", "kid"], ["--metrics", "swd"], ["--metrics", "kid", "--num", 30]):
        assert call("evaluate", *arguments, *more) == 0
    assert "numbers: " in capsys.readouterr().err
    held = {file.name.split("against_")[1]: set(json.loads(file.read_text())["metrics"]) for file in tmp_path.iterdir()}
    whole, part = (next(name for name in held if f"_{num}_to_50" in name) for num in (40, 30))
    assert len(held) == 2 and {"kid", "swd"} <= held[whole] and "kid" in held[part] and "swd" not in held[part]


# What is opened -------------------------------------------------------------------------------------------------------


def test_built_in_sets_are_opened_by_name_and_split_and_take_the_size_of_the_other_side():
    side = opening.open_images("mnist:train", num=7)
    assert (side.name, side.split, side.resize, side.dataset.num_examples) == ("mnist", "train", "none", 7)
    side = opening.open_images("emoji", shape=(32, 32, 3))
    assert side.dataset.image_shape == (32, 32, 3) and side.split == "test"
    assert side.resize == "area average of 64x64 to 32x32"


def test_a_range_of_values_is_for_the_file_that_needs_it(sides, tmp_path):
    np.savez(tmp_path / "floats.npz", image=digits(0, 40)["image"].astype(np.float32) / 255)
    opened = [opening.open_images(str(p), value_range=(0, 1)) for p in (tmp_path / "floats.npz", sides / "same.npz")]
    digests = {comparison.content_digest(side.dataset) for side in opened}
    assert len(digests) == 1


def test_a_backbone_is_the_packages_own_a_run_of_a_classifier_or_inception_weights(sides, tmp_path, monkeypatch):
    assert evaluation.open_backbone(None, (28, 28, 1)).name == "mnist-cnn"
    arguments = ["--data.name", "arrays", "--data.path", sides / "others.npz", "--batch-size", 8, "--num-steps", 1]
    arguments += [
        "--data.test-path",
        sides / "same.npz",
        "--widths",
        2,
        "--num-devices",
        1,
        "--directory",
        tmp_path / "cnn",
    ]
    assert call("train", "mnist-cnn", *arguments) == 0
    backbone = evaluation.open_backbone(str(tmp_path / "cnn"), (28, 28, 1))
    found, logits = backbone.apply(np.zeros((2, 28, 28, 1), np.float32))
    assert found.shape == (2, 128) and logits.shape == (2, 3) and backbone.image_shape == (28, 28, 1)
    assert len(backbone.digest) == 64 and backbone.digest != features.SHIPPED["mnist-cnn"]
    (tmp_path / "pt_inception.pth").write_bytes(b"weights")
    monkeypatch.setattr(evaluation.inception, "backbone", lambda path, rule: (path.name, rule.__name__))
    for rule in ("tf1_bilinear", "antialiased_bicubic"):
        opened = evaluation.open_backbone(str(tmp_path / "pt_inception.pth"), (9, 9, 3), rule=rule)
        assert opened == ("pt_inception.pth", rule)
    with pytest.raises(ValueError, match="there is no resize rule 'nearest'"):
        evaluation.open_backbone(str(tmp_path / "pt_inception.pth"), (9, 9, 3), rule="nearest")


def test_grey_pictures_that_are_stored_as_colour_are_grey(sides, tmp_path):
    grey = opening.open_images(str(sides / "pictures"))
    for file in (sides / "pictures").iterdir():
        Image.open(file).convert("RGB").save(tmp_path / file.name)
    side = opening.open_images(str(tmp_path))
    assert side.resize == "grey, stored as colour" and side.dataset.image_shape == (28, 28, 1)
    assert comparison.content_digest(side.dataset) == comparison.content_digest(grey.dataset)
    assert opening.open_images(str(tmp_path), shape=(28, 28, 3)).dataset.image_shape == (28, 28, 3)


def test_copies_of_the_reference_or_of_each_other_are_told(sides, tmp_path):
    some, others = (data.array_file(sides / name) for name in ("same.npz", "others.npz"))
    mixed = np.concatenate([others.arrays["image"][:10], some.arrays["image"], some.arrays["image"][:5]])
    backbone = features.shipped("mnist-cnn")
    fake = opening.Images(data.from_arrays("mixed", mixed), "mixed")
    record = evaluation.compare(fake, opening.Images(others, "others"), backbone, ["kid"])
    told = " ".join(record["warnings"])
    assert "10 of the 55 images of mixed are in others, too, pixel by pixel" in told
    assert "of the 55 images of mixed only 50 differ" in told


def test_broken_files_and_the_first_of_several_folders_are_told_and_kept_in_the_record(sides, tmp_path, capsys):
    for i, name in enumerate("ab"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for file in sorted((sides / "pictures").iterdir())[20 * i : 20 * i + 20]:
            (tmp_path / "all" / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "all" / "a" / "zzz.png").write_bytes(b"no picture")
    arguments = [tmp_path / "all", sides / "others.npz", "--metrics", "kid", "--output", tmp_path / "out"]
    with pytest.warns(UserWarning):
        record = record_of(capsys, *arguments, "--num-images", 15, "--no-pictures")
    told = " ".join(record["warnings"])
    assert (
        "1 of 41 images are broken and were left out: a/zzz.png (no image by its first bytes)" in told
        and "the first 15 of 40 images are taken" in told
    )
    (tmp_path / "all" / "b" / "zzz.png").write_bytes(b"no picture")
    assert call("evaluate", *arguments) == 2
    with pytest.warns(UserWarning, match="2 of 42 images are broken and were left out: .*zzz.png"):
        assert call("evaluate", *arguments, "--max-broken-share", 0.1, "--no-pictures") == 0
    (kept,) = [file for file in (tmp_path / "out").glob("*_40_to_50.json")]
    assert call("evaluate", kept, "--table") == 0
    assert "Note of " in capsys.readouterr().out


def test_numbers_are_printed_with_how_to_read_them(sides, tmp_path, capsys):
    arguments = [sides / "pictures", sides / "others.npz", "--metrics", "kid", "confidence", "--no-pictures"]
    assert call("evaluate", *arguments, "--output", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    (file,) = tmp_path.glob("*.json")
    metrics = json.loads(file.read_text())["metrics"]
    shown = {line.split()[0]: index for index, line in enumerate(lines) if not line.startswith((" ", "features"))}
    assert {"kid", "confident_share"} <= shown.keys() < metrics.keys()
    for name, index in shown.items():
        text = " ".join(" ".join(lines[index : index + 5]).split())
        assert " ".join(evaluation_page.MEANINGS[name].split()) in text and len(lines[index]) <= 120
    kid = " ".join(" ".join(lines[:3]).split())
    error, equal = (f"{metrics[f'kid_{name}']:.4g}" for name in ("standard_error", "of_equal_sets"))
    assert f"(standard error {error}; {equal} of equal sets) like the FID" in kid
    assert lines[-1].startswith("features: mnist-cnn of this package: comparable with other numbers of it, not with")


def test_json_is_printed_only_if_asked_for_and_each_stage_is_told_where_there_is_no_terminal(sides, tmp_path, capsys):
    arguments = [sides / "pictures", sides / "others.npz", "--metrics", "kid", "--no-pictures", "--output", tmp_path]
    assert call("evaluate", *arguments) == 0
    captured = capsys.readouterr()
    assert "{" not in captured.out and captured.out.startswith("kid ")
    assert call("evaluate", *arguments, "--json") == 0
    again = capsys.readouterr()
    (file,) = tmp_path.glob("*.json")
    assert json.loads(again.out) == json.loads(file.read_text())
    stages = [line for line in captured.err.splitlines() if line.endswith(" ...")]
    assert len(stages) >= 2 and stages[0].startswith("features of folder:") and stages[-1] == "computing kid ..."


def test_pictures_of_several_sizes_need_a_size_and_the_protocol_says_so(tmp_path):
    for i, size in enumerate(((8, 8), (8, 8), (10, 12))):
        Image.new("RGB", size, (i, 90, 200)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"images of 2 different sizes: 8x8 \(2\), 10x12 \(1\); --image-size"):
        opening.open_images(str(tmp_path))
    with pytest.warns(UserWarning, match="2 different sizes are brought to the 6x6 pixels of the other side"):
        side = opening.open_images(f"folder:{tmp_path}", shape=(6, 6, 3))
    assert side.dataset.image_shape == (6, 6, 3) and side.resize == "centre crop, area average to 6x6"
    side = opening.open_images(str(tmp_path), image_size=8)
    assert side.dataset.image_shape == (8, 8, 3) and side.resize == "centre crop, area average to 8x8"
    side = opening.open_images(str(tmp_path), image_size=10)
    assert side.resize == "centre crop, area average to 10x10, 2 of them enlarged (bicubic)"


def test_groups_of_pictures_stand_apart():
    black = np.full((3, 3, 2, 2, 1), -1.0)  # three groups of three images of 2 x 2, two groups in a row
    picture = pictures._groups(black, in_a_row=2)
    column = (picture[:, :, 0] == 0).any(axis=0)
    ends = np.flatnonzero(np.diff(column.astype(int)))
    gaps = (ends[2::2] - ends[1:-1:2]).tolist()
    assert gaps == [6, 2, 26, 6, 2]


def test_a_great_circle_between_latents_keeps_their_length():
    a, b = np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 3.0], [1.0, 0.0]])
    np.testing.assert_allclose(pictures.slerp(a, b, 0.5), [[4.5**0.5, 4.5**0.5], [1, 0]])
    ends = [pictures.slerp(a, b, t) for t in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [a, b], atol=1e-12)


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_opened_is_one_sentence(sides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.txt").write_text("x")
    Path("text.npz").write_text("x")
    Path("runs/a").mkdir(parents=True)
    np.savez("bright.npz", image=digits(0, 3)["image"].astype(np.float32))
    np.savez("nan.npz", image=np.full((4, 28, 28, 1), np.nan, np.float32))
    np.savez("colour.npz", image=digits(0, 3)["image"].repeat(3, axis=-1))
    other = sides / "others.npz"
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, message in [
        (["absent", other], "absent does not exist: give a run directory, a folder of images"),
        (["empty", other], "an empty folder: no image found"),
        (["text.txt", other], "is a file, but neither .npz nor .npy"),
        (["nan.npz", other], "3136 values are NaN or infinite"),
        (["mnist:dev", other], "mnist has the splits train and test, not 'dev'"),
        (["colour.npz", other], "colour.npz has 3-channel images, but"),
        ([other, "emoji"], "others.npz has grey images, but emoji has 3-channel ones"),
        ([other, "mnist", "--classifier", "x"], "--classifier is for a run by itself, not for a comparison"),
        ([other, "mnist", "--output", "text.txt"], "something that is not a directory lies there"),
        (["--table"], "there are no numbers to show: give JSON files"),
        ([other, "mnist", "--backbone", "nothing"], "there is no feature network 'nothing'"),
        ([other, "mnist", "--metrics", "fed"], "there is no metric 'fed'; did you mean 'fid'?"),
        (["emoji", "emoji:train"], "no feature network for images of 64x64 pixels and 3 channels"),
        ([other, "--metrics", "fid"], "is no run with a test split to be compared with; give a REFERENCE"),
        ([other], "is no run; give a REFERENCE to compare these images with"),
        ([sides / "pictures"], "is no run; give a REFERENCE to compare these images with"),
        ([other, "mnist", "--num-real", "5", "--metrics", "prdc"], "prdc needs at least 6 images of each side"),
        (["text.npz", other], "text.npz: it is no NumPy file, whatever its name"),
        (["bright.npz", other], "float32 images with values from 0 to 255: their range is not guessed"),
        (["runs", other], "neither a run nor a folder of images: no image found in it"),
        ([other, other, "--backbone", "text.npz"], "no .npz of weights, it is damaged or cut short"),
        ([other, "mnist", "--num", "0"], "--num-images must be at least 1, not 0"),
    ]:
        assert message in error_of(capsys, *arguments), arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_foreign_or_damaged_weights_are_refused_by_the_command(sides, tmp_path, capsys):
    np.savez(tmp_path / "w.npz", architecture="{}", weights=np.zeros(3))
    message = error_of(capsys, sides / "same.npz", sides / "others.npz", "--backbone", tmp_path / "w.npz")
    assert "w.npz: no weights of a classifier of this package can be read from it" in message


def test_a_run_that_draws_nothing_and_training_without_a_network_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["emoji-dcgan-r1", "--data.image-size", 64, "--eval-metric", "fid", "--num-devices", 1]
    assert call("train", *arguments) == 2
    assert "the package has no feature network for images of 64x64 pixels and 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
