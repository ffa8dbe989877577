"""The conditional VAE of binarised digits, as in `jaxgen/systems/cvae.py`: `rivals/vae.py` with labels beside."""

import torch
from torch import nn
from torch.nn.functional import one_hot

from rivals import vae
from rivals.vae import Tanh, log_bernoulli, rate_of


class Autoencoder(nn.Module):
    """Pixels of {0, 1} [B, n] and one-hot labels -> mean and log variance; latents and these -> logits of pixels."""

    def __init__(self, pixels, widths, latent_dim, num_classes):
        super().__init__()
        self.encoder = Tanh(pixels + num_classes, widths, 2 * latent_dim)
        self.decoder = Tanh(latent_dim + num_classes, widths, pixels)


class Rival(vae.Rival):
    """-E log p(x|y, z) + beta KL(q(z|x, y) || N(0, 1))."""

    def make_network(self):
        """A new one."""
        case, width = self.case, self.settings["width"]
        pixels = case.image_size**2 * case.channels
        return Autoencoder(pixels, (width, width), self.settings["latent_dim"], case.num_classes)

    def told(self, batch, x):
        """Numbers with the labels beside them."""
        return torch.cat([x, one_hot(batch["label"], self.case.num_classes).to(x.dtype)], dim=1)

    def objective(self, batch, noise):
        """The negative ELBO, by one latent for each image."""
        x = self.pixels(batch)
        mean, logvar = self.network.encoder(self.told(batch, x)).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * noise[:, 0]
        distortion = -log_bernoulli(self.network.decoder(self.told(batch, z)), x).mean()
        rate = rate_of(mean, logvar).mean()
        return distortion + self.settings["beta"] * rate, {"distortion": distortion, "rate": rate}

    def images(self, batch):
        """Means of the pixels through the posterior's mean."""
        mean, _ = self.network.encoder(self.told(batch, self.pixels(batch))).chunk(2, dim=1)
        found = 2 * torch.sigmoid(self.network.decoder(self.told(batch, mean))) - 1
        size = self.case.image_size
        return found.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)
