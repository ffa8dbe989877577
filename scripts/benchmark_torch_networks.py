"""The networks of `benchmark_torch_gan.py`: jaxgen's, layer for layer and with its names.

SNGAN's shortcuts, like jaxgen's, are computed at the smaller of their two sizes. Its 3x3 convolutions after enlarging
and before halving are layers of their own, as everybody writes them, or `joined`, as in `jaxgen/models/resampling.py`.
Where a dense layer reads or makes maps, `reads_maps_of` and `makes_maps_of` say of how many channels.
"""

from collections import OrderedDict

import torch
from benchmark_cases import Case, map_sizes, sngan_layout
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, linear, pad, relu
from torch.nn.utils.parametrizations import spectral_norm

# DCGAN, as in `jaxgen/models/dcgan.py`


class DCGANGenerator(nn.Sequential):
    """[B, latent_dim] -> images [B, channels, image_size, image_size] in [-1, 1]."""

    def __init__(self, case: Case):
        *larger, size = map_sizes(case.image_size)
        width = case.features << (len(larger) - 1)
        layers = OrderedDict(
            Dense_0=nn.Linear(case.latent_dim, width * size**2, bias=False),
            unflatten=nn.Unflatten(1, (width, size, size)),
            BatchNorm_0=nn.BatchNorm2d(width),
            relu_0=nn.ReLU(),
        )
        makes_maps_of = {"Dense_0": width}
        for i, target in enumerate(reversed(larger)):
            odd, last = target % 2, target == case.image_size
            inner, width = width, case.channels if last else width // 2
            layers[f"ConvTranspose_{i}"] = nn.ConvTranspose2d(inner, width, 4, 2, 1, odd, bias=last)
            if not last:
                layers[f"BatchNorm_{i + 1}"] = nn.BatchNorm2d(width)
                layers[f"relu_{i + 1}"] = nn.ReLU()
        super().__init__(layers)
        self.makes_maps_of = makes_maps_of

    def forward(self, z):
        return torch.tanh(super().forward(z).float())


class DCGANDiscriminator(nn.Sequential):
    """Images [B, channels, H, W] in [-1, 1] -> logits [B]."""

    def __init__(self, case: Case):
        *larger, size = map_sizes(case.image_size)
        layers = OrderedDict()
        width = case.channels
        for i in range(len(larger)):
            inner, width = width, case.features << i
            normalised = case.batch_norm and i > 0
            layers[f"Conv_{i}"] = nn.Conv2d(inner, width, 4, 2, 1, bias=not normalised)
            if normalised:
                layers[f"BatchNorm_{i - 1}"] = nn.BatchNorm2d(width)
            layers[f"leaky_relu_{i}"] = nn.LeakyReLU(0.2)
        layers["flatten"] = nn.Flatten()
        layers["Dense_0"] = nn.Linear(width * size**2, 1)
        super().__init__(layers)
        self.reads_maps_of = {"Dense_0": width}

    def forward(self, x):
        return super().forward(x)[:, 0].float()


# SNGAN, as in `jaxgen/models/sngan.py`


def enlarge(x):
    """Each pixel four times."""
    return interpolate(x, scale_factor=2, mode="nearest")


def _halve(x):
    return avg_pool2d(x, 2)


def enlarge_then_convolve(x, weight, bias):
    """A 3x3 convolution of the enlarged image as one transposed convolution of 4x4 taps."""
    return conv_transpose2d(x, _shifted_sum(weight.flip(2, 3)).transpose(0, 1), bias, stride=2, padding=1)


def _convolve_then_halve(x, weight, bias):
    """A 3x3 convolution and the mean of 2x2 pixels as one convolution of 4x4 taps."""
    return conv2d(x, _shifted_sum(weight) / 4, bias, stride=2, padding=1)


def _shifted_sum(weight):
    return sum(pad(weight, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1))


class SNGANGeneratorBlock(nn.Module):
    """Doubles the size: norm, ReLU, enlarge, 3x3, norm, ReLU, 3x3, plus an enlarged 1x1 shortcut."""

    def __init__(self, width, joined):
        super().__init__()
        self.joined = joined
        self.shortcut = nn.Conv2d(width, width, 1)
        self.BatchNorm_0 = nn.BatchNorm2d(width)
        self.Conv_0 = nn.Conv2d(width, width, 3, padding=1)
        self.BatchNorm_1 = nn.BatchNorm2d(width)
        self.Conv_1 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        shortcut = self.shortcut(x)
        x = relu(self.BatchNorm_0(x))
        if self.joined:
            x = enlarge_then_convolve(x, self.Conv_0.weight, self.Conv_0.bias)
        else:
            x = self.Conv_0(enlarge(x))
        return self.Conv_1(relu(self.BatchNorm_1(x))) + enlarge(shortcut)


class SNGANGenerator(nn.Module):
    """[B, latent_dim] -> images [B, channels, image_size, image_size] in [-1, 1]."""

    def __init__(self, case: Case, joined: bool = False):
        super().__init__()
        layout = sngan_layout(case)
        width, size = layout.generator_width, layout.smallest
        self.Dense_0 = nn.Linear(case.latent_dim, width * size**2)
        self.makes_maps_of = {"Dense_0": width}
        self.unflatten = nn.Unflatten(1, (width, size, size))
        self.blocks = [f"GeneratorBlock_{i}" for i in range(layout.num_doublings)]
        for name in self.blocks:
            self.add_module(name, SNGANGeneratorBlock(width, joined))
        self.BatchNorm_0 = nn.BatchNorm2d(width)
        self.Conv_0 = nn.Conv2d(width, case.channels, 3, padding=1)

    def forward(self, z):
        x = self.unflatten(self.Dense_0(z))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return torch.tanh(self.Conv_0(relu(self.BatchNorm_0(x))).float())


class SpectralConv(nn.Conv2d):
    """A convolution with spectral norm, by one power iteration in each forward pass."""

    def __init__(self, inner, width, kernel_size):
        super().__init__(inner, width, kernel_size, padding=kernel_size // 2)
        spectral_norm(self, eps=1e-12)

    def forward(self, x):
        return conv2d(x, self.float32_weight(), self.bias, padding=self.padding)

    def float32_weight(self):
        """Normalised in float32 whatever the computation's dtype, as in jaxgen: autocast would round the products."""
        with torch.autocast(self.bias.device.type, enabled=False):
            return self.weight


class SpectralDense(nn.Linear):
    """A dense layer with spectral norm, by one power iteration in each forward pass; in float32 throughout."""

    def __init__(self, inner, width):
        super().__init__(inner, width)
        spectral_norm(self, eps=1e-12)

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return linear(x, self.weight, self.bias)


class SNGANDiscriminatorBlock(nn.Module):
    """ReLU (but not on the image), 3x3, ReLU, 3x3 and, where it halves the size, a mean over 2x2, plus a shortcut.

    The shortcut sees the block's input, not what the ReLU makes of it.
    """

    def __init__(self, inner, width, halve, first, joined):
        super().__init__()
        self.halve, self.first, self.joined = halve, first, joined
        self.shortcut = SpectralConv(inner, width, 1) if halve or inner != width else None
        hidden = width if first else inner
        self.SpectralConv_0 = SpectralConv(inner, hidden, 3)
        self.SpectralConv_1 = SpectralConv(hidden, width, 3)

    def forward(self, x):
        shortcut = _halve(x) if self.halve else x
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        x = relu(self.SpectralConv_0(x if self.first else relu(x)))
        if self.halve and self.joined:
            return _convolve_then_halve(x, self.SpectralConv_1.float32_weight(), self.SpectralConv_1.bias) + shortcut
        x = self.SpectralConv_1(x)
        return (_halve(x) if self.halve else x) + shortcut


class SNGANDiscriminator(nn.Module):
    """Images [B, channels, H, W] in [-1, 1] -> logits [B]."""

    def __init__(self, case: Case, joined: bool = False):
        super().__init__()
        layout = sngan_layout(case)
        inner, width = case.channels, layout.discriminator_width
        self.blocks = [f"DiscriminatorBlock_{i}" for i in range(layout.num_blocks)]
        for i, name in enumerate(self.blocks):
            self.add_module(name, SNGANDiscriminatorBlock(inner, width, i < layout.num_halvings, i == 0, joined))
            inner = width
        self.SpectralDense_0 = SpectralDense(width, 1)

    def forward(self, x):
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.SpectralDense_0(relu(x).float().sum((2, 3)))[:, 0]


NETWORKS = {"dcgan": (DCGANGenerator, DCGANDiscriminator), "sngan": (SNGANGenerator, SNGANDiscriminator)}
"""(generator, discriminator) by the name that a case has for them."""
