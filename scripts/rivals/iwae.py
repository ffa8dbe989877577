"""The importance weighted autoencoder with one layer of latents, as in `jaxgen/systems/iwae.py`."""

import math

import torch

from rivals import vae


class Rival(vae.Rival):
    """-log 1/k sum_i w_i, w = p(x|z) p(z) / q(z|x) of k latents for each image."""

    @property
    def widths(self):
        """Of the hidden layers."""
        return (self.settings["width"],) * 2

    def objective(self, batch, noise):
        """The negative bound."""
        x = self.pixels(batch)
        mean, logvar = (each[:, None] for each in self.network.encoder(x).chunk(2, dim=1))
        z = mean + torch.exp(0.5 * logvar) * noise
        log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(-1)  # log p(z) - log q(z|x)
        log_px = vae.log_bernoulli(self.network.decoder(z), x[:, None])
        loss = math.log(noise.shape[1]) - (log_px + log_ratio).logsumexp(1).mean()
        with torch.no_grad():
            return loss, {"distortion": -log_px.mean(), "rate": vae.rate_of(mean, logvar).mean()}
