"""The PyTorch side of `benchmark.py`, which starts it and asks it over stdin. Needs torch and NumPy, not JAX.

The networks are in `benchmark_torch_networks.py`; the step is that of `jaxgen/gan.py`, written as PyTorch runs it
fastest: gradients set to None, the discriminator frozen during the generator's step, fused Adam, no synchronisation, R1
on the forward pass that the loss makes anyway.

Differences that are left: what the discriminator's forward pass in the generator's step leaves behind, PyTorch keeps
and jaxgen does not. So its running statistics, which training does not use, move once more a step, and the vectors of
spectral normalisation are ahead by one power iteration more with each step; both have done it in that pass. In every
pass PyTorch's estimate of a singular value is ahead by half an iteration, for a power iteration of its own takes its
two products in the other order (`_singular_vectors`).
"""

import dataclasses
import time

import numpy as np
import torch
from benchmark import Case, serve
from benchmark_torch_networks import NETWORKS, weights_from
from torch.nn.functional import relu, softplus

LOSSES = {  # of the generator by the fakes' logits, of the discriminator by the real ones' and the fakes'
    "non_saturating": (lambda fake: softplus(-fake), lambda real, fake: softplus(-real) + softplus(fake)),
    "wasserstein": (lambda fake: -fake, lambda real, fake: fake - real),
    "hinge": (lambda fake: -fake, lambda real, fake: relu(1 - real) + relu(1 + fake)),
}


def make_train_step(case, generator, discriminator, ema, compile_mode):
    """Builds `train_step(optimizers, real, z, uniform) -> metrics`, which changes the networks in place.

    Args:
      case: the work.
      generator, discriminator, ema: the networks.
      compile_mode: of torch.compile; None for eager.

    Returns:
      A function of the pair (generator's optimizer, discriminator's optimizer), real images, latents, and the places
      of the gradient penalty between real and fake, [B, 1, 1, 1] (None without it).
    """
    device = next(generator.parameters()).device.type
    loss_by_fake, loss_by_both = LOSSES[case.loss]

    def autocast():
        return torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16")

    def logits_and_squared_gradient_norm(x):
        """torch.compile cannot differentiate twice through autograd.grad, but through func.grad it can."""
        if compile_mode:

            def total(x):
                logits = discriminator(x)
                return logits.sum(), logits

            gradient, logits = torch.func.grad(total, has_aux=True)(x)
        else:
            x = x.detach().requires_grad_()
            logits = discriminator(x)
            (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return logits, gradient.square().sum((1, 2, 3))

    def discriminator_loss(real, fake, uniform):
        penalty = torch.zeros((), device=real.device)
        with autocast():
            if case.penalty == "r1":
                real_logits, squared = logits_and_squared_gradient_norm(real)
                penalty = case.penalty_weight / 2 * squared.mean()
            else:
                real_logits = discriminator(real)
            if case.penalty == "gradient_penalty":
                _, squared = logits_and_squared_gradient_norm(uniform * real + (1 - uniform) * fake)
                penalty = case.penalty_weight * (squared.sqrt() - 1).square().mean()
            fake_logits = discriminator(fake)
        return loss_by_both(real_logits, fake_logits).mean(), penalty

    def generator_loss(fake):
        with autocast():
            fake_logits = discriminator(fake)
        return loss_by_fake(fake_logits).mean()

    def generate(z):
        with autocast():
            return generator(z)

    if compile_mode:
        generate, discriminator_loss, generator_loss = (
            torch.compile(f, mode=compile_mode) for f in (generate, discriminator_loss, generator_loss)
        )

    weights = list(generator.parameters())
    averages = list(ema.parameters())

    def train_step(optimizers, real, z, uniform):
        generator_optimizer, discriminator_optimizer = optimizers
        torch.compiler.cudagraph_mark_step_begin()
        fake = generate(z)
        discriminator.requires_grad_(True)
        loss_of_discriminator, penalty = discriminator_loss(real, fake.detach(), uniform)
        discriminator_optimizer.zero_grad(set_to_none=True)
        (loss_of_discriminator + penalty).backward()
        discriminator_optimizer.step()
        discriminator.requires_grad_(False)
        loss_of_generator = generator_loss(fake)
        generator_optimizer.zero_grad(set_to_none=True)
        loss_of_generator.backward()
        generator_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - case.ema_decay)
        return {
            "generator_loss": loss_of_generator.detach(),
            "discriminator_loss": loss_of_discriminator.detach(),
            "penalty": penalty.detach(),
        }

    return train_step


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
    torch.set_num_threads(threads)
    set_precision(tf32)
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)  # as XLA does
    torch.manual_seed(0)
    case = Case(**case)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory_format = torch.contiguous_format if rival == "torch" else torch.channels_last
    make_generator, make_discriminator = NETWORKS[case.network]
    form = {"joined": True} if rival == "torch-joined" else {}
    generator, discriminator, ema = (
        make(case, **form).to(device, memory_format=memory_format)
        for make in (make_generator, make_discriminator, make_generator)
    )
    real = torch.rand(case.batch_size, case.channels, case.image_size, case.image_size, device=device) * 2 - 1
    worker.update(
        case=case,
        compile_mode=compile_mode if rival == "torch-compile" else None,
        tf32=tf32,
        generator=generator,
        discriminator=discriminator,
        ema=ema,
        real=real.contiguous(memory_format=memory_format),
    )
    with torch.no_grad():
        for parameter in (*generator.parameters(), *discriminator.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
    worker["initial"] = [copy_of(network) for network in (generator, discriminator)]
    adam = {"lr": case.learning_rate, "betas": (case.b1, case.b2), "fused": True}
    worker["optimizers"] = [torch.optim.Adam(n.parameters(), **adam) for n in (generator, discriminator)]
    worker["train_step"] = make_train_step(case, generator, discriminator, ema, worker["compile_mode"])
    return {"parameters": [sum(p.numel() for p in network.parameters()) for network in (generator, discriminator)]}


def copy_of(network):
    """Weights and running statistics that do not change any more."""
    return {name: x.detach().clone() for name, x in network.state_dict().items()}


def draw():
    """The numbers of one step."""
    case, device = worker["case"], worker["real"].device
    z = torch.randn(case.batch_size, case.latent_dim, device=device)
    uniform = torch.rand(case.batch_size, 1, 1, 1, device=device) if case.penalty == "gradient_penalty" else None
    return z, uniform


def synchronize():
    """Waits for the GPU."""
    if worker["real"].is_cuda:
        torch.cuda.synchronize()


def reset():
    """Back to the initial weights."""
    for network, initial in zip((worker["generator"], worker["discriminator"]), worker["initial"], strict=True):
        network.load_state_dict(initial)
    worker["ema"].load_state_dict(worker["initial"][0])
    for optimizer in worker["optimizers"]:
        optimizer.state.clear()


def run(rival, steps):
    """Times steps from the initial weights on, after one that is not timed."""
    del rival
    reset()
    synchronize()
    began = time.perf_counter()
    metrics = worker["train_step"](worker["optimizers"], worker["real"], *draw())
    synchronize()
    untimed = time.perf_counter() - began
    began, began_processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        metrics = worker["train_step"](worker["optimizers"], worker["real"], *draw())
    synchronize()
    seconds = time.perf_counter() - began
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_untimed": untimed,
        "cores_busy": (time.process_time() - began_processor) / seconds,
        "generator_loss": float(metrics["generator_loss"]),
        "discriminator_loss": float(metrics["discriminator_loss"]),
    }


def matmul_rate(size):
    """FLOP/s of a large matrix product in the case's arithmetic: the best of five."""
    a = torch.randn(size, size, device=worker["real"].device, dtype=getattr(torch, worker["case"].dtype))
    seconds = []
    for _ in range(6):
        synchronize()
        began = time.perf_counter()
        torch.matmul(a, a)
        synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])


# The comparison with jaxgen


def compare(path):
    """Runs one step of gradient descent in float32 from jaxgen's weights; from now on `run` starts at jaxgen's, too.

    Returns:
      Relative to the largest, the largest difference of the images and of the logits; relative to the length of each
      player's step, and of what a forward pass does to the vectors of spectral normalisation, that of the difference;
      and the losses, for the caller to compare.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    generator, discriminator = worker["generator"], worker["discriminator"]
    device, real = worker["real"].device, worker["real"]

    real.copy_(torch.from_numpy(arrays["real"]).to(device).permute(0, 3, 1, 2))
    networks = {"generator": generator, "discriminator": discriminator}
    initial, before, moved, after = (
        {name: weights_from(arrays, f"{when}/{name}", network) for name, network in networks.items()}
        for when in ("initial", "before", "moved", "after")
    )

    def load(weights):
        for name, network in networks.items():
            missing, unexpected = network.load_state_dict(weights[name], strict=False)
            missing = [key for key in missing if not key.endswith("num_batches_tracked")]
            if missing or unexpected:
                raise ValueError(f"the {name}s differ: jaxgen's has no {missing}, PyTorch's no {unexpected}")

    load(initial)
    worker["initial"] = [copy_of(generator), copy_of(discriminator)]
    load(before)
    set_precision(False)
    z = torch.from_numpy(arrays["z"]).to(device)
    with torch.no_grad():
        fake, logits = generator(z), discriminator(real)
    after_pass = copy_of(discriminator)
    load(before)
    descent = [torch.optim.SGD(n.parameters(), float(arrays["learning_rate"])) for n in (generator, discriminator)]
    case, step = worker["case"], worker["train_step"]
    if case.dtype != "float32":
        case = dataclasses.replace(case, dtype="float32")
        step = make_train_step(case, generator, discriminator, worker["ema"], worker["compile_mode"])
    uniform = torch.from_numpy(arrays["uniform"]).to(device) if case.penalty == "gradient_penalty" else None
    metrics = step(descent, real, z, uniform)
    set_precision(worker["tf32"])

    def largest_difference(found, name):
        return float(np.abs(found.cpu().numpy() - arrays[name]).max() / np.abs(arrays[name]).max())

    def step_difference(name, found, after):
        error = sum(float((found[k].detach().cpu() - after[name][k]).square().sum()) for k in found)
        length = sum(float((before[name][k] - after[name][k]).square().sum()) for k in found)
        return (error / length) ** 0.5

    differences = {
        "images": largest_difference(fake.permute(0, 2, 3, 1), "images"),
        "logits": largest_difference(logits, "logits"),
        "generator_step": step_difference("generator", dict(generator.named_parameters()), after),
        "discriminator_step": step_difference("discriminator", dict(discriminator.named_parameters()), after),
    }
    vectors = {name: x for name, x in after_pass.items() if name.endswith("._u")}
    if vectors:
        differences["power_iteration"] = step_difference("discriminator", vectors, moved)
    return differences | {name: float(value) for name, value in metrics.items()}


if __name__ == "__main__":
    serve({"describe": describe, "build": build, "run": run, "matmul_rate": matmul_rate, "compare": compare})
