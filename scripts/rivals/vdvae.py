"""The very deep VAE, as in `jaxgen/models/vdvae.py`, with a mixture of discretised logistics for pixels."""

import math

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, gelu, interpolate, log_softmax, logsigmoid, pad, softplus

from rivals import single

LEAST_LOG_SCALE = -7.0
LEVELS = 255


def stages_of(text, sign):
    """[(size, times, other)] of "32x11,32d2": `other` follows the sign, 0 without one."""
    found = []
    for part in text.split(","):
        size, _, other = part.partition(sign)
        size, _, times = size.partition("x")
        found.append((int(size), int(times or 1), int(other or 0)))
    return found


def joined(stages):
    """Plain blocks together with the one before them that adds a map of the same size."""
    found = []
    for size, times, other in stages:
        if found and found[-1][0] == size and not other:
            found[-1] = (size, found[-1][1] + times, found[-1][2])
        else:
            found.append((size, times, other))
    return found


class Block(nn.Module):
    """Four convolutions, each after a GELU: [B, inner, H, W] -> [B, outer, H, W]."""

    def __init__(self, size, inner, hidden, outer):
        super().__init__()
        kernel = 3 if size > 2 else 1
        widths = (inner, hidden, hidden, hidden, outer)
        for i, taps in enumerate((1, kernel, kernel, 1)):
            self.add_module(f"Conv_{i}", nn.Conv2d(widths[i], widths[i + 1], taps, padding=taps // 2))

    def forward(self, x):
        for conv in self.children():
            x = conv(gelu(x))
        return x


class AddingBlock(nn.Module):
    """x + block(x)."""

    def __init__(self, size, width, hidden):
        super().__init__()
        self.Block_0 = Block(size, width, hidden, width)

    def forward(self, x):
        return x + self.Block_0(x)


class LatentBlock(nn.Module):
    """A map, noise and the image's map -> (a map, the rate [B])."""

    def __init__(self, size, width, hidden, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        self.prior = Block(size, width, hidden, width + 2 * latent_dim)
        self.posterior = Block(size, 2 * width, hidden, 2 * latent_dim)
        self.of_z = nn.Conv2d(latent_dim, width, 1)
        self.after = Block(size, width, hidden, width)

    def forward(self, x, noise, image_map):
        n = self.latent_dim
        prior_mean, prior_log_std, change = self.prior(x).split((n, n, x.shape[1]), dim=1)
        prior_mean, prior_log_std = prior_mean.float(), prior_log_std.float()
        mean, log_std = self.posterior(torch.cat([x, image_map], dim=1)).float().chunk(2, dim=1)
        z = mean + log_std.exp() * noise
        off = (mean - prior_mean) * torch.exp(-prior_log_std)
        rate = prior_log_std - log_std + 0.5 * (torch.exp(2 * (log_std - prior_log_std)) + off.square() - 1)
        x = x + change + self.of_z(z)
        return x + self.after(x), rate.sum((1, 2, 3))


class Encoder(nn.Module):
    """Images [B, C, H, W] in [-1, 1] -> the last map of each size."""

    def __init__(self, channels, text, width_of, bottleneck, pixels):
        super().__init__()
        self.pixels, self.stages = pixels, stages_of(text, "d")
        self.Conv_0 = nn.Conv2d(channels, width_of(self.stages[0][0]), 3, padding=1)
        for i, (size, times, _) in enumerate(self.stages):
            width = width_of(size)
            blocks = (AddingBlock(size, width, max(1, int(width * bottleneck))) for _ in range(times))
            self.add_module(f"ScanAddingBlock_{i}", nn.Sequential(*blocks))
        self.width_of = width_of

    def forward(self, x):
        mean, deviation = self.pixels
        x = self.Conv_0(((x + 1) * 127.5 - mean) / deviation)
        maps = {x.shape[2]: x}
        for i, (size, _, divisor) in enumerate(self.stages):
            x = getattr(self, f"ScanAddingBlock_{i}")(x)
            if divisor:
                x = avg_pool2d(x, divisor)
                x = pad(x, (0, 0, 0, 0, 0, self.width_of(size // divisor) - x.shape[1]))
            maps[x.shape[2]] = x
        return maps


class Decoder(nn.Module):
    """Noise of the posteriors [B, latents] and the encoder's maps -> (what the mixture reads, the rate [B])."""

    def __init__(self, outputs, text, width_of, bottleneck, latent_dim):
        super().__init__()
        self.stages, self.latent_dim = joined(stages_of(text, "m")), latent_dim
        self.sizes = sorted({size for size, _, _ in self.stages})
        for size in self.sizes:
            self.register_parameter(f"map_{size}", nn.Parameter(torch.zeros(width_of(size), size, size)))
        for i, (size, times, _) in enumerate(self.stages):
            width = width_of(size)
            hidden = max(1, int(width * bottleneck))
            blocks = [LatentBlock(size, width, hidden, latent_dim) for _ in range(times)]
            self.add_module(f"ScanLatentBlock_{i}", nn.ModuleList(blocks))
        width = width_of(self.sizes[-1])
        self.gain, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.Conv_0 = nn.Conv2d(width, outputs, 1)

    @property
    def num_latents(self):
        """Of an image."""
        return sum(self.latent_dim * size**2 * times for size, times, _ in self.stages)

    def forward(self, noise, maps):
        found = {size: getattr(self, f"map_{size}").expand(len(noise), -1, -1, -1) for size in self.sizes}
        rate, start = 0.0, 0
        for i, (size, _, smaller) in enumerate(self.stages):
            x = found[size]
            if smaller:
                x = x + interpolate(found[smaller][:, : x.shape[1]], scale_factor=size // smaller)
            for block in getattr(self, f"ScanLatentBlock_{i}"):
                end = start + self.latent_dim * size**2
                eps, start = noise[:, start:end].view(-1, size, size, self.latent_dim).permute(0, 3, 1, 2), end
                x, of_block = block(x, eps, maps[size])
                rate = rate + of_block
            found[size] = x
        x = torch.addcmul(self.bias[:, None, None], x, self.gain[:, None, None])
        return self.Conv_0(x).float(), rate


class VDVAE(nn.Module):
    """Encoder and decoder."""

    def __init__(self, channels, settings):
        super().__init__()
        custom = dict(map(int, part.split(":")) for part in settings["custom_widths"].split(",") if part)

        def width_of(size):
            return custom.get(size, settings["width"])

        outputs = settings["num_mixtures"] * (1 + 2 * channels + math.comb(channels, 2))
        shared = width_of, settings["bottleneck"]
        self.encoder = Encoder(channels, settings["encoder_blocks"], *shared, settings["pixels"])
        self.decoder = Decoder(outputs, settings["decoder_blocks"], *shared, settings["latent_dim"])


def log_mass(mean, log_scale, level):
    """log of a logistic distribution's mass on the bin of a level of 0 to 255, which stands at 2 level / 255 - 1."""
    inverse_scale = torch.exp(-log_scale)
    upper = ((level + 0.5) * (2 / LEVELS) - 1 - mean) * inverse_scale
    lower = ((level - 0.5) * (2 / LEVELS) - 1 - mean) * inverse_scale
    below, above = logsigmoid(upper), -softplus(lower)
    middle = below + above + torch.log(-torch.expm1(-2 / LEVELS * inverse_scale))
    return torch.where(level <= 0, below, torch.where(level >= LEVELS, above, middle))


def split(output, channels):
    """A mixture's weights, means, log scales and coefficients: [B, H, W, 1, K], [B, H, W, C, K], ..."""
    parts = output.permute(0, 2, 3, 1).unflatten(3, (1 + 2 * channels + math.comb(channels, 2), -1))
    return parts.split((1, channels, channels, math.comb(channels, 2)), dim=3)


def log_mixture(output, x):
    """log p(x) of images [B, C, H, W], given what the decoder makes: [B]."""
    channels = x.shape[1]
    logits, means, log_scales, coefficients = split(output, channels)
    level = ((x + 1) * 127.5).round().clamp(0, LEVELS).permute(0, 2, 3, 1)[..., None]
    values, slopes = level * (2 / LEVELS) - 1, torch.tanh(coefficients)
    moved = []
    for c in range(channels):  # by the channels before it
        first = math.comb(c, 2)
        before = (slopes[..., first : first + c, :] * values[..., :c, :]).sum(3)
        moved.append(means[..., c, :] + before)
    masses = log_mass(torch.stack(moved, dim=3), log_scales.clamp_min(LEAST_LOG_SCALE), level)
    return (log_softmax(logits[..., 0, :], dim=-1) + masses.sum(3)).logsumexp(-1).sum((1, 2))


def mean_of_mixture(output, channels):
    """The components' means, each moved by those before it and clipped, weighed: images [B, C, H, W]."""
    logits, means, _, coefficients = split(output, channels)
    found, slopes = [], torch.tanh(coefficients)
    for c in range(channels):
        own = means[..., c, :]
        for d, other in enumerate(found):
            own = own + slopes[..., math.comb(c, 2) + d, :] * other
        found.append(own.clamp(-1, 1))
    return (logits.softmax(-1) * torch.stack(found, dim=3)).sum(-1).permute(0, 3, 1, 2)


class Rival(single.Rival):
    """The negative ELBO for each number of an image."""

    def make_network(self):
        """A new one."""
        return VDVAE(self.case.channels, self.settings)

    def draw_noise(self):
        """Of the posteriors' latents."""
        return (self.draw(torch.randn, self.case.batch_size, self.network.decoder.num_latents),)

    def objective(self, batch, noise):
        """It."""
        x = batch["image"]
        output, rate = self.network.decoder(noise, self.network.encoder(x))
        distortion, rate = -log_mixture(output, x).mean(), rate.mean()
        return (distortion + rate) / x[0].numel(), {"distortion": distortion, "rate": rate}

    def images(self, batch):
        """The mixture's means, every latent being its posterior's mean."""
        x = batch["image"]
        noise = x.new_zeros(len(x), self.network.decoder.num_latents)
        output, _ = self.network.decoder(noise, self.network.encoder(x))
        return mean_of_mixture(output, x.shape[1])
