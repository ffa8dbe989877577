"""SSGAN for 32 pixels, as in `jaxgen/systems/ssgan.py`: SNGAN, whose discriminator also tells turned images apart."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

from rivals import game
from rivals.residual import DiscriminatorBlock, spectral
from rivals.wgan_gp import Generator


class Discriminator(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] -> (logits [B], logits of turns [B, 4])."""

    def __init__(self, width, channels):
        super().__init__()
        self.blocks = [f"DiscriminatorBlock_{i}" for i in range(4)]
        for i, name in enumerate(self.blocks):
            inner = width if i else channels
            self.add_module(name, DiscriminatorBlock(inner, width, width, i < 2, i == 0, spectral))
        self.Dense_0, self.Dense_1 = spectral(nn.Linear(width, 1)), spectral(nn.Linear(width, 4))

    def forward(self, x):
        for name in self.blocks:
            x = getattr(self, name)(x)
        h = relu(x).float().sum((2, 3))
        return self.Dense_0(h)[:, 0].float(), self.Dense_1(h).float()


class Rival(game.Rival):
    """Both; a quarter of a batch is turned by each number of quarters."""

    def make_generator(self):
        """A new one."""
        return Generator(self.settings["latent_dim"], self.settings["generator_features"], self.case.channels)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.settings["discriminator_features"], self.case.channels)

    def turned(self, images):
        """How badly it is told by how many quarters images were turned."""
        parts = [images[k::4].rot90(k, (2, 3)) for k in range(4)]
        quarters = torch.cat([torch.full(part.shape[:1], k, device=images.device) for k, part in enumerate(parts)])
        return cross_entropy(self.discriminator(torch.cat(parts))[1], quarters)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake):
        """The loss, and turns of real images."""
        with self.autocast():
            (real_logits, _), (fake_logits, _) = self.discriminator(real), self.discriminator(fake)
            turned = self.turned(real)
        loss = self.loss_by_both(real_logits, fake_logits).mean()
        return loss, {"turned": self.settings["discriminator_turned"] * turned}

    def generator_objective(self, fake, real, told):
        """The loss, and turns of fake images."""
        with self.autocast():
            (fake_logits, _), turned = self.discriminator(fake), self.turned(fake)
        return self.loss_by_fake(fake_logits).mean(), {"turned": self.settings["generator_turned"] * turned}
