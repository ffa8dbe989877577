"""VQGAN, as in `jaxgen/models/vqgan.py`, whose adversary counts from the first step on.

The adversary's weight is that of two gradients at the decoder's last kernel, for which PyTorch goes back from the image
twice more. Of the codebook is true what `rivals/vqvae.py` says.
"""

import math

import torch
from benchmark_torch_networks import enlarge
from torch import nn
from torch.nn.functional import mse_loss, pad, scaled_dot_product_attention, silu

from rivals import game
from rivals.patches import PatchDiscriminator
from rivals.perceptual import WithJudge
from rivals.restoring import same
from rivals.vqvae import Codebook


def norm(width):
    """Group normalisation in 32 groups, or in as many as there can be."""
    return nn.GroupNorm(math.gcd(32, width), width, eps=1e-6)


class Block(nn.Module):
    """s(x) + Conv(swish(norm(Conv(swish(norm(x))))))."""

    def __init__(self, inner, width):
        super().__init__()
        self.GroupNorm_0, self.Conv_0 = norm(inner), same(inner, width)
        self.GroupNorm_1, self.Conv_1 = norm(width), same(width, width)
        self.shortcut = same(inner, width, 1) if inner != width else nn.Identity()

    def forward(self, x):
        y = self.Conv_0(silu(self.GroupNorm_0(x)))
        return self.shortcut(x) + self.Conv_1(silu(self.GroupNorm_1(y)))


class Attention(nn.Module):
    """x + Conv(softmax(q k' / sqrt(C)) v)."""

    def __init__(self, width):
        super().__init__()
        self.GroupNorm_0 = norm(width)
        for name in ("query", "key", "value", "output"):
            self.add_module(name, same(width, width, 1))

    def forward(self, x):
        y = self.GroupNorm_0(x)
        q, k, v = (conv(y).flatten(2).transpose(1, 2) for conv in (self.query, self.key, self.value))
        seen = scaled_dot_product_attention(q, k, v)
        return x + self.output(seen.transpose(1, 2).unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    """A block, attention, a block."""

    def __init__(self, width):
        super().__init__()
        self.Block_0, self.Attention_0, self.Block_1 = Block(width, width), Attention(width), Block(width, width)

    def forward(self, x):
        return self.Block_1(self.Attention_0(self.Block_0(x)))


class Layers(nn.Module):
    """Layers with jaxgen's names, in the order in which they run."""

    def __init__(self):
        super().__init__()
        self.order, self.counts = [], {}

    def then(self, layer, name=None):
        """Adds a layer, by a name or by the number of its kind."""
        if name is None:
            kind = {"Conv2d": "Conv", "Middle": "_Middle"}.get(type(layer).__name__, type(layer).__name__)
            name = f"{kind}_{self.counts.setdefault(kind, 0)}"
            self.counts[kind] += 1
        self.add_module(name, layer)
        self.order.append(name)

    def level(self, inner, width, blocks, attends):
        """Blocks of one size."""
        for i in range(blocks):
            self.then(Block(width if i else inner, width))
            if attends:
                self.then(Attention(width))

    def forward(self, x):
        for name in self.order:
            layer = getattr(self, name)
            if name.startswith("Conv"):
                x = pad(x, (0, 1, 0, 1)) if layer.stride == (2, 2) else enlarge(x)
            x = layer(silu(x) if name == "output" else x)
        return x


class Encoder(Layers):
    """Images [B, C, H, W] -> maps [B, latent_dim, h, w]."""

    def __init__(self, side, channels, s):
        super().__init__()
        width = s["features"]
        self.then(same(channels, width), "input")
        for i, multiple in enumerate(s["multiples"]):
            if i:
                self.then(nn.Conv2d(width, width, 3, 2))
                side //= 2
            inner, width = width, s["features"] * multiple
            self.level(inner, width, s["blocks"], side == s["attention"])
        self.then(Middle(width))
        self.then(norm(width))
        self.then(same(width, s["latent_dim"]), "output")


class Decoder(Layers):
    """Maps [B, latent_dim, h, w] -> images [B, C, H, W], not bounded."""

    def __init__(self, side, channels, s):
        super().__init__()
        multiples = s["multiples"][::-1]
        width, side = s["features"] * multiples[0], side >> (len(multiples) - 1)
        self.then(same(s["latent_dim"], width), "input")
        self.then(Middle(width))
        for i, multiple in enumerate(multiples):
            if i:
                self.then(same(width, width))
                side *= 2
            inner, width = width, s["features"] * multiple
            self.level(inner, width, s["blocks"] + 1, side == s["attention"])
        self.then(norm(width))
        self.then(same(width, channels), "output")


class VQGAN(nn.Module):
    """Images -> (images, the commitment); the codebook moves, too, where it is trained."""

    def __init__(self, side, channels, s):
        super().__init__()
        codes = s["quantiser"]
        self.encoder, self.decoder = Encoder(side, channels, s), Decoder(side, channels, s)
        self.to_vectors = same(s["latent_dim"], codes["dim"], 1)
        self.from_vectors = same(codes["dim"], s["latent_dim"], 1)
        self.quantiser = Codebook(codes["num_codes"], codes["dim"], codes["decay"], codes["restart_below"])

    def forward(self, x):
        z = self.to_vectors(self.encoder(x)).permute(0, 2, 3, 1).float()
        vectors = z.detach().flatten(0, 2)
        codes = self.quantiser.nearest(vectors)
        e = self.quantiser.vectors[codes].view(z.shape)
        self.quantiser.follow(vectors, codes)
        straight = (z + (e - z).detach()).permute(0, 3, 1, 2)
        return self.decoder(self.from_vectors(straight)).float(), mse_loss(z, e)


class Rival(WithJudge, game.Rival):
    """The autoencoder as a generator, and its discriminator of patches."""

    def __init__(self, case, **settings):
        super().__init__(case, **settings)
        if self.compile_mode:  # a graph that is gone back twice keeps what it needs
            torch._functorch.config.donated_buffer = False

    def make_generator(self):
        """A new one."""
        return VQGAN(self.case.image_size, self.case.channels, self.settings)

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        sizes = self.case.channels, s["discriminator_features"], s["halvings"]
        return PatchDiscriminator(*sizes, nn.BatchNorm2d, norm_name="BatchNorm")

    def draw_inputs(self):
        """Images."""
        return (self.parts["image"][-1],)

    def generator_terms(self, inputs, output):
        """The mean absolute error, the perceptual distance, and the quantiser's loss."""
        s, (image, commitment) = self.settings, output
        with self.autocast():
            distance = self.frozen["judge"](image, inputs[0])
        return {
            "reconstruction": s["pixels"] * (image - inputs[0]).abs().mean(),
            "perceptual": s["perceptual_weight"] * distance,
            "quantiser": s["quantiser"]["beta"] * commitment,
        }

    def adversarial_weight(self, loss, terms):
        """By how much longer the gradient of what is reconstructed is than that of the loss."""
        last = self.generator.decoder.output.weight

        def length(x):
            (gradient,) = torch.autograd.grad(x, last, retain_graph=True)
            return gradient.norm()

        longer = length(terms["reconstruction"] + terms["perceptual"]) / (length(loss) + 1e-4)
        return self.settings["adversarial"] * longer.clamp(0.0, 1e4)
