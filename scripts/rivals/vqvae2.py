"""VQ-VAE-2, as in `jaxgen/models/vqvae2.py`: two maps of codes, the top one decoded for the bottom one.

Of the codebooks is true what `rivals/vqvae.py` says.
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from rivals import single
from rivals.base import evaluating
from rivals.vqvae import Codebook, Decoder, Encoder


class VQVAE2(nn.Module):
    """Images -> (images, commitment of the top codes, of the bottom ones); the codebooks move in training."""

    def __init__(self, channels, settings):
        super().__init__()
        width, codes = settings["features"], settings["quantiser"]
        sizes, dim = (width, settings["blocks"], settings["inner"]), codes["dim"]
        book = codes["num_codes"], dim, codes["decay"], codes["restart_below"]
        self.encode_bottom, self.encode_top = Encoder(channels, *sizes), Encoder(width, *sizes, halvings=1)
        self.to_top, self.to_bottom = nn.Conv2d(width, dim, 1), nn.Conv2d(dim + width, dim, 1)
        self.top, self.bottom = Codebook(*book), Codebook(*book)
        self.decode_top, self.decoder = Decoder(dim, dim, *sizes, doublings=1), Decoder(2 * dim, channels, *sizes)
        self.enlarge_top = nn.ConvTranspose2d(dim, dim, 4, 2, 1)

    def quantised(self, book, z):
        """(the vectors of the nearest codes with the gradient of z, the commitment) of a map [B, dim, h, w]."""
        z = z.permute(0, 2, 3, 1).float()
        vectors = z.detach().flatten(0, 2)
        codes = book.nearest(vectors)
        e = book.vectors[codes].view(z.shape)
        if self.training:
            book.follow(vectors, codes)
        return (z + (e - z).detach()).permute(0, 3, 1, 2), mse_loss(z, e)

    def forward(self, x):
        below = self.encode_bottom(x)
        top, of_top = self.quantised(self.top, self.to_top(self.encode_top(below)))
        told = self.decode_top(top)
        bottom, of_bottom = self.quantised(self.bottom, self.to_bottom(torch.cat([told, below], dim=1)))
        return self.decoder(torch.cat([self.enlarge_top(top), bottom], dim=1)), of_top, of_bottom


class Rival(single.Rival):
    """|x - decoder(e)|^2 / variance + beta |z - e|^2 of both maps."""

    def make_network(self):
        """A new one."""
        return VQVAE2(self.case.channels, self.settings)

    def objective(self, batch):
        """The loss; the commitment that is told is the top's."""
        drawn, of_top, of_bottom = self.network(batch["image"])
        distortion = mse_loss(drawn, batch["image"]) / (4 * self.settings["data_variance"])
        loss = distortion + self.settings["quantiser"]["beta"] * (of_top + of_bottom)
        return loss, {"distortion": distortion, "commitment": of_top}

    def images(self, batch):
        """Reconstructions from codes, clipped."""
        with evaluating(self.network):
            return self.network(batch["image"])[0].clamp(-1, 1)
