"""The discriminator of patches that pix2pix and CycleGAN share, as in `jaxgen/models/patchgan.py`."""

from torch import nn
from torch.nn.functional import leaky_relu


class PatchDiscriminator(nn.Module):
    """Images [B, C, H, W] -> logits of patches [B, h, w]: 4x4 convolutions, of which `layers` halve.

    norm: a function of the channels, nn.BatchNorm2d or nn.InstanceNorm2d, in all layers but the first and the last.
    """

    def __init__(self, channels, features, layers, norm):
        super().__init__()
        widths = [channels, *(features * min(2**i, 8) for i in range(layers + 1))]
        biased = norm is nn.InstanceNorm2d  # which brings no shift of its own
        for i in range(layers + 1):
            halves = 2 if i < layers else 1
            self.add_module(f"Conv_{i}", nn.Conv2d(widths[i], widths[i + 1], 4, halves, 1, bias=i == 0 or biased))
            if i:
                self.add_module(f"Norm_{i - 1}", norm(widths[i + 1]))
        self.layers = layers
        self.add_module(f"Conv_{layers + 1}", nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, x):
        for i in range(self.layers + 1):
            x = getattr(self, f"Conv_{i}")(x)
            x = leaky_relu(getattr(self, f"Norm_{i - 1}")(x) if i else x, 0.2, inplace=True)
        return getattr(self, f"Conv_{self.layers + 1}")(x)[:, 0].float()
