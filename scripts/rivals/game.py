"""One step of two players, as PyTorch runs it fastest, and what `benchmark_torch.py` asks of them.

It is jaxgen's step (`jaxgen/gan.py`): discriminator updates, each on images of its own, then one of the generator on
the last one's fake images. Gradients are set to None, Adam is fused, the discriminator is frozen during the generator's
turn, earlier fake images are made without a graph, nothing waits for the device.

PyTorch is spared schedules of rates, decays and weights: they have their first value throughout. As in
`benchmark_torch_gan` it keeps what forward passes of the generator's turn do to statistics and spectral vectors.
"""

import dataclasses

import torch
from benchmark_torch_gan import LOSSES
from torch.nn.functional import softplus

# Of the relativistic loss the generator's is by how far fake logits are above the real ones.
LOSSES = LOSSES | {"relativistic": (lambda above: softplus(-above), lambda real, fake: softplus(fake - real))}


class Draws:
    """Random numbers on a device, or those that jaxgen has drawn, in its order."""

    def __init__(self, device):
        self.device, self.recorded = device, None

    def __call__(self, sampler, *shape):
        """`sampler(*shape, device=device)`; maps are [B, C, H, W]."""
        if self.recorded is None:
            return sampler(*shape, device=self.device)
        x = next(self.recorded).to(self.device)
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        if x.shape != torch.Size(shape):
            raise ValueError(f"jaxgen draws {list(x.shape)} where PyTorch draws {list(shape)}")
        return x


def integers(least, end):
    """A sampler of whole numbers from `least` to `end` - 1."""
    return lambda *shape, device: torch.randint(least, end, shape, device=device)


class Rival:
    """Two players, their real images and their step. A system replaces what it has otherwise.

    Attributes:
      case, settings: the work, and the numbers of jaxgen's preset by their names.
      draw: makes random numbers.
      steps: made so far.
    """

    def __init__(self, case, *, joined, device, memory_format, compile_mode):
        del joined  # there is one form
        self.case, self.settings, self.compile_mode = case, case.settings, compile_mode
        self.draw, self.steps, self.memory_format = Draws(device), 0, memory_format
        self.loss_by_fake, self.loss_by_both = LOSSES[self.settings["loss"]]
        self.generator, self.discriminator, self.ema = (
            make().to(device, memory_format=memory_format)
            for make in (self.make_generator, self.make_discriminator, self.make_generator)
        )
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=rule["learning_rate"], betas=(rule["b1"], rule["b2"]), fused=True)
            for network, rule in ((network, self.settings[name]) for name, network in self.networks.items())
        ]
        self.updates, self.batch_size = self.settings["num_discriminator_steps"], case.batch_size
        shape = (case.channels, case.image_size, case.image_size)
        self.real = [self._as_maps(torch.rand(case.batch_size, *shape) * 2 - 1) for _ in range(self.updates)]
        classes = integers(0, max(1, case.num_classes))
        self.label = [classes(case.batch_size, device=device) for _ in range(self.updates)]
        self.ema_decay = 0.5 ** (case.batch_size / self.settings["ema_half_life"])
        functions = (self.generate, self.discriminator_objective, self.generator_objective)
        if compile_mode:
            functions = (torch.compile(f, mode=compile_mode) for f in functions)
        self.run_generate, self.run_discriminator_objective, self.run_generator_objective = functions

    def _as_maps(self, x):
        return x.to(self.draw.device).contiguous(memory_format=self.memory_format)

    # What a system has of its own

    def make_generator(self):
        """A new one."""
        raise NotImplementedError

    def make_discriminator(self):
        """A new one."""
        raise NotImplementedError

    def draw_inputs(self):
        """The generator's arguments."""
        return (self.draw(torch.randn, self.batch_size, self.settings["latent_dim"]),)

    def told_of_fake(self, inputs):
        """What the discriminator is told beside fake images, of the generator's arguments."""
        return ()

    def told_of_real(self, i):
        """And beside the real ones of update i."""
        return ()

    def draw_points(self):
        """What the discriminator's penalties draw."""
        return ()

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake, *points):
        """(the loss, penalties and terms by name), of fake images without a graph."""
        with self.autocast():
            real_logits, fake_logits = self.discriminator(real, *told_of_real), self.discriminator(fake, *told_of_fake)
        return self.loss_by_both(real_logits, fake_logits).mean(), {}

    def generator_objective(self, fake, real, told):
        """The loss."""
        with self.autocast():
            fake_logits = self.discriminator(fake, *told)
        return self.loss_by_fake(fake_logits).mean()

    def generator_terms(self, inputs):
        """What else is added to it, by name, of the generator's arguments."""
        return {}

    # What they share

    def autocast(self):
        """The computation's dtype."""
        device = next(self.generator.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.case.dtype == "bfloat16")

    def generate(self, *inputs):
        """Images."""
        with self.autocast():
            return self.generator(*inputs)

    def logits_and_squared_gradient_norm(self, x, *told):
        """(D(x), |grad_x D(x)|^2), both [B]. torch.compile cannot differentiate autograd.grad, but func.grad it can."""
        if self.compile_mode:

            def total(x):
                logits = self.discriminator(x, *told)
                return logits.sum(), logits

            gradient, logits = torch.func.grad(total, has_aux=True)(x)
        else:
            x = x.detach().requires_grad_()
            logits = self.discriminator(x, *told)
            (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return logits, gradient.square().sum((1, 2, 3))

    def gradient_penalty(self, real, fake, uniform):
        """That of WGAN-GP, of weight `gradient_penalty`."""
        _, squared = self.logits_and_squared_gradient_norm(uniform * real + (1 - uniform) * fake)
        return self.settings["gradient_penalty"] * (squared.sqrt() - 1).square().mean()

    def train_step(self, optimizers):
        """Changes the networks in place; returns losses and terms, the discriminator's of its last update."""
        of_generator, of_discriminator = optimizers
        torch.compiler.cudagraph_mark_step_begin()
        inputs = self.draw_inputs()
        fake = self.run_generate(*inputs)
        self.discriminator.requires_grad_(True)
        for i in range(self.updates):
            shown_inputs, shown = inputs, fake.detach()
            if i < self.updates - 1:
                with torch.no_grad():
                    shown_inputs = self.draw_inputs()
                    shown = self.run_generate(*shown_inputs)
            told = self.told_of_real(i), self.told_of_fake(shown_inputs)
            loss, terms = self.run_discriminator_objective(self.real[i], shown, *told, *self.draw_points())
            of_discriminator.zero_grad(set_to_none=True)
            (loss + sum(terms.values())).backward()
            of_discriminator.step()
        metrics = {"discriminator_loss": loss.detach()} | {name: x.detach() for name, x in terms.items()}
        self.discriminator.requires_grad_(False)
        loss = self.run_generator_objective(fake, self.real[-1], self.told_of_fake(inputs))
        terms = self.generator_terms(inputs)
        of_generator.zero_grad(set_to_none=True)
        (loss + sum(terms.values())).backward()
        of_generator.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - self.ema_decay)
        self.steps += 1
        return metrics | {"generator_loss": loss.detach()} | {name: x.detach() for name, x in terms.items()}

    # What `benchmark_torch` asks

    def reset(self):
        """What else starts anew when the networks have their initial weights."""
        self.ema.load_state_dict(self.generator.state_dict())
        self.draw.recorded = None
        self.restart()

    def restart(self):
        """The next step is the first one."""
        self.steps = 0

    def step(self):
        """One step on numbers that are drawn; returns its losses."""
        return self.train_step(self.optimizers)

    def take(self, arrays):
        """Real images, labels and drawn numbers as jaxgen has them; update i of k sees images i, i + k, ..."""
        for i in range(self.updates):
            self.real[i].copy_(arrays["real"][i :: self.updates].permute(0, 3, 1, 2))
            if "label" in arrays:
                self.label[i].copy_(arrays["label"][i :: self.updates])
        self.drawn = [arrays[f"draw_{i}"] for i in range(sum(name.startswith("draw_") for name in arrays))]

    def outputs(self):
        """What one forward pass of each network makes of them, as jaxgen has it."""
        self.draw.recorded = iter(self.drawn)
        images = self.generator(*self.draw_inputs())
        logits = self.discriminator(self.real[0], *self.told_of_real(0))
        logits = logits[0] if isinstance(logits, tuple) else logits
        return {"images": images.permute(0, 2, 3, 1), "logits": logits}

    def descend(self, optimizers):
        """One step on them in float32; returns its losses, and gradients to compare, of which there are none here."""
        self.draw.recorded = iter(self.drawn)
        self.restart()
        case, self.case = self.case, dataclasses.replace(self.case, dtype="float32")
        try:
            return self.train_step(optimizers), {}
        finally:
            self.case, self.draw.recorded = case, None
