"""The Context Encoder, as in `jaxgen/models/context_encoder.py`: the middle of an image by what is around it."""

import torch
from torch import nn
from torch.nn.functional import leaky_relu, relu

from rivals import game


def middle(x):
    """Half of either side: [B, C, H, W] -> [B, C, H / 2, W / 2]."""
    height, width = x.shape[2:]
    return x[:, :, height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2]


class Generator(nn.Module):
    """Images with holes [B, C, H, W] -> their middle in [-1, 1], by a single pixel of `bottleneck` channels."""

    def __init__(self, channels, features, bottleneck, halvings):
        super().__init__()
        widths = [features << max(i - 1, 0) for i in range(halvings)]
        down = [nn.Conv2d(*pair, 4, 2, 1) for pair in zip([channels, *widths], widths, strict=False)]
        down.append(nn.Conv2d(widths[-1], bottleneck, 4))
        up = [nn.ConvTranspose2d(bottleneck, widths[-1], 4)]
        up += [nn.ConvTranspose2d(widths[i + 1], widths[i], 4, 2, 1) for i in reversed(range(1, halvings - 1))]
        up.append(nn.ConvTranspose2d(widths[1], channels, 4, 2, 1))
        self.down, self.up = len(down), len(up)
        for i, conv in enumerate(down):
            self.add_module(f"Conv_{i}", conv)
        for i, conv in enumerate(up):
            self.add_module(f"ConvTranspose_{i}", conv)
        for i, conv in enumerate([*down[1:], *up[:-1]]):
            self.add_module(f"Norm_{i}", nn.BatchNorm2d(conv.out_channels))

    def forward(self, x):
        for i in range(self.down):
            x = getattr(self, f"Conv_{i}")(x)
            x = leaky_relu(getattr(self, f"Norm_{i - 1}")(x) if i else x, 0.2, inplace=True)
        for i in range(self.up - 1):
            x = getattr(self, f"ConvTranspose_{i}")(x)
            x = relu(getattr(self, f"Norm_{self.down - 1 + i}")(x), inplace=True)
        return torch.tanh(getattr(self, f"ConvTranspose_{self.up - 1}")(x).float())


class Discriminator(nn.Module):
    """Images [B, C, H, W] -> logits [B, h, w]."""

    def __init__(self, channels, features, halvings):
        super().__init__()
        self.halvings, inner = halvings, channels
        for i in range(halvings):
            width = features << i
            self.add_module(f"Conv_{i}", nn.Conv2d(inner, width, 4, 2, 1))
            if i:
                self.add_module(f"Norm_{i - 1}", nn.BatchNorm2d(width))
            inner = width
        self.add_module(f"Conv_{halvings}", nn.Conv2d(inner, 1, 4))

    def forward(self, x):
        for i in range(self.halvings):
            x = getattr(self, f"Conv_{i}")(x)
            x = leaky_relu(getattr(self, f"Norm_{i - 1}")(x) if i else x, 0.2, inplace=True)
        return getattr(self, f"Conv_{self.halvings}")(x)[:, 0].float()


class Rival(game.Rival):
    """Both, with the squared error."""

    def make_generator(self):
        """A new one."""
        return Generator(self.case.channels, *(self.settings[n] for n in ("features", "bottleneck", "halvings")))

    def make_discriminator(self):
        """A new one."""
        return Discriminator(self.case.channels, self.settings["discriminator_features"], self.settings["halvings"] - 1)

    def _divide(self):
        """Real images are middles."""
        super()._divide()
        self.parts["image"] = [middle(x).contiguous(memory_format=self.memory_format) for x in self.parts["image"]]

    def draw_inputs(self):
        """Sources, grey in the hole."""
        return (self.parts["source"][-1].masked_fill(self.parts["mask"][-1] > 0, 0.0),)

    def generator_terms(self, inputs, output):
        """The squared error, which weighs more where the middle is known."""
        s = self.settings
        weight = torch.where(middle(self.parts["mask"][-1]) > 0, 1.0, s["border"])
        error = (weight * (output - self.parts["image"][-1]).square()).mean()
        return {"pixels": (1 - s["adversarial"]) * error}

    def adversarial_weight(self, loss, terms):
        """Of the loss in the generator's objective."""
        return self.settings["adversarial"]
