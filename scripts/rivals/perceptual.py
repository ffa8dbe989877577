"""The perceptual distance by the package's classifier, as in `jaxgen/losses/perceptual.py`."""

import torch
from torch import nn
from torch.nn.functional import max_pool2d, relu

SIZE, WIDTHS = 32, (32, 64, 128)  # of the classifier of emoji: its images, its maps


def unit(x):
    """Maps [B, C, H, W], each vector of channels divided by its length."""
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-10)


class Judge(nn.Module):
    """Two batches of images, whose sides are multiples of 32 -> the mean distance of all tiles of 32x32 pixels."""

    def __init__(self, channels):
        super().__init__()
        for i, (inner, width) in enumerate(zip((channels, *WIDTHS), WIDTHS, strict=False)):
            self.add_module(f"Conv_{i}", nn.Conv2d(inner, width, 3, padding=1, bias=False))
            self.add_module(f"BatchNorm_{i}", nn.BatchNorm2d(width))
        self.eval().requires_grad_(False)

    def maps(self, x):
        """What is compared."""
        side = x.shape[2] // SIZE
        if side > 1:
            x = x.unflatten(3, (side, SIZE)).unflatten(2, (side, SIZE)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        for i in range(len(WIDTHS)):
            x = relu(getattr(self, f"BatchNorm_{i}")(getattr(self, f"Conv_{i}")(max_pool2d(x, 2) if i else x)))
            yield x.float()

    def forward(self, images, targets):
        pairs = zip(self.maps(images), self.maps(targets), strict=True)
        return sum((unit(u) - unit(v)).square().mean() for u, v in pairs)


class WithJudge:
    """Beside the base of a rival whose loss asks the judge: it stands among the networks that are not trained."""

    def __init__(self, case, **settings):
        super().__init__(case, **settings)
        self.frozen = {"judge": self.placed(Judge(case.channels))}
