"""DnCNN without normalisation, as in `jaxgen/models/dncnn.py`: plain convolutions find what is to be taken away."""

from torch import nn
from torch.nn.functional import relu

from rivals import restoring
from rivals.restoring import same


class DnCNN(nn.Module):
    """Images [B, C, H, W] -> images, less what the network finds in them."""

    def __init__(self, channels, width, layers):
        super().__init__()
        widths = (channels, *[width] * (layers - 1), channels)
        for i, sizes in enumerate(zip(widths, widths[1:], strict=False)):
            self.add_module(f"Conv_{i}", same(*sizes))

    def forward(self, x):
        *hidden, last = self.children()
        y = x
        for conv in hidden:
            y = relu(conv(y), inplace=True)
        return x - last(y).float()


class Rival(restoring.Rival):
    """It, by the mean absolute difference."""

    def make_network(self):
        """A new one."""
        return DnCNN(self.case.channels, self.settings["features"], self.settings["layers"])
