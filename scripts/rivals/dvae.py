"""DALL-E's discrete VAE, as in `jaxgen/models/dvae.py`: relaxed draws of codes, temperature and weight at rest.

Noise is of the Gumbel distribution; the decoder's is a Laplace distribution of the pixels' logits.
"""

import math

import torch
from benchmark_torch_networks import enlarge
from torch import nn
from torch.nn.functional import log_softmax, max_pool2d, one_hot, relu, softmax

from rivals import single
from rivals.restoring import same

EDGE = 0.1  # pixels become numbers in [EDGE, 1 - EDGE]


class Block(nn.Module):
    """x + gain Conv(relu(...(relu(x)))), four convolutions, and a 1x1 convolution of x where the width changes."""

    def __init__(self, inner, width, kernel_sizes, gain):
        super().__init__()
        self.gain, quarter = gain, width // 4
        self.around = nn.Conv2d(inner, width, 1) if inner != width else None
        widths = [inner, quarter, quarter, quarter, width]
        self.convs = [f"Conv_{i}" for i in range(4)]
        for i, (name, size) in enumerate(zip(self.convs, kernel_sizes, strict=True)):
            self.add_module(name, same(widths[i], widths[i + 1], size))

    def forward(self, x):
        first, *others = self.convs
        y = getattr(self, first)(relu(x))
        for name in others:
            y = getattr(self, name)(relu(y, inplace=True))
        return torch.add(x if self.around is None else self.around(x), y, alpha=self.gain)


class Groups(nn.Module):
    """A convolution, groups of blocks between which a map changes its size, ReLU, a 1x1 convolution."""

    def __init__(self, first, widths, blocks, last, kernel_sizes, resize):
        super().__init__()
        self.resize, gain = resize, (len(widths) * blocks) ** -2
        self.Conv_0, self.groups, inner = first, [], first.out_channels
        for i, width in enumerate(widths):
            self.groups.append([f"Block_{i * blocks + j}" for j in range(blocks)])
            for name in self.groups[-1]:
                self.add_module(name, Block(inner, width, kernel_sizes, gain))
                inner = width
        self.Conv_1 = nn.Conv2d(inner, last, 1)

    def forward(self, x):
        x = self.Conv_0(x)
        for i, names in enumerate(self.groups):
            x = self.resize(x) if i else x
            for name in names:
                x = getattr(self, name)(x)
        return self.Conv_1(relu(x)).float()


class DVAE(nn.Module):
    """Images [B, C, H, W] -> logits of codes [B, K, h, w]; weights of codes -> mean and log scale of pixels' logits."""

    def __init__(self, channels, settings):
        super().__init__()
        blocks, codes = settings["blocks"], settings["num_codes"]
        widths = [settings["features"] << i for i in range(settings["groups"])]
        first = same(channels, widths[0], 7)
        self.encoder = Groups(first, widths, blocks, codes, (3, 3, 3, 1), lambda x: max_pool2d(x, 2))
        first = nn.Conv2d(codes, settings["first"], 1)
        self.decoder = Groups(first, widths[::-1], blocks, 2 * channels, (1, 3, 3, 3), enlarge)


class Rival(single.Rival):
    """(-log p(x|z) + beta KL(q(z|x) || uniform)) / (numbers in an image)."""

    def make_network(self):
        """A new one."""
        return DVAE(self.case.channels, self.settings)

    def draw_noise(self):
        """Of the Gumbel distribution."""
        s, case = self.settings, self.case
        side = case.image_size >> (s["groups"] - 1)

        def gumbel(*shape, device):
            return -torch.empty(shape, device=device).exponential_().log()

        return (self.draw(gumbel, case.batch_size, s["num_codes"], side, side),)

    def objective(self, batch, noise):
        """The negative bound."""
        s, image = self.settings, batch["image"]
        logits = self.network.encoder(image)
        drawn = softmax((logits + noise) / s["temperature"], dim=1)
        mean, log_scale = self.network.decoder(drawn).chunk(2, dim=1)
        x = EDGE + (1 - 2 * EDGE) * (image + 1) / 2
        error = (torch.logit(x) - mean).abs() * torch.exp(-log_scale) + log_scale + math.log(2) + torch.log(x * (1 - x))
        distortion = error.sum((1, 2, 3)).mean()
        log_q = log_softmax(logits, dim=1)
        rate = (log_q.exp() * (log_q + math.log(s["num_codes"]))).sum((1, 2, 3)).mean()
        loss = (distortion + s["beta"] * rate) / image[0].numel()
        return loss, {"distortion": distortion, "rate": rate}

    def images(self, batch):
        """Medians of the pixels by the likeliest codes."""
        codes = self.network.encoder(batch["image"]).argmax(1)
        vectors = one_hot(codes, self.settings["num_codes"]).permute(0, 3, 1, 2).float()
        mean, _ = self.network.decoder(vectors).chunk(2, dim=1)
        return 2 * ((torch.sigmoid(mean) - EDGE) / (1 - 2 * EDGE)).clamp(0, 1) - 1
