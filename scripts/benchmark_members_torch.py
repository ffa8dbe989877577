"""The PyTorch side of `benchmark_members.py`, which starts it and asks it over stdin. Needs torch and NumPy, not JAX.

One GAN of the ring after the other, eager, with what makes PyTorch fast at it: gradients set to None, one forward pass
of the generator for both players, no synchronisation, and no gradient norms, which jaxgen reports. Adam as
`torch.optim.Adam` is by default, or fused.
"""

import time

import numpy as np
import torch
from benchmark_workers import serve
from torch import nn
from torch.nn.functional import softplus

RING_STD = 0.01


def perceptron(width, outputs):
    """2-width-width-outputs with ReLU."""
    return nn.Sequential(
        nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    ).to(device())


def device():
    """The accelerator, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def ring(batch_size):
    """Points of eight Gaussians on a circle."""
    angles = 2 * torch.pi * torch.randint(8, (batch_size,), device=device()) / 8
    return torch.stack([angles.cos(), angles.sin()], 1) + RING_STD * torch.randn(batch_size, 2, device=device())


def discriminator_loss(discriminator, real, fake):
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z)))), mean over the batch."""
    return softplus(-discriminator(real)).mean() + softplus(discriminator(fake)).mean()


def time_members(number, num_steps, width, batch_size, fused):
    """Seconds for so many GANs, one after the other."""
    players = [(perceptron(width, 2), perceptron(width, 1)) for _ in range(number)]
    train(*players[0], 1e-4, 3, batch_size, fused)  # to warm up
    synchronise()
    begin = time.perf_counter()
    for rate, (generator, discriminator) in zip(np.geomspace(1e-4, 1e-3, number), players, strict=True):
        train(generator, discriminator, float(rate), num_steps, batch_size, fused)
    synchronise()
    return time.perf_counter() - begin


def train(generator, discriminator, rate, num_steps, batch_size, fused):
    """Alternating steps: the discriminator, then the generator on the same fake points."""
    optimizers = [
        torch.optim.Adam(player.parameters(), lr=lr, betas=(0.5, 0.999), fused=fused)
        for player, lr in ((generator, rate), (discriminator, 2 * rate))
    ]
    for _ in range(num_steps):
        real, z = ring(batch_size), torch.randn(batch_size, 2, device=device())
        fake = generator(z)
        optimizers[1].zero_grad(set_to_none=True)
        discriminator_loss(discriminator, real, fake.detach()).backward()
        optimizers[1].step()
        optimizers[0].zero_grad(set_to_none=True)
        discriminator.requires_grad_(False)
        softplus(-discriminator(fake)).mean().backward()
        discriminator.requires_grad_(True)
        optimizers[0].step()


def synchronise():
    """Waits for the accelerator."""
    if device() == "cuda":
        torch.cuda.synchronize()


def reference(path, width, batch_size):
    """Both losses and the lengths of both gradients, with jaxgen's weights, points and latents."""
    arrays = np.load(path)
    players = {"generator": perceptron(width, 2), "discriminator": perceptron(width, 1)}
    for name, player in players.items():
        for i, layer in enumerate(player[::2]):
            layer.weight.data.copy_(torch.from_numpy(arrays[f"{name}/Dense_{i}/kernel"].T.copy()))
            layer.bias.data.copy_(torch.from_numpy(arrays[f"{name}/Dense_{i}/bias"]))
    real, z = (torch.from_numpy(arrays[name]).to(device()) for name in ("real", "z"))
    generator, discriminator = players.values()
    losses = {
        "generator": softplus(-discriminator(generator(z))).mean(),
        "discriminator": discriminator_loss(discriminator, real, generator(z).detach()),
    }
    found = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, list(players[name].parameters()))
        length = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
        found |= {f"{name}_loss": loss.item(), f"{name}_gradient": length.item()}
    return found


def describe():
    """What PyTorch runs on."""
    name = torch.cuda.get_device_name() if device() == "cuda" else f"{torch.get_num_threads()} threads"
    return {"backend": device(), "device": name, "version": f"torch {torch.__version__}"}


if __name__ == "__main__":
    serve(
        {
            "describe": describe,
            "reference": reference,
            "torch": lambda **work: time_members(**work, fused=None),
            "torch-fused": lambda **work: time_members(**work, fused=True),
        }
    )
