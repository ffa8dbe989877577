"""FactorVAE of digits, as in `jaxgen/systems/factor_vae.py`: a convolutional VAE, a discriminator of latents."""

import torch
from benchmark_cases import map_sizes
from torch import nn
from torch.nn.functional import silu, softplus

from rivals import three
from rivals.pairs import Discriminator
from rivals.vae import log_bernoulli, rate_of


class Encoder(nn.Module):
    """Images [B, C, H, H] -> mean and log variance of latents [B, 2 latent_dim]."""

    def __init__(self, size, channels, features, latent_dim):
        super().__init__()
        *larger, least = map_sizes(size)
        widths = [channels, *(features << i for i in range(len(larger)))]
        self.convs = [f"Conv_{i}" for i in range(len(larger))]
        for name, pair in zip(self.convs, zip(widths, widths[1:], strict=False), strict=True):
            self.add_module(name, nn.Conv2d(*pair, 4, 2, 1))
        self.Dense_0, self.Dense_1 = nn.Linear(least**2 * widths[-1], 256), nn.Linear(256, 2 * latent_dim)
        self.reads_maps_of = {"Dense_0": widths[-1]}

    def forward(self, x):
        for name in self.convs:
            x = silu(getattr(self, name)(x), inplace=True)
        return self.Dense_1(silu(self.Dense_0(x.flatten(1)))).float()


class Decoder(nn.Module):
    """[B, latent_dim] -> logits of pixels [B, C, H, H]."""

    def __init__(self, size, channels, features, latent_dim):
        super().__init__()
        *larger, least = map_sizes(size)
        widths = [*(features << i for i in reversed(range(len(larger)))), channels]
        self.Dense_0, self.Dense_1 = nn.Linear(latent_dim, 256), nn.Linear(256, least**2 * widths[0])
        self.makes_maps_of = {"Dense_1": widths[0]}
        self.unflatten = nn.Unflatten(1, (widths[0], least, least))
        self.convs = [f"ConvTranspose_{i}" for i in range(len(larger))]
        for i, (name, target) in enumerate(zip(self.convs, reversed(larger), strict=True)):
            self.add_module(name, nn.ConvTranspose2d(widths[i], widths[i + 1], 4, 2, 1, target % 2))

    def forward(self, z):
        x = self.unflatten(self.Dense_1(silu(self.Dense_0(z))))
        for name in self.convs:
            x = getattr(self, name)(silu(x, inplace=True))
        return x.float()


class Rival(three.Rival):
    """The negative ELBO with a total correlation, which the discriminator estimates."""

    def make_encoder(self):
        """A new one."""
        return Encoder(self.case.image_size, self.case.channels, self.settings["features"], self.settings["latent_dim"])

    def make_decoder(self):
        """A new one."""
        return Decoder(self.case.image_size, self.case.channels, self.settings["features"], self.settings["latent_dim"])

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.settings["latent_dim"], self.settings["discriminator_widths"], 1, slope=0.2)

    def draw_noise(self):
        """Of the posterior, and what each column is sorted by."""
        return *super().draw_noise(), self.draw(torch.rand, self.case.batch_size, self.settings["latent_dim"])

    def objectives(self, x, noise, numbers):
        """The losses."""
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * noise
        distortion = -log_bernoulli(self.decoder(z).flatten(1), (x.flatten(1) + 1) / 2).mean()
        rate = rate_of(mean, logvar).mean()
        logits, of_permuted = self.discriminator(z), self.discriminator(z.gather(0, numbers.argsort(0)))
        correlation = logits.mean()
        losses = {
            ("encoder",): distortion + rate + self.settings["gamma"] * correlation,
            ("decoder",): distortion,
            ("discriminator",): (softplus(-logits) + softplus(of_permuted)).mean(),
        }
        return losses, {"distortion": distortion, "rate": rate, "total_correlation": correlation}, None

    def code_of(self, output):
        """The mean."""
        return output.chunk(2, dim=1)[0]

    def picture(self, output):
        """Means of the pixels."""
        return 2 * torch.sigmoid(output) - 1
