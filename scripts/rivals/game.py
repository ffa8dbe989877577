"""One step of two players, as PyTorch runs it fastest.

It is jaxgen's step (`jaxgen/gan.py`): discriminator updates, each on images of its own, then one of the generator on
the last one's fake images. The discriminator is frozen during the generator's turn, and earlier fake images are made
without a graph. As in `benchmark_torch_gan` PyTorch keeps what forward passes of the generator's turn do to statistics
and spectral vectors.
"""

import torch
from benchmark_torch_gan import LOSSES
from torch.nn.functional import softplus

from rivals.base import Base, follow, optimizer_of

# Of the relativistic loss the generator's is by how far fake logits are above the real ones.
LOSSES = LOSSES | {"relativistic": (lambda above: softplus(-above), lambda real, fake: softplus(fake - real))}
LOSSES["least_squares"] = (
    lambda fake: 0.5 * (fake - 1).square(),
    lambda real, fake: 0.5 * ((real - 1).square() + fake.square()),
)
# Of the relativistic average one each is of both kinds of logits, the generator's with these swapped.
LOSSES["relativistic_average"] = (
    None,
    lambda real, fake: softplus(fake.mean() - real) + softplus(fake - real.mean()),
)


def first_of(output):
    """What a network is for, of what it returned: that, or a tuple with more."""
    return output[0] if isinstance(output, tuple) else output


class Rival(Base):
    """Two players, their real images and their step. A system replaces what it has otherwise.

    Attributes:
      parts: name -> what each update of the discriminator is given of the batch: update i of k rows i, i + k, ...
      update: the one that inputs are drawn for; -1: the last, and the generator's turn.
    """

    def __init__(self, case, *, joined, device, memory_format, compile_mode):
        del joined  # there is one form
        super().__init__(case, device=device, memory_format=memory_format, compile_mode=compile_mode)
        self.loss_by_fake, self.loss_by_both = LOSSES[self.settings["loss"]]
        self.generator, self.discriminator, self.ema = (
            self.placed(make()) for make in (self.make_generator, self.make_discriminator, self.make_generator)
        )
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimizers = [optimizer_of(network, self.settings[name]) for name, network in self.networks.items()]
        self.updates, self.batch_size = self.settings["num_discriminator_steps"], case.batch_size
        self.run_generate, self.run_discriminator_objective, self.run_generator_objective = self.compiled(
            self.generate, self.discriminator_objective, self.generator_objective
        )
        self._divide()

    def _divide(self):
        def part(x, i):
            x = x[i :: self.updates]
            return x.contiguous(memory_format=self.memory_format) if x.ndim == 4 else x

        self.parts = {name: [part(x, i) for i in range(self.updates)] for name, x in self.batch.items()}

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
        """(the loss, terms by name)."""
        with self.autocast():
            fake_logits = self.discriminator(fake, *told)
        return self.loss_by_fake(fake_logits).mean(), {}

    def generator_terms(self, inputs, output):
        """What else is added to it, by name, of the generator's arguments and of what it made of them."""
        return {}

    def adversarial_weight(self, loss, terms):
        """Of the loss in the generator's objective."""
        return 1.0

    # What they share

    def generate(self, *inputs):
        """Images, first if there is more."""
        with self.autocast():
            return self.generator(*inputs)

    def judged(self, x, *told):
        """Logits, of whose sum penalties are."""
        return self.discriminator(x, *told)

    def logits_and_squared_gradient_norm(self, x, *told):
        """(D(x), |grad_x D(x)|^2), both [B]. torch.compile cannot differentiate autograd.grad, but func.grad it can."""
        if self.compile_mode:

            def total(x):
                logits = self.judged(x, *told)
                return logits.sum(), logits

            gradient, logits = torch.func.grad(total, has_aux=True)(x)
        else:
            x = x.detach().requires_grad_()
            logits = self.judged(x, *told)
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
        self.update = -1
        inputs = self.draw_inputs()
        output = self.run_generate(*inputs)
        fake = first_of(output)
        self.discriminator.requires_grad_(True)
        for i in range(self.updates):
            self.update = i
            shown_inputs, shown = inputs, fake.detach()
            if i < self.updates - 1:
                with torch.no_grad():
                    shown_inputs = self.draw_inputs()
                    shown = first_of(self.run_generate(*shown_inputs))
            told = self.told_of_real(i), self.told_of_fake(shown_inputs)
            loss, terms = self.run_discriminator_objective(self.parts["image"][i], shown, *told, *self.draw_points())
            of_discriminator.zero_grad(set_to_none=True)
            (loss + sum(terms.values())).backward()
            of_discriminator.step()
        metrics = {"discriminator_loss": loss.detach()} | {name: x.detach() for name, x in terms.items()}
        self.discriminator.requires_grad_(False)
        loss, terms = self.run_generator_objective(fake, self.parts["image"][-1], self.told_of_fake(inputs))
        terms = terms | self.generator_terms(inputs, output)
        of_generator.zero_grad(set_to_none=True)
        (self.adversarial_weight(loss, terms) * loss + sum(terms.values())).backward()
        of_generator.step()
        follow(self.ema, self.generator, self.ema_decay)
        self.steps += 1
        return metrics | {"generator_loss": loss.detach()} | {name: x.detach() for name, x in terms.items()}

    # What `benchmark_torch` asks

    def reset(self):
        """The average starts anew, too."""
        super().reset()
        self.ema.load_state_dict(self.generator.state_dict())

    def take(self, arrays):
        """A batch and drawn numbers as jaxgen has them."""
        super().take(arrays)
        self._divide()

    def outputs(self):
        """What one forward pass of each network makes of them, as jaxgen has it."""
        self.draw.recorded, self.update = iter(self.drawn), 0
        images = first_of(self.generator(*self.draw_inputs()))
        logits = first_of(self.discriminator(self.parts["image"][0], *self.told_of_real(0)))
        return {"images": images.permute(0, 2, 3, 1), "logits": logits}
