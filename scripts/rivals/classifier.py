"""The convolutional classifier, as in `jaxgen/models/cnn.py`."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, max_pool2d, relu

from rivals import single
from rivals.base import evaluating
from rivals.restoring import same

FEATURES = 128


class CNN(nn.Module):
    """Images [B, C, H, H], and what dropout keeps of the last features, if there is any -> logits of classes."""

    def __init__(self, channels, widths, classes, size, dropout):
        super().__init__()
        self.dropout, self.count, inner = dropout, len(widths), channels
        for i, width in enumerate(widths):
            self.add_module(f"Conv_{i}", same(inner, width, bias=False))
            self.add_module(f"BatchNorm_{i}", nn.BatchNorm2d(width))
            inner = width
        self.Dense_0 = nn.Linear((size >> self.count) ** 2 * inner, FEATURES, bias=False)
        self.reads_maps_of = {"Dense_0": inner}
        self.last = f"BatchNorm_{self.count}"
        self.add_module(self.last, nn.BatchNorm1d(FEATURES))
        self.Dense_1 = nn.Linear(FEATURES, classes)

    def forward(self, x, *kept):
        for i in range(self.count):
            x = getattr(self, f"BatchNorm_{i}")(getattr(self, f"Conv_{i}")(x))
            x = max_pool2d(relu(x, inplace=True), 2)
        x = relu(getattr(self, self.last)(self.Dense_0(x.flatten(1))), inplace=True)
        for each in kept:
            x = x * each / (1 - self.dropout)
        return self.Dense_1(x).float()


class Rival(single.Rival):
    """The cross-entropy."""

    def make_network(self):
        """A new one."""
        case, s = self.case, self.settings
        return CNN(case.channels, s["widths"], case.num_classes, case.image_size, s["dropout"])

    def draw_noise(self):
        """What dropout keeps."""
        share = 1 - self.settings["dropout"]

        def bernoulli(*shape, device):
            return torch.empty(shape, device=device).bernoulli_(share)

        return (self.draw(bernoulli, self.case.batch_size, FEATURES),)

    def objective(self, batch, kept):
        """The loss."""
        return cross_entropy(self.network(batch["image"], kept), batch["label"]), {}

    def outputs(self):
        """Logits by running statistics, as jaxgen has them."""
        with evaluating(self.network):
            return {"logits": self.network(self.batch["image"])}
