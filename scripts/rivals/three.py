"""Encoder, decoder and discriminator, as in `jaxgen/adversarial_autoencoder.py`: all move at once.

Each moves along the gradient of its own loss, taken at its weights alone: PyTorch goes back once for each loss.
"""

import torch

from rivals.base import Base, evaluating, follow, optimizer_of

NAMES = ("encoder", "decoder", "discriminator")


class Rival(Base):
    """The three. A system has its own networks, noise and objectives."""

    def __init__(self, case, *, joined, device, memory_format, compile_mode):
        del joined  # there is one form
        super().__init__(case, device=device, memory_format=memory_format, compile_mode=compile_mode)
        makers = dict(zip(NAMES, (self.make_encoder, self.make_decoder, self.make_discriminator), strict=True))
        self.networks = {name: self.placed(make()) for name, make in makers.items()}
        self.encoder, self.decoder, self.discriminator = self.networks.values()
        self.averages = {name: self.placed(makers[name]()) for name in NAMES[:2]} if self.ema_decay else {}
        self.optimizers = [optimizer_of(network, self.settings[name]) for name, network in self.networks.items()]
        (self.run_objectives,) = self.compiled(self.objectives)
        if compile_mode:  # a graph that is gone back several times keeps what it needs
            torch._functorch.config.donated_buffer = False

    # What a system has of its own

    def make_encoder(self):
        """A new one."""
        raise NotImplementedError

    def make_decoder(self):
        """A new one."""
        raise NotImplementedError

    def make_discriminator(self):
        """A new one."""
        raise NotImplementedError

    def draw_noise(self):
        """What the objectives draw, latents of normal noise if nothing else."""
        return (self.draw(torch.randn, self.case.batch_size, self.settings["latent_dim"]),)

    def objectives(self, x, *noise):
        """({names of networks: their loss}, parts by name, what `waiting` is told) of images."""
        raise NotImplementedError

    def waiting(self, told):
        """The networks that do not move."""
        return ()

    def code_of(self, output):
        """The code of what the encoder returned."""
        return output

    def picture(self, output):
        """Images of what the decoder returned."""
        return output.clamp(-1, 1)

    # What they share

    def train_step(self, optimizers):
        """Changes the networks in place; returns losses and their parts."""
        torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            losses, parts, told = self.run_objectives(self.batch["image"], *self.draw_noise())
        found = {name: x.detach() for name, x in parts.items()}
        for i, (names, loss) in enumerate(losses.items(), 1):
            weights = [x for name in names for x in self.networks[name].parameters()]
            gradients = torch.autograd.grad(loss, weights, retain_graph=i < len(losses))
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            found |= {f"{name}_loss": loss.detach() for name in names}
        waiting = self.waiting(told)
        for (name, network), optimizer in zip(self.networks.items(), optimizers, strict=True):
            if name not in waiting:
                optimizer.step()
            if name in self.averages:
                follow(self.averages[name], network, self.ema_decay)
        self.steps += 1
        return found

    # What `benchmark_torch` asks

    def reset(self):
        """The averages start anew, too."""
        super().reset()
        for name, average in self.averages.items():
            average.load_state_dict(self.networks[name].state_dict())

    def outputs(self):
        """Reconstructions by running statistics, as jaxgen has them."""
        with evaluating(self.encoder, self.decoder):
            images = self.picture(self.decoder(self.code_of(self.encoder(self.batch["image"]))))
        return {"images": images.permute(0, 2, 3, 1)}
