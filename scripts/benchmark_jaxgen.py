"""The jaxgen side of `benchmark.py`, which starts it and asks it over stdin.

What it runs is made by `benchmark_jaxgen_gan`, `benchmark_jaxgen_stages` and `benchmark_jaxgen_systems`. Each has

    make(case) -> (train_step, state, batch)    what is timed, with train_step(state, batch, key) -> (state, metrics)
    networks_of(state) -> {name: Network}
    numbers_of(metrics) -> {name: float}        those that PyTorch's side has, too
    reference(case, state, batch) -> (arrays, {when: {name: Network}}, metrics)
                                                what PyTorch is given, and what jaxgen makes of it, in float32

and the systems also `told(case)`, what PyTorch's side is told of a case to build it.
"""

import dataclasses
import functools
import tempfile
import time

import benchmark_jaxgen_gan
import benchmark_jaxgen_stages
import benchmark_jaxgen_systems
import benchmark_memory
import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_cases import Case, Stage, System, case_from
from benchmark_workers import serve
from flax import traverse_util
from jax import lax

from jaxgen import compilation, network

KINDS = {Case: benchmark_jaxgen_gan, Stage: benchmark_jaxgen_stages, System: benchmark_jaxgen_systems}
STEPS_PER_DISPATCH = 10


def set_precision(tf32: bool) -> None:
    """Matrix products and convolutions of float32 on a GPU: in TF32, which is JAX's default there, or in full."""
    jax.config.update("jax_default_matmul_precision", None if tf32 else "highest")


def describe(tf32):
    """What jaxgen runs on."""
    import flax
    import jaxlib

    import jaxgen

    set_precision(tf32)
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "version": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "jaxgen": jaxgen.__version__,
        "default_matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
    }


def build(case, rival, tf32, threads, compile_mode):
    """Makes the state and the two compiled functions; the rest of the worker's requests are about these."""
    del rival, threads, compile_mode  # one state serves both rivals, the environment sets the threads
    memory_before = memory_now()
    set_precision(tf32)
    case = case_from(case)
    kind = KINDS[type(case)]
    train_step, state, batch = kind.make(case)

    @functools.partial(compilation.jit, donate_argnums=0)
    def several_steps(state, batches, key, number):
        """Every step takes its batch out of several, as in training. One for all would be moved out of the loop, with
        some of the work on it: less work, and yet slower, since XLA no longer sees what is computed twice."""

        def body(i, carry):
            return train_step(carry[0], jax.tree.map(lambda x: x[i % len(x)], batches), key)

        shapes = jax.eval_shape(body, 0, (state, None))[1]
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return lax.fori_loop(0, number, body, (state, metrics))

    worker.update(
        case=case,
        kind=kind,
        state=state,
        step=compilation.jit(train_step, donate_argnums=0),
        several_steps=several_steps,
        batch=batch,
        memory_before=memory_before,
    )
    parameters = [network.count_parameters(n.params) for n in kind.networks_of(state).values()]
    return {"parameters": parameters} | ({"told": kind.told(case)} if isinstance(case, System) else {})


worker = {}  # what `build` has made


def run(rival, steps):
    """Times steps from the initial weights on, after one that is not timed."""
    state, key, batch = jax.tree.map(jnp.copy, worker["state"]), jax.random.key(2), worker["batch"]
    if rival == "jaxgen-loop":
        if "batches" not in worker:
            worker["batches"] = jax.tree.map(lambda x: jnp.stack([x, x]), batch)
        batches = worker["batches"]
    began = time.perf_counter()
    if rival == "jaxgen":
        state, metrics = worker["step"](state, batch, key)
    else:
        state, metrics = worker["several_steps"](state, batches, key, 1)
    jax.block_until_ready(metrics)
    untimed = time.perf_counter() - began
    began, began_processor = time.perf_counter(), time.process_time()
    if rival == "jaxgen":
        for _ in range(steps):
            state, metrics = worker["step"](state, batch, key)
    else:
        number = max(STEPS_PER_DISPATCH, getattr(worker["case"], "period", 1))
        for first in range(0, steps, number):
            state, metrics = worker["several_steps"](state, batches, key, min(number, steps - first))
    jax.block_until_ready((state, metrics))
    seconds = time.perf_counter() - began
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_untimed": untimed,
        "cores_busy": (time.process_time() - began_processor) / seconds,
        **worker["kind"].numbers_of(metrics),
    }


def memory_now():
    """Bytes: the device's, where it counts them, or the process's."""
    stats = jax.devices()[0].memory_stats()
    return stats["bytes_in_use"] if stats else benchmark_memory.resident()


def memory(rival, steps):
    """Bytes at the peak of some steps, beyond those of before `build` and of the initial state that is kept."""
    peak = benchmark_memory.peak_during(functools.partial(run, rival, steps))
    if stats := jax.devices()[0].memory_stats():
        peak = stats["peak_bytes_in_use"]
    if peak is None:
        return None
    return peak - worker["memory_before"] - sum(x.nbytes for x in jax.tree.leaves(worker["state"]))


def compiled_step():
    """The step as XLA knows it."""
    if "compiled" not in worker:
        lowered = worker["step"].lower(worker["state"], worker["batch"], jax.random.key(2))
        worker["compiled"] = lowered.compile()
    return worker["compiled"]


def planned_memory():
    """Bytes that XLA plans for the step: what it is given, makes and needs in between."""
    plan = compiled_step().memory_analysis()
    made = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + plan.temp_size_in_bytes + made


def count_flops():
    """XLA's own count for the compiled step, elementwise operations included."""
    return compiled_step().cost_analysis()["flops"]


def matmul_rate(size):
    """FLOP/s of a large matrix product in the case's arithmetic: the best of five."""
    a = jax.random.normal(jax.random.key(3), (size, size), worker["case"].dtype)
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(6):  # the first compiles
        began = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])


def prepare_preset(preset, features, batch_size):
    """Builds an experiment for `run_bare` and `run_loop`."""
    from jaxgen import building, systems

    config = dataclasses.replace(systems.PRESETS[preset].config, features=features, batch_size=batch_size)
    system, dataset, *_ = building.build(config)
    batch = jax.device_put(dataset.prepare(dataset.fetch(np.arange(system.images_per_step)), jax.random.key(1)))
    step = compilation.jit(system.train_step, donate_argnums=0)
    state = system.init(jax.random.key(config.seed))
    worker.update(config=config, preset=preset, preset_state=state, preset_step=step, batch=batch)


def run_bare(steps, untimed):
    """Seconds for the jitted step of the preset alone: one batch that is on the device already, nothing written."""
    state, key = jax.tree.map(jnp.copy, worker["preset_state"]), jax.random.key(2)
    for _ in range(untimed):
        state, metrics = worker["preset_step"](state, worker["batch"], key)
    jax.block_until_ready(metrics)
    began = time.perf_counter()
    for _ in range(steps):
        state, metrics = worker["preset_step"](state, worker["batch"], key)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - began


def run_loop(steps, untimed):
    """Seconds for as many steps of the preset's whole training: between two lines of its log.

    In between lie the data, five lines of the log with TensorBoard events, a picture of samples and a checkpoint.
    """
    from jaxgen import experiment
    from jaxgen.run_directory import metrics_log

    config = dataclasses.replace(
        worker["config"],
        num_steps=untimed + 2 * steps,
        log_every=untimed,
        sample_every=untimed + steps // 2,
        checkpoint_every=untimed + steps // 2,
    )
    with tempfile.TemporaryDirectory() as directory:
        experiment.train(config, directory, preset=worker["preset"], progress=False)
        times = {line["step"]: line["time"] for line in metrics_log.read_metrics(directory)}
    return times[untimed + steps] - times[untimed]


def write_reference(path):
    """Writes what PyTorch is given, and what jaxgen makes of it; returns jaxgen's losses."""
    kind = worker["kind"]
    arrays, networks, metrics = kind.reference(worker["case"], worker["state"], worker["batch"])
    for when, by_name in networks.items():
        for name, its_network in by_name.items():
            leaves = traverse_util.flatten_dict(its_network.variables, sep="/")
            arrays |= {f"{when}/{name}/{leaf}": x for leaf, x in leaves.items()}
    np.savez(path, **{name: np.asarray(x) for name, x in arrays.items()})
    return kind.numbers_of(metrics)


if __name__ == "__main__":
    compilation.keep_memory()  # before anything is computed
    serve(
        {
            "describe": describe,
            "build": build,
            "run": run,
            "memory": memory,
            "planned_memory": planned_memory,
            "count_flops": count_flops,
            "matmul_rate": matmul_rate,
            "prepare_preset": prepare_preset,
            "run_bare": run_bare,
            "run_loop": run_loop,
            "write_reference": write_reference,
        }
    )
