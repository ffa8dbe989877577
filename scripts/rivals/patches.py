"""Discriminators of patches, as in `jaxgen/models/patchgan.py`: pix2pix's, CycleGAN's, VQGAN's and LaMa's."""

from torch import nn
from torch.nn.functional import leaky_relu


class PatchDiscriminator(nn.Module):
    """Images [B, C, H, W] -> logits of patches [B, h, w]: 4x4 convolutions, of which `layers` halve.

    norm: a function of the channels, nn.BatchNorm2d or nn.InstanceNorm2d, in all layers but the first and the last.
    biased: whether convolutions before it have a bias; by default where it brings no shift of its own.
    norm_name: what jaxgen calls it.
    """

    def __init__(self, channels, features, layers, norm, *, padding=1, biased=None, norm_name="Norm"):
        super().__init__()
        widths = [channels, *(features * min(2**i, 8) for i in range(layers + 1))]
        biased = norm is nn.InstanceNorm2d if biased is None else biased
        self.norms = [None]
        for i in range(layers + 1):
            halves, bias = 2 if i < layers else 1, i == 0 or biased
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
        return getattr(self, self.last)(x)[:, 0].float(), found

    def forward(self, x):
        logits, _ = self.maps(x)
        return logits
