"""Settings that no machine bears, stored settings that mean nothing, and directories that only look like runs."""

import copy
import json
import math

import jax
import numpy as np
import pytest

from jaxgen import configuration, experiment, memory, options, run_directory
from jaxgen.system import Spec
from jaxgen.systems import classifier, dcgan

ODD = (None, math.nan, -1, 1.5, "", "x", True, [], [1], {"a": 1}, 10**30)


def stored(config):
    images = Spec.of_images((28, 28, 1), 10).to_dict() | {"class_names": list("0123456789"), "data_fingerprint": "x"}
    return json.loads(json.dumps(configuration.to_dict(config) | {"images": images}))


def places(tree, path=()):
    for name, value in tree.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from places(value, (*path, name))


@pytest.mark.parametrize("config", [dcgan.TINY, classifier.TINY], ids=["dcgan", "classifier"])
def test_whatever_stands_in_a_stored_configuration_is_read_or_refused_in_words(config):
    whole = stored(config)
    for path in places(whole):
        for odd in ODD:
            changed = copy.deepcopy(whole)
            inner = changed
            for name in path[:-1]:
                inner = inner[name]
            inner[path[-1]] = odd
            try:
                configuration.spec_of(changed)
                options.check(configuration.from_dict(changed))
            except ValueError as error:
                assert len(str(error)) > 20 and "unpack" not in str(error), (path, odd)


def test_a_state_that_fits_nowhere_is_told_before_it_is_made(tmp_path):
    config = dcgan.Config(latent_dim=2**31 - 1, batch_size=8, num_devices=1)
    with pytest.raises(MemoryError, match="the state of DCGAN needs at least .*TiB, and .* are free: .*generator"):
        experiment.train(config, str(tmp_path / "run"), progress=False)
    config = dcgan.Config(features=2, latent_dim=2, num_discriminator_steps=2**31 - 1, num_devices=1)
    with pytest.raises(MemoryError, match="a step on 137,438,953,408 images, .* needs at least .*smaller batch_size"):
        experiment.train(config, str(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_more_images_than_there_are_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--batch-size 80,000 is more than the 60,000 images of mnist/train"):
        experiment.train(dcgan.Config(batch_size=80_000), str(tmp_path / "run"), progress=False)


def test_memory_is_counted_and_told_in_words():
    shapes = {"a": jax.ShapeDtypeStruct((2**31 - 1, 2**31 - 1), np.float32), "key": jax.random.key(0)}
    assert memory.of(shapes) == 4 * (2**31 - 1) ** 2
    assert memory.in_words(3 * 2**40) == "3 TiB" and memory.in_words(10) == "10 bytes"
    memory.check(10, None, "x", "y")
    with pytest.raises(MemoryError, match="drawing needs at least 2 KiB, and 1 KiB are free: draw fewer"):
        memory.check(2048, 1024, "drawing", "draw fewer")
    assert memory.free(jax.devices()) is None or memory.free(jax.devices()) > 2**20


def test_a_configuration_of_another_program_makes_no_run(tmp_path):
    config = tmp_path / run_directory.CONFIG
    assert not run_directory.is_run(tmp_path)
    config.write_text('{"a": 1}')
    assert not run_directory.is_run(tmp_path)
    for text in ('{"images": {}}', '{"family": "GAN"}', "", "{"):  # a damaged one is told of by its reader
        config.write_text(text)
        assert run_directory.is_run(tmp_path)
