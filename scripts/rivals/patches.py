"""Discriminators of patches, as in `jaxgen/models/patchgan.py`: pix2pix's, CycleGAN's, CUT's, VQGAN's, LaMa's."""

import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu, pad


def blur_and_halve(x):
    """Every second pixel of maps [B, C, H, W] filtered by 1 2 1, borders reflected."""
    taps = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return conv2d(pad(x, (1, 1, 1, 1), "reflect"), kernel, stride=2, groups=x.shape[1])


class PatchDiscriminator(nn.Module):
    """Images [B, C, H, W] -> logits of patches [B, h, w]: 4x4 convolutions, of which `layers` halve.

    norm: a function of the channels, nn.BatchNorm2d or nn.InstanceNorm2d, in all layers but the first and the last.
    biased: whether convolutions before it have a bias; by default where it brings no shift of its own.
    norm_name: what jaxgen calls it.
    blur: convolutions do not halve, a filter does after the activation.
    """

    def __init__(self, channels, features, layers, norm, *, padding=1, biased=None, norm_name="Norm", blur=False):
        super().__init__()
        self.blur, self.layers = blur, layers
        widths = [channels, *(features * min(2**i, 8) for i in range(layers + 1))]
        biased = norm is nn.InstanceNorm2d if biased is None else biased
        self.norms = [None]
        for i in range(layers + 1):
            halves, bias = 2 if i < layers and not blur else 1, i == 0 or biased
            self.add_module(f"Conv_{i}", nn.Conv2d(widths[i], widths[i + 1], 4, halves, padding, bias=bias))
            if i:
                self.norms.append(f"{norm_name}_{i - 1}")
                self.add_module(self.norms[-1], norm(widths[i + 1]))
        self.last = f"Conv_{layers + 1}"
        self.add_module(self.last, nn.Conv2d(widths[-1], 1, 4, 1, padding))

    def maps(self, x):
        """(logits, maps of all layers but the last)."""
        found = []
        for i, norm in enumerate(self.norms):
            x = getattr(self, f"Conv_{i}")(x)
            x = leaky_relu(getattr(self, norm)(x) if norm else x, 0.2, inplace=True)
            found.append(x)
            x = blur_and_halve(x) if self.blur and len(found) <= self.layers else x
        return getattr(self, self.last)(x)[:, 0].float(), found

    def forward(self, x):
        logits, _ = self.maps(x)
        return logits
