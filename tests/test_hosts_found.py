"""How hosts find each other: by what a launcher sets, and never where one process is alone."""

import http.server
import os
import subprocess
import sys
import threading
import warnings

import pytest

from jaxgen import hosts

STEP = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.fixture
def packages(monkeypatch):
    """Which packages there are."""
    there = set()
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name if name in there else None)
    return there


@pytest.mark.parametrize(
    "environment, launcher",
    [
        ({}, None),
        (STEP | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, None),  # srun -n1
        (STEP | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, None),  # srun -n1 in a job of eight
        (STEP | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, "Slurm"),
        (STEP | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "2"}, "Slurm"),  # srun --mpi=pmi2
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_MCA_orte_hnp_uri": "x"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "x"}, "Open MPI"),
        (STEP | {"SLURM_NTASKS": "4", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "x"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "the TPU slice"),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "a"}, "the TPU slice"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "the TPU slice"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod of its own
    ],
)
def test_a_launcher_of_several_processes_is_recognised(packages, environment, launcher):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hosts._found_by_jax(environment)
    assert (found and found[0]) == launcher and (found is None or found[1] == {})


def test_the_script_of_a_slurm_job_trains_alone_and_is_told_of_srun(packages):
    with pytest.warns(UserWarning, match="4 tasks, and this process is none of them.*srun"):
        assert hosts._found_by_jax({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None


def test_other_mpi_launchers_need_mpi4py(packages):
    for environment in ({"OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_SIZE": "2", "PMI_RANK": "1"}):
        with pytest.raises(ValueError, match="an MPI launcher has started 2 processes.*install mpi4py, or set COORD"):
            hosts._found_by_jax(environment)
    packages.add("mpi4py")
    assert hosts._found_by_jax({"PMI_SIZE": "2"}) == ("MPI", {"cluster_detection_method": "mpi4py"})


def test_an_indexed_kubernetes_job_needs_its_package_and_trains_alone_without(packages):
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}
    with pytest.warns(UserWarning, match="pod 3 of an indexed Kubernetes job, and it trains alone.*install kubernetes"):
        assert hosts._found_by_jax(pod) is None
    packages.add("kubernetes")
    assert hosts._found_by_jax(pod) == ("the Kubernetes job", {})


@pytest.fixture
def metadata():
    """A server as each machine of that cloud has one; `metadata(answer)` is its address."""
    servers = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                known = self.headers["Metadata-Flavor"] == "Google" and self.path.endswith("worker-network-endpoints")
                self.send_response(200 if known and answer else 404)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *_):
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "answer, platforms, launcher",
    [
        ("x:y:10.0.0.1,x:y:10.0.0.2", "", "the TPU slice"),
        ("x:y:10.0.0.1,x:y:10.0.0.2", "tpu,cpu", "the TPU slice"),
        ("x:y:10.0.0.1,x:y:10.0.0.2", "cpu", None),  # which was asked for
        ("x:y:10.0.0.1", "", None),
        ("", "", None),
    ],
)
def test_a_tpu_vm_is_asked_how_many_hosts_its_slice_has(packages, metadata, answer, platforms, launcher):
    packages.add("libtpu")
    environment = {"GCE_METADATA_IP": metadata(answer), "JAX_PLATFORMS": platforms}
    found = hosts._found_by_jax(environment)
    assert (found and found[0]) == launcher
    assert hosts._found_by_jax(environment | {"TPU_SKIP_MDS_QUERY": "1"}) is None  # JAX has seen no chip


def test_a_machine_without_that_server_is_alone(packages):
    packages.add("libtpu")
    assert hosts._found_by_jax({"GCE_METADATA_IP": "127.0.0.1:1"}) is None


def test_a_process_alone_imports_no_jax_to_know_it():
    code = "import sys; from jaxgen import hosts; hosts.initialize_hosts(); assert 'jax' not in sys.modules"
    unset = (
        "COORDINATOR_ADDRESS",
        "NUM_PROCESSES",
        "PROCESS_ID",
        "SLURM_JOB_ID",
        "SLURM_NTASKS",
        "TPU_WORKER_HOSTNAMES",
    )
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_host_that_never_comes_is_told_of_and_ends_the_process_with_a_sentence():
    code = "from jaxgen import hosts; hosts.SECONDS_OF_SILENCE, hosts.SECONDS_TO_START = 0.5, 1.5;"
    code += "hosts.initialize_hosts()"
    variables = {"COORDINATOR_ADDRESS": "127.0.0.1:1", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "process 1 of 2 waits for the others, whose first is at 127.0.0.1:1 ..." in done.stderr
    assert "error: process 1 of 2 waits for the others" in done.stderr and "not all came within 1.5" in done.stderr
