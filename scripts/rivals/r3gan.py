"""R3GAN, as in `jaxgen/models/r3gan.py`: residual networks in groups, a relativistic loss, R1 and R2."""

import torch
from torch import nn
from torch.nn.functional import leaky_relu

from rivals import game
from rivals.equalised import SLOPE, downsample, upsample


class Block(nn.Module):
    """x + Conv1x1(f(Conv3x3(f(Conv1x1(x))))), the 3x3 convolution in groups, f a leaky ReLU."""

    def __init__(self, width, group_width):
        super().__init__()
        inner = 2 * width
        self.Conv_0 = nn.Conv2d(width, inner, 1)
        self.Conv_1 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_width)
        self.Conv_2 = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, x):
        y = leaky_relu(self.Conv_0(x), SLOPE)
        return x + self.Conv_2(leaky_relu(self.Conv_1(y), SLOPE))


def add_convolutions(network, widths):
    """1x1 convolutions Conv_0, Conv_1, ... where the width changes; their places."""
    places = [i for i in range(1, len(widths)) if widths[i] != widths[i - 1]]
    for number, i in enumerate(places):
        network.add_module(f"Conv_{number}", nn.Conv2d(widths[i - 1], widths[i], 1, bias=False))
    return {i: f"Conv_{number}" for number, i in enumerate(places)}


class Generator(nn.Module):
    """[B, latent_dim] -> images [B, channels, H, H]."""

    def __init__(self, latent_dim, widths, blocks, group_width, channels):
        super().__init__()
        self.num_stages, self.blocks = len(widths), blocks
        self.Dense_0 = nn.Linear(latent_dim, widths[0], bias=False)
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.convolutions = add_convolutions(self, widths)
        for i in range(self.num_stages * blocks):
            self.add_module(f"Block_{i}", Block(widths[i // blocks], group_width))
        self.last = f"Conv_{len(self.convolutions)}"
        self.add_module(self.last, nn.Conv2d(widths[-1], channels, 1, bias=False))

    def forward(self, z):
        x = self.Dense_0(z)[:, :, None, None] * self.basis
        for stage in range(self.num_stages):
            if stage in self.convolutions:
                x = getattr(self, self.convolutions[stage])(x)
            x = upsample(x) if stage else x
            for i in range(self.blocks):
                x = getattr(self, f"Block_{stage * self.blocks + i}")(x)
        return getattr(self, self.last)(x).float()


class Discriminator(nn.Module):
    """Images [B, channels, H, H] -> logits [B]."""

    def __init__(self, widths, blocks, group_width, channels):
        super().__init__()
        widths = widths[::-1]
        self.num_stages, self.blocks = len(widths), blocks
        self.convolutions = add_convolutions(self, [channels, *widths])  # the first one before stage 0
        for i in range(self.num_stages * blocks):
            self.add_module(f"Block_{i}", Block(widths[i // blocks], group_width))
        self.WeightedSum_0 = nn.Conv2d(widths[-1], widths[-1], 4, groups=widths[-1], bias=False)
        self.Dense_0 = nn.Linear(widths[-1], 1, bias=False)

    def forward(self, x):
        for stage in range(self.num_stages):
            x = downsample(x) if stage else x
            if stage + 1 in self.convolutions:
                x = getattr(self, self.convolutions[stage + 1])(x)
            for i in range(self.blocks):
                x = getattr(self, f"Block_{stage * self.blocks + i}")(x)
        return self.Dense_0(self.WeightedSum_0(x).flatten(1))[:, 0].float()


class Rival(game.Rival):
    """Both. Each penalty is of the forward pass that the loss makes anyway."""

    def make_generator(self):
        """A new one."""
        sizes = (self.settings[name] for name in ("latent_dim", "widths", "blocks", "group_width"))
        return Generator(*sizes, self.case.channels)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(*(self.settings[name] for name in ("widths", "blocks", "group_width")), self.case.channels)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake):
        """The loss and both penalties."""
        with self.autocast():
            real_logits, of_real = self.logits_and_squared_gradient_norm(real)
            fake_logits, of_fake = self.logits_and_squared_gradient_norm(fake)
        penalties = {"r1": self.settings["r1"] / 2 * of_real.mean(), "r2": self.settings["r2"] / 2 * of_fake.mean()}
        return self.loss_by_both(real_logits, fake_logits).mean(), penalties

    def generator_objective(self, fake, real, told):
        """By how far fake logits are above real ones."""
        with self.autocast():
            with torch.no_grad():
                real_logits = self.discriminator(real)
            return self.loss_by_fake(self.discriminator(fake) - real_logits).mean(), {}
