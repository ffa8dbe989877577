"""The notebook runs from top to bottom, shows what its text says, and is stored with its figures."""

import json
import os
import re
import sys
from pathlib import Path

import jax
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "ttur_on_a_ring.ipynb"
pytestmark = pytest.mark.slow  # a minute of training
TIMEOUT = 900  # seconds for one cell, on a machine that is busy with something else

PROBE = """
import json
print(json.dumps({
    "metrics": {name: float(value) for name, value in compiled_metrics.items()},
    "perfect": float(score(toy.ring(jax.random.key(3), 100_000, std=STD))["high_quality_share"]),
    "modes": modes.tolist(),
    "quality": quality.tolist(),
    "sgd_modes": clipping["SGD"]["modes"][..., -1].tolist(),
    "adam_modes": clipping["Adam"]["modes"][..., -1].tolist(),
    "clipped": {name: result["generator/clipped"].mean(axis=(1, 2)).tolist() for name, result in clipping.items()},
    "on_one": {name: float(value) for name, value in on_one.items()},
    "on_all": {name: float(value) for name, value in on_all.items()},
    "num_devices": mesh.size,
}))
"""


class ThisInterpreter(KernelSpecManager):
    """Finds the kernel "python3" in the interpreter that runs the tests, whatever kernels the user has installed."""

    def get_kernel_spec(self, kernel_name):
        assert kernel_name == "python3", f"the notebook asks for the kernel {kernel_name!r}"
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
        )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the variables of the executed notebook hold; fails if any cell does."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE, id="probe"))
    manager = AsyncKernelManager(
        kernel_name=notebook.metadata.kernelspec.name, kernel_spec_manager=ThisInterpreter(data_dir=str(folder))
    )
    client = NotebookClient(notebook, km=manager, timeout=TIMEOUT, resources={"metadata": {"path": str(folder)}})
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    client.execute(
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "IPYTHONDIR": str(folder),  # without the user's start-up files
        }
    )
    (output,) = notebook.cells[-1].outputs
    return json.loads(output.text)


def test_one_step_returns_the_metrics_that_the_text_names(results):
    assert {"generator/loss", "discriminator/accuracy", "generator/update_norm"} <= set(results["metrics"])
    assert all(value == value and abs(value) < 1e3 for value in results["metrics"].values())


def test_a_perfect_sampler_scores_one_minus_exp_of_minus_four_and_a_half(results):
    # 0.98889; the standard deviation of the share among 100,000 samples is 0.0003.
    assert results["perfect"] == pytest.approx(0.98889, abs=0.002)


def test_without_a_penalty_a_fast_discriminator_loses_modes_and_with_r1_it_does_not(results):
    without, with_r1 = results["modes"]  # each [generator's rate, discriminator's rate, seed]
    assert sum(without[0][2]) < 4 * 8
    assert with_r1[0][2] == [8] * 4
    assert with_r1[1][1] == [8] * 4
    # The price that the text names.
    assert max(results["quality"][1][0][2]) < 0.5 < min(results["quality"][1][1][1])


def test_sgd_needs_the_clip_and_adam_does_not(results):
    sgd, adam = results["sgd_modes"], results["adam_modes"]  # each [clip norm, seed], norms 0.1, 1, 10, none
    assert sum(sgd[3]) <= 8  # of 32
    assert sum(sgd[1]) >= 20
    assert all(sum(modes) >= 16 for modes in adam)


def test_the_share_of_clipped_updates_falls_from_all_to_none_with_the_clip_norm(results):
    for shares in results["clipped"].values():
        assert shares[0] > 0.95
        assert 0.3 < shares[1] < 0.95
        assert shares[3] == 0.0
        assert shares == sorted(shares, reverse=True)


def test_the_step_on_all_devices_gives_the_numbers_of_one(results):
    assert results["num_devices"] == jax.device_count()
    assert results["on_all"] == pytest.approx(results["on_one"], rel=1e-3, abs=1e-5)


def test_the_stored_notebook_was_run_in_order_without_errors():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3


def test_the_stored_notebook_is_small_and_names_no_place_on_a_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    without_images = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.findall(r"/(?:home|root|tmp|Users|opt|usr|mnt)/", without_images)
    assert "site-packages" not in without_images
