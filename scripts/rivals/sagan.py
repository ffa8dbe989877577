"""SAGAN for 32 pixels, as in `jaxgen/models/sagan.py`: residual players with self-attention, hinge loss."""

import torch
from torch import nn
from torch.nn.functional import relu

from rivals import game
from rivals.residual import DiscriminatorBlock, GeneratorBlock, SelfAttention, spectral


class Generator(nn.Module):
    """[B, latent_dim] -> images [B, 3, 32, 32] in [-1, 1]; the map of 16x16 attends to itself."""

    def __init__(self, latent_dim, width, channels):
        super().__init__()
        self.Dense_0 = spectral(nn.Linear(latent_dim, 16 * width))
        self.makes_maps_of = {"Dense_0": width}
        self.unflatten = nn.Unflatten(1, (width, 4, 4))
        for i in range(3):
            self.add_module(f"GeneratorBlock_{i}", GeneratorBlock(width, width, normalised=spectral))
        self.SelfAttention_0 = SelfAttention(width)
        self.BatchNorm_0 = nn.BatchNorm2d(width)
        self.Conv_0 = spectral(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z):
        x = self.unflatten(self.Dense_0(z))
        x = self.SelfAttention_0(self.GeneratorBlock_1(self.GeneratorBlock_0(x)))
        x = self.Conv_0(relu(self.BatchNorm_0(self.GeneratorBlock_2(x))))
        return torch.tanh(x.float())


class Discriminator(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] -> logits [B]."""

    def __init__(self, width, channels):
        super().__init__()
        self.blocks = [f"DiscriminatorBlock_{i}" for i in range(4)]
        for i, name in enumerate(self.blocks):
            inner, hidden = channels if i == 0 else width, width
            self.add_module(name, DiscriminatorBlock(inner, hidden, width, i < 2, i == 0, spectral))
        self.SelfAttention_0 = SelfAttention(width)
        self.Dense_0 = spectral(nn.Linear(width, 1))

    def forward(self, x):
        for name in self.blocks:
            x = getattr(self, name)(x)
            if name == "DiscriminatorBlock_0":
                x = self.SelfAttention_0(x)
        return self.Dense_0(relu(x).float().sum((2, 3)))[:, 0].float()


class Rival(game.Rival):
    """Both."""

    def make_generator(self):
        """A new one."""
        return Generator(self.settings["latent_dim"], self.settings["generator_features"], self.case.channels)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.settings["discriminator_features"], self.case.channels)
