"""M2, as in `jaxgen/systems/m2.py`: a conditional VAE and a classifier, few of whose images have labels.

Which labels are known is told before the step, of the pixels, as jaxgen's step tells it.
"""

import math

import torch
from torch.nn.functional import log_softmax, one_hot

from rivals import cvae
from rivals.vae import Tanh, log_bernoulli, rate_of

BITS = 2**32 - 1


def number_of(images):
    """A number below 2^32 of the pixels of each image [B, C, H, W] in [-1, 1]."""
    levels = ((images.permute(0, 2, 3, 1).flatten(1) + 1) * 127.5).round().long() + 1
    place = torch.arange(levels.shape[1], device=images.device) * 2654435761 + 1 & BITS
    number = (levels * levels * place).sum(1) & BITS
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        number = (number ^ number >> shift) * factor & BITS
    return number ^ number >> 16


class Networks(cvae.Autoencoder):
    """Encoder and decoder that are told classes, and the classifier."""

    def __init__(self, pixels, widths, latent_dim, num_classes):
        super().__init__(pixels, widths, latent_dim, num_classes)
        self.classifier = Tanh(pixels, widths, num_classes)


class Rival(cvae.Rival):
    """A bound on log p(x, y) where the label is known, else on log p(x), and the classifier's own loss."""

    def make_network(self):
        """A new one."""
        case, width = self.case, self.settings["width"]
        pixels = case.image_size**2 * case.channels
        return Networks(pixels, (width, width), self.settings["latent_dim"], case.num_classes)

    def draw_noise(self):
        """A latent for each image and class, and whose labels are known."""
        size = self.case.batch_size, self.case.num_classes, self.settings["latent_dim"]
        return self.draw(torch.randn, *size), self.known

    def objective(self, batch, noise, known):
        """The negative bound and the classifier's loss."""
        s, network, classes = self.settings, self.network, self.case.num_classes
        x, label = self.pixels(batch), batch["label"]
        each = x[:, None].expand(-1, classes, -1)
        labels = one_hot(torch.arange(classes, device=x.device), classes).to(x.dtype).expand(len(x), -1, -1)
        mean, logvar = network.encoder(torch.cat([each, labels], dim=2)).chunk(2, dim=2)
        z = mean + torch.exp(0.5 * logvar) * noise
        distortion = -log_bernoulli(network.decoder(torch.cat([z, labels], dim=2)), each)
        rate = rate_of(mean, logvar)
        of_each = -distortion - rate - math.log(classes)
        log_q = log_softmax(network.classifier(x), dim=1)
        unsupervised = (log_q.exp() * (of_each - log_q)).sum(1)

        def at_label(numbers):
            return numbers.gather(1, label[:, None])[:, 0]

        bound = torch.where(known, at_label(of_each), unsupervised).mean()
        classification = -(known * at_label(log_q)).mean() * s["num_examples"] / s["num_labels"]
        parts = {"classification": classification, "known": known.float().mean()}
        with torch.no_grad():
            parts |= {"distortion": at_label(distortion).mean(), "rate": at_label(rate).mean()}
        return -bound + s["classification"] * classification, parts

    def take(self, arrays):
        """Which labels are known, too."""
        super().take(arrays)
        self._tell()

    def restart(self):
        """Which labels are known is told anew."""
        super().restart()
        self._tell()

    def _tell(self):
        end = min(int(self.settings["num_labels"] / self.settings["num_examples"] * 2**32), BITS)
        self.known = number_of(self.batch["image"]) <= end
