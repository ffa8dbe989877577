"""EDSR, as in `jaxgen/models/edsr.py`: residual blocks without normalisation, then shuffled pixels."""

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, relu

from rivals import restoring
from rivals.restoring import same

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's channels, black being 0 and white 1
LEVELS = 127.5  # of 255, for images in [-1, 1]


class ResidualBlock(nn.Module):
    """x + scale Conv(ReLU(Conv(x)))."""

    def __init__(self, width, scale):
        super().__init__()
        self.scale = scale
        self.Conv_0, self.Conv_1 = same(width, width), same(width, width)

    def forward(self, x):
        y = self.Conv_1(relu(self.Conv_0(x), inplace=True))
        return torch.add(x, y, alpha=self.scale)


class ShuffledEnlargement(nn.Module):
    """Convolutions to r^2 times the channels, whose numbers become r x r pixels: r = 2 as often as it takes, or 3."""

    def __init__(self, width, scale, after=nn.Identity):
        super().__init__()
        self.after = (after(),)  # no layer of its own
        self.factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        for i, factor in enumerate(self.factors):
            self.add_module(f"Conv_{i}", same(width, width * factor**2))

    def forward(self, x):
        for conv, factor in zip(self.children(), self.factors, strict=True):
            x = self.after[0](pixel_shuffle(conv(x), factor))
        return x


class EDSR(nn.Module):
    """Images [B, 3, h, w] in [-1, 1] -> [B, 3, scale h, scale w]."""

    def __init__(self, width, blocks, scale, residual_scale):
        super().__init__()
        self.register_buffer("centre", 2 * torch.tensor(MEAN)[:, None, None] - 1, persistent=False)
        self.Conv_0 = same(3, width)
        self.blocks = [f"ResidualBlock_{i}" for i in range(blocks)]
        for name in self.blocks:
            self.add_module(name, ResidualBlock(width, residual_scale))
        self.Conv_1 = same(width, width)
        self.ShuffledEnlargement_0 = ShuffledEnlargement(width, scale)
        self.Conv_2 = same(width, 3)

    def forward(self, x):
        y = head = self.Conv_0(LEVELS * (x - self.centre))
        for name in self.blocks:
            y = getattr(self, name)(y)
        y = self.ShuffledEnlargement_0(head + self.Conv_1(y))
        return self.Conv_2(y).float() / LEVELS + self.centre


class Rival(restoring.Rival):
    """It, by the mean absolute difference."""

    def make_network(self):
        """A new one."""
        s = self.settings
        return EDSR(s["features"], s["blocks"], s["source"]["scale"], s["residual_scale"])
