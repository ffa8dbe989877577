"""NAFNet, as in `jaxgen/models/nafnet.py`: a U-Net without activation functions, channels gating each other."""

import torch
from torch import nn
from torch.nn.functional import layer_norm, pixel_shuffle

from rivals import restoring
from rivals.restoring import same


class ChannelNorm(nn.Module):
    """(x - mean) / deviation over the channels of each pixel, with scale and bias; maps are channels_last in memory."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        x = layer_norm(x.permute(0, 2, 3, 1), self.scale.shape, self.scale, self.bias, eps=1e-6)
        return x.permute(0, 3, 1, 2)


def gated(x):
    """The first half of the channels times the second."""
    first, second = x.chunk(2, dim=1)
    return first * second


class NAFBlock(nn.Module):
    """x + beta f(x), f with a convolution of each channel and attention to channels, then the same with gamma g."""

    def __init__(self, width):
        super().__init__()
        self.beta, self.gamma = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.LayerNorm_0, self.LayerNorm_1 = ChannelNorm(width), ChannelNorm(width)
        self.Conv_0, self.Conv_1 = same(width, 2 * width, 1), same(2 * width, 2 * width, groups=2 * width)
        self.Conv_2, self.Conv_3 = same(width, width, 1), same(width, width, 1)
        self.Conv_4, self.Conv_5 = same(width, 2 * width, 1), same(width, width, 1)

    def forward(self, x):
        y = gated(self.Conv_1(self.Conv_0(self.LayerNorm_0(x))))
        y = self.Conv_3(y * self.Conv_2(y.mean((2, 3), keepdim=True)))
        x = torch.addcmul(x, y, self.beta[:, None, None])
        y = self.Conv_5(gated(self.Conv_4(self.LayerNorm_1(x))))
        return torch.addcmul(x, y, self.gamma[:, None, None])


class NAFNet(nn.Module):
    """Images [B, C, H, W], sides multiples of 2^halvings -> images, to which the network adds what it finds."""

    def __init__(self, channels, width, encoder, middle, decoder):
        super().__init__()
        convs, blocks = iter(range(2 * len(encoder) + 1)), iter(range(sum(encoder) + middle + sum(decoder)))

        def conv(layer):
            self.add_module(name := f"Conv_{next(convs)}", layer)
            return name

        def row(count):
            names = [f"NAFBlock_{next(blocks)}" for _ in range(count)]
            for name in names:
                self.add_module(name, NAFBlock(width))
            return names

        self.first = conv(same(channels, width))
        self.down, self.up = [], []
        for count in encoder:
            self.down.append((row(count), conv(nn.Conv2d(width, 2 * width, 2, 2))))
            width *= 2
        self.middle = row(middle)
        for count in decoder:
            enlarging = conv(same(width, 2 * width, 1, bias=False))
            width //= 2
            self.up.append((enlarging, row(count)))
        self.output = same(width, channels)

    def run(self, x, names):
        """Layers one after the other."""
        for name in names:
            x = getattr(self, name)(x)
        return x

    def forward(self, source):
        x, maps = self.run(source, [self.first]), []
        for blocks, halving in self.down:
            maps.append(self.run(x, blocks))
            x = self.run(maps[-1], [halving])
        x = self.run(x, self.middle)
        for enlarging, blocks in self.up:
            x = self.run(pixel_shuffle(self.run(x, [enlarging]), 2) + maps.pop(), blocks)
        return source + self.output(x).float()


class Rival(restoring.Rival):
    """It, by minus the PSNR."""

    def make_network(self):
        """A new one."""
        s = self.settings
        return NAFNet(self.case.channels, s["width"], s["encoder"], s["middle"], s["decoder"])
