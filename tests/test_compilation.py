"""Compiler options: used where they are known, and never in the way."""

import ctypes
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import compilation
from jaxgen.models import onednn, sngan
from jaxgen.models.convolution import Geometry, convolve


@pytest.fixture
def fresh():
    compilation.options.cache_clear()
    yield
    compilation.options.cache_clear()


def test_only_the_cpu_gets_options():
    assert compilation.options("gpu") is None and compilation.options("tpu") is None
    if jax.__version_info__[:2] == (0, 10):  # where it is known to be; elsewhere it may be gone, or renamed
        assert compilation.options("cpu") == compilation.YNNPACK


@pytest.mark.parametrize("unknown", [{"xla_cpu_of_another_version": "1"}, {next(iter(compilation.YNNPACK)): "SOME"}])
def test_an_option_or_a_value_that_this_version_does_not_know_is_left_out(unknown, monkeypatch, fresh):
    monkeypatch.setattr(compilation, "YNNPACK", unknown)
    assert compilation.options("cpu") is None
    assert compilation.jit(lambda x: 2 * x)(3.0) == 6.0


@pytest.mark.slow
def test_programs_are_the_same_function_to_second_order_and_run_to_the_same_bits_twice():
    geometry = Geometry((12, 12), (3, 3), (1, 1), ((1, 1), (1, 1)))
    x, w = jax.random.normal(jax.random.key(0), (8, 12, 12, 16)), jax.random.normal(jax.random.key(1), (3, 3, 16, 16))

    def penalised(w):
        value = lambda x: jnp.sum(jnp.tanh(convolve(jnp.tanh(convolve(x, w, geometry)), w, geometry)))  # noqa: E731
        return jnp.sum(jax.grad(value)(x) ** 2)

    fast, plain = compilation.jit(jax.value_and_grad(penalised)), jax.jit(jax.value_and_grad(penalised))
    once, twice, expected = fast(w), fast(w), plain(w)
    np.testing.assert_allclose(once[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(once[1], expected[1], rtol=1e-3, atol=1e-4 * np.abs(expected[1]).max())
    assert all((a == b).all() for a, b in zip(once, twice, strict=True))


@pytest.mark.slow
def test_a_vmapped_program_computes_what_each_member_computes_alone(nothing_is_kept):
    discriminator = sngan.Discriminator(features=8)  # wide enough for oneDNN
    images = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1), minval=-1)
    init = lambda key: discriminator.init(key, images, train=True)  # noqa: E731
    members = jax.vmap(init)(jax.random.split(jax.random.key(1), 2))
    logits = lambda variables: discriminator.apply(variables, images, train=False)  # noqa: E731
    together = compilation.jit(jax.vmap(logits))
    assert ("onednn" in together.lower(members).as_text()) == onednn.is_there()
    together = together(members)
    for i in range(2):
        alone = compilation.jit(logits)(jax.tree.map(lambda x, i=i: x[i], members))
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.slow
def test_a_process_that_keeps_its_memory_asks_for_no_new_pages_at_each_call():
    program = """
import resource, sys
from jaxgen import compilation
assert sys.argv[1] == "plain" or compilation.keep_memory()
import jax, jax.numpy as jnp
f = compilation.jit(lambda x: jnp.sum(jnp.sort(jnp.tanh(x), axis=0)[::-1] * x))
x = jnp.ones((1 << 11, 1 << 12))
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[2:]))
"""
    found = {
        how: int(
            subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True).stdout
        )
        for how in ("plain", "keeping")
    }
    assert found["keeping"] < 100 < 1000 < found["plain"]
