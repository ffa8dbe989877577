"""The notebook on clipping and penalties runs from top to bottom, and its numbers say what its text says."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from test_notebooks import TIMEOUT, ThisInterpreter

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "clipping_versus_penalty.ipynb"
pytestmark = pytest.mark.slow  # half a minute to a minute of training

PROBE = """
import json
print(json.dumps({
    "judged": {
        name: [found.spectral_radius, found.largest_stable_scale, found.growth_law, found.final_radius]
        for name, found in judged.items()
    },
    "disagreeing": disagreeing,
    "share": float(predicted.mean()),
    "farthest": float(distance[:, :9].max()),
    "answers": {name: float(value) for name, value in answers.items()},
    "clipped": clipped.tolist(),
}))
"""


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
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "IPYTHONDIR": str(folder)}
    environment.pop("JAX_NUM_CPU_DEVICES", None)  # the notebook sets it
    client.execute(env=environment)
    (output,) = notebook.cells[-1].outputs
    return json.loads(output.text)


def test_a_clip_changes_neither_the_spectral_radius_nor_the_largest_rate_but_the_growth(results):
    judged = results["judged"]
    for bare, clipped in (("nothing", "clip 0.5"), ("R1 10", "R1 10 and clip 0.5")):
        assert judged[clipped][:2] == pytest.approx(judged[bare][:2], abs=1e-9)
        assert judged[bare][2] == "exponential" != judged[clipped][2]
    assert judged["R1 1"][2] == "decay" and judged["R1 1"][0] < 1 < judged["clip 0.5"][0]
    assert judged["clip 0.5"][3] < 100


def test_the_map_agrees_with_theory(results):
    assert results["disagreeing"] == 0
    assert 0.2 < results["share"] < 0.8  # a map of one class would prove nothing
    assert results["farthest"] < 100  # clip norms up to 0.5 bound every run


def test_a_clip_rescues_gans_without_a_penalty_and_a_penalty_does_better(results):
    answers = results["answers"]
    assert answers["no penalty, no clip"] < 0.1
    assert answers["no penalty, best clip"] > answers["no penalty, no clip"] + 0.2
    assert max(answers["best penalty, no clip"], answers["best of all with both"]) > answers["no penalty, best clip"]
    assert answers["strongest penalty, best clip"] > answers["strongest penalty, no clip"]


def test_the_share_of_clipped_steps_falls_with_the_norm_and_is_zero_without_one(results):
    for shares in results["clipped"]:  # of one penalty: norms 0.1, 1, none
        assert shares == sorted(shares, reverse=True) and shares[-1] == 0


def test_the_stored_notebook_was_run_in_order_without_errors_and_names_no_place_on_a_machine():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    text = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text(encoding="utf-8"))
    assert len(NOTEBOOK.read_text(encoding="utf-8")) < 1_000_000
    assert not re.findall(r"/(?:home|root|tmp|Users|opt|usr|mnt)/|site-packages", text)
