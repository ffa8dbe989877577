"""VQ-VAE with a codebook of moving averages, as in `jaxgen/models/vqvae.py` and `jaxgen/models/quantise.py`.

Codes that hardly any vector chooses begin anew as vectors of the batch. There is no k-means in the first step.
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss, relu

from rivals import single

EPSILON = 1e-5


class ResidualBlock(nn.Module):
    """x + Conv1x1(relu(Conv3x3(relu(x))))."""

    def __init__(self, width, inner):
        super().__init__()
        self.Conv_0, self.Conv_1 = nn.Conv2d(width, inner, 3, padding=1), nn.Conv2d(inner, width, 1)

    def forward(self, x):
        return x + self.Conv_1(relu(self.Conv_0(relu(x)), inplace=True))


class Encoder(nn.Module):
    """[B, channels, H, W] -> [B, features, h, w], halved once or twice."""

    def __init__(self, channels, features, blocks, inner, halvings=2):
        super().__init__()
        widths = [channels, features // 2, features][: halvings + 1]
        self.halving = [f"Conv_{i}" for i in range(halvings)]
        for i, name in enumerate(self.halving):
            self.add_module(name, nn.Conv2d(widths[i], widths[i + 1], 4, 2, 1))
        self.last = f"Conv_{halvings}"
        self.add_module(self.last, nn.Conv2d(widths[-1], features, 3, padding=1))
        self.blocks = [f"ResidualBlock_{i}" for i in range(blocks)]
        for name in self.blocks:
            self.add_module(name, ResidualBlock(features, inner))

    def forward(self, x):
        for name in self.halving:
            x = relu(getattr(self, name)(x), inplace=True)
        x = getattr(self, self.last)(x)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return relu(x)


class Decoder(nn.Module):
    """[B, dim, h, w] -> [B, channels, H, W], doubled once or twice."""

    def __init__(self, dim, channels, features, blocks, inner, doublings=2):
        super().__init__()
        self.Conv_0 = nn.Conv2d(dim, features, 3, padding=1)
        self.blocks = [f"ResidualBlock_{i}" for i in range(blocks)]
        for name in self.blocks:
            self.add_module(name, ResidualBlock(features, inner))
        widths = [features, features // 2, channels] if doublings == 2 else [features, channels]
        self.doubling = [f"ConvTranspose_{i}" for i in range(doublings)]
        for i, name in enumerate(self.doubling):
            self.add_module(name, nn.ConvTranspose2d(widths[i], widths[i + 1], 4, 2, 1))

    def forward(self, x):
        x = self.Conv_0(x)
        for name in self.blocks:
            x = getattr(self, name)(x)
        for name in self.doubling:
            x = getattr(self, name)(relu(x))
        return x.float()


class Codebook(nn.Module):
    """Vectors e_k = m_k / N_k, moving averages of the sum m_k and the number N_k of vectors that choose the code k."""

    def __init__(self, num_codes, dim, decay, restart_below):
        super().__init__()
        self.decay, self.restart_below = decay, restart_below
        self.register_buffer("vectors", torch.randn(num_codes, dim))
        self.register_buffer("sum", self.vectors.clone())
        self.register_buffer("count", torch.ones(num_codes))
        self.register_buffer("batches", torch.zeros(()))

    def nearest(self, z):
        """Codes of vectors: [n, dim] -> [n]."""
        return torch.addmm(self.vectors.square().sum(1), z, self.vectors.T, alpha=-2).argmin(1)

    @torch.no_grad()
    def follow(self, z, codes):
        """The averages after a batch of vectors [n, dim] with their codes."""
        chosen = torch.bincount(codes, minlength=len(self.count)).to(z.dtype)
        total = torch.zeros_like(self.sum).index_add_(0, codes, z)
        self.count.lerp_(chosen, 1 - self.decay)
        self.sum.lerp_(total, 1 - self.decay)
        size = self.count.sum()
        smoothed = (self.count + EPSILON) / (size + len(self.count) * EPSILON) * size
        self.vectors.copy_(torch.where((chosen > 0)[:, None], self.sum / smoothed[:, None], self.vectors))
        self.batches += 1
        if self.restart_below > 0:
            dead = self.count < self.restart_below
            fresh = z[torch.randperm(len(z), device=z.device)[: len(self.count)]]
            self.count.masked_fill_(dead, 1.0)
            for old in (self.sum, self.vectors):
                old.copy_(torch.where(dead[:, None], fresh, old))


class VQVAE(nn.Module):
    """Encoder, codebook and decoder."""

    def __init__(self, channels, settings):
        super().__init__()
        sizes = settings["features"], settings["blocks"], settings["inner"]
        codes = settings["quantiser"]
        self.encoder, self.decoder = Encoder(channels, *sizes), Decoder(codes["dim"], channels, *sizes)
        self.to_vectors = nn.Conv2d(settings["features"], codes["dim"], 1)
        self.quantiser = Codebook(codes["num_codes"], codes["dim"], codes["decay"], codes["restart_below"])

    def encode(self, x):
        """Vectors [B, h, w, dim] and the codes of the codebook's nearest [B h w]."""
        z = self.to_vectors(self.encoder(x)).permute(0, 2, 3, 1).float()
        return z, self.quantiser.nearest(z.detach().flatten(0, 2))

    def look_up(self, codes, shape):
        """The codebook's vectors as a map [B, h, w, dim]."""
        return self.quantiser.vectors[codes].view(shape)

    def decode(self, vectors):
        """Vectors [B, h, w, dim] -> images."""
        return self.decoder(vectors.permute(0, 3, 1, 2))


class Rival(single.Rival):
    """|x - decoder(e)|^2 / variance + beta |z - e|^2, with the gradient of e passed on to z."""

    def make_network(self):
        """A new one."""
        return VQVAE(self.case.channels, self.settings)

    def objective(self, batch):
        """The loss; the codebook moves, too."""
        z, codes = self.network.encode(batch["image"])
        e = self.network.look_up(codes, z.shape)
        commitment = mse_loss(z, e)
        drawn = self.network.decode(z + (e - z).detach())
        distortion = mse_loss(drawn, batch["image"]) / (4 * self.settings["data_variance"])
        self.network.quantiser.follow(z.detach().flatten(0, 2), codes)
        loss = distortion + self.settings["quantiser"]["beta"] * commitment
        return loss, {"distortion": distortion, "commitment": commitment}

    def images(self, batch):
        """Reconstructions from codes, clipped."""
        z, codes = self.network.encode(batch["image"])
        return self.network.decode(self.network.look_up(codes, z.shape)).clamp(-1, 1)
