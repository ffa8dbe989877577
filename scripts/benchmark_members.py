"""Times sweeps: many small GANs in one compiled program, beside one GAN after the other, and beside PyTorch.

    python scripts/benchmark_members.py                                            # 64 members, on this machine
    python scripts/benchmark_members.py --members 1 16 64 256 --json result.json   # where a machine saturates
    python scripts/benchmark_members.py --torch-python ~/torch/bin/python          # PyTorch from another environment

The work: GANs of the ring of eight, generator 2-128-128-2 and discriminator 2-128-128-1 with ReLU, batch 256, Adam,
alternating updates; every member has rates of its own, and data and latents are drawn anew for each step. The unit is
a GAN-step: one update of both players of one member. Rivals, each in a process of its own that sleeps while another is
timed:

    program     `sweep.run`: all members in one program, divided over the cores as a sweep divides them
    loop        one member after the other, the same step under jax.jit, one dispatch a step; compiled once for all,
                since the rates are arguments
    scan        the same, all steps of a member in one dispatch
    torch       one member after the other, eager PyTorch, its Adam as it is by default
    torch-fused the same with the fused Adam

GAN-steps/s of one GAN after the other do not depend on the number of members, so all but the program time a few.
Compilation is left out. Ratios are taken within a round. That PyTorch does the same work is checked: given jaxgen's
weights, points and latents, both losses and the lengths of both gradients must be equal.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from benchmark_workers import WorkerError, serve, worker, worker_environment

HERE = pathlib.Path(__file__).parent
TORCH = ("torch", "torch-fused")
RIVALS = ("program", "loop", "scan", *TORCH)
RING_STD = 0.01
TOLERANCE = 1e-4


# The side of jaxgen. JAX is imported here only, so that the parent does without it.


def jaxgen_worker() -> None:
    """Answers the parent's requests."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax import lax

    from jaxgen.data import toy
    from jaxgen.losses import adversarial
    from jaxgen.models import mlp
    from jaxgen.stability import members, sweep

    # A sweep is compiled anew in each round: from this cache, in a moment.
    cache = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", cache.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def workload(width, batch_size):
        generator, discriminator = mlp.Generator(widths=(width, width)), mlp.Discriminator(widths=(width, width))
        program = members.gan(generator, discriminator, latent_dim=2, name=f"benchmark, {width}")
        data = sweep.stream(lambda key: toy.ring(key, batch_size, std=RING_STD))
        return generator, discriminator, program, data

    def settings(number):
        rates = np.geomspace(1e-4, 1e-3, number)
        return {"generator_rate": rates, "discriminator_rate": 2 * rates, "seed": np.arange(number)}

    def time_program(number, num_steps, width, batch_size):
        *_, program, data = workload(width, batch_size)
        result = sweep.run(program, data, settings(number), num_steps=num_steps, num_records=1)
        if not result.table["finite"].all():
            raise FloatingPointError("a member of the sweep is not finite")
        return result.seconds

    compiled = {}

    def one_after_the_other(number, num_steps, width, batch_size, steps_in_a_dispatch):
        *_, program, data = workload(width, batch_size)

        def advance(row, state, first_step):
            def one(step, state):
                return program.step(row, state, data.batch((), step), jax.random.key(0))[0]

            return lax.fori_loop(first_step, first_step + steps_in_a_dispatch, one, state)

        signature = width, batch_size, steps_in_a_dispatch
        if signature not in compiled:
            compiled[signature] = jax.jit(program.init), jax.jit(advance, donate_argnums=1)
        init, advance = compiled[signature]
        rows = settings(number)
        rows = [{name: jnp.asarray(values[i]) for name, values in rows.items()} for i in range(number)]
        states = [init(row, jax.random.fold_in(jax.random.key(0), row["seed"])) for row in rows]
        jax.block_until_ready(advance(rows[0], jax.tree.map(jnp.copy, states[0]), jnp.int32(0)))
        begin = time.perf_counter()
        for row, state in zip(rows, states, strict=True):
            for step in range(0, num_steps, steps_in_a_dispatch):
                state = advance(row, state, np.int32(step))
            jax.block_until_ready(state)
        return time.perf_counter() - begin

    def reference(path, width, batch_size):
        """Weights, points and latents to a file; both losses and the lengths of both gradients."""
        generator, discriminator, program, data = workload(width, batch_size)
        row = {name: jnp.asarray(values[0]) for name, values in settings(1).items()}
        state = program.init(row, jax.random.key(0))
        real = data.batch((), 0)["image"]
        z = jax.random.normal(jax.random.key(1), (batch_size, 2))
        theta, psi = state.generator.params, state.discriminator.params
        loss = adversarial.non_saturating

        def logits(psi, theta):
            fake = generator.apply({"params": theta}, z, train=True)
            return tuple(discriminator.apply({"params": psi}, x, train=True) for x in (real, fake))

        def generator_loss(theta):
            return jnp.mean(loss.generator(*logits(psi, theta)))

        def discriminator_loss(psi):
            return jnp.mean(loss.discriminator(*logits(psi, theta)))

        found = {}
        for player, objective, params in (
            ("generator", generator_loss, theta),
            ("discriminator", discriminator_loss, psi),
        ):
            value, gradient = jax.value_and_grad(objective)(params)
            found |= {f"{player}_loss": float(value), f"{player}_gradient": float(optax.tree.norm(gradient))}
        arrays = {
            f"{player}/{layer}/{name}": np.asarray(value)
            for player, params in (("generator", theta), ("discriminator", psi))
            for layer, values in params.items()
            for name, value in values.items()
        }
        np.savez(path, real=np.asarray(real), z=np.asarray(z), **arrays)
        return found

    serve(
        {
            "describe": lambda: {
                "backend": jax.default_backend(),
                "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
                "version": jax.__version__,
            },
            "reference": reference,
            "program": time_program,
            "loop": lambda **work: one_after_the_other(**work, steps_in_a_dispatch=1),
            "scan": lambda **work: one_after_the_other(**work, steps_in_a_dispatch=work["num_steps"]),
        }
    )


# The parent


def start_workers(stack, rivals, threads, torch_python):
    """rival -> ask. The program's worker sees one device for each core, the others one."""
    environment = worker_environment(threads, "")
    jaxgen = [sys.executable, str(pathlib.Path(__file__)), "--worker"]
    torch = [torch_python, str(HERE / "benchmark_members_torch.py")]
    found, shared = {}, {}
    for rival in rivals:
        if rival == "program":
            found[rival] = stack.enter_context(worker(jaxgen, environment | {"JAX_NUM_CPU_DEVICES": str(threads)}))
            continue
        kind = "torch" if rival in TORCH else "jaxgen"
        if kind not in shared:
            shared[kind] = stack.enter_context(worker(torch if kind == "torch" else jaxgen, environment))
        found[rival] = shared[kind]
    return found


def check(asks, work):
    """Raises a WorkerError unless PyTorch computes what jaxgen does; returns the largest relative difference."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "weights.npz")
        ours = next(iter(asks.values()))("reference", path=path, **work)
        theirs = next(ask for rival, ask in asks.items() if rival in TORCH)("reference", path=path, **work)
    worst = max(abs(theirs[name] / ours[name] - 1) for name in ours)
    if not worst < TOLERANCE:
        raise WorkerError(f"PyTorch does other work than jaxgen: {theirs} against {ours}")
    return worst


def measure(asks, work, numbers, few, num_steps, rounds, tell):
    """rival (for programs with its number of members) -> GAN-steps/s of each round, in turns."""
    found = {}
    for index in range(rounds + 1):  # the first compiles and warms up, and does not count
        for rival, ask in asks.items():
            for number in numbers if rival == "program" else [few]:
                seconds = ask(rival, number=number, num_steps=num_steps, **work)
                name = f"program of {number}" if rival == "program" else rival
                if index:
                    found.setdefault(name, []).append(number * num_steps / seconds)
                time.sleep(0.2)
        tell(f"round {index} of {rounds}" + ("" if index else " (to warm up)"))
    return found


def ratios(found):
    """Median over rounds of each program's GAN-steps/s by each other rival's: (program, rival) -> ratio."""
    others = [name for name in found if not name.startswith("program")]
    return {
        (name, other): statistics.median(a / b for a, b in zip(found[name], found[other], strict=True))
        for name in found
        if name.startswith("program")
        for other in others
    }


def main(arguments=None) -> int:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[64], help="numbers of members of the program")
    parser.add_argument("--few", type=int, default=4, help="members that the rivals train one after the other")
    parser.add_argument("--steps", type=int, default=200, help="of each member in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=128, help="of the hidden layers")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=["program", "loop", "scan"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--torch-python", help="an interpreter with PyTorch; adds it to the rivals")
    parser.add_argument("--json", help="a file for all numbers")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        jaxgen_worker()
        return 0
    for name in ("few", "steps", "rounds", "batch_size", "width", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    if min(options.members) < 1:
        parser.error(f"--members must be at least 1, not {min(options.members)}")
    rivals = [rival for rival in RIVALS if rival in options.rivals or (rival in TORCH and options.torch_python)]
    if set(rivals) <= set(TORCH):
        parser.error("torch alone has nothing to be compared with")
    options.torch_python = options.torch_python or sys.executable
    work = {"width": options.width, "batch_size": options.batch_size}
    with contextlib.ExitStack() as stack:
        asks = start_workers(stack, rivals, options.threads, options.torch_python)
        try:
            described = {rival: ask("describe") for rival, ask in asks.items()}
            difference = check(asks, work) if set(rivals) & set(TORCH) else None
            found = measure(
                asks,
                work,
                options.members,
                options.few,
                options.steps,
                options.rounds,
                lambda line: print(line, file=sys.stderr, flush=True),
            )
        except WorkerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    compared = ratios(found)
    for rival, what in described.items():
        print(f"{rival:12s}{what['backend']}, {what['device']}, {what['version']}")
    if difference is not None:
        print(f"losses and gradients of PyTorch and jaxgen differ by {difference:.1e} at most")
    print(f"\n{'GAN-steps/s, median of ' + str(options.rounds) + ' rounds':40s}{'':>10s}   (lowest to highest)")
    for name, rates in found.items():
        print(f"{name:40s}{statistics.median(rates):10,.0f}   ({min(rates):,.0f} to {max(rates):,.0f})")
    for (name, other), ratio in compared.items():
        print(f"{name} / {other:20s}{ratio:8.2f}")
    if options.json:
        record = {
            "work": work | {"steps": options.steps, "rounds": options.rounds, "few": options.few},
            "threads": options.threads,
            "rivals": described,
            "largest_difference": difference,
            "gan_steps_per_second": found,
            "ratios": [{"of": name, "to": other, "median": ratio} for (name, other), ratio in compared.items()],
        }
        pathlib.Path(options.json).write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
