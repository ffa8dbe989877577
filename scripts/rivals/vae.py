"""The variational autoencoder of binarised images, as in `jaxgen/systems/vae.py` and `jaxgen/models/mlp.py`."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rivals import single

WIDTHS = (200, 200)


class Tanh(nn.Module):
    """Dense layers, tanh after each but the last: [..., inner] -> [..., outer]."""

    def __init__(self, inner, widths, outer):
        super().__init__()
        sizes = (inner, *widths, outer)
        for i, size in enumerate(zip(sizes, sizes[1:], strict=False)):
            self.add_module(f"Dense_{i}", nn.Linear(*size))

    def forward(self, x):
        *hidden, last = self.children()
        for layer in hidden:
            x = torch.tanh(layer(x))
        return last(x).float()


class Autoencoder(nn.Module):
    """Pixels of {0, 1} [B, n] -> mean and log variance of latents; latents -> logits of pixels."""

    def __init__(self, pixels, widths, latent_dim):
        super().__init__()
        self.encoder = Tanh(pixels, widths, 2 * latent_dim)
        self.decoder = Tanh(latent_dim, widths, pixels)


def log_bernoulli(logits, x):
    """log p(x) of pixels in {0, 1} given their logits, [..., n] -> [...]."""
    return -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def rate_of(mean, logvar):
    """KL(q(z|x) || N(0, 1)) of diagonal Gaussians, [..., d] -> [...]."""
    return 0.5 * (logvar.exp() + mean.square() - 1 - logvar).sum(-1)


class Rival(single.Rival):
    """-E log p(x|z) + beta KL(q(z|x) || N(0, 1)), the rate by its formula."""

    widths = WIDTHS

    def make_network(self):
        """A new one."""
        case = self.case
        pixels = case.image_size**2 * case.channels
        return Autoencoder(pixels, self.widths, self.settings["latent_dim"])

    def pixels(self, batch):
        """Images of {-1, 1} as [B, H W C] of {0, 1}."""
        return (batch["image"].permute(0, 2, 3, 1).flatten(1) + 1) / 2

    def draw_noise(self):
        """Of the latents, k for each image."""
        size = self.case.batch_size, self.settings["num_samples"], self.settings["latent_dim"]
        return (self.draw(torch.randn, *size),)

    def objective(self, batch, noise):
        """The negative ELBO."""
        x = self.pixels(batch)
        mean, logvar = self.network.encoder(x).chunk(2, dim=1)
        z = mean[:, None] + torch.exp(0.5 * logvar)[:, None] * noise
        distortion = -log_bernoulli(self.network.decoder(z), x[:, None]).mean()
        rate = rate_of(mean, logvar).mean()
        return distortion + self.settings["beta"] * rate, {"distortion": distortion, "rate": rate}

    def images(self, batch):
        """Means of the pixels through the posterior's mean."""
        mean, _ = self.network.encoder(self.pixels(batch)).chunk(2, dim=1)
        found = 2 * torch.sigmoid(self.network.decoder(mean)) - 1
        size = self.case.image_size
        return found.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)
