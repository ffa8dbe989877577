"""DeblurGAN, as in `jaxgen/systems/deblurgan.py`: a residual translator with dropout, a critic of patches."""

import torch
from torch import nn

from rivals import game
from rivals.patches import PatchDiscriminator
from rivals.perceptual import WithJudge
from rivals.translator import Translator


class Generator(Translator):
    """Images, and what dropout keeps in each block -> images in [-1, 1], the source added to what is found."""

    def __init__(self, *sizes, dropout):
        super().__init__(*sizes)
        self.dropout = dropout

    def forward(self, x, *kept):
        return (x + super().forward(x, *(each / (1 - self.dropout) for each in kept))).clamp(-1, 1)


class Rival(WithJudge, game.Rival):
    """Both, with the perceptual distance."""

    def make_generator(self):
        """A new one."""
        s = self.settings
        sizes = (s[name] for name in ("features", "halvings", "blocks"))
        return Generator(self.case.channels, *sizes, dropout=s["dropout"])

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        sizes = self.case.channels, s["discriminator_features"], s["discriminator_layers"]
        return PatchDiscriminator(*sizes, nn.InstanceNorm2d, padding=2)

    def draw_inputs(self):
        """Sources, and what dropout keeps."""
        s = self.settings
        side = self.case.image_size >> s["halvings"]

        def bernoulli(*shape, device):
            return torch.empty(shape, device=device).bernoulli_(1 - s["dropout"])

        kept = (
            self.draw(bernoulli, self.batch_size, s["features"] << s["halvings"], side, side)
            for _ in range(s["blocks"])
        )
        return self.parts["source"][self.update], *kept

    def draw_points(self):
        """Places between real and fake images."""
        return (self.draw(torch.rand, self.batch_size, 1, 1, 1),)

    def judged(self, x):
        """Means of the logits of patches."""
        return self.discriminator(x).mean((1, 2))

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake, uniform):
        """The Wasserstein loss and the penalty."""
        loss, _ = super().discriminator_objective(real, fake, told_of_real, told_of_fake)
        with self.autocast():
            return loss, {"gradient_penalty": self.gradient_penalty(real, fake, uniform)}

    def generator_terms(self, inputs, output):
        """The perceptual distance."""
        with self.autocast():
            distance = self.frozen["judge"](output, self.parts["image"][-1])
        return {"perceptual": self.settings["perceptual_weight"] * distance}

    def adversarial_weight(self, loss, terms):
        """Of the loss in the generator's objective."""
        return self.settings["adversarial"]
