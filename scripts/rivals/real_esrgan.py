"""Real-ESRGAN, as in `jaxgen/systems/real_esrgan.py`: ESRGAN's generator, sharpened targets, a U-Net that judges."""

import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, pad

from rivals import srgan
from rivals.esrgan import RRDBNet
from rivals.residual import spectral
from rivals.restoring import same

SIGMA, REACH, AMOUNT, THRESHOLD = 8.0, 25, 0.5, 10 / 127.5  # of what sharpens


class Discriminator(nn.Module):
    """Images [B, C, H, W] -> logits [B, H, W]: a U-Net whose maps of equal size are added."""

    def __init__(self, channels, width):
        super().__init__()
        self.Conv_0, self.Conv_1 = same(channels, width), same(width, 1)
        shapes = [(1, 2), (2, 4), (4, 8), (8, 4), (4, 2), (2, 1), (1, 1), (1, 1)]
        self.convs = [f"SpectralConv_{i}" for i in range(len(shapes))]
        for i, (inner, outer) in enumerate(shapes):
            size, strides = (4, 2) if i < 3 else (3, 1)
            conv = nn.Conv2d(inner * width, outer * width, size, strides, 1, bias=False)
            self.add_module(self.convs[i], spectral(conv))

    def layer(self, i, x):
        """The i-th normalised one."""
        return leaky_relu(getattr(self, self.convs[i])(x), 0.2, inplace=True)

    def forward(self, x):
        maps = [leaky_relu(self.Conv_0(x), 0.2, inplace=True)]
        for i in range(3):
            maps.append(self.layer(i, maps[-1]))
        y = maps.pop()
        for i in range(3, 6):
            y = self.layer(i, interpolate(y, scale_factor=2, mode="bilinear")) + maps.pop()
        return self.Conv_1(self.layer(7, self.layer(6, y)))[:, 0].float()


def blurred(x):
    """Images [B, C, H, W] by a Gaussian, rows then columns, borders reflected."""
    offset = torch.arange(-REACH, REACH + 1, device=x.device, dtype=x.dtype)
    taps = torch.exp(-0.5 * (offset / SIGMA) ** 2)
    taps = taps / taps.sum()
    y = pad(x, (REACH,) * 4, "reflect").flatten(0, 1)[:, None]
    y = conv2d(conv2d(y, taps[None, None, :, None]), taps[None, None, None])
    return y.view_as(x)


@torch.no_grad()
def sharpened(x):
    """What images are compared with: more of what a blur takes away, where that is much."""
    rest = x - blurred(x)
    soft = blurred((rest.abs() > THRESHOLD).to(x.dtype))
    return soft * (x + AMOUNT * rest).clamp(-1, 1) + (1 - soft) * x


class Rival(srgan.Rival):
    """Both, with the mean absolute difference and the perceptual distance to sharpened images."""

    def make_generator(self):
        """A new one."""
        s = self.settings
        return RRDBNet(self.case.channels, s["features"], s["blocks"], s["growth"])

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.case.channels, self.settings["discriminator_features"])

    def target(self):
        """Sharpened images."""
        return sharpened(self.parts["image"][-1])
