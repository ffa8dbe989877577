"""The adversarial autoencoder of digits, as in `jaxgen/systems/aae.py`, with dense layers."""

from rivals import three
from rivals.game import LOSSES
from rivals.pairs import Decoder, Discriminator, Encoder


class Rival(three.Rival):
    """Squared errors, and codes that are to be like the prior's draws."""

    def make_encoder(self):
        """A new one."""
        return Encoder(self.case.image_size**2, self.settings["widths"], self.settings["latent_dim"])

    def make_decoder(self):
        """A new one."""
        return Decoder(self.settings["latent_dim"], self.settings["widths"], self.case.image_size)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.settings["latent_dim"], self.settings["discriminator_widths"], 1)

    def objectives(self, x, prior):
        """The losses."""
        by_fake, by_both = LOSSES[self.settings["loss"]]
        z = self.encoder(x)
        error = (self.decoder(z) - x).square().sum((1, 2, 3)).mean()
        real, fake = self.discriminator(prior), self.discriminator(z)
        losses = {
            ("encoder",): error + self.settings["weight"] * by_fake(fake).mean(),
            ("decoder",): error,
            ("discriminator",): by_both(real, fake).mean(),
        }
        return losses, {"distortion": error}, None
