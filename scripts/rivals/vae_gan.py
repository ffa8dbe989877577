"""VAE-GAN, as in `jaxgen/systems/vae_gan.py`: errors are those of a discriminator's features.

Whether a network moves is known from two numbers of the step, for which PyTorch has to wait for the device.
"""

import torch
from torch import nn
from torch.nn.functional import relu, softplus

from rivals import three
from rivals.game import LOSSES
from rivals.vae import rate_of


class Encoder(nn.Module):
    """Images [B, C, H, W] -> mean and log variance of latents [B, 2 latent_dim]."""

    def __init__(self, image_size, channels, latent_dim, features, hidden):
        super().__init__()
        widths = [channels, features, 2 * features, 4 * features]
        for i in range(3):
            self.add_module(f"Conv_{i}", nn.Conv2d(widths[i], widths[i + 1], 5, 2, 2, bias=False))
            self.add_module(f"BatchNorm_{i}", nn.BatchNorm2d(widths[i + 1]))
        self.Dense_0 = nn.Linear((image_size // 8) ** 2 * widths[3], hidden, bias=False)
        self.BatchNorm_3 = nn.BatchNorm1d(hidden)
        self.Dense_1 = nn.Linear(hidden, 2 * latent_dim)
        self.reads_maps_of = {"Dense_0": widths[3]}

    def forward(self, x):
        for i in range(3):
            x = relu(getattr(self, f"BatchNorm_{i}")(getattr(self, f"Conv_{i}")(x)), inplace=True)
        x = relu(self.BatchNorm_3(self.Dense_0(x.flatten(1))), inplace=True)
        return self.Dense_1(x).float()


class Decoder(nn.Module):
    """[B, latent_dim] -> images [B, C, H, W] in [-1, 1]."""

    def __init__(self, image_size, channels, latent_dim, features):
        super().__init__()
        side = image_size // 8
        widths = [4 * features, 4 * features, 2 * features, features // 2]
        self.Dense_0 = nn.Linear(latent_dim, side**2 * widths[0], bias=False)
        self.BatchNorm_0 = nn.BatchNorm1d(side**2 * widths[0])
        self.makes_maps_of = dict.fromkeys(("Dense_0", "BatchNorm_0"), widths[0])
        self.unflatten = nn.Unflatten(1, (widths[0], side, side))
        for i in range(3):
            layer = nn.ConvTranspose2d(widths[i], widths[i + 1], 5, 2, 2, 1, bias=False)
            self.add_module(f"ConvTranspose_{i}", layer)
            self.add_module(f"BatchNorm_{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.Conv_0 = nn.Conv2d(widths[3], channels, 5, padding=2)

    def forward(self, z):
        x = self.unflatten(relu(self.BatchNorm_0(self.Dense_0(z)), inplace=True))
        for i in range(3):
            x = relu(getattr(self, f"BatchNorm_{i + 1}")(getattr(self, f"ConvTranspose_{i}")(x)), inplace=True)
        return torch.tanh(self.Conv_0(x).float())


class Discriminator(nn.Module):
    """Images [B, C, H, W] -> (logits [B], the last map before its normalisation)."""

    def __init__(self, image_size, channels, features, hidden):
        super().__init__()
        widths = [channels, features // 2, 2 * features, 4 * features, 4 * features]
        self.Conv_0 = nn.Conv2d(widths[0], widths[1], 5, padding=2)
        for i in range(1, 4):
            self.add_module(f"Conv_{i}", nn.Conv2d(widths[i], widths[i + 1], 5, 2, 2, bias=False))
            self.add_module(f"BatchNorm_{i - 1}", nn.BatchNorm2d(widths[i + 1]))
        self.Dense_0 = nn.Linear((image_size // 8) ** 2 * widths[4], hidden, bias=False)
        self.BatchNorm_3 = nn.BatchNorm1d(hidden)
        self.Dense_1 = nn.Linear(hidden, 1)
        self.reads_maps_of = {"Dense_0": widths[4]}

    def forward(self, x):
        x = relu(self.Conv_0(x), inplace=True)
        x = relu(self.BatchNorm_0(self.Conv_1(x)), inplace=True)
        found = self.Conv_3(relu(self.BatchNorm_1(self.Conv_2(x)), inplace=True))
        x = relu(self.BatchNorm_2(found), inplace=True)
        x = relu(self.BatchNorm_3(self.Dense_0(x.flatten(1))), inplace=True)
        return self.Dense_1(x)[:, 0].float(), found.float()


class Rival(three.Rival):
    """All three."""

    def make_encoder(self):
        """A new one."""
        s = self.settings
        sizes = self.case.image_size, self.case.channels
        return Encoder(*sizes, s["latent_dim"], s["features"], s["encoder_hidden"])

    def make_decoder(self):
        """A new one."""
        return Decoder(self.case.image_size, self.case.channels, self.settings["latent_dim"], self.settings["features"])

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        return Discriminator(self.case.image_size, self.case.channels, s["features"], s["discriminator_hidden"])

    def draw_noise(self):
        """Of the posterior, and latents of new images."""
        return *super().draw_noise(), *super().draw_noise()

    def objectives(self, x, noise, prior):
        """The losses, errors and rate, and the costs of real and of fake images."""
        by_fake, by_both = LOSSES[self.settings["loss"]]
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        again, new = self.decoder(mean + torch.exp(0.5 * logvar) * noise), self.decoder(prior)
        real, of_image = self.discriminator(x)
        of_again, features = self.discriminator(again)
        fakes = of_again, self.discriminator(new)[0]
        rate = rate_of(mean, logvar).mean()
        distortion = 0.5 * (of_image - features).square().sum((1, 2, 3)).mean()
        losses = {
            ("encoder",): rate + distortion,
            ("decoder",): self.settings["gamma"] * distortion + sum(by_fake(fake).mean() for fake in fakes) / 2,
            ("discriminator",): sum(by_both(real, fake).mean() for fake in fakes) / 2,
        }
        costs = softplus(-real).mean(), sum(softplus(fake).mean() for fake in fakes) / 2
        return losses, {"rate": rate, "feature_distortion": distortion}, torch.stack(costs).detach()

    def waiting(self, costs):
        """The stronger side of the game."""
        s = self.settings
        strong = bool((costs < s["equilibrium"] - s["margin"]).any())
        weak = bool((costs > s["equilibrium"] + s["margin"]).any())
        return {(True, False): ("discriminator",), (False, True): ("decoder",)}.get((strong, weak), ())

    def code_of(self, output):
        """The mean."""
        return output.chunk(2, dim=1)[0]
