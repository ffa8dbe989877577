"""BiGAN of digits, as in `jaxgen/systems/bigan.py`: a discriminator of pairs; dense layers with batch normalisation."""

import torch

from rivals import three
from rivals.game import LOSSES
from rivals.pairs import Decoder, Discriminator, Encoder


class Rival(three.Rival):
    """Encoder and decoder have one loss: the discriminator's, with the pairs exchanged."""

    def make_encoder(self):
        """A new one."""
        sizes = self.case.image_size**2, self.settings["widths"], self.settings["latent_dim"]
        return Encoder(*sizes, slope=0.2, first=0)

    def make_decoder(self):
        """A new one."""
        return Decoder(self.settings["latent_dim"], self.settings["widths"], self.case.image_size, first=0)

    def make_discriminator(self):
        """A new one."""
        numbers = self.case.image_size**2 + self.settings["latent_dim"]
        return Discriminator(numbers, self.settings["widths"], 1, slope=0.2, first=1)

    def draw_noise(self):
        """Latents, uniform in [-1, 1]."""

        def uniform(*shape, device):
            return torch.rand(shape, device=device) * 2 - 1

        return (self.draw(uniform, self.case.batch_size, self.settings["latent_dim"]),)

    def objectives(self, x, z):
        """The losses."""
        _, by_both = LOSSES[self.settings["loss"]]
        real, fake = self.discriminator(x, self.encoder(x)), self.discriminator(self.decoder(z), z)
        losses = {
            ("encoder", "decoder"): by_both(fake, real).mean(),
            ("discriminator",): by_both(real, fake).mean(),
        }
        return losses, {}, None
