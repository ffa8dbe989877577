"""Blocks of residual GANs, and layers with spectral normalisation: what SAGAN, BigGAN and WGAN-GP share.

Shortcuts, like jaxgen's, are computed at the smaller of their two sizes.
"""

import torch
from benchmark_torch_networks import enlarge
from torch import nn
from torch.nn.functional import avg_pool2d, batch_norm, max_pool2d, relu
from torch.nn.utils.parametrizations import spectral_norm


def spectral(layer, eps=1e-12):
    """The layer with its weight over its largest singular value, by one power iteration in each forward pass."""
    return spectral_norm(layer, eps=eps)


def plain(layer):
    """The layer as it is."""
    return layer


class ConditionalBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with a scale and a shift for each class."""

    def __init__(self, num_classes, width, eps):
        super().__init__(width, eps, affine=False)
        self.weight = nn.Parameter(torch.ones(num_classes, width))
        self.bias = nn.Parameter(torch.zeros(num_classes, width))

    def forward(self, x, label):
        """x [B, C, H, W], labels [B]."""
        settings = {"training": True, "momentum": self.momentum, "eps": self.eps}
        x = batch_norm(x, self.running_mean, self.running_var, **settings)
        return x * self.weight[label][..., None, None] + self.bias[label][..., None, None]


class GeneratorBlock(nn.Module):
    """Doubles the size: norm, ReLU, enlarge, 3x3, norm, ReLU, 3x3, plus an enlarged 1x1 shortcut."""

    def __init__(self, inner, width, norm=nn.BatchNorm2d, normalised=plain):
        super().__init__()
        norms = norm(inner), norm(width)
        self.norms = [f"{type(one).__name__.removesuffix('2d')}_{i}" for i, one in enumerate(norms)]
        self.shortcut = normalised(nn.Conv2d(inner, width, 1))
        self.add_module(self.norms[0], norms[0])
        self.Conv_0 = normalised(nn.Conv2d(inner, width, 3, padding=1))
        self.add_module(self.norms[1], norms[1])
        self.Conv_1 = normalised(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x, *label):
        first, second = (getattr(self, name) for name in self.norms)
        y = self.Conv_0(enlarge(relu(first(x, *label))))
        return self.Conv_1(relu(second(y, *label))) + enlarge(self.shortcut(x))


class DiscriminatorBlock(nn.Module):
    """ReLU (but not on the image), 3x3, ReLU, 3x3 and, where it halves the size, a mean over 2x2, plus a shortcut."""

    def __init__(self, inner, hidden, width, halve, first, normalised):
        super().__init__()
        self.halve, self.first = halve, first
        self.shortcut = normalised(nn.Conv2d(inner, width, 1)) if halve or inner != width else None
        self.Conv_0 = normalised(nn.Conv2d(inner, hidden, 3, padding=1))
        self.Conv_1 = normalised(nn.Conv2d(hidden, width, 3, padding=1))

    def forward(self, x):
        shortcut = avg_pool2d(x, 2) if self.halve else x
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        y = self.Conv_1(relu(self.Conv_0(x if self.first else relu(x))))
        return (avg_pool2d(y, 2) if self.halve else y) + shortcut


class SelfAttention(nn.Module):
    """x + gain * output(softmax(query key') value), keys and values being maxima over 2x2 pixels."""

    def __init__(self, width, normalised=spectral):
        super().__init__()

        def conv(inner, outer):
            return normalised(nn.Conv2d(inner, outer, 1, bias=False))

        self.query, self.key, self.value = conv(width, width // 8), conv(width, width // 8), conv(width, width // 2)
        self.output = conv(width // 2, width)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        query, key, value = (
            y.flatten(2) for y in (self.query(x), max_pool2d(self.key(x), 2), max_pool2d(self.value(x), 2))
        )
        attention = (query.transpose(1, 2) @ key).softmax(-1)
        seen = (value @ attention.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gain * self.output(seen)
