"""LaMa, as in `jaxgen/models/lama.py`: fast Fourier convolutions that fill holes, a discriminator of patches.

The spectrum is that of `torch.fft`, and half precision stops at it. The gradient penalty is of the forward pass that
the loss makes anyway. Patches without a missing pixel are found by `adaptive_max_pool2d`.
"""

import torch
from torch import nn
from torch.nn.functional import adaptive_max_pool2d, mse_loss, relu

from rivals import game
from rivals.patches import PatchDiscriminator
from rivals.perceptual import WithJudge


def conv(inner, width, size=1, strides=1):
    """Without a bias, borders reflected."""
    return nn.Conv2d(inner, width, size, strides, size // 2, bias=False, padding_mode="reflect")


class FourierUnit(nn.Module):
    """A 1x1 convolution, batch normalisation and ReLU of the spectrum, real parts first."""

    def __init__(self, width):
        super().__init__()
        self.Conv_0, self.Norm_0 = conv(2 * width, 2 * width), nn.BatchNorm2d(2 * width)

    def forward(self, x):
        found = torch.fft.rfft2(x.float(), norm="ortho")
        found = torch.cat([found.real, found.imag], dim=1)
        real, imaginary = relu(self.Norm_0(self.Conv_0(found)), inplace=True).float().chunk(2, dim=1)
        return torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[2:], norm="ortho")


class SpectralTransform(nn.Module):
    """That and a shortcut around it, in half the channels."""

    def __init__(self, inner, width):
        super().__init__()
        half = width // 2
        self.Conv_0, self.Norm_0 = conv(inner, half), nn.BatchNorm2d(half)
        self.FourierUnit_0, self.Conv_1 = FourierUnit(half), conv(half, width)

    def forward(self, x):
        x = relu(self.Norm_0(self.Conv_0(x)), inplace=True)
        return self.Conv_1(x + self.FourierUnit_0(x))


class FourierConv(nn.Module):
    """(local, global or None) -> the same, `share` of the channels global."""

    def __init__(self, inner, width, share, strides=1, seen=0):
        super().__init__()
        far = int(share * width)
        self.sizes = width - far, far
        self.Conv_0 = conv(inner, width, 3, strides)
        if seen:
            self.Conv_1, self.SpectralTransform_0 = conv(seen, width - far, 3), SpectralTransform(seen, far)
        self.Norm_0 = nn.BatchNorm2d(width - far)
        self.Norm_1 = nn.BatchNorm2d(far) if far else None

    def forward(self, local, seen=None):
        near, far = self.Conv_0(local).split(self.sizes, dim=1)
        if seen is not None:
            near, far = near + self.Conv_1(seen), far + self.SpectralTransform_0(seen)
        far = None if self.Norm_1 is None else relu(self.Norm_1(far), inplace=True)
        return relu(self.Norm_0(near), inplace=True), far


class FourierBlock(nn.Module):
    """Two of them, and a shortcut around them."""

    def __init__(self, width, share):
        super().__init__()
        far = int(share * width)
        self.FourierConv_0, self.FourierConv_1 = (FourierConv(width - far, width, share, 1, far) for _ in range(2))

    def forward(self, local, seen):
        near, far = self.FourierConv_1(*self.FourierConv_0(local, seen))
        return local + near, seen + far


class Generator(nn.Module):
    """Images with their mask as the last channel -> images in [-1, 1]."""

    def __init__(self, channels, features, halvings, blocks, share):
        super().__init__()
        self.Conv_0, self.Norm_0 = conv(channels + 1, features, 7), nn.BatchNorm2d(features)
        self.fourier = []
        for i in range(halvings):
            own = share if i == halvings - 1 else 0.0
            self.fourier.append(name := f"FourierConv_{i}")
            self.add_module(name, FourierConv(features << i, features << (i + 1), own, strides=2))
        for i in range(blocks):
            self.fourier.append(name := f"FourierBlock_{i}")
            self.add_module(name, FourierBlock(features << halvings, share))
        self.halvings = halvings
        for i in range(halvings):
            width = features << (halvings - 1 - i)
            self.add_module(f"ConvTranspose_{i}", nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1))
            self.add_module(f"Norm_{i + 1}", nn.BatchNorm2d(width))
        self.Conv_1 = nn.Conv2d(features, channels, 7, padding=3, padding_mode="reflect")

    def forward(self, told):
        image, mask = told[:, :-1], told[:, -1:]
        x = torch.cat([(image + 1) / 2 * (1 - mask), mask], dim=1)
        parts = (relu(self.Norm_0(self.Conv_0(x)), inplace=True), None)
        for name in self.fourier:
            parts = getattr(self, name)(*parts)
        x = torch.cat(parts, dim=1)
        for i in range(self.halvings):
            x = relu(getattr(self, f"Norm_{i + 1}")(getattr(self, f"ConvTranspose_{i}")(x)), inplace=True)
        return 2 * torch.sigmoid(self.Conv_1(x).float()) - 1


class Rival(WithJudge, game.Rival):
    """Both."""

    def make_generator(self):
        """A new one."""
        s = self.settings
        return Generator(self.case.channels, s["features"], s["halvings"], s["blocks"], s["share"])

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        sizes = self.case.channels, s["discriminator_features"], s["discriminator_layers"]
        return PatchDiscriminator(*sizes, nn.BatchNorm2d, padding=2, biased=True)

    def draw_inputs(self):
        """Sources with their masks."""
        return (torch.cat([self.parts["source"][-1], self.parts["mask"][-1]], dim=1),)

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake):
        """The loss, what it is less since known patches count as real, and the gradient penalty of images in [0, 1]."""
        with self.autocast():
            real_logits, squared = self.logits_and_squared_gradient_norm(real)
            fake_logits = self.discriminator(fake)
        missing = adaptive_max_pool2d(self.parts["mask"][-1][:, 0], fake_logits.shape[1:])
        return self.loss_by_both(real_logits, fake_logits).mean(), {
            "known_is_real": -((1 - missing) * fake_logits).mean(),
            "r1": 4 * self.settings["gradient"] * squared.mean(),
        }

    def generator_objective(self, fake, real, told):
        """The loss, and the mean squared differences of the discriminator's maps."""
        with self.autocast():
            with torch.no_grad():
                _, wanted = self.discriminator.maps(real)
            fake_logits, maps = self.discriminator.maps(fake)
        different = sum(mse_loss(u.float(), v.float()) for u, v in zip(maps, wanted, strict=True)) / len(maps)
        return self.loss_by_fake(fake_logits).mean(), {"matching": self.settings["matching"] * different}

    def generator_terms(self, inputs, output):
        """The mean absolute difference and the perceptual distance."""
        s, mask, real = self.settings, self.parts["mask"][-1], self.parts["image"][-1]
        weight = s["pixels"] * (1 - mask) + s["hole"] * mask
        with self.autocast():
            distance = self.frozen["judge"](output, real)
        return {
            "pixels": (weight * (output - real).abs()).mean() / 2,
            "perceptual": s["perceptual_weight"] * distance,
        }

    def adversarial_weight(self, loss, terms):
        """Of the loss in the generator's objective."""
        return self.settings["adversarial"]
