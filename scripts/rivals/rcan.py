"""RCAN, as in `jaxgen/models/rcan.py`: groups of residual blocks with attention over channels, then shuffled pixels."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import relu

from rivals import restoring
from rivals.edsr import LEVELS, MEAN, ShuffledEnlargement
from rivals.restoring import same


class ChannelAttention(nn.Module):
    """x times a number for each of its channels, made of their means."""

    def __init__(self, width, reduction):
        super().__init__()
        inner = max(1, width // reduction)
        self.Conv_0, self.Conv_1 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x):
        y = relu(self.Conv_0(x.mean((2, 3), keepdim=True)), inplace=True)
        return x * torch.sigmoid(self.Conv_1(y))


class Block(nn.Module):
    """x + attention(Conv(ReLU(Conv(x))))."""

    def __init__(self, width, reduction):
        super().__init__()
        self.Conv_0, self.Conv_1 = same(width, width), same(width, width)
        self.ChannelAttention_0 = ChannelAttention(width, reduction)

    def forward(self, x):
        return x + self.ChannelAttention_0(self.Conv_1(relu(self.Conv_0(x), inplace=True)))


class RCAN(nn.Module):
    """Images [B, 3, h, w] in [-1, 1] -> [B, 3, scale h, scale w]."""

    def __init__(self, width, groups, blocks, reduction, scale):
        super().__init__()
        self.register_buffer("centre", 2 * torch.tensor(MEAN)[:, None, None] - 1, persistent=False)
        self.Conv_0 = same(3, width)
        self.groups = [(f"group_{i}", f"Conv_{i + 1}") for i in range(groups)]
        for group, conv in self.groups:
            own = (nn.Sequential(OrderedDict(block=Block(width, reduction))) for _ in range(blocks))
            self.add_module(group, nn.Sequential(*own))
            self.add_module(conv, same(width, width))
        self.after, self.last = f"Conv_{groups + 1}", f"Conv_{groups + 2}"
        self.add_module(self.after, same(width, width))
        self.ShuffledEnlargement_0 = ShuffledEnlargement(width, scale)
        self.add_module(self.last, same(width, 3))

    def forward(self, x):
        y = head = self.Conv_0(LEVELS * (x - self.centre))
        for group, conv in self.groups:
            y = y + getattr(self, conv)(getattr(self, group)(y))
        y = self.ShuffledEnlargement_0(head + getattr(self, self.after)(y))
        return getattr(self, self.last)(y).float() / LEVELS + self.centre


class Rival(restoring.Rival):
    """It, by the mean absolute difference."""

    def make_network(self):
        """A new one."""
        s = self.settings
        return RCAN(s["features"], s["groups"], s["blocks"], s["reduction"], s["source"]["scale"])
