"""The games of `benchmark.py` in PyTorch: what `benchmark_torch.py` times and compares, for a `Case`.

The step is that of `jaxgen/gan.py`, written as PyTorch runs it fastest: gradients set to None, the discriminator frozen
during the generator's step, fused Adam, no synchronisation, R1 on the forward pass that the loss makes anyway.

Differences that are left: what the discriminator's forward pass in the generator's step leaves behind, PyTorch keeps
and jaxgen does not. So its running statistics, which training does not use, move once more a step, and the vectors of
spectral normalisation are ahead by one power iteration more with each step; both have done it in that pass. In every
pass PyTorch's estimate of a singular value is ahead by half an iteration, for a power iteration of its own takes its
two products in the other order (`benchmark_torch_weights`).
"""

import dataclasses

import torch
from benchmark_cases import Case
from benchmark_torch_networks import NETWORKS
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


class Game:
    """Both networks of a case, its real images and its step."""

    def __init__(self, case: Case, *, joined, device, memory_format, compile_mode):
        self.case, self.compile_mode = case, compile_mode
        make_generator, make_discriminator = NETWORKS[case.network]
        form = {"joined": True} if joined else {}
        generator, discriminator, self.ema = (
            make(case, **form).to(device, memory_format=memory_format)
            for make in (make_generator, make_discriminator, make_generator)
        )
        self.networks = {"generator": generator, "discriminator": discriminator}
        real = torch.rand(case.batch_size, case.channels, case.image_size, case.image_size, device=device) * 2 - 1
        self.real = real.contiguous(memory_format=memory_format)
        adam = {"lr": case.learning_rate, "betas": (case.b1, case.b2), "fused": True}
        self.optimizers = [torch.optim.Adam(n.parameters(), **adam) for n in self.networks.values()]
        self.train_step = self._step_of(case)

    def _step_of(self, case):
        return make_train_step(case, *self.networks.values(), self.ema, self.compile_mode)

    def reset(self):
        """What else starts anew when the networks have their initial weights."""
        self.ema.load_state_dict(self.networks["generator"].state_dict())

    def step(self):
        """One step on numbers that are drawn; returns its losses."""
        case, device = self.case, self.real.device
        z = torch.randn(case.batch_size, case.latent_dim, device=device)
        uniform = torch.rand(case.batch_size, 1, 1, 1, device=device) if case.penalty == "gradient_penalty" else None
        return self.train_step(self.optimizers, self.real, z, uniform)

    def take(self, arrays):
        """Real images, latents and points between images as jaxgen has them."""
        device = self.real.device
        self.real.copy_(arrays["real"].permute(0, 3, 1, 2))
        self.z, self.uniform = (arrays[name].to(device) for name in ("z", "uniform"))

    def outputs(self):
        """What one forward pass of each network makes of them, as jaxgen has it."""
        generator, discriminator = self.networks.values()
        return {"images": generator(self.z).permute(0, 2, 3, 1), "logits": discriminator(self.real)}

    def descend(self, optimizers):
        """One step on them in float32; returns its losses, and gradients to compare, of which there are none here."""
        train_step = self.train_step
        if self.case.dtype != "float32":
            train_step = self._step_of(dataclasses.replace(self.case, dtype="float32"))
        uniform = self.uniform if self.case.penalty == "gradient_penalty" else None
        return train_step(optimizers, self.real, self.z, uniform), {}
