"""A class-conditional DCGAN of digits with R1, as in `jaxgen/models/dcgan.py`.

R1 is of the forward pass that the loss makes anyway.
"""

import torch
from benchmark_cases import map_sizes
from torch import nn
from torch.nn.functional import leaky_relu, relu

from rivals import game
from rivals.residual import ConditionalBatchNorm


class Generator(nn.Module):
    """[B, latent_dim] and labels [B] -> images in [-1, 1]."""

    def __init__(self, latent_dim, features, num_classes, size, channels):
        super().__init__()
        *larger, least = map_sizes(size)
        width = features << (len(larger) - 1)
        self.Dense_0 = nn.Linear(latent_dim, width * least**2, bias=False)
        self.makes_maps_of = {"Dense_0": width}
        self.unflatten = nn.Unflatten(1, (width, least, least))
        self.layers = []
        for i, target in enumerate(reversed(larger)):
            self.layers.append((f"ConditionalBatchNorm_{i}", f"ConvTranspose_{i}"))
            norm, conv = self.layers[-1]
            last = target == size
            inner, width = width, channels if last else width // 2
            self.add_module(norm, ConditionalBatchNorm(num_classes, inner, eps=1e-5))
            self.add_module(conv, nn.ConvTranspose2d(inner, width, 4, 2, 1, target % 2, bias=last))

    def forward(self, z, label):
        x = self.unflatten(self.Dense_0(z))
        for norm, conv in self.layers:
            x = getattr(self, conv)(relu(getattr(self, norm)(x, label), inplace=True))
        return torch.tanh(x.float())


class Discriminator(nn.Module):
    """Images and labels [B] -> logits [B], by a projection."""

    def __init__(self, features, num_classes, size, channels):
        super().__init__()
        *larger, least = map_sizes(size)
        widths = [channels, *(features << i for i in range(len(larger)))]
        self.convs = [f"Conv_{i}" for i in range(len(larger))]
        for name, pair in zip(self.convs, zip(widths, widths[1:], strict=False), strict=True):
            self.add_module(name, nn.Conv2d(*pair, 4, 2, 1))
        self.Dense_0 = nn.Linear(widths[-1] * least**2, 1 + num_classes)
        self.reads_maps_of = {"Dense_0": widths[-1]}

    def forward(self, x, label):
        for name in self.convs:
            x = leaky_relu(getattr(self, name)(x), 0.2)
        logits = self.Dense_0(x.flatten(1)).float()
        return logits[:, 0] + logits[:, 1:].gather(1, label[:, None].long())[:, 0]


class Rival(game.Rival):
    """Both; fake images get the labels of the real ones."""

    def make_generator(self):
        """A new one."""
        s, case = self.settings, self.case
        return Generator(s["latent_dim"], s["features"], case.num_classes, case.image_size, case.channels)

    def make_discriminator(self):
        """A new one."""
        case = self.case
        return Discriminator(self.settings["features"], case.num_classes, case.image_size, case.channels)

    def draw_inputs(self):
        """Latents and labels."""
        return *super().draw_inputs(), self.parts["label"][-1].long()

    def told_of_fake(self, inputs):
        """The label."""
        return inputs[1:]

    def told_of_real(self, i):
        """The label."""
        return (self.parts["label"][i],)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake):
        """The loss, and R1."""
        with self.autocast():
            real_logits, squared = self.logits_and_squared_gradient_norm(real, *told_of_real)
            fake_logits = self.discriminator(fake, *told_of_fake)
        return self.loss_by_both(real_logits, fake_logits).mean(), {"r1": self.settings["r1"] / 2 * squared.mean()}
