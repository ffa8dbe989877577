"""StyleGAN2, as in `jaxgen/models/stylegan2.py`: "skip" and "residual", lazy R1 and path length, styles mixed.

Modulated convolutions have a kernel for each image, in one convolution of as many groups, as most write them; `joined`
scales inputs and outputs instead, in one convolution of the batch, as jaxgen does.
"""

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

from rivals import game
from rivals.base import integers
from rivals.equalised import (
    EqualisedConv,
    EqualisedDense,
    activate,
    blur,
    downsample,
    normalised,
    scale_of,
    sizes_of,
    upsample,
    with_deviation,
)

MEAN_DECAY = 0.995  # of the running mean of styles
LENGTH_DECAY = 0.01  # how fast the mean path length moves
BATCH_SHRINK = 2  # path lengths are of every second latent


class Modulated(nn.Module):
    """A convolution whose input channels a style scales: x [B, C, H, W], w [B, D] -> [B, O, H, W], or twice that size.

    Demodulated it is divided by the length of each output channel's kernel.
    """

    def __init__(self, inner, width, kernel_size, style_dim, joined, enlarge=False, demodulate=True):
        super().__init__()
        self.joined, self.enlarge, self.demodulate, self.padding = joined, enlarge, demodulate, kernel_size // 2
        self.style = EqualisedDense(style_dim, inner)
        self.weight = nn.Parameter(torch.randn(width, inner, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(width))

    def convolve(self, x, weight, groups=1):
        """Without style and bias; weight [groups O, C, k, k]."""
        if not self.enlarge:
            return conv2d(x, weight, padding=self.padding, groups=groups)
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
        return conv_transpose2d(x, weight, stride=2, groups=groups)

    def modulated(self, x, w):
        """Without the bias."""
        style, weight = self.style(w), self.weight * scale_of(self.weight)
        if self.joined:
            y = self.convolve(x * style[:, :, None, None], weight)
            if self.demodulate:
                y = y * torch.rsqrt(style.square() @ weight.square().sum((2, 3)).T + 1e-8)[:, :, None, None]
        else:
            weight = weight * style[:, None, :, None, None]
            if self.demodulate:
                weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
            # Contiguous: PyTorch 2.13 on CPU otherwise gets gradients wrong where weights are channels_last.
            groups = x.reshape(1, -1, *x.shape[2:]).contiguous()
            y = self.convolve(groups, weight.flatten(0, 1), groups=len(x)).unflatten(1, (len(x), -1))[0]
        return blur(y, 1, gain=2.0) if self.enlarge else y


class StyledConv(Modulated):
    """3x3, noise [B, 1, H, W] of a learned strength, a bias and the activation."""

    def __init__(self, inner, width, style_dim, joined, enlarge=False):
        super().__init__(inner, width, 3, style_dim, joined, enlarge)
        self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x, w, noise):
        return activate(self.modulated(x, w) + self.noise_strength * noise + self.bias[:, None, None])


class ToImage(Modulated):
    """1x1, modulated alone."""

    def __init__(self, inner, width, style_dim, joined):
        super().__init__(inner, width, 1, style_dim, joined, demodulate=False)

    def forward(self, x, w):
        return self.modulated(x, w).float() + self.bias[:, None, None]


class Mapping(nn.Module):
    """[B, latent_dim] -> styles [B, D]."""

    def __init__(self, latent_dim, width, num_layers):
        super().__init__()
        for i in range(num_layers):
            self.add_module(f"EqualisedDense_{i}", EqualisedDense(width if i else latent_dim, width, rate=0.01))

    def forward(self, z):
        x = normalised(z)
        for layer in self.children():
            x = activate(layer(x))
        return x


class Synthesis(nn.Module):
    """Styles [B, layers, D] and noise for each 3x3 convolution -> images [B, C, H, H]."""

    def __init__(self, widths, channels, style_dim, joined):
        super().__init__()
        self.constant = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.num_sizes = len(widths)
        for i, width in enumerate(widths):
            if i > 0:
                self.add_module(f"StyledConv_{2 * i - 1}", StyledConv(widths[i - 1], width, style_dim, joined, True))
            self.add_module(f"StyledConv_{2 * i}", StyledConv(width, width, style_dim, joined))
            self.add_module(f"ToImage_{i}", ToImage(width, channels, style_dim, joined))

    def forward(self, styles, noise):
        x, image = self.constant.expand(len(styles), -1, -1, -1), None
        for i in range(self.num_sizes):
            for layer in ([2 * i - 1] if i > 0 else []) + [2 * i]:
                x = getattr(self, f"StyledConv_{layer}")(x, styles[:, layer], noise[layer])
            drawn = getattr(self, f"ToImage_{i}")(x, styles[:, 2 * i + 1])
            image = drawn if image is None else upsample(image) + drawn
        return image


class Generator(nn.Module):
    """Latents z and `other` [B, latent_dim], which layer is the first of the other's, and whether -> images."""

    def __init__(self, settings, widths, channels, joined):
        super().__init__()
        self.num_layers, style_dim = 2 * len(widths), settings["style_dim"]
        self.mapping_network = Mapping(settings["latent_dim"], style_dim, settings["mapping_layers"])
        self.synthesis_network = Synthesis(widths, channels, style_dim, joined)
        self.register_buffer("mean_style", torch.zeros(style_dim))

    def styles(self, w, other, first, mixed):
        """[B, layers, D]."""
        layers = torch.arange(self.num_layers, device=w.device)
        from_other = mixed.bool()[:, None] & (layers >= first[:, None])
        return torch.where(from_other[..., None], self.mapping_network(other)[:, None], w[:, None])

    def forward(self, z, other, first, mixed, noise):
        w = self.mapping_network(z)
        with torch.no_grad():
            self.mean_style.lerp_(w.float().mean(0), 1 - MEAN_DECAY)
        return self.synthesis_network(self.styles(w, other, first, mixed), noise)


class Discriminator(nn.Module):
    """Images [B, C, H, H] -> logits [B]."""

    def __init__(self, widths, channels, group_size):
        super().__init__()
        self.sizes, self.group_size = sizes_of(4 << (len(widths) - 1))[:0:-1], group_size
        of_size = dict(zip([*self.sizes, 4], reversed(widths), strict=True))
        self.add_module(f"from_image_{self.sizes[0]}", EqualisedConv(channels, widths[-1], 1))
        for size in self.sizes:
            width, next_width = of_size[size], of_size[size // 2]
            self.add_module(f"conv_{size}", EqualisedConv(width, width, 3, padding=1))
            self.add_module(f"halving_{size}", EqualisedConv(width, next_width, 3, stride=2))
            self.add_module(f"shortcut_{size}", EqualisedConv(width, next_width, 1, bias=False))
        self.conv_4 = EqualisedConv(widths[0] + (group_size > 1), widths[0], 3, padding=1)
        self.EqualisedDense_0 = EqualisedDense(16 * widths[0], widths[0])
        self.EqualisedDense_1 = EqualisedDense(widths[0], 1)
        self.reads_maps_of = {"EqualisedDense_0": widths[0]}

    def forward(self, x):
        x = activate(getattr(self, f"from_image_{self.sizes[0]}")(x))
        for size in self.sizes:
            shortcut = getattr(self, f"shortcut_{size}")(downsample(x))
            x = activate(getattr(self, f"conv_{size}")(x))
            x = (activate(getattr(self, f"halving_{size}")(blur(x, 2))) + shortcut) * 0.5**0.5
        x = activate(self.conv_4(with_deviation(x, self.group_size)))
        return self.EqualisedDense_1(activate(self.EqualisedDense_0(x.flatten(1))).float())[:, 0]


class Rival(game.Rival):
    """Both."""

    def __init__(self, case, *, joined, **arguments):
        settings = case.settings
        self.joined, self.sizes = joined, sizes_of(case.image_size)
        self.widths = [min(settings["max_features"], settings["capacity"] // size) for size in self.sizes]
        super().__init__(case, joined=joined, **arguments)
        self.mean_length = torch.zeros((), device=self.draw.device)
        self.run_path_length = self.path_length
        if self.compile_mode:
            self.run_path_length = torch.compile(self.path_length, mode=self.compile_mode)

    def make_generator(self):
        """A new one."""
        return Generator(self.settings, self.widths, self.case.channels, self.joined)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.widths, self.case.channels, self.settings["group_size"])

    def restart(self):
        """The mean length begins anew, too."""
        super().restart()
        self.mean_length = torch.zeros_like(self.mean_length)

    def draw_mixing_and_noise(self, batch_size):
        """What both need beside latents."""
        other = self.draw(torch.randn, batch_size, self.settings["latent_dim"])
        first = self.draw(integers(1, 2 * len(self.sizes)), batch_size)
        mixed = self.draw(self.mixed, batch_size)
        sides = [self.sizes[0]] + [size for size in self.sizes[1:] for _ in range(2)]
        return other, first, mixed, [self.draw(torch.randn, batch_size, 1, side, side) for side in sides]

    def mixed(self, *shape, device):
        """True in so many cases."""
        return torch.rand(*shape, device=device) < self.settings["mixing_probability"]

    def draw_inputs(self):
        """Latents, other ones, where they are mixed, noise."""
        return (*super().draw_inputs(), *self.draw_mixing_and_noise(self.batch_size))

    def draw_points(self):
        """Nothing is drawn: whether R1 is due."""
        return (self.steps % self.settings["r1_every"] == 0,)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake, due):
        """The loss, and R1 where it is due."""
        if not due:
            return super().discriminator_objective(real, fake, told_of_real, told_of_fake)
        with self.autocast():
            real_logits, squared = self.logits_and_squared_gradient_norm(real)
            fake_logits = self.discriminator(fake)
        weight = self.settings["r1_every"] * self.settings["r1"] / 2
        return self.loss_by_both(real_logits, fake_logits).mean(), {"r1": weight * squared.mean()}

    def generator_terms(self, inputs, output):
        """The path length, where it is due."""
        every = self.settings["path_length_every"]
        if self.steps % every:
            return {}
        z = inputs[0][::BATCH_SHRINK]
        given = self.draw_mixing_and_noise(len(z))
        shape = (self.case.channels, self.case.image_size, self.case.image_size)
        lengths = self.run_path_length(z, *given, self.draw(torch.randn, len(z), *shape))
        penalty = (lengths - self.mean_length).square().mean()
        self.mean_length = self.mean_length.lerp(lengths.detach().mean(), LENGTH_DECAY)
        return {"path_length": self.settings["path_length"] * every * penalty}

    def path_length(self, z, other, first, mixed, noise, y):
        """|J' y| of each image, the mean over layers within the root."""

        def projected(styles):
            image = self.generator.synthesis_network(styles, noise)
            return (image * y).sum() / (y.shape[2] * y.shape[3]) ** 0.5

        with self.autocast():
            styles = self.generator.styles(self.generator.mapping_network(z), other, first, mixed)
            if self.compile_mode:
                gradient = torch.func.grad(projected)(styles)
            else:
                (gradient,) = torch.autograd.grad(projected(styles), styles, create_graph=True)
        return gradient.square().sum(2).mean(1).sqrt()
