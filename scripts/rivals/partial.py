"""Partial convolutions that fill holes, as in `jaxgen/models/partial_convolution.py`: a U-Net that never sees them.

What is known of two maps beside each other is told by two masks, and the share of each in the channels.
"""

import torch
from benchmark_torch_networks import enlarge
from torch import nn
from torch.nn.functional import avg_pool2d, l1_loss, leaky_relu, relu

from rivals import single
from rivals.base import evaluating
from rivals.perceptual import WithJudge
from rivals.restoring import same


class PartialConv(nn.Module):
    """A convolution of what is known, weighed by how little that is; and what is known afterwards [B, 1, H', W']."""

    def __init__(self, inner, width, size=3, strides=1, biased=False):
        super().__init__()
        self.Conv_0 = same(inner, width, size, stride=strides, bias=False)
        self.bias = nn.Parameter(torch.zeros(width)) if biased else None

    def forward(self, x, share):
        """x [B, C, H, W], 0 in holes, and the share of its channels that are known [B, 1, H, W]."""
        conv = self.Conv_0
        size, strides, padding = conv.kernel_size[0], conv.stride, conv.padding
        share = avg_pool2d(share, size, strides, padding)  # a border counts as a hole
        known = (share > 0).to(x.dtype)
        y = conv(x) * (known / share.clamp_min(1e-6))
        return y if self.bias is None else (y + self.bias[:, None, None]) * known, known


class UNet(nn.Module):
    """Images with their mask as the last channel -> images, not bounded."""

    def __init__(self, channels, features, halvings):
        super().__init__()
        widths = [channels, *(features * min(2**i, 8) for i in range(halvings))]
        self.halvings = halvings
        for i, size in enumerate((7, 5, 5, *[3] * halvings)[:halvings]):
            self.add_module(f"PartialConv_{i}", PartialConv(widths[i], widths[i + 1], size, 2))
            if i:
                self.add_module(f"Norm_{i - 1}", nn.BatchNorm2d(widths[i + 1]))
        for j in range(halvings):
            i = halvings - 1 - j
            layer = PartialConv(widths[i + 1] + widths[i], widths[i], biased=i == 0)
            self.add_module(f"PartialConv_{halvings + j}", layer)
            if i:
                self.add_module(f"Norm_{halvings - 1 + j}", nn.BatchNorm2d(widths[i]))

    def forward(self, told):
        x, known = told[:, :-1], 1 - told[:, -1:]
        maps = [(x * known, known)]
        for i in range(self.halvings):
            x, known = getattr(self, f"PartialConv_{i}")(*maps[-1])
            x = relu(getattr(self, f"Norm_{i - 1}")(x) if i else x, inplace=True) * known
            maps.append((x, known))
        x, known = maps.pop()
        for j in range(self.halvings):
            skip, seen = maps.pop()
            x, known = enlarge(x), enlarge(known)
            width = x.shape[1] + skip.shape[1]
            share = (known * x.shape[1] + seen * skip.shape[1]) / width
            x, known = getattr(self, f"PartialConv_{self.halvings + j}")(torch.cat([x, skip], dim=1), share)
            if maps:
                x = leaky_relu(getattr(self, f"Norm_{self.halvings - 1 + j}")(x), 0.2, inplace=True) * known
        return x.float()


def styles(maps, num_images):
    """Products of the channels of each image's tiles, their means over positions and channels: [B, C, C] each."""
    flat = [x.unflatten(0, (num_images, -1)).transpose(1, 2).flatten(2) for x in maps]
    return [x @ x.transpose(1, 2) / x[0].numel() for x in flat]


def different(found, wanted):
    """The sum of mean absolute differences."""
    return sum(l1_loss(x, y) for x, y in zip(found, wanted, strict=True))


def variation(x, mask):
    """Mean absolute differences of neighbours of which one is missing, along both axes."""
    total = 0.0
    for axis in (2, 3):
        count = x.shape[axis] - 1
        missing = torch.maximum(mask.narrow(axis, 0, count), mask.narrow(axis, 1, count))
        total = total + (missing * x.diff(dim=axis).abs()).sum()
    return total / x.numel()


class Rival(WithJudge, single.Rival):
    """Absolute differences of pixels, of maps of a network that is not trained, and of their styles; the variation."""

    def make_network(self):
        """A new one."""
        return UNet(self.case.channels, self.settings["features"], self.settings["halvings"])

    def filled(self, batch):
        """What the network makes of sources with their masks."""
        return self.network(torch.cat([batch["source"], batch["mask"]], dim=1))

    def objective(self, batch):
        """The loss."""
        s, target, mask = self.settings, batch["image"], batch["mask"]
        output = self.filled(batch)
        whole = torch.where(mask > 0, output, target)
        error = (output - target).abs()
        parts = {
            "known": s["known"] / 2 * ((1 - mask) * error).mean(),
            "hole": s["hole"] / 2 * (mask * error).mean(),
            "variation": s["variation"] / 2 * variation(whole, mask),
            "perceptual": 0.0,
            "style": 0.0,
        }
        judge, num_images = self.frozen["judge"], len(target)
        with torch.no_grad():
            wanted = list(judge.maps(target))
            wanted_styles = styles(wanted, num_images)
        for image in (output, whole):
            maps = list(judge.maps(image))
            parts["perceptual"] += s["perceptual_weight"] * different(maps, wanted)
            parts["style"] += s["style"] * different(styles(maps, num_images), wanted_styles)
        return sum(parts.values()), parts

    def images(self, batch):
        """Sources with their holes filled, by running statistics."""
        with evaluating(self.network):
            return torch.where(batch["mask"] > 0, self.filled(batch).clamp(-1, 1), batch["source"])
