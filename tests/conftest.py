"""Every test sees eight virtual CPU devices, set up before jax is imported; the fixtures that several files share."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A rendezvous of eight devices needs more than eight threads: with XLA's default pool (one per core) older
# JAX versions deadlock on a machine with few cores.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax  # noqa: E402


@pytest.fixture(scope="module")
def fast_compilation():
    """For a file whose time is XLA's: `pytestmark = pytest.mark.usefixtures("fast_compilation")`."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def double_precision():
    """For a test or a file (by `usefixtures`) whose tolerances need 64-bit floats."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
