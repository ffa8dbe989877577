"""The wheel: what is in it is all that is needed, outside of this checkout."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKED = """
from jaxgen import data
from jaxgen.metrics import features
print(data.mnist().num_examples, data.emoji().num_examples, len(data.emoji_captions()))
print(*(features.shipped(name).name for name in features.SHIPPED))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", directory, ROOT]
    subprocess.run(command, check=True, cwd=directory)
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """An environment with the packages of this one, and without jaxgen."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": directory, "platbase": directory}))
    # Of a directory that is named so Python reads no .pth files, and finds no jaxgen that was installed to be edited.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory


def install(wheel: Path, environment: Path) -> None:
    site = Path(sysconfig.get_path("purelib", "venv", {"base": environment, "platbase": environment}))
    shutil.rmtree(site / "jaxgen", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--upgrade"]
    subprocess.run([*command, "--target", site, wheel], check=True)


def run(environment: Path, directory: Path, *arguments) -> subprocess.CompletedProcess:
    command = [environment / "bin" / "python", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    tracked = subprocess.run(["git", "ls-files", "jaxgen"], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(tracked.stdout.split()) == sorted(n for n in archive.namelist() if n.startswith("jaxgen/"))
        metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        page = BytesParser().parsebytes(archive.read(metadata)).get_payload()
    assert "# jaxgen" in page and "](docs" not in page and "<img" not in page  # nothing that an index could not show


def test_an_installed_wheel_describes_trains_and_finds_its_data_outside_of_the_checkout(wheel, environment, tmp_path):
    install(wheel, environment)
    where = run(environment, tmp_path, "-c", "import jaxgen; print(jaxgen.__file__)")
    assert where.stdout.startswith(str(environment)), where.stdout + where.stderr
    described = run(environment, tmp_path, "-m", "jaxgen", "describe", "mnist-dcgan")
    assert described.returncode == 0 and "445,730" in described.stdout, described.stderr
    packed = run(environment, tmp_path, "-c", PACKED)
    assert packed.returncode == 0 and packed.stdout.startswith("60000 "), packed.stderr
    trained = run(environment, tmp_path, "-m", "jaxgen", "train", "mnist-cnn", "--num-steps", "1", "--batch-size", "8")
    assert trained.returncode == 0 and len(list(tmp_path.glob("runs/*/report.html"))) == 1, trained.stderr


@pytest.mark.parametrize("missing", ["jaxgen/data/files/mnist.npz", "jaxgen/metrics/weights/emoji-cnn.npz"])
def test_a_wheel_without_one_of_its_data_files_is_noticed(wheel, environment, tmp_path, missing):
    less = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(less, "w") as archive:
        assert missing in whole.namelist()
        for name in whole.namelist():
            if name != missing:
                archive.writestr(name, whole.read(name))
    install(less, environment)
    packed = run(environment, tmp_path, "-c", PACKED)
    assert packed.returncode == 1 and Path(missing).name in packed.stderr
