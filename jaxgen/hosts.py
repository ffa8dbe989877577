"""Processes of several hosts that compute together: how they find each other, and what they tell each other in words.

`initialize_hosts()` connects them, `exchange` gives every one what all of them say, before any device computes, and
`leave_hosts` ends a process so that the others end, too. JAX is imported where it is needed: a process alone need not
have it to be told so.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxgen import last_words

SECONDS_TO_MISS_A_HOST = 60
SECONDS_TO_START = 290  # JAX ends a process that has not met all others after 300, without a sentence
LOST = (
    "another host has died, stopped or cannot be reached: look at what it printed, then start all of them again; a "
    "training goes on from its last checkpoint"
)
SECONDS_TO_SAY_GOODBYE = 10.0
SECONDS_OF_SILENCE = 10  # of waiting, before it is said what for
_NAMES = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
_METADATA = "computeMetadata/v1/instance/attributes/worker-network-endpoints"


_OF_THE_NETWORK = re.compile(
    r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Cc]oordination service|Socket closed"
    r"|Connection (closed|reset)|Broken pipe"
)
_OF_XLA = re.compile(r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")


class HostFailed(RuntimeError):
    """Another host has ended with an error, which the message repeats, or is lost."""


# Finding each other -------------------------------------------------------------------------------------------------


def initialize_hosts() -> None:
    """Connects this process with those on the other hosts; call it before anything else touches JAX.

    On a TPU pod slice, under Slurm (`srun`), Open MPI and an indexed Kubernetes job JAX finds the other hosts by
    itself; under other MPI launchers it needs mpi4py. Elsewhere set the environment variables COORDINATOR_ADDRESS
    ("host:port" of process 0), NUM_PROCESSES and PROCESS_ID. Where none of these apply, or there is one process only,
    this does nothing, so a script can call it always.

    A host that has been silent for JAXGEN_HOST_TIMEOUT seconds (60 by default) counts as lost. JAX then ends the
    processes of all others, whatever they wait for; before that they say so in a sentence, and their exit code is 2
    (`last_words`). So does a process that has not met all others after five minutes.

    Raises:
      ValueError: if only some of the three variables are set, or one of the four is no number; if a launcher has
        started several processes that cannot find each other.
    """
    timeout = os.environ.get("JAXGEN_HOST_TIMEOUT", str(SECONDS_TO_MISS_A_HOST))
    if not timeout.isdecimal() or int(timeout) < 1:
        raise ValueError(f"JAXGEN_HOST_TIMEOUT is a whole number of seconds, at least 1, not {timeout!r}")
    values = [os.environ.get(name) for name in _NAMES]
    if all(values):
        try:
            count, index = (int(value or "") for value in values[1:])
        except ValueError as error:
            raise ValueError(f"NUM_PROCESSES and PROCESS_ID are whole numbers, not {values[1:]}") from error
        with _waiting_aloud(f"process {index} of {count} waits for the others, whose first is at {values[0]}"):
            _connect(int(timeout), values[0], num_processes=count, process_id=index)
    elif any(values):
        missing = ", ".join(name for name, value in zip(_NAMES, values, strict=True) if not value)
        raise ValueError(f"to train on several hosts set all of {', '.join(_NAMES)}; missing: {missing}")
    elif (found := _found_by_jax(os.environ)) is not None:
        launcher, settings = found
        with _waiting_aloud(f"this process waits for the others that {launcher} has started"):
            _connect(int(timeout), **settings)


def _connect(timeout: int, *arguments: Any, **settings: Any) -> None:
    import jax

    options: dict[str, Any] = {"heartbeat_timeout_seconds": timeout, **settings}
    jax.distributed.initialize(*arguments, **options)
    last_words.prepare(f"error: {LOST}")


def _found_by_jax(environment: Mapping[str, str]) -> tuple[str, dict[str, Any]] | None:
    """(who started several processes, arguments for JAX) where JAX finds the others by itself; None for one process."""
    ranks = _number(environment, "OMPI_COMM_WORLD_SIZE")
    if ranks > 1 and "OMPI_MCA_orte_hnp_uri" in environment:
        return "Open MPI", {}
    tasks = _number(environment, "SLURM_NTASKS")
    is_script = "SLURM_JOB_ID" in environment and not {"SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"} & set(environment)
    if ranks == 1 and not is_script and _number(environment, "SLURM_STEP_NUM_TASKS", tasks) > 1:
        return "Slurm", {}
    ranks = max(ranks, _number(environment, "PMI_SIZE"))
    if ranks > 1 and importlib.util.find_spec("mpi4py") is None:
        raise ValueError(
            f"an MPI launcher has started {ranks} processes, and JAX cannot see where the first one is: install "
            f"mpi4py, or set {', '.join(_NAMES)}"
        )
    if ranks > 1:
        return "MPI", {"cluster_detection_method": "mpi4py"}
    if is_script and tasks > 1:  # JAX would wait for tasks that nobody has started
        warnings.warn(
            f"this Slurm job has {tasks} tasks, and this process is none of them but the job's script: it trains "
            "alone. Begin the command with srun to train with all",
            stacklevel=3,
        )
    addresses = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    if len(addresses.split(",")) > 1 or _number(environment, "MEGASCALE_NUM_SLICES") > 1:
        return "the TPU slice", {}
    if not addresses and _num_tpu_hosts(environment) > 1:
        return "the TPU slice", {}
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes") is not None:
            return "the Kubernetes job", {}
        warnings.warn(
            f"this is pod {environment['JOB_COMPLETION_INDEX']} of an indexed Kubernetes job, and it trains alone: to "
            f"train with the others install kubernetes, by which JAX finds them, or set {', '.join(_NAMES)}",
            stacklevel=3,
        )
    return None


def _number(environment: Mapping[str, str], name: str, default: int = 1) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else default


def _num_tpu_hosts(environment: Mapping[str, str]) -> int:
    """How many hosts the slice of this TPU VM has, by the machine's metadata; 1 elsewhere.

    JAX sets TPU_SKIP_MDS_QUERY where it sees no chip.
    """
    platforms = environment.get("JAX_PLATFORMS", "")
    if importlib.util.find_spec("libtpu") is None:
        return 1
    if platforms and "tpu" not in platforms:
        return 1
    import jax  # noqa: F401  looks for chips, and sets the variable

    if "TPU_SKIP_MDS_QUERY" in environment:
        return 1
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(f"http://{server}/{_METADATA}", headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return len(answer.read().decode().split(","))
    except (urllib.error.URLError, OSError, ValueError):  # no machine of theirs
        return 1


@contextlib.contextmanager
def _waiting_aloud(what: str) -> Iterator[None]:
    """Says on stderr what is waited for when it takes long, and ends the process when it takes too long."""

    def give_up() -> None:
        print(
            f"error: {what}; not all came within {SECONDS_TO_START} seconds. Start all of them, with one "
            f"COORDINATOR_ADDRESS that each can reach",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    def tell() -> None:
        print(f"{what} ...", file=sys.stderr, flush=True)

    timers = [threading.Timer(SECONDS_OF_SILENCE, tell), threading.Timer(SECONDS_TO_START, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


# Telling each other -------------------------------------------------------------------------------------------------

_exchanges = itertools.count()


def exchange(value: str) -> list[str]:
    """What each host says, in their order. All must call it, as often and in the same order; it waits for all.

    It goes through the coordinator that JAX connects hosts by, so no device is needed and nothing is compiled.

    Args:
      value: what this one says.

    Returns:
      Of every host, this one included; of a process alone `[value]`.

    Raises:
      HostFailed: if another host ends with an error meanwhile.
    """
    client, index, count = _coordinator()
    if client is None:
        return _exchange_by_devices(value)
    number = next(_exchanges)
    here = f"jaxgen/exchange/{number}"
    client.key_value_set(f"{here}/of/{index}", value)
    if index == 0:
        values = [_wait_for(client, f"{here}/of/{i}", f"host {i}") for i in range(count)]
        # Most often all say the same, which is then sent once.
        different = list(dict.fromkeys(values))
        client.key_value_set(f"{here}/all", json.dumps([different, [different.index(value) for value in values]]))
        if number:
            client.key_value_delete(f"jaxgen/exchange/{number - 1}/")  # which all have read who have come to this one
    different, which = json.loads(_wait_for(client, f"{here}/all", "the first host"))
    return [different[i] for i in which]


def index() -> int:
    """Which host this process is: 0 alone."""
    import jax

    client, number, _ = _coordinator()
    return number if client is not None else jax.process_index()


def count() -> int:
    """How many hosts compute together."""
    import jax

    client, _, number = _coordinator()
    return number if client is not None else jax.process_count()


def are_connected() -> bool:
    """Whether `initialize_hosts` has connected this process with others; starts no device, and imports no JAX."""
    return "jax" in sys.modules and _coordinator()[0] is not None and _coordinator()[2] > 1


def tell_of_failure(message: str) -> None:
    """Lets the hosts that wait in `exchange`, or will, end with this message; this process ends next."""
    client, index, _ = _coordinator()

    def tell() -> None:
        with contextlib.suppress(Exception):  # the first host is gone: the others notice by themselves
            client.key_value_set(f"jaxgen/failed/{index}", message, allow_overwrite=True)

    if client is not None:
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(SECONDS_TO_SAY_GOODBYE)  # where the network is down it would take for ever


def sentence_of_lost_host(error: BaseException) -> str | None:
    """What an error means which came because another host is lost; None for errors of another kind.

    Args:
      error: of JAX, or of something that gave up because of one: what it was raised from is looked at, too.
    """
    import jax

    cause: BaseException | None = error
    while cause is not None:
        # JAX gives some of XLA's errors, by where they are noticed, as a ValueError with the same words.
        is_of_xla = isinstance(cause, jax.errors.JaxRuntimeError) or _OF_XLA.match(str(cause))
        if is_of_xla and _OF_THE_NETWORK.search(str(cause)):
            return f"{LOST} ({str(cause).splitlines()[0]})"
        cause = cause.__cause__ or cause.__context__
    return None


def _coordinator() -> tuple[Any, int, int]:
    """(client of the coordinator's table, index of this process, number of processes); (None, 0, 1) without one."""
    if sys.modules.get("jax") is None:
        return None, 0, 1  # nobody has connected anything
    # JAX has no public name for it; Orbax takes it from the same place.
    from jax._src import distributed

    state = distributed.global_state
    return (None, 0, 1) if state.client is None else (state.client, state.process_id, state.num_processes)


def _wait_for(client: Any, name: str, whom: str) -> str:
    import jax

    since, told = time.monotonic(), False
    while True:
        try:
            return client.blocking_key_value_get(name, 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        for key, message in client.key_value_dir_get("jaxgen/failed/"):
            raise HostFailed(f"host {key.rpartition('/')[2]} has stopped: {message}")
        if not told and time.monotonic() - since > SECONDS_OF_SILENCE:
            print(f"waiting for {whom} ...", file=sys.stderr, flush=True)
            told = True


def _exchange_by_devices(value: str) -> list[str]:
    """`exchange` where a TPU's own runtime has connected the hosts, without JAX's coordinator."""
    import jax

    if jax.process_count() == 1:
        return [value]
    import numpy as np
    from jax.experimental import multihost_utils

    data = np.frombuffer(value.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(data)))).reshape(-1)
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(lengths.max()) - len(data))))
    return [bytes(row[:length]).decode() for row, length in zip(np.asarray(rows), lengths, strict=True)]


def leave_hosts(seconds: float = SECONDS_TO_SAY_GOODBYE) -> None:
    """Says goodbye to the other hosts after an error, if there are any; waits for them no longer than this.

    The end of a Python process would wait for minutes: for hosts that are lost, or that wait in a step for this one.
    End the process next (`os._exit`): only then does what they wait for end, too, with an error.
    """
    import jax

    if jax.distributed.is_initialized():
        goodbye = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        goodbye.start()
        goodbye.join(seconds)


def named(indices: Sequence[int]) -> str:
    """Hosts in words.

    >>> named([1]), named([0, 2, 3])
    ('host 1', 'hosts 0, 2 and 3')
    """
    if len(indices) == 1:
        return f"host {indices[0]}"
    return f"hosts {', '.join(map(str, indices[:-1]))} and {indices[-1]}"
