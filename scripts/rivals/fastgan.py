"""FastGAN for 32 pixels, as in `jaxgen/models/fastgan.py`: excitation, and a discriminator that draws what it sees."""

import torch
from benchmark_torch_networks import enlarge
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, glu, leaky_relu

from rivals import game
from rivals.base import integers
from rivals.residual import spectral


def conv(inner, width, kernel_size, stride=1, padding=0):
    """Spectrally normalised, without a bias."""
    return spectral(nn.Conv2d(inner, width, kernel_size, stride, padding, bias=False))


class Noise(nn.Module):
    """x + strength * noise."""

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x, noise):
        return x + self.strength * noise


class EnlargingBlock(nn.Module):
    """[B, C, H, W] -> [B, width, 2 H, 2 W]; with noise [B, 1, 2 H, 2 W] for each of two convolutions."""

    def __init__(self, inner, width, noisy=False):
        super().__init__()
        self.EnlargingConv_0, self.Norm_0 = conv(inner, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)
        if noisy:
            self.Conv_0, self.Norm_1 = conv(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)
            self.Noise_0, self.Noise_1 = Noise(), Noise()

    def forward(self, x, noise=()):
        x = self.EnlargingConv_0(enlarge(x))
        x = glu(self.Norm_0(self.Noise_0(x, noise[0]) if noise else x), 1)
        return glu(self.Norm_1(self.Noise_1(self.Conv_0(x), noise[1])), 1) if noise else x


class Excitation(nn.Module):
    """A small map says how strong the channels of another are."""

    def __init__(self, inner, width):
        super().__init__()
        self.Conv_0, self.Conv_1 = conv(inner, width, 4), conv(width, width, 1)

    def forward(self, low, high):
        x = leaky_relu(self.Conv_0(adaptive_avg_pool2d(low, 4)), 0.1)
        return high * torch.sigmoid(self.Conv_1(x))


class Generator(nn.Module):
    """[B, latent_dim], noise for two maps of 8x8 and two of 32x32 -> images [B, channels, 32, 32]."""

    def __init__(self, latent_dim, f, channels):
        super().__init__()
        self.Dense_0 = spectral(nn.Linear(latent_dim, 16 * 32 * f, bias=False))
        self.makes_maps_of = {"Dense_0": 32 * f}
        self.unflatten = nn.Unflatten(1, (32 * f, 4, 4))
        self.Norm_0 = nn.BatchNorm2d(32 * f)
        self.block_8 = EnlargingBlock(16 * f, 8 * f, noisy=True)
        self.block_16, self.excite_16 = EnlargingBlock(8 * f, 4 * f), Excitation(16 * f, 4 * f)
        self.block_32, self.excite_32 = EnlargingBlock(4 * f, 2 * f, noisy=True), Excitation(8 * f, 2 * f)
        self.draw = conv(2 * f, channels, 3, padding=1)

    def forward(self, z, noise):
        map_4 = glu(self.Norm_0(self.unflatten(self.Dense_0(z))), 1)
        map_8 = self.block_8(map_4, noise[:2])
        map_16 = self.excite_16(map_4, self.block_16(map_8))
        map_32 = self.excite_32(map_8, self.block_32(map_16, noise[2:]))
        return torch.tanh(self.draw(map_32).float())


class HalvingBlock(nn.Module):
    """[B, C, H, W] -> [B, width, H / 2, W / 2]: the mean of a 4x4 and a 3x3 convolution, and of a 1x1 one."""

    def __init__(self, inner, width):
        super().__init__()
        self.Conv_0, self.Norm_0 = conv(inner, width, 4, 2, 1), nn.BatchNorm2d(width)
        self.Conv_1, self.Norm_1 = conv(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.Conv_2, self.Norm_2 = conv(inner, width, 1), nn.BatchNorm2d(width)

    def forward(self, x):
        y = leaky_relu(self.Norm_0(self.Conv_0(x)), 0.2)
        y = leaky_relu(self.Norm_1(self.Conv_1(y)), 0.2)
        return (y + leaky_relu(self.Norm_2(self.Conv_2(avg_pool2d(x, 2))), 0.2)) / 2


class Decoder(nn.Module):
    """[B, C, 8, 8] -> pictures [B, channels, 16, 16]."""

    def __init__(self, inner, width, channels):
        super().__init__()
        self.EnlargingBlock_0, self.draw = EnlargingBlock(inner, width), conv(width, channels, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.draw(self.EnlargingBlock_0(x)).float())


class Eyes(nn.Module):
    """Images -> (logits [B, 50], maps of the image, of its small copy, and of which a quarter is drawn)."""

    def __init__(self, f, channels):
        super().__init__()
        self.Conv_0 = conv(channels, 2 * f, 3, padding=1)
        self.block_16, self.block_8 = HalvingBlock(2 * f, 4 * f), HalvingBlock(4 * f, 8 * f)
        self.excite_8 = Excitation(2 * f, 8 * f)
        self.head, self.head_norm, self.judge = conv(8 * f, 16 * f, 1), nn.BatchNorm2d(16 * f), conv(16 * f, 1, 4)
        self.small, self.judge_small = conv(channels, 4 * f, 4, 2, 1), conv(4 * f, 1, 4)

    def forward(self, x):
        map_32 = leaky_relu(self.Conv_0(x), 0.2)
        map_16 = self.block_16(map_32)
        map_8 = self.excite_8(map_32, self.block_8(map_16))
        logits = self.judge(leaky_relu(self.head_norm(self.head(map_8)), 0.2))
        small = leaky_relu(self.small(avg_pool2d(x, 2)), 0.2)
        logits = torch.cat([logits.flatten(1), self.judge_small(small).flatten(1)], 1).float()
        return logits, map_8, small, map_16


class Discriminator(nn.Module):
    """Images -> what its eyes return; and decoders."""

    def __init__(self, f, channels):
        super().__init__()
        self.eyes = Eyes(f, channels)
        self.decoders_whole = Decoder(8 * f, 2 * f, channels)
        self.decoders_small, self.decoders_part = Decoder(4 * f, 2 * f, channels), Decoder(4 * f, 2 * f, channels)

    def forward(self, x):
        return self.eyes(x)


def quarter(x, which):
    """One quarter of each map: [B, C, H, H], numbers 0 to 3 [B] -> [B, C, H / 2, H / 2], row by row."""
    half = x.shape[2] // 2
    parts = x.unflatten(3, (2, half)).unflatten(2, (2, half)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return parts[torch.arange(len(x), device=x.device), which.long()]


class Rival(game.Rival):
    """Both."""

    def make_generator(self):
        """A new one."""
        return Generator(self.settings["latent_dim"], self.settings["generator_features"], self.case.channels)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.settings["discriminator_features"], self.case.channels)

    def draw_inputs(self):
        """Latents and noise."""
        (z,) = super().draw_inputs()
        return z, [self.draw(torch.randn, self.batch_size, 1, side, side) for side in (8, 8, 32, 32)]

    def draw_points(self):
        """Which quarter is drawn of each image."""
        return (self.draw(integers(0, 4), self.batch_size),)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake, which):
        """The hinge loss, and how far drawn pictures are from real images."""
        with self.autocast():
            real_logits, whole, small, part = self.discriminator(real)
            fake_logits, *_ = self.discriminator(fake)
            halved = avg_pool2d(real, 2)
            distance = (self.discriminator.decoders_whole(whole) - halved).abs().mean()
            distance = distance + (self.discriminator.decoders_small(small) - halved).abs().mean()
            drawn = self.discriminator.decoders_part(quarter(part, which))
            distance = distance + (drawn - quarter(real, which)).abs().mean()
        loss = self.loss_by_both(real_logits, fake_logits).mean()
        return loss, {"autoencoding": self.settings["autoencoding"] * distance}

    def generator_objective(self, fake, real, told):
        """The loss of all logits."""
        with self.autocast():
            fake_logits, *_ = self.discriminator(fake)
        return self.loss_by_fake(fake_logits).mean(), {}
