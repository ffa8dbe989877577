"""Gated convolutions that fill holes in two stages (DeepFill v2), as in `jaxgen/models/gated.py`.

Dilated convolutions are PyTorch's own. Contextual attention is that of `jaxgen/models/contextual_attention.py`, its
patches by `unfold`, pasted by `fold`.
"""

import torch
from benchmark_torch_networks import enlarge
from torch import nn
from torch.nn.functional import elu, fold, leaky_relu, max_pool2d, pad, relu, softmax, unfold

from rivals import game
from rivals.residual import spectral


class GatedConv(nn.Module):
    """activation(y) sigmoid(g), y and g the halves of a convolution's channels."""

    def __init__(self, inner, width, size=3, strides=1, rate=1, activation=elu):
        super().__init__()
        self.activation = activation
        self.Conv_0 = nn.Conv2d(inner, 2 * width, size, strides, rate * (size // 2), dilation=rate)

    def forward(self, x):
        y, gate = self.Conv_0(x).chunk(2, dim=1)
        return self.activation(y) * torch.sigmoid(gate)


def fused(scores, side):
    """Scores [B, n, n] of places with places, n = side^2, each with its neighbours' added: along rows, then columns."""

    def along(x):
        x = pad(x, (1, 1, 1, 1))
        return x[:, 1:-1, 1:-1] + x[:, :-2, :-2] + x[:, 2:, 2:]

    def turned(x):
        return x.view(-1, side, side, side, side).permute(0, 2, 1, 4, 3).reshape(x.shape)

    return turned(along(turned(along(scores))))


def contextual_attention(x, mask, scale=10.0):
    """Square maps [B, C, H, H] made of the known patches of themselves, for masks [B, 1, H, H]: the same shape."""
    side = x.shape[2] // 2
    small = unfold(x[:, :, ::2, ::2].float(), 3, padding=1)  # [B, 9 C, n]
    known = unfold(max_pool2d(mask, 2), 3, padding=1).amax(1, keepdim=True) <= 0  # [B, 1, n]
    length = small.square().sum(1, keepdim=True).clamp_min(1e-8).sqrt()
    scores = scale * fused(small.transpose(1, 2) @ (small / length), side)
    attention = softmax(scores.masked_fill(~known, -1e9), dim=-1) * known
    found = unfold(x, 4, padding=1, stride=2) @ attention.transpose(1, 2).to(x.dtype)
    return fold(found, x.shape[2:], 4, padding=1, stride=2) / 4


class Generator(nn.Module):
    """Images with their mask as the last channel -> (completed images, coarse ones, fine ones), all in [-1, 1]."""

    def __init__(self, channels, width, rates):
        super().__init__()
        self.rates, self.count = rates, 0

        def gated(inner, outer, size=3, **settings):
            layer = GatedConv(int(inner * width), int(outer * width), size, **settings)
            return self._named("GatedConv", layer)

        def first(inner, *widths):
            """Maps of a quarter of the size, by layers of these widths, the second and the fourth with strides."""
            conv = self._named("GatedConv", GatedConv(inner, int(widths[0] * width), 5))
            pairs = enumerate(zip(widths, widths[1:], strict=False), 1)
            return [conv, *(gated(*pair, strides=2 if i in (1, 3) else 1) for i, pair in pairs)]

        def dilated():
            return [gated(4, 4, rate=rate) for rate in rates]

        def decoder(inner):
            layers = [gated(*pair) for pair in ((inner, 4), (4, 4), (4, 2), (2, 2), (2, 1), (1, 0.5))]
            self.add_module(name := f"Conv_{self.decoders}", nn.Conv2d(width // 2, channels, 3, padding=1))
            self.decoders += 1
            return [*layers, name]

        self.decoders = 0
        self.coarse = first(channels + 2, 1, 2, 2, 4, 4, 4) + dilated(), decoder(4)
        self.fine = first(channels, 1, 1, 2, 2, 4, 4) + dilated()
        self.seeking = first(channels, 1, 1, 2, 4, 4, 4)
        getattr(self, self.seeking[-1]).activation = relu
        self.pasting = [gated(4, 4), gated(4, 4)]
        self.both = decoder(8)

    def _named(self, kind, layer):
        self.add_module(name := f"{kind}_{self.count}", layer)
        self.count += 1
        return name

    def run(self, x, names):
        """Layers one after the other."""
        for name in names:
            x = getattr(self, name)(x)
        return x

    def decoded(self, x, names):
        """Maps of a quarter of the size -> images."""
        x = enlarge(self.run(x, names[:2]))
        x = enlarge(self.run(x, names[2:4]))
        return torch.tanh(self.run(x, names[4:]).float())

    def forward(self, told):
        image, mask = told[:, :-1], told[:, -1:]
        image = image * (1 - mask)
        layers, decoder = self.coarse
        x = torch.cat([image, torch.ones_like(mask), mask], dim=1)
        coarse = self.decoded(self.run(x, layers), decoder)
        again = torch.where(mask > 0, coarse, image)
        y = contextual_attention(self.run(again, self.seeking), max_pool2d(mask, 4))
        branches = [self.run(again, self.fine), self.run(y, self.pasting)]
        fine = self.decoded(torch.cat(branches, dim=1), self.both)
        return torch.where(mask > 0, fine, image), coarse, fine


class Discriminator(nn.Module):
    """Images and their masks -> logits [B, c, h, w]: 5x5 convolutions with strides, spectral normalisation."""

    def __init__(self, channels, features, layers):
        super().__init__()
        widths = [channels + 1, *(features * min(2**i, 4) for i in range(layers))]
        for i in range(layers):
            self.add_module(f"Conv_{i}", spectral(nn.Conv2d(widths[i], widths[i + 1], 5, 2, 2)))

    def forward(self, x, mask):
        first, *others = self.children()
        x = first(torch.cat([x, mask], dim=1))
        for conv in others:
            x = conv(leaky_relu(x, 0.2, inplace=True))
        return x.permute(0, 2, 3, 1).float()


class Rival(game.Rival):
    """Both, with the mean absolute differences of both stages."""

    def make_generator(self):
        """A new one."""
        return Generator(self.case.channels, self.settings["features"], self.settings["rates"])

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        return Discriminator(self.case.channels, s["discriminator_features"], s["discriminator_layers"])

    def draw_inputs(self):
        """Sources with their masks."""
        return (torch.cat([self.parts["source"][-1], self.parts["mask"][-1]], dim=1),)

    def told_of_fake(self, inputs):
        """The mask."""
        return (inputs[0][:, -1:],)

    def told_of_real(self, i):
        """The mask."""
        return (self.parts["mask"][i],)

    def generator_terms(self, inputs, output):
        """The mean absolute differences."""
        _, coarse, fine = output
        real = self.parts["image"][-1]
        return {"pixels": self.settings["pixels"] * ((coarse - real).abs().mean() + (fine - real).abs().mean())}
