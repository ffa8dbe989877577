"""pix2pixHD, as in `jaxgen/systems/pix2pixhd.py`: a residual translator, discriminators of pairs at several sizes."""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, l1_loss

from rivals import game
from rivals.patches import PatchDiscriminator
from rivals.translator import Translator


class Discriminators(nn.Module):
    """Images and the source beside each -> logits of patches, and maps, of each size."""

    def __init__(self, channels, features, layers, scales):
        super().__init__()
        for i in range(scales):
            judge = PatchDiscriminator(2 * channels, features, layers, nn.InstanceNorm2d, padding=2)
            self.add_module(f"scale_{i}", judge)

    def forward(self, x, source):
        x, logits, maps = torch.cat([source, x], dim=1), [], []
        for i, judge in enumerate(self.children()):
            x = avg_pool2d(x, 3, 2, 1, count_include_pad=False) if i else x
            own_logits, own_maps = judge.maps(x)
            logits.append(own_logits)
            maps += own_maps
        return logits, maps


class Rival(game.Rival):
    """Both, with the mean absolute differences of the discriminators' maps."""

    def make_generator(self):
        """A new one."""
        s = self.settings
        return Translator(self.case.channels, s["features"], s["halvings"], s["blocks"])

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        names = ("discriminator_features", "discriminator_layers", "scales")
        return Discriminators(self.case.channels, *(s[name] for name in names))

    def draw_inputs(self):
        """Sources."""
        return (self.parts["source"][-1],)

    def told_of_fake(self, inputs):
        """The source."""
        return inputs

    def told_of_real(self, i):
        """The source."""
        return (self.parts["source"][i],)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake):
        """The loss of all sizes."""
        with self.autocast():
            of_real, _ = self.discriminator(real, *told_of_real)
            of_fake, _ = self.discriminator(fake, *told_of_fake)
        return sum(self.loss_by_both(x, y).mean() for x, y in zip(of_real, of_fake, strict=True)), {}

    def generator_objective(self, fake, real, told):
        """The loss of all sizes, and the differences of maps."""
        s = self.settings
        with self.autocast():
            with torch.no_grad():
                _, wanted = self.discriminator(real, *told)
            logits, maps = self.discriminator(fake, *told)
        weight = s["matching"] * 4 / (s["discriminator_layers"] + 1) / s["scales"]
        different = sum(l1_loss(x.float(), y.float()) for x, y in zip(maps, wanted, strict=True))
        return sum(self.loss_by_fake(x).mean() for x in logits), {"feature_matching": weight * different}

    def adversarial_weight(self, loss, terms):
        """Of the loss in the generator's objective."""
        return self.settings["adversarial"]

    def outputs(self):
        """Images, and the logits of the full size and of the others one after another."""
        self.draw.recorded = iter(self.drawn)
        images = self.generator(*self.draw_inputs())
        logits, _ = self.discriminator(self.parts["image"][0], *self.told_of_real(0))
        return {"images": images.permute(0, 2, 3, 1), "logits": torch.cat([x.flatten() for x in logits])}
