"""A VAE with VampPrior, as in `jaxgen/models/priors.py`: the prior is the mean of the posteriors at pseudo-inputs."""

import math

import torch
from torch import nn

from rivals import vae


class Prior(nn.Module):
    """Learned images, kept in [-1, 1]."""

    def __init__(self, count, pixels):
        super().__init__()
        self.pseudo_inputs = nn.Parameter(torch.zeros(count, pixels))
        self.makes_rows = ("pseudo_inputs",)

    def forward(self):
        """As pixels of {0, 1} are [K, n]."""
        return (self.pseudo_inputs.clamp(-1, 1) + 1) / 2


class Autoencoder(vae.Autoencoder):
    """With the prior's images."""

    def __init__(self, pixels, widths, latent_dim, count):
        super().__init__(pixels, widths, latent_dim)
        self.prior = Prior(count, pixels)


def log_normal(z, mean, logvar):
    """log N(z; mean, exp(logvar)) but for a constant, [..., d] -> [...]."""
    return -0.5 * (logvar + (z - mean).square() * torch.exp(-logvar)).sum(-1)


class Rival(vae.Rival):
    """-E log p(x|z) + E log q(z|x) / p(z), at the latents that are drawn."""

    def make_network(self):
        """A new one."""
        case, s = self.case, self.settings
        pixels = case.image_size**2 * case.channels
        return Autoencoder(pixels, self.widths, s["latent_dim"], s["num_components"])

    def objective(self, batch, noise):
        """The negative bound, by one latent for each image."""
        x, network = self.pixels(batch), self.network
        mean, logvar = network.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * noise[:, 0]
        distortion = -vae.log_bernoulli(network.decoder(z), x).mean()
        own, own_logvar = network.encoder(network.prior()).chunk(2, dim=1)
        log_p = log_normal(z[:, None], own, own_logvar).logsumexp(1) - math.log(len(own))
        rate = (log_normal(z, mean, logvar) - log_p).mean()
        return distortion + rate, {"distortion": distortion, "rate": rate}
