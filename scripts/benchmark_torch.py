"""The PyTorch side of `benchmark.py`, which starts it and asks it over stdin. Needs torch and NumPy, not JAX.

What it runs is made by `benchmark_torch_gan.Game`, `benchmark_torch_stages.Training` and `rivals`. Each of them has

    networks, optimizers    the networks by name, and an optimiser for each
    reset()                 what else starts anew when the networks have their initial weights
    step()                  one step; returns its losses
    take(arrays)            what jaxgen was given, in place of what was drawn
    frozen                  networks that are not trained, by name, if there are any
    outputs()               what the networks make of that, as jaxgen has it
    descend(optimizers)     one step on that in float32; returns its losses, and gradients as jaxgen has them
"""

import contextlib
import functools
import time
from unittest import mock

import benchmark_memory
import numpy as np
import torch
from benchmark_cases import Case, Stage, System, case_from
from benchmark_torch_gan import Game
from benchmark_torch_stages import Training
from benchmark_torch_weights import copy_of, load, step_difference, weights_from
from benchmark_workers import serve
from rivals import rival_of
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

KINDS = {Case: Game, Stage: Training, System: rival_of}


def set_precision(tf32: bool) -> None:
    """The policy that JAX has by default: TF32 for matrix products and convolutions of float32, or for neither."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32


def describe(tf32):
    """What PyTorch runs on."""
    description = {"backend": "cpu", "version": torch.__version__}
    if torch.cuda.is_available():
        set_precision(tf32)
        description |= {
            "backend": "gpu",
            "device": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        }
    return description


worker = {}  # what `build` has made


def build(case, rival, tf32, threads, compile_mode):
    """Makes the networks and the step; the rest of the worker's requests are about these."""
    memory_before = 0 if torch.cuda.is_available() else benchmark_memory.resident()
    torch.set_num_threads(threads)
    set_precision(tf32)
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)  # as XLA does
    torch.manual_seed(0)
    case = case_from(case)
    work = KINDS[type(case)](
        case,
        joined=rival == "torch-joined",
        device="cuda" if torch.cuda.is_available() else "cpu",
        memory_format=torch.contiguous_format if rival == "torch" else torch.channels_last,
        compile_mode=compile_mode if rival == "torch-compile" else None,
    )
    with torch.no_grad():
        for network in work.networks.values():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.02)
    initial = {name: copy_of(network) for name, network in work.networks.items()}
    worker.update(case=case, work=work, initial=initial, tf32=tf32, memory_before=memory_before)
    worker["compiled"] = rival == "torch-compile"
    return {"parameters": [sum(p.numel() for p in network.parameters()) for network in work.networks.values()]}


def synchronize():
    """Waits for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset():
    """Back to the initial weights."""
    work = worker["work"]
    for name, network in work.networks.items():
        network.load_state_dict(worker["initial"][name])
    for optimizer in work.optimizers:
        optimizer.state.clear()
    work.reset()


def run(rival, steps):
    """Times steps from the initial weights on, after one that is not timed."""
    del rival
    reset()
    work = worker["work"]
    synchronize()
    began = time.perf_counter()
    metrics = work.step()
    synchronize()
    untimed = time.perf_counter() - began
    began, began_processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        metrics = work.step()
    synchronize()
    seconds = time.perf_counter() - began
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_untimed": untimed,
        "cores_busy": (time.process_time() - began_processor) / seconds,
        **{name: float(value) for name, value in metrics.items()},
    }


def memory(rival, steps):
    """Bytes at the peak of some steps, beyond those of before `build` and of the initial weights that are kept."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    peak = benchmark_memory.peak_during(functools.partial(run, rival, steps))
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    if peak is None:
        return None
    kept = sum(x.nbytes for weights in worker["initial"].values() for x in weights.values())
    return peak - worker["memory_before"] - kept


def matmul_rate(size):
    """FLOP/s of a large matrix product in the case's arithmetic: the best of five."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(size, size, device=device, dtype=getattr(torch, worker["case"].dtype))
    seconds = []
    for _ in range(6):
        synchronize()
        began = time.perf_counter()
        torch.matmul(a, a)
        synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])


def kept_vectors(network):
    """Names of the vectors of spectral normalisation that jaxgen keeps, too."""
    layers = [(name, layer) for name, layer in network.named_modules() if parametrize.is_parametrized(layer)]
    return {
        f"{name}.parametrizations.weight.0.{'_v' if isinstance(layer, nn.Embedding) else '_u'}"
        for name, layer in layers
    }


def moving_averages(network, before, after):
    """Buffers that a step moves in jaxgen, such as a codebook, but for what layers of PyTorch keep."""
    kept = {name: x for name, x in network.named_buffers() if "running" not in name and "parametrizations" not in name}
    return {name: x for name, x in kept.items() if name in before and not torch.equal(before[name], after[name])}


def of_contiguous_maps():
    """Batch normalisation is of contiguous maps meanwhile.

    On CPU PyTorch adds up a channels_last map number by number. Its mean is then off by 1e-5, and what twenty layers
    make of that by 1e-4, as much as any difference of the networks.
    """
    batch_norm = functional.batch_norm
    return mock.patch.object(
        functional, "batch_norm", lambda x, *others, **named: batch_norm(x.contiguous(), *others, **named)
    )


def compare(path):
    """Runs one step of gradient descent in float32 from jaxgen's weights; from now on `run` starts at jaxgen's, too.

    Returns:
      Relative to the largest, the largest difference of what the networks make; relative to the length of each
      network's step, of that of its own averages, of what a forward pass does to the vectors of spectral normalisation,
      and of each gradient, that of the difference; and the losses, for the caller to compare.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    work = worker["work"]

    def weights(when):
        return {name: weights_from(arrays, f"{when}/{name}", network) for name, network in work.networks.items()}

    def load_all(weights):
        for name, network in work.networks.items():
            load(network, weights[name])

    for name, network in getattr(work, "frozen", {}).items():
        load(network, weights_from(arrays, f"frozen/{name}", network))
    before, after = weights("before"), weights("after")
    load_all(weights("initial"))
    worker["initial"] = {name: copy_of(network) for name, network in work.networks.items()}
    load_all(before)
    set_precision(False)
    work.take({name: torch.from_numpy(x) for name, x in arrays.items() if "/" not in name})
    exactly = contextlib.nullcontext if worker["compiled"] else of_contiguous_maps
    with torch.no_grad(), exactly():
        outputs = work.outputs()
    after_pass = {name: copy_of(network) for name, network in work.networks.items()}
    load_all(before)
    descent = [torch.optim.SGD(n.parameters(), float(arrays["learning_rate"])) for n in work.networks.values()]
    with exactly():
        metrics, gradients = work.descend(descent)
    set_precision(worker["tf32"])

    differences = {}
    for name, found in outputs.items():
        differences[name] = float(np.abs(found.cpu().numpy() - arrays[name]).max() / np.abs(arrays[name]).max())
    for name, found in gradients.items():
        error = np.linalg.norm(found.cpu().numpy() - arrays[name])
        differences[name] = float(error / np.linalg.norm(arrays[name]))
    for name, network in work.networks.items():
        found = dict(network.named_parameters())
        differences[f"{name}_step"] = step_difference(found, before[name], after[name])
        if averages := moving_averages(network, before[name], after[name]):
            steps = [step_difference({key: x}, before[name], after[name]) for key, x in averages.items()]
            differences[f"{name}_averages_step"] = max(steps)
        if vectors := {key: x for key, x in after_pass[name].items() if key in kept_vectors(network)}:
            moved = step_difference(vectors, before[name], weights("moved")[name])
            differences["power_iteration"] = max(moved, differences.get("power_iteration", 0.0))
    return differences | {name: float(value) for name, value in metrics.items()}


if __name__ == "__main__":
    serve(
        {
            "describe": describe,
            "build": build,
            "run": run,
            "memory": memory,
            "matmul_rate": matmul_rate,
            "compare": compare,
        }
    )
