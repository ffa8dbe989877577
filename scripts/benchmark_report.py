"""What `benchmark.py` prints of its results."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine_lines(machine: dict[str, Any]) -> Iterator[str]:
    """What it was measured on, in words."""
    yield f"{machine['date']}  {machine['processor']}, {machine['threads']} of {machine['cores']} threads"
    for name in ("jax", "torch"):
        if name in machine:
            yield f"{name}: " + ", ".join(f"{key} {value}" for key, value in machine[name].items())
    if machine["load_before"] > 0.5:
        line = f"The machine was busy before this began (load {machine['load_before']:.1f}): expect noise."
        # PyTorch's threads wait for each other busily: on two cores at load 5 its steps took six times the CPU time.
        if machine["threads"] > 1:
            line += " PyTorch's threads suffer more from that than JAX's: ratios are fair with --threads 1 alone."
        yield line


def case_lines(result: dict[str, Any]) -> Iterator[str]:
    """One case as a table."""
    case, limit = result["case"], result["limit"]
    parameters = " + ".join(f"{n:,}" for n in result["parameters"]) + " parameters"
    if "features" not in case:
        networks = f"the networks of {case['preset']}"
        networks += "".join(f", {name} {value}" for name, value in case["changes"].items())
    else:
        networks = f"{case['features']} {'base filters' if 'loss' in case else 'features'}"
    players = " (generator + discriminator)" if len(result["parameters"]) == 2 else ""
    yield (
        f"{case['name']}, {case['dtype']}: batch {case['batch_size']}, {case['image_size']}x{case['image_size']}x"
        f"{case['channels']}, {networks}; {parameters}{players}"
    )
    work = ""
    if flops := result.get("flops"):
        work = f"a step is {flops['hand'] / 1e9:.3g} GFLOP by hand, {flops['xla'] / 1e9:.3g} by XLA's count; "
    rate = limit["flops_per_second"]["median"]
    yield (
        f"{work}limit {rate / 1e9:,.0f} GFLOP/s, a {limit['size']}-square matrix product in {limit['better']}; "
        f"{len(limit['rounds'])} rounds of {result['steps_per_round']} steps; median (min-max)"
    )
    rows = [("", "steps/s", "images/s", "of limit", "memory", "first step", "jaxgen / this", "jaxgen-loop / this")]
    for rival, info in result["rivals"].items():
        ratios = [result["ratios"].get(f"{ours} / {rival}") for ours in ("jaxgen", "jaxgen-loop")]
        rows.append(
            (
                rival,
                _range(info["steps_per_second"], ".2f"),
                _range(info["images_per_second"], ",.0f"),
                f"{info['share_of_limit']['median']:.0%}" if "share_of_limit" in info else "",
                f"{info['memory'] / 2**20:,.0f} MiB" if info.get("memory") is not None else "",
                f"{info['first_step_seconds']:.1f} s",
                *("" if ratio is None else _range(ratio, ".2f") for ratio in ratios),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for rival, info in result["rivals"].items():
        if "check" in info:
            verdict = "the same" if info["check"]["same"] else "SOMETHING ELSE"
            yield f"  {rival} computes {verdict}: {', '.join(_differences(info['check']['differences']))}"
    for rival, error in result["failed"].items():
        yield f"  {rival} failed: {error}"


def _differences(found):
    outputs = {"images": "images", "logits": "logits", "output": "outputs"}
    parts = [f"{what} by {found[name]:.1e}" for name, what in outputs.items() if name in found]
    parts[0] = parts[0].replace(" by", " differ by")
    steps = max(difference for name, difference in found.items() if name.endswith("_step"))
    parts.append(f"one step of the weights by {steps:.1e} of its length")
    if "power_iteration" in found:
        parts.append(f"one of the power iteration by {found['power_iteration']:.1e}")
    gradients = [difference for name, difference in found.items() if name.endswith("_gradient")]
    if gradients:
        parts.append(f"gradients in what is given by {max(gradients):.1e}")
    return parts


def _range(numbers, form):
    return f"{numbers['median']:{form}} ({numbers['min']:{form}}-{numbers['max']:{form}})"


def startup_lines(result: dict[str, Any]) -> Iterator[str]:
    """The start-up times as a table."""
    yield "startup: seconds from starting a process to its first finished step; median (min-max)"
    for rival, by_temperature in result.items():
        times = [f"{temperature} {_range(numbers, '.1f')}" for temperature, numbers in by_temperature.items()]
        yield f"  {rival:<20}" + "   ".join(times)


def loop_lines(result: dict[str, Any]) -> Iterator[str]:
    """The cost of the loop in two lines."""
    bare, loop = (_range(result["steps_per_second"][name], ".1f") for name in ("bare", "loop"))
    yield f"loop: {result['preset']}, {result['steps']} steps a round; steps/s, median (min-max)"
    yield f"  bare step {bare}   whole loop {loop}   overhead {_range(result['overhead'], '+.1%')}"
