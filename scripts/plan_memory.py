"""How near a plan's memory is to what a training takes, on this machine's CPU, which is the device that is at hand.

    python scripts/plan_memory.py mnist-vae mnist-dcgan

For each preset its train step is compiled as `jaxgen plan PRESET --on cpu` does, and run: what the process holds more
than before is compared with what the compiler said. Each preset has a process of its own.
"""

import os
import subprocess
import sys

os.environ["JAX_PLATFORMS"], os.environ["JAX_NUM_CPU_DEVICES"] = "cpu", "1"
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)


def measure(arguments: list[str]) -> str:
    """A row of the table."""
    import benchmark_memory
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxgen import sharding
    from jaxgen.commands import train
    from jaxgen.memory import in_words
    from jaxgen.planning import programs, reading

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    chosen = train.parse(arguments, "plan")
    parts = programs.parts_of(chosen.config, chosen.preset, None, None)
    mesh = sharding.make_mesh(1)
    program = programs.program("train", parts, mesh)
    assert program is not None
    compiled = program.run.lower(*program.arguments).compile()
    names = ["state", "tally", "indices", "key", "count", "arrays"]
    told = reading.memory(compiled, reading.arguments(compiled.as_text(), program.groups, names))

    def given():
        _, tally, indices, _, _, arrays = program.arguments
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (tally, indices))
        bad = jnp.full((), -1, jnp.int32)
        tally = zeros[0].replace(bad_step=bad)
        data = {name: np.array(parts.dataset.arrays[name]) for name in arrays}
        state = parts.system.init(jax.random.key(0))
        return sharding.replicate(mesh, (state, tally, zeros[1], jax.random.key(0), np.int32(2), data))

    jax.block_until_ready(given())  # what is compiled and kept for this is there before
    jax.block_until_ready(compiled(*given()))
    benchmark_memory.peak_during(lambda: None)  # gives back what is free
    before = benchmark_memory.resident()
    arguments_ = given()
    jax.block_until_ready(arguments_)
    benchmark_memory.peak_during(lambda: None)
    resident = benchmark_memory.resident()
    peak = benchmark_memory.peak_during(lambda: jax.block_until_ready(compiled(*arguments_)))
    assert before is not None and resident is not None and peak is not None
    rows = (
        ("arguments", sum(told[name] for name in ("state", "batch", "data", "padding")), resident - before),
        ("temporaries and results", told["temporaries"] + told["results"], peak - resident),
        ("all", told["needed"], peak - before),
    )
    cells = (f"{name} {in_words(plan)} planned, {in_words(run)} taken ({plan / run:.0%})" for name, plan, run in rows)
    return f"{' '.join(arguments)}: " + "; ".join(cells)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(measure(sys.argv[2:]), flush=True)
    else:
        for preset in sys.argv[1:]:
            subprocess.run([sys.executable, __file__, "--one", preset], check=True)
