"""DRUNet, as in `jaxgen/models/drunet.py`: a U-Net of residual blocks without biases, told the noise as a channel."""

from torch import nn
from torch.nn.functional import relu

from rivals import restoring
from rivals.restoring import same


class ResidualBlock(nn.Module):
    """x + Conv(ReLU(Conv(x)))."""

    def __init__(self, width):
        super().__init__()
        self.Conv_0, self.Conv_1 = same(width, width, bias=False), same(width, width, bias=False)

    def forward(self, x):
        return x + self.Conv_1(relu(self.Conv_0(x), inplace=True))


class DRUNet(nn.Module):
    """Sources [B, c, H, W], sides multiples of 2^(widths - 1) -> images [B, channels, H, W]."""

    def __init__(self, inner, channels, widths, blocks):
        super().__init__()
        last = len(widths) - 1
        self.Conv_0 = same(inner, widths[0], bias=False)
        rows = iter(range(2 * last + 1))

        def row(width):
            first = next(rows) * blocks
            names = [f"ResidualBlock_{first + i}" for i in range(blocks)]
            for name in names:
                self.add_module(name, ResidualBlock(width))
            return names

        self.down, self.up = [], []
        for i, (width, wider) in enumerate(zip(widths, widths[1:], strict=False)):
            self.add_module(f"Conv_{i + 1}", nn.Conv2d(width, wider, 2, 2, bias=False))
            self.down.append([*row(width), f"Conv_{i + 1}"])
        self.middle = row(widths[-1])
        for i, (wider, width) in enumerate(zip(widths[::-1], widths[-2::-1], strict=False)):
            self.add_module(f"ConvTranspose_{i}", nn.ConvTranspose2d(wider, width, 2, 2, bias=False))
            self.up.append([f"ConvTranspose_{i}", *row(width)])
        self.last = f"Conv_{last + 1}"
        self.add_module(self.last, same(widths[0], channels, bias=False))

    def run(self, x, names):
        """Layers one after the other."""
        for name in names:
            x = getattr(self, name)(x)
        return x

    def forward(self, x):
        maps = [self.Conv_0(x)]
        for names in self.down:
            maps.append(self.run(maps[-1], names))
        x = self.run(maps[-1], self.middle)
        for names in self.up:
            x = self.run(x + maps.pop(), names)
        return getattr(self, self.last)(x + maps.pop()).float()


class Rival(restoring.Rival):
    """It, by its preset's loss."""

    def make_network(self):
        """A new one."""
        s = self.settings
        return DRUNet(self.case.batch["source"][-1], self.case.channels, s["widths"], s["blocks"])
