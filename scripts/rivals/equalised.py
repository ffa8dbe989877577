"""Layers with equalised learning rates, filters without aliasing, deviations of groups: StyleGAN2's, ProGAN's, R3GAN's.

Filters are depthwise convolutions, PyTorch's form of them.
"""

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, linear

SLOPE = 0.2  # of leaky ReLU below 0


def scale_of(weight, gain=1.0):
    """gain / sqrt(fan_in) of a weight [out, in, ...]."""
    return gain / weight[0].numel() ** 0.5


class EqualisedConv(nn.Conv2d):
    """A convolution of the weight times gain / sqrt(fan_in)."""

    def __init__(self, inner, width, kernel_size, gain=1.0, **settings):
        super().__init__(inner, width, kernel_size, **settings)
        self.scale = scale_of(self.weight, gain)

    def forward(self, x):
        return conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class EqualisedDense(nn.Linear):
    """rate (x W' / sqrt(fan_in) + b)."""

    def __init__(self, inner, width, rate=1.0):
        super().__init__(inner, width)
        self.rate, self.scale = rate, scale_of(self.weight, rate)

    def forward(self, x):
        return linear(x, self.weight * self.scale, self.bias * self.rate)


def activate(x):
    """sqrt(2) times the leaky ReLU."""
    return leaky_relu(x, SLOPE) * 2**0.5


def normalised(x):
    """x over the root of the mean square of axis 1."""
    return x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-8)


def _filter_of(x, gain):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) * (gain / 8)
    return torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)


def blur(x, padding, gain=1.0):
    """The filter 1 3 3 1 along both axes, times `gain` along each; [B, C, H, W] -> [B, C, H + 2 padding - 3, ...]."""
    return conv2d(x, _filter_of(x, gain), padding=padding, groups=x.shape[1])


def upsample(x):
    """[B, C, H, W] -> [B, C, 2 H, 2 W]: zeros between pixels, filtered."""
    return conv_transpose2d(x, _filter_of(x, 2.0), stride=2, padding=1, groups=x.shape[1])


def downsample(x):
    """[B, C, H, W] -> [B, C, H / 2, W / 2]: every second of the filtered pixels."""
    return conv2d(x, _filter_of(x, 1.0), stride=2, padding=1, groups=x.shape[1])


def with_deviation(x, group_size):
    """[B, C, H, W] -> [B, C + 1, H, W]: beside it how far images of a group of neighbours differ."""
    if group_size == 1:
        return x
    groups = x.float().unflatten(0, (-1, group_size))
    found = (groups.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3)).repeat_interleave(group_size)
    return torch.cat([x, found[:, None, None, None].expand(-1, 1, *x.shape[2:]).to(x.dtype)], 1)


def sizes_of(image_size):
    """Sides of maps from 4 up to the image's."""
    sizes = [4]
    while sizes[-1] < image_size:
        sizes.append(2 * sizes[-1])
    return sizes
