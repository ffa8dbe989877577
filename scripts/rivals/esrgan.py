"""ESRGAN, as in `jaxgen/systems/esrgan.py`: dense residual blocks, and the relativistic average loss from the start."""

import torch
from benchmark_torch_networks import enlarge
from torch import nn
from torch.nn.functional import leaky_relu

from rivals import srgan
from rivals.restoring import same


class DenseBlock(nn.Module):
    """x + 0.2 y, y the last of five convolutions, each of x and of what all before it have found."""

    def __init__(self, width, growth):
        super().__init__()
        for i in range(5):
            self.add_module(f"Conv_{i}", same(width + i * growth, width if i == 4 else growth))

    def forward(self, x):
        *convs, last = self.children()
        found = [x]
        for conv in convs:
            found.append(leaky_relu(conv(torch.cat(found, dim=1)), 0.2, inplace=True))
        return torch.add(x, last(torch.cat(found, dim=1)), alpha=0.2)


class Block(nn.Module):
    """x + 0.2 of three dense blocks."""

    def __init__(self, width, growth):
        super().__init__()
        self.DenseBlock_0, self.DenseBlock_1, self.DenseBlock_2 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, x):
        return torch.add(x, self.DenseBlock_2(self.DenseBlock_1(self.DenseBlock_0(x))), alpha=0.2)


class RRDBNet(nn.Module):
    """Images [B, C, h, w] -> [B, C, 4 h, 4 w]."""

    def __init__(self, channels, width, blocks, growth):
        super().__init__()
        self.Conv_0 = same(channels, width)
        self.blocks = nn.Sequential(*(Block(width, growth) for _ in range(blocks)))
        self.Conv_1 = same(width, width)
        self.EnlargingConv_0, self.EnlargingConv_1 = same(width, width), same(width, width)
        self.Conv_2, self.Conv_3 = same(width, width), same(width, channels)

    def forward(self, x):
        x = self.Conv_0(x)
        x = x + self.Conv_1(self.blocks(x))
        for conv in (self.EnlargingConv_0, self.EnlargingConv_1):
            x = leaky_relu(conv(enlarge(x)), 0.2, inplace=True)
        return self.Conv_3(leaky_relu(self.Conv_2(x), 0.2, inplace=True)).float()


class Rival(srgan.Rival):
    """Both, with the mean absolute difference and the perceptual distance."""

    def make_generator(self):
        """A new one."""
        s = self.settings
        return RRDBNet(self.case.channels, s["features"], s["blocks"], s["growth"])

    def generator_objective(self, fake, real, told):
        """By how far fake logits are above the mean of real ones, and these below that of fake ones."""
        with self.autocast():
            with torch.no_grad():
                real_logits = self.discriminator(real)
            return self.loss_by_both(self.discriminator(fake), real_logits).mean(), {}
