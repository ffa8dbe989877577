"""pix2pix, as in `jaxgen/systems/pix2pix.py`: a U-Net that is told a source, and a discriminator of pairs."""

import torch
from torch import nn
from torch.nn.functional import leaky_relu, relu

from rivals import game
from rivals.patches import PatchDiscriminator

DROPPING = range(4, 8)  # blocks of the decoder, by the halving that they undo, but for the innermost


class UNet(nn.Module):
    """Images [B, C, H, W], and what dropout keeps, an array for each place -> images in [-1, 1]."""

    def __init__(self, channels, features, halvings, dropout):
        super().__init__()
        self.halvings, self.dropout = halvings, dropout
        self.widths = widths = [features * min(2**i, 8) for i in range(halvings)]
        for i, width in enumerate(widths):
            self.add_module(f"down_{i}", nn.Conv2d(widths[i - 1] if i else channels, width, 4, 2, 1, bias=False))
            if 0 < i < halvings - 1:
                self.add_module(f"down_norm_{i}", nn.BatchNorm2d(width))
        for i in reversed(range(1, halvings)):
            inner = widths[i] * (1 if i == halvings - 1 else 2)
            self.add_module(f"up_{i}", nn.ConvTranspose2d(inner, widths[i - 1], 4, 2, 1, bias=False))
            self.add_module(f"up_norm_{i}", nn.BatchNorm2d(widths[i - 1]))
        self.up_0 = nn.ConvTranspose2d(2 * widths[0], channels, 4, 2, 1)

    @property
    def dropping(self):
        """Blocks with dropout, the innermost first."""
        return [i for i in reversed(DROPPING) if i < self.halvings - 1]

    def forward(self, x, *kept):
        maps, kept = [], dict(zip(self.dropping, kept, strict=True))
        for i in range(self.halvings):
            x = getattr(self, f"down_{i}")(leaky_relu(x, 0.2) if i else x)
            if 0 < i < self.halvings - 1:
                x = getattr(self, f"down_norm_{i}")(x)
            maps.append(x)
        for i in reversed(range(1, self.halvings)):
            x = getattr(self, f"up_norm_{i}")(getattr(self, f"up_{i}")(relu(x)))
            if i in kept:
                x = x * kept[i] / (1 - self.dropout)
            x = torch.cat([maps[i - 1], x], dim=1)
        return torch.tanh(self.up_0(relu(x)).float())


class Pairs(PatchDiscriminator):
    """Images and the source beside each -> logits of patches."""

    def forward(self, x, source):
        return super().forward(torch.cat([source, x], dim=1))


class Rival(game.Rival):
    """Both, with the mean absolute error."""

    def make_generator(self):
        """A new one."""
        s = self.settings
        return UNet(self.case.channels, s["features"], s["halvings"], s["dropout"])

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        layers = s["discriminator_layers"]
        return Pairs(2 * self.case.channels, s["discriminator_features"], layers, nn.BatchNorm2d)

    def draw_inputs(self):
        """Sources, and what dropout keeps."""
        share = 1 - self.settings["dropout"]

        def bernoulli(*shape, device):
            return torch.empty(shape, device=device).bernoulli_(share)

        def kept(i):
            size = self.case.image_size >> i
            return self.draw(bernoulli, self.batch_size, self.generator.widths[i - 1], size, size)

        return (self.parts["source"][-1], *(kept(i) for i in self.generator.dropping))

    def told_of_fake(self, inputs):
        """The source."""
        return (inputs[0],)

    def told_of_real(self, i):
        """The source."""
        return (self.parts["source"][i],)

    def generator_terms(self, inputs, output):
        """The mean absolute error."""
        return {"l1": self.settings["pixels"] * (output - self.parts["image"][-1]).abs().mean()}
