"""The residual network from image to image, as in `jaxgen/models/resnet_generator.py`: that of CycleGAN and others."""

import torch
from torch import nn
from torch.nn.functional import group_norm, instance_norm, interpolate, pad, relu

from rivals.patches import blur_and_halve


def normalised(x):
    """Each channel of each image by its own mean and variance.

    Of one image PyTorch's `instance_norm` (2.13, CPU) has a wrong gradient where that of its output is channels_last.
    """
    return group_norm(x, x.shape[1]) if len(x) == 1 else instance_norm(x)


def rectified(x):
    """relu(norm(x))."""
    return relu(normalised(x), inplace=True)


class ResidualBlock(nn.Module):
    """x + norm(Conv(drop(relu(norm(Conv(x)))))), borders reflected."""

    def __init__(self, width):
        super().__init__()
        self.Conv_0, self.Conv_1 = (nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect") for _ in range(2))

    def forward(self, x, *factors):
        """x [B, C, H, W], and what dropout multiplies it by, if there is any."""
        y = rectified(self.Conv_0(x))
        for factor in factors:
            y = y * factor
        return x + normalised(self.Conv_1(y))


class Translator(nn.Module):
    """Images [B, C, H, W] -> images in [-1, 1]: halved, residual blocks, doubled again.

    blur: convolutions keep the size; maps are halved by a filter, doubled by bilinear interpolation.
    """

    def __init__(self, channels, features, halvings, blocks, *, blur=False):
        super().__init__()
        self.blur = blur
        self.Conv_0 = nn.Conv2d(channels, features, 7, padding=3, padding_mode="reflect")
        self.halving = [f"Conv_{i + 1}" for i in range(halvings)]
        for i, name in enumerate(self.halving):
            self.add_module(name, nn.Conv2d(features << i, features << (i + 1), 3, 1 if blur else 2, 1))
        self.blocks = [f"ResidualBlock_{i}" for i in range(blocks)]
        for name in self.blocks:
            self.add_module(name, ResidualBlock(features << halvings))
        self.doubling = [f"Conv_{halvings + 1 + i}" if blur else f"ConvTranspose_{i}" for i in range(halvings)]
        for i, name in enumerate(self.doubling):
            widths = features << (halvings - i), features << (halvings - i - 1)
            self.add_module(name, nn.Conv2d(*widths, 3, 1, 1) if blur else nn.ConvTranspose2d(*widths, 3, 2, 1, 1))
        self.last = f"Conv_{halvings + 1 + (halvings if blur else 0)}"
        self.add_module(self.last, nn.Conv2d(features, channels, 7, padding=3, padding_mode="reflect"))

    def halved(self, x):
        """(the last map before the blocks, what each halving's convolution returns)."""
        x, found = rectified(self.Conv_0(x)), []
        for name in self.halving:
            found.append(getattr(self, name)(x))
            x = rectified(found[-1])
            x = blur_and_halve(x) if self.blur else x
        return x, found

    def doubled(self, x):
        """Images of the map after the blocks."""
        for name in self.doubling:
            x = interpolate(x, scale_factor=2, mode="bilinear") if self.blur else x
            x = rectified(getattr(self, name)(x))
        return torch.tanh(getattr(self, self.last)(x).float())

    def forward(self, x, *factors):
        """Images, of images and what dropout multiplies maps by, in each block."""
        x, _ = self.halved(x)
        for i, name in enumerate(self.blocks):
            x = getattr(self, name)(x, *factors[i : i + 1])
        return self.doubled(x)

    def seen(self, x, blocks, *, whole=False):
        """What CUT compares: (the padded image, each halving's map, those after some blocks), and if `whole` images."""
        y, found = self.halved(x)
        maps = [pad(x, (3, 3, 3, 3), "reflect"), *found]
        for i, name in enumerate(self.blocks[: None if whole else max(blocks) + 1]):
            y = getattr(self, name)(y)
            maps += [y] if i in blocks else []
        return (self.doubled(y), maps) if whole else maps
