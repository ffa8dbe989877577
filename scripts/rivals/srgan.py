"""SRGAN without batch normalisation in the generator, as in `jaxgen/systems/srgan.py`; its adversary counts at once."""

from functools import partial

from torch import nn
from torch.nn.functional import interpolate, leaky_relu

from rivals import game
from rivals.edsr import ResidualBlock, ShuffledEnlargement
from rivals.perceptual import WithJudge
from rivals.restoring import half_l1, same


class MSRResNet(nn.Module):
    """Images [B, C, h, w] -> [B, C, scale h, scale w], beside bilinear interpolation."""

    def __init__(self, channels, width, blocks, scale):
        super().__init__()
        self.scale = scale
        self.Conv_0 = same(channels, width)
        self.blocks = [f"ResidualBlock_{i}" for i in range(blocks)]
        for name in self.blocks:
            self.add_module(name, ResidualBlock(width, 1.0))
        self.ShuffledEnlargement_0 = ShuffledEnlargement(width, scale, partial(nn.LeakyReLU, 0.1))
        self.Conv_1, self.Conv_2 = same(width, width), same(width, channels)

    def forward(self, x):
        y = leaky_relu(self.Conv_0(x), 0.1)
        for name in self.blocks:
            y = getattr(self, name)(y)
        y = self.Conv_2(leaky_relu(self.Conv_1(self.ShuffledEnlargement_0(y)), 0.1, inplace=True)).float()
        return y + interpolate(x, scale_factor=self.scale, mode="bilinear")


class Discriminator(nn.Module):
    """Images [B, C, H, H] -> logits [B], in the manner of VGG: each second convolution halves."""

    def __init__(self, channels, features, halvings, size, hidden=100):
        super().__init__()
        self.count, inner = 2 * halvings, channels
        for i in range(self.count):
            width, halves = features * min(2 ** (i // 2), 8), i % 2
            shape = (4, 2, 1) if halves else (3, 1, 1)
            self.add_module(f"Conv_{i}", nn.Conv2d(inner, width, *shape, bias=i == 0))
            if i:
                self.add_module(f"BatchNorm_{i - 1}", nn.BatchNorm2d(width))
            inner = width
        self.Dense_0 = nn.Linear((size >> halvings) ** 2 * inner, hidden)
        self.Dense_1 = nn.Linear(hidden, 1)
        self.reads_maps_of = {"Dense_0": inner}

    def forward(self, x):
        for i in range(self.count):
            x = getattr(self, f"Conv_{i}")(x)
            x = leaky_relu(getattr(self, f"BatchNorm_{i - 1}")(x) if i else x, 0.2, inplace=True)
        return self.Dense_1(leaky_relu(self.Dense_0(x.flatten(1)), 0.2))[:, 0].float()


class Rival(WithJudge, game.Rival):
    """Both, with the mean absolute difference and the perceptual distance."""

    def make_generator(self):
        """A new one."""
        s = self.settings
        return MSRResNet(self.case.channels, s["features"], s["blocks"], s["source"]["scale"])

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        return Discriminator(self.case.channels, s["discriminator_features"], s["halvings"], self.case.image_size)

    def draw_inputs(self):
        """Sources."""
        return (self.parts["source"][-1],)

    def target(self):
        """What images are compared with."""
        return self.parts["image"][-1]

    def generator_terms(self, inputs, output):
        """The mean absolute difference, black being 0 and white 1, and the perceptual distance."""
        s, target = self.settings, self.target()
        with self.autocast():
            distance = self.frozen["judge"](output, target)
        return {
            "pixels": s["pixels"] * half_l1(output, target),
            "perceptual": s["perceptual_weight"] * distance,
        }

    def adversarial_weight(self, loss, terms):
        """Of the loss in the generator's objective."""
        return self.settings["adversarial"]
