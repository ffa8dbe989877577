"""What networks that restore images share, as in `jaxgen/systems/shared/restoring.py`: one loss, by sources."""

from torch import nn
from torch.nn.functional import l1_loss, mse_loss

from rivals import single

LN_10 = 2.302585092994046


def same(inner, width, kernel_size=3, **settings):
    """A convolution of odd size whose output is as large as its input."""
    return nn.Conv2d(inner, width, kernel_size, padding=kernel_size // 2, **settings)


def minus_psnr(output, target):
    """10 log10 of the mean squared difference of each image, black being 0 and white 1, their mean."""
    return 10 / LN_10 * (((output - target) / 2).square().mean((1, 2, 3)) + 1e-8).log().mean()


def half_l1(output, target):
    """The mean absolute difference, black being 0 and white 1."""
    return 0.5 * l1_loss(output, target)


def quarter_mse(output, target):
    """The mean squared difference, black being 0 and white 1."""
    return 0.25 * mse_loss(output, target)


LOSSES = {"l1": half_l1, "mse": quarter_mse, "psnr": minus_psnr}


class Rival(single.Rival):
    """The loss between what the network makes of the source, and the image."""

    def objective(self, batch):
        """The loss."""
        return LOSSES[self.settings["loss"]](self.network(batch["source"]), batch["image"]), {}

    def images(self, batch):
        """What is restored, clipped."""
        return self.network(batch["source"]).clamp(-1, 1)
