"""ACGAN of digits, as in `jaxgen/systems/acgan.py`: residual players with batch normalisation, a head for classes."""

from functools import partial

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, relu

from rivals import game
from rivals.base import integers
from rivals.residual import ConditionalBatchNorm, GeneratorBlock


class Generator(nn.Module):
    """[B, latent_dim] and labels [B] -> images [B, C, 28, 28] in [-1, 1]."""

    def __init__(self, latent_dim, width, num_classes, channels):
        super().__init__()
        self.Dense_0 = nn.Linear(latent_dim, 49 * width)
        self.makes_maps_of = {"Dense_0": width}
        self.unflatten = nn.Unflatten(1, (width, 7, 7))
        norm = partial(ConditionalBatchNorm, num_classes, eps=1e-5)
        self.GeneratorBlock_0, self.GeneratorBlock_1 = (GeneratorBlock(width, width, norm) for _ in range(2))
        self.BatchNorm_0 = nn.BatchNorm2d(width)
        self.Conv_0 = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z, label):
        x = self.GeneratorBlock_0(self.unflatten(self.Dense_0(z)), label)
        x = self.GeneratorBlock_1(x, label)
        return torch.tanh(self.Conv_0(relu(self.BatchNorm_0(x), inplace=True)).float())


class Block(nn.Module):
    """Norm and ReLU (not on the image), 3x3, norm, ReLU, 3x3, a mean over 2x2 where it halves; and a shortcut."""

    def __init__(self, inner, width, halve, first):
        super().__init__()
        self.halve, self.first = halve, first
        self.shortcut = nn.Conv2d(inner, width, 1) if halve else None
        self.Conv_0, self.Conv_1 = nn.Conv2d(inner, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        of_input = [inner] * ((self.shortcut is not None) + (not first))
        for i, channels in enumerate([*of_input, width]):
            self.add_module(f"BatchNorm_{i}", nn.BatchNorm2d(channels))
        self.last = f"BatchNorm_{len(of_input)}"

    def forward(self, x):
        shortcut = x
        if self.halve:
            norm = self.BatchNorm_0
            shortcut = self.shortcut(norm(avg_pool2d(x, 2)) if self.first else avg_pool2d(norm(x), 2))
        if not self.first:
            x = relu((self.BatchNorm_1 if self.halve else self.BatchNorm_0)(x), inplace=True)
        x = self.Conv_1(relu(getattr(self, self.last)(self.Conv_0(x)), inplace=True))
        return (avg_pool2d(x, 2) if self.halve else x) + shortcut


class Discriminator(nn.Module):
    """Images [B, C, 28, 28] -> (logits [B], logits of classes)."""

    def __init__(self, width, num_classes, channels):
        super().__init__()
        self.blocks = [f"DiscriminatorBlock_{i}" for i in range(4)]
        for i, name in enumerate(self.blocks):
            self.add_module(name, Block(width if i else channels, width, i < 2, i == 0))
        self.Dense_0, self.Dense_1 = nn.Linear(width, 1), nn.Linear(width, num_classes)

    def forward(self, x):
        for name in self.blocks:
            x = getattr(self, name)(x)
        h = relu(x).float().mean((2, 3))
        return self.Dense_0(h)[:, 0].float(), self.Dense_1(h).float()


class Rival(game.Rival):
    """Both; labels of fake images are drawn."""

    def make_generator(self):
        """A new one."""
        s = self.settings
        return Generator(s["latent_dim"], s["generator_features"], self.case.num_classes, self.case.channels)

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.settings["discriminator_features"], self.case.num_classes, self.case.channels)

    def draw_inputs(self):
        """Latents and labels."""
        label = self.draw(integers(0, self.case.num_classes), self.batch_size)
        return *super().draw_inputs(), label

    def told_of_fake(self, inputs):
        """The label, which only the objective sees."""
        return inputs[1:]

    def told_of_real(self, i):
        """The label, which only the objective sees."""
        return (self.parts["label"][i],)

    def classified(self, logits, label):
        """How badly classes are told."""
        return self.settings["auxiliary"] * cross_entropy(logits, label.long())

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake):
        """The loss, and the classes of real and of fake images."""
        with self.autocast():
            (real_logits, real_classes), (fake_logits, fake_classes) = map(self.discriminator, (real, fake))
        auxiliary = self.classified(real_classes, *told_of_real) + self.classified(fake_classes, *told_of_fake)
        return self.loss_by_both(real_logits, fake_logits).mean(), {"auxiliary_classifier": auxiliary}

    def generator_objective(self, fake, real, told):
        """The loss, and the classes of fake images."""
        with self.autocast():
            fake_logits, classes = self.discriminator(fake)
        return self.loss_by_fake(fake_logits).mean(), {"auxiliary_classifier": self.classified(classes, *told)}

    def outputs(self):
        """What one forward pass of each network makes."""
        self.draw.recorded = iter(self.drawn)
        images, (logits, _) = self.generator(*self.draw_inputs()), self.discriminator(self.parts["image"][0])
        return {"images": images.permute(0, 2, 3, 1), "logits": logits}
