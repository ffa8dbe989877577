"""SRCNN, as in `jaxgen/models/srcnn.py`: three convolutions on what bicubic interpolation has enlarged.

PyTorch's bicubic interpolation is that of jaxgen and Pillow (a = -1/2) with `antialias`, which does nothing else here.
"""

from torch import nn
from torch.nn.functional import interpolate, relu

from rivals import restoring
from rivals.restoring import same


class SRCNN(nn.Module):
    """Images [B, C, h, w] -> [B, C, scale h, scale w]."""

    def __init__(self, scale, channels, widths, kernel_sizes):
        super().__init__()
        self.scale = scale
        sizes = (channels, *widths, channels)
        for i, (inner, width, size) in enumerate(zip(sizes, sizes[1:], kernel_sizes, strict=False)):
            self.add_module(f"Conv_{i}", same(inner, width, size))

    def forward(self, x):
        x = interpolate(x, scale_factor=self.scale, mode="bicubic", antialias=True)
        *hidden, last = self.children()
        for conv in hidden:
            x = relu(conv(x), inplace=True)
        return last(x).float()


class Rival(restoring.Rival):
    """It, by the mean squared difference."""

    def make_network(self):
        """A new one."""
        s = self.settings
        return SRCNN(s["source"]["scale"], self.case.channels, s["widths"], s["kernel_sizes"])
