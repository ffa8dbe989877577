"""BigGAN for 32 pixels, as in `jaxgen/models/biggan.py` without an embedding: told labels, hinge loss."""

import functools

import torch
from torch import nn
from torch.nn.functional import relu

from rivals import game
from rivals.base import integers
from rivals.residual import ConditionalBatchNorm, DiscriminatorBlock, GeneratorBlock, spectral

EPSILON = 1e-4  # of batch and spectral normalisation
normalised = functools.partial(spectral, eps=EPSILON)


class Generator(nn.Module):
    """[B, latent_dim] and labels [B] -> images [B, 3, 32, 32] in [-1, 1]."""

    def __init__(self, latent_dim, width, num_classes, channels):
        super().__init__()
        norm = functools.partial(ConditionalBatchNorm, num_classes, eps=EPSILON)
        self.Dense_0 = normalised(nn.Linear(latent_dim, 16 * width))
        self.makes_maps_of = {"Dense_0": width}
        self.unflatten = nn.Unflatten(1, (width, 4, 4))
        for i in range(3):
            self.add_module(f"GeneratorBlock_{i}", GeneratorBlock(width, width, norm, normalised))
        self.BatchNorm_0 = nn.BatchNorm2d(width, EPSILON)
        self.Conv_0 = normalised(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z, label):
        x = self.unflatten(self.Dense_0(z))
        x = self.GeneratorBlock_2(self.GeneratorBlock_1(self.GeneratorBlock_0(x, label), label), label)
        return torch.tanh(self.Conv_0(relu(self.BatchNorm_0(x))).float())


class Discriminator(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] and labels [B] -> logits [B], by projection."""

    def __init__(self, width, num_classes, channels):
        super().__init__()
        self.blocks = [f"DiscriminatorBlock_{i}" for i in range(4)]
        for i, name in enumerate(self.blocks):
            inner = channels if i == 0 else width
            self.add_module(name, DiscriminatorBlock(inner, inner, width, i < 2, i == 0, normalised))
        self.Dense_0 = normalised(nn.Linear(width, 1))
        self.Embed_0 = normalised(nn.Embedding(num_classes, width))

    def forward(self, x, label):
        for name in self.blocks:
            x = getattr(self, name)(x)
        h = relu(x).float().sum((2, 3))
        return (self.Dense_0(h)[:, 0] + (self.Embed_0(label) * h).sum(1)).float()


class Rival(game.Rival):
    """Both; labels of fake images are drawn."""

    def make_generator(self):
        """A new one."""
        width = 4 * self.settings["features"]
        return Generator(self.settings["latent_dim"], width, self.case.num_classes, self.case.channels)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(4 * self.settings["features"], self.case.num_classes, self.case.channels)

    def draw_inputs(self):
        """Latents and labels."""
        label = self.draw(integers(0, self.case.num_classes), self.batch_size)
        return (*super().draw_inputs(), label)

    def told_of_fake(self, inputs):
        """The label."""
        return inputs[1:]

    def told_of_real(self, i):
        """The label."""
        return (self.parts["label"][i],)
