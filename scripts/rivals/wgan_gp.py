"""The residual WGAN-GP for 32 pixels, as in `jaxgen/models/wgan_gp.py`: several critic updates, a gradient penalty."""

import torch
from torch import nn
from torch.nn.functional import relu

from rivals import game
from rivals.residual import DiscriminatorBlock, GeneratorBlock, plain


class Generator(nn.Module):
    """[B, latent_dim] -> images [B, 3, 32, 32] in [-1, 1]."""

    def __init__(self, latent_dim, width, channels):
        super().__init__()
        self.Dense_0 = nn.Linear(latent_dim, 16 * width)
        self.makes_maps_of = {"Dense_0": width}
        self.unflatten = nn.Unflatten(1, (width, 4, 4))
        for i in range(3):
            self.add_module(f"GeneratorBlock_{i}", GeneratorBlock(width, width))
        self.BatchNorm_0 = nn.BatchNorm2d(width)
        self.Conv_0 = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z):
        x = self.unflatten(self.Dense_0(z))
        x = self.GeneratorBlock_2(self.GeneratorBlock_1(self.GeneratorBlock_0(x)))
        return torch.tanh(self.Conv_0(relu(self.BatchNorm_0(x))).float())


class Discriminator(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] -> logits [B], without any normalisation."""

    def __init__(self, width, channels):
        super().__init__()
        self.blocks = [f"DiscriminatorBlock_{i}" for i in range(4)]
        for i, name in enumerate(self.blocks):
            inner = channels if i == 0 else width
            self.add_module(name, DiscriminatorBlock(inner, width, width, i < 2, i == 0, plain))
        self.Dense_0 = nn.Linear(width, 1)

    def forward(self, x):
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.Dense_0(relu(x).float().mean((2, 3)))[:, 0].float()


class Rival(game.Rival):
    """Both."""

    def make_generator(self):
        """A new one."""
        return Generator(self.settings["latent_dim"], self.settings["generator_features"], self.case.channels)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.settings["discriminator_features"], self.case.channels)

    def draw_points(self):
        """Places between real and fake images."""
        return (self.draw(torch.rand, self.batch_size, 1, 1, 1),)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake, uniform):
        """The Wasserstein loss and the penalty."""
        loss, _ = super().discriminator_objective(real, fake, told_of_real, told_of_fake)
        with self.autocast():
            return loss, {"gradient_penalty": self.gradient_penalty(real, fake, uniform)}
