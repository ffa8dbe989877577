"""CUT, as in `jaxgen/models/cut.py`: a translator whose patches are to be known again, and a discriminator.

Maps of what is translated are those of the translation itself.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

from rivals import game
from rivals.patches import PatchDiscriminator
from rivals.translator import Translator

BLOCKS_SEEN = (0, 4)


class Head(nn.Module):
    """Vectors [..., C] -> vectors of length 1 [..., features]."""

    def __init__(self, inner, features):
        super().__init__()
        self.Dense_0, self.Dense_1 = nn.Linear(inner, features), nn.Linear(features, features)

    def forward(self, x):
        x = self.Dense_1(relu(self.Dense_0(x))).float()
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-12)


class Generator(nn.Module):
    """Sources [B, C, H, W] -> (images in [-1, 1], maps that are compared)."""

    def __init__(self, channels, features, halvings, blocks, head_features, blur):
        super().__init__()
        self.blocks_seen = [i for i in BLOCKS_SEEN if i < blocks]
        self.translator = Translator(channels, features, halvings, blocks, blur=blur)
        widths = [channels, *(features << (i + 1) for i in range(halvings))]
        widths += [features << halvings] * len(self.blocks_seen)
        self.heads = nn.ModuleDict({f"map_{i}": Head(width, head_features) for i, width in enumerate(widths)})

    def forward(self, x):
        return self.translator.seen(x, self.blocks_seen, whole=True)

    def maps(self, x):
        """Those of images."""
        return self.translator.seen(x, self.blocks_seen)

    def patches(self, maps, places):
        """Unit vectors [B, P, head_features] of places of each map."""
        found = zip(self.heads.values(), maps, places, strict=True)
        return [head(x[:, :, at // x.shape[3], at % x.shape[3]].transpose(1, 2)) for head, x, at in found]


class Rival(game.Rival):
    """Both, with the contrastive loss of sources, and of images that are in the target domain already."""

    def __init__(self, case, **settings):
        super().__init__(case, **settings)
        (self.run_known_again,) = self.compiled(self.known_again)

    def make_generator(self):
        """A new one."""
        s = self.settings
        numbers = (s[name] for name in ("features", "halvings", "blocks", "head_features", "blur"))
        return Generator(self.case.channels, *numbers)

    def make_discriminator(self):
        """A new one."""
        s = self.settings
        width, layers = s["discriminator_features"], s["discriminator_layers"]
        return PatchDiscriminator(self.case.channels, width, layers, nn.InstanceNorm2d, blur=s["blur"])

    def draw_inputs(self):
        """Sources."""
        return (self.parts["source"][-1],)

    def known_again(self, maps, output, places):
        """How badly patches of an output are told, of the maps of what it was made of."""
        with self.autocast():
            with torch.no_grad():
                keys = self.generator.patches(maps, places)
            queries = self.generator.patches(self.generator.maps(output), places)
        total = 0.0
        for q, k in zip(queries, keys, strict=True):
            products = q @ k.transpose(1, 2) / self.settings["temperature"]
            own = torch.arange(products.shape[2], device=q.device).expand(products.shape[:2])
            total = total + cross_entropy(products.transpose(1, 2), own)
        return total / len(keys)

    def generator_terms(self, inputs, output):
        """The mean of both contrastive losses."""
        fake, maps = output

        def permutation(size, device):
            return torch.randperm(size, device=device)

        places = [self.draw(permutation, x.shape[2] * x.shape[3])[: self.settings["num_patches"]] for x in maps]
        found = self.run_known_again(maps, fake, places)
        if self.settings["identity"]:
            same, own_maps = self.run_generate(self.parts["image"][-1])
            found = 0.5 * (found + self.run_known_again(own_maps, same, places))
        return {"nce": self.settings["nce"] * found}

    def adversarial_weight(self, loss, terms):
        """Of the loss in the generator's objective."""
        return self.settings["adversarial"]
