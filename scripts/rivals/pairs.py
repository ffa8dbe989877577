"""Dense networks between images and codes, and discriminators of these, as in `jaxgen/models/pairs.py`."""

import torch
from torch import nn
from torch.nn.functional import leaky_relu


class Dense(nn.Module):
    """[B, inner] -> [B, outer]: leaky ReLU after each layer but the last, and before it, from layer `first` on,
    batch normalisation; first None: nowhere."""

    def __init__(self, inner, widths, outer, slope=0.0, first=None):
        super().__init__()
        self.slope, self.norms = slope, []
        for i, (n, width) in enumerate(zip((inner, *widths), widths, strict=False)):
            normalised = first is not None and i >= first
            self.add_module(f"Dense_{i}", nn.Linear(n, width, bias=not normalised))
            self.norms.append(f"BatchNorm_{i - first}" if normalised else None)
            if normalised:
                self.add_module(self.norms[-1], nn.BatchNorm1d(width))
        self.last = f"Dense_{len(widths)}"
        self.add_module(self.last, nn.Linear(widths[-1], outer))

    def forward(self, x):
        for i, norm in enumerate(self.norms):
            x = getattr(self, f"Dense_{i}")(x)
            x = leaky_relu(getattr(self, norm)(x) if norm else x, self.slope, inplace=True)
        return getattr(self, self.last)(x).float()


class Encoder(Dense):
    """Images [B, 1, H, W] -> codes [B, latent_dim]."""

    def forward(self, x):
        return super().forward(x.flatten(1))


class Decoder(Dense):
    """Codes [B, latent_dim] -> images [B, 1, size, size] in [-1, 1]."""

    def __init__(self, latent_dim, widths, size, **settings):
        super().__init__(latent_dim, widths, size**2, **settings)
        self.unflatten = nn.Unflatten(1, (1, size, size))

    def forward(self, z):
        return self.unflatten(torch.tanh(super().forward(z)))


class Discriminator(Dense):
    """Codes, or images with codes -> logits [B]."""

    def forward(self, *shown):
        return super().forward(torch.cat([x.flatten(1) for x in shown], dim=1))[:, 0]
