"""Paths: remote ones are refused wherever one is taken, before a `Path` forgets that they were; `~` is no directory."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxgen
from jaxgen import checkpoint, command_line, experiment, images, loading, loop, run_directory, systems
from jaxgen.local_path import is_address, local
from jaxgen.metrics import protocol
from jaxgen.stability import atlas, runs, sweep
from jaxgen.systems import dcgan

ADDRESSES = ("gs://bucket/run", "s3://bucket/run", "http://x/y", "hdfs://x", Path("gs://bucket/run"), "file:/x")


@pytest.fixture(autouse=True)
def _empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # without a driver for buckets
    yield
    assert os.listdir() == []  # nothing was made of any of them


@pytest.mark.parametrize("path", ADDRESSES)
def test_an_address_is_refused_with_what_to_do_instead(path):
    with pytest.raises(ValueError, match=r"the run \w+://.* is an URL, .*mount the bucket .*download"):
        local(path, "the run")


@pytest.mark.parametrize("path", ["runs/first", "/runs/a:b", "C:/runs", "mine.py:other", "a:b/c", Path("x")])
def test_a_local_path_stays_what_it_is(path):
    assert local(path) == Path(path) and not is_address(path)


@pytest.mark.parametrize(
    "take",
    [
        lambda path: experiment.train(dcgan.TINY, path),
        lambda path: jaxgen.train(None, None, path, num_steps=1),
        lambda path: loop.train(None, None, None, directory=path, num_steps=1, batch_size=8, key=None),
        lambda path: loading.load(path),
        lambda path: run_directory.create(path, {}),
        lambda path: images.save_png(Path(path) / "x.png", np.zeros((2, 2))),
        lambda path: protocol.write(path, {}),
        lambda path: protocol.read(path),
        lambda path: systems.from_file(path),
        lambda path: atlas.write(path, ["A1"]),
        lambda path: sweep.write(None, path),
        lambda path: runs.open_run(path),
        lambda path: runs.moving_step(path),
        lambda path: checkpoint.open_checkpoints(Path(path)),
        lambda path: checkpoint.restore(Path(path), {}),
    ],
)
def test_whatever_takes_a_path_refuses_an_address(take):
    with pytest.raises(ValueError, match="gs://bucket/run.* is an URL"):
        take("gs://bucket/run")


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_names_nothing(path):
    with pytest.raises(ValueError, match="the run directory is an empty path; name one"):
        local(path, "the run directory")
    with pytest.raises(ValueError, match="an empty path"):
        experiment.train(dcgan.TINY, path)


@pytest.fixture
def homeless(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and an entry in passwd
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_a_home_that_there_is_not_is_no_directory_called_so(homeless, monkeypatch, tmp_path_factory):
    with pytest.raises(ValueError, match="begins with ~, and this user has no home"):
        local("~/runs")
    monkeypatch.setattr(command_line.tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
    command_line._cache_without_home.cache_clear()
    cache = command_line.cache_directory()
    assert cache.is_absolute() and cache.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "~/compiled")
    command_line.use_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(cache / "compiled")
    cache.chmod(0o777)  # others may have put programs there
    command_line._cache_without_home.cache_clear()
    assert command_line.cache_directory() != cache
    command_line._cache_without_home.cache_clear()


def test_a_home_that_is_written_with_its_sign_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/.own")
    assert command_line.cache_directory() == Path("/home/somebody/.own/jaxgen")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by the standard
    assert command_line.cache_directory() == Path("/home/somebody/.cache/jaxgen")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "~/compiled")
    command_line.use_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/home/somebody/compiled"
    assert local("~/runs") == Path("/home/somebody/runs")
