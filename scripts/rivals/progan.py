"""ProGAN when it is grown, as in `jaxgen/models/progan.py`: the Wasserstein loss, a gradient penalty, drift.

Layers of earlier stages' pictures have their weights, which are not used any more: here they are not run, either.
"""

import torch
from benchmark_torch_networks import enlarge
from torch import nn
from torch.nn.functional import avg_pool2d, leaky_relu

from rivals import game
from rivals.equalised import SLOPE, EqualisedConv, EqualisedDense, normalised, sizes_of, with_deviation

GAIN = 2**0.5


def activate(x):
    """Leaky ReLU."""
    return leaky_relu(x, SLOPE)


def conv3(inner, width):
    """3x3, of the same size."""
    return EqualisedConv(inner, width, 3, GAIN, padding=1)


class FirstMap(nn.Module):
    """[B, latent_dim] -> maps [B, C, 4, 4]."""

    def __init__(self, latent_dim, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, latent_dim, 4, 4))
        self.bias = nn.Parameter(torch.zeros(width))
        self.EqualisedConv_0 = conv3(width, width)
        self.scale = GAIN / latent_dim**0.5 / 4

    def forward(self, z):
        x = torch.einsum("bd,odhw->bohw", normalised(z), self.weight * self.scale) + self.bias[:, None, None]
        return normalised(activate(self.EqualisedConv_0(normalised(activate(x)))))


class Enlarging(nn.Module):
    """[B, C, H, W] -> [B, width, 2 H, 2 W]."""

    def __init__(self, inner, width):
        super().__init__()
        self.EnlargingConv_0, self.EqualisedConv_0 = conv3(inner, width), conv3(width, width)

    def forward(self, x):
        x = normalised(activate(self.EnlargingConv_0(enlarge(x))))
        return normalised(activate(self.EqualisedConv_0(x)))


class Halving(nn.Module):
    """[B, C, H, W] -> [B, width, H / 2, W / 2]."""

    def __init__(self, inner, width):
        super().__init__()
        self.EqualisedConv_0, self.EqualisedConv_1 = conv3(inner, inner), conv3(inner, width)

    def forward(self, x):
        return avg_pool2d(activate(self.EqualisedConv_1(activate(self.EqualisedConv_0(x)))), 2)


class Judging(nn.Module):
    """[B, C, 4, 4] -> logits [B]."""

    def __init__(self, inner, width):
        super().__init__()
        self.EqualisedConv_0 = conv3(inner, width)
        self.EqualisedConv_1 = EqualisedConv(width, width, 4, GAIN)
        self.EqualisedDense_0 = EqualisedDense(width, 1)

    def forward(self, x):
        x = activate(self.EqualisedConv_1(activate(self.EqualisedConv_0(x))))
        return self.EqualisedDense_0(x.flatten(1).float())[:, 0]


class Generator(nn.Module):
    """[B, latent_dim] -> images [B, channels, H, H]."""

    def __init__(self, latent_dim, widths, channels):
        super().__init__()
        self.first_4 = FirstMap(latent_dim, widths[4])
        self.stages = [f"stage_{size}" for size in widths if size > 4]
        for size, width in widths.items():
            if size > 4:
                self.add_module(f"stage_{size}", Enlarging(widths[size // 2], width))
            self.add_module(f"to_image_{size}", EqualisedConv(width, channels, 1))
        self.to_image = f"to_image_{size}"

    def forward(self, z):
        x = self.first_4(z)
        for name in self.stages:
            x = getattr(self, name)(x)
        return getattr(self, self.to_image)(x).float()


class Discriminator(nn.Module):
    """Images [B, channels, H, H] -> logits [B]."""

    def __init__(self, widths, channels, group_size):
        super().__init__()
        self.group_size = group_size
        self.stages = [f"stage_{size}" for size in reversed(widths) if size > 4]
        for size, width in widths.items():
            self.add_module(f"from_image_{size}", EqualisedConv(channels, width, 1, GAIN))
            if size > 4:
                self.add_module(f"stage_{size}", Halving(width, widths[size // 2]))
        self.from_image = f"from_image_{size}"
        self.judging_4 = Judging(widths[4] + (group_size > 1), widths[4])

    def forward(self, x):
        x = activate(getattr(self, self.from_image)(x))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.judging_4(with_deviation(x, self.group_size))


class Rival(game.Rival):
    """Both."""

    def widths(self):
        """Channels of a map of a side."""
        most, capacity = self.settings["max_features"], self.settings["capacity"]
        return {size: min(most, capacity // size) for size in sizes_of(self.case.image_size)}

    def make_generator(self):
        """A new one."""
        return Generator(self.settings["latent_dim"], self.widths(), self.case.channels)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.widths(), self.case.channels, self.settings["group_size"])

    def draw_points(self):
        """Places between real and fake images."""
        return (self.draw(torch.rand, self.batch_size, 1, 1, 1),)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake, uniform):
        """The Wasserstein loss, the penalty and the drift."""
        with self.autocast():
            real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
            penalty = self.gradient_penalty(real, fake, uniform)
        drift = self.settings["drift"] * real_logits.square().mean()
        return self.loss_by_both(real_logits, fake_logits).mean(), {"gradient_penalty": penalty, "drift": drift}
