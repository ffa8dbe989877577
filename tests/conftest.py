"""Every test sees eight virtual CPU devices, set up before jax is imported; the fixtures that several files share."""

import atexit
import gc
import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import warnings

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A rendezvous of eight devices needs more than eight threads: with XLA's default pool (one per core) older
# JAX versions deadlock on a machine with few cores.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the processes of one run share what they compile
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxgen-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
if importlib.metadata.version("jaxlib").startswith("0.10."):  # others end the process if they do not know the flag
    # Most of the time is XLA's. Without its newest code generator programs are a tenth slower, and ready in half
    # the time. `XLA_FLAGS= python -m pytest` tests with what users run.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax  # noqa: E402

gc.set_threshold(100_000, 20, 100)  # tracing makes millions of objects that live: to look through them took a tenth

LONG_FILES = (
    "test_hosts.py",
    "test_systems.py",
    "test_loop.py",
    "test_stability_spectrum.py",
    "test_models_biggan.py",
    "test_scripts.py",
)


def pytest_configure(config):
    """Files are handed to the processes in the order of the collection, not by their numbers of tests."""
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files first: a process that got one last would work alone for a minute."""
    items.sort(key=lambda item: LONG_FILES.index(item.path.name) if item.path.name in LONG_FILES else len(LONG_FILES))


@pytest.fixture(scope="module")
def fast_compilation():
    """For a file whose time is XLA's: `pytestmark = pytest.mark.usefixtures("fast_compilation")`."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # no other file runs what was compiled so, and it adds up to gigabytes


@pytest.fixture
def nothing_is_kept():
    """For tests of what must not come to the cache on disk, which this run has."""
    from jaxgen.models import onednn

    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))
    with onednn.uncached():
        yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@pytest.fixture
def double_precision():
    """For a test or a file (by `usefixtures`) whose tolerances need 64-bit floats."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def scripts_in_process(tmp_path_factory):
    """For a file that calls scripts (`in_process.call`): its own cache, no reports, warnings as they were before."""
    from jaxgen import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(report, "write", lambda directory: None)  # a second of Matplotlib each
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)  # command_line.run changes it
        yield


@pytest.fixture(scope="module")
def scripts():
    """Imports a module of scripts/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(os.path.join(os.path.dirname(__file__), os.pardir, "scripts"))
        yield importlib.import_module
    for name in [name for name in sys.modules if name.startswith("benchmark")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def benchmark(scripts):
    return scripts("benchmark")


@pytest.fixture(scope="module")
def cases(scripts):
    return scripts("benchmark_cases")
