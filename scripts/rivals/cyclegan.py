"""CycleGAN, as in `jaxgen/cycle.py`: generators that undo each other, their discriminators, pools of earlier fakes."""

import random

import torch
from torch import nn
from torch.nn.functional import l1_loss

from rivals.base import Base, optimizer_of
from rivals.game import LOSSES
from rivals.patches import PatchDiscriminator
from rivals.translator import Translator

DOMAINS = ("image", "source")
OTHER = {"image": "source", "source": "image"}


class Pool:
    """Earlier fakes, of which some are shown instead of the newest: each by itself, with probability one half."""

    def __init__(self, size):
        self.size, self.images = size, []

    def exchange(self, images):
        """What is shown in the place of new images [B, C, H, W]."""
        shown = []
        for new in images:
            if len(self.images) < self.size:
                self.images.append(new)
            elif random.random() < 0.5:
                place = random.randrange(self.size)
                new, self.images[place] = self.images[place], new
            shown.append(new)
        return torch.stack(shown)


class Rival(Base):
    """All four, both sides moving from where they stand."""

    def __init__(self, case, *, joined, device, memory_format, compile_mode):
        del joined  # there is one form
        super().__init__(case, device=device, memory_format=memory_format, compile_mode=compile_mode)
        self.networks = {
            "generators": self.placed(nn.ModuleDict({f"to_{domain}": self.make_generator() for domain in DOMAINS})),
            "discriminators": self.placed(nn.ModuleDict({f"of_{domain}": self.make_judge() for domain in DOMAINS})),
        }
        self.generators, self.discriminators = self.networks.values()
        self.optimizers = [optimizer_of(network, self.settings[name]) for name, network in self.networks.items()]
        self.run_generators, self.run_discriminators = self.compiled(
            self.generators_objective, self.discriminators_objective
        )
        self.restart()

    def make_generator(self):
        """A new one."""
        s = self.settings
        return Translator(self.case.channels, s["features"], s["halvings"], s["blocks"])

    def make_judge(self):
        """A new discriminator."""
        s = self.settings
        width, layers = s["discriminator_features"], s["discriminator_layers"]
        return PatchDiscriminator(self.case.channels, width, layers, nn.InstanceNorm2d)

    def generators_objective(self, batch):
        """(the loss, fakes of both domains)."""
        s, to = self.settings, self.generators
        by_fake, _ = LOSSES[s["loss"]]
        fake = {domain: to[f"to_{domain}"](batch[OTHER[domain]]) for domain in DOMAINS}
        total = 0.0
        for domain in DOMAINS:
            there, real = to[f"to_{domain}"], batch[domain]
            fooled = by_fake(self.discriminators[f"of_{domain}"](fake[domain])).mean()
            cycled = l1_loss(there(fake[OTHER[domain]]), real)
            same = l1_loss(there(real), real)
            total = total + s["adversarial"] * fooled + s["cycle"] * (cycled + s["identity"] * same)
        return total, fake

    def discriminators_objective(self, batch, shown):
        """The loss, of fakes without a graph."""
        _, by_both = LOSSES[self.settings["loss"]]
        judged = ((self.discriminators[f"of_{domain}"], domain) for domain in DOMAINS)
        return sum(by_both(judge(batch[domain]), judge(shown[domain])).mean() for judge, domain in judged)

    def train_step(self, optimizers):
        """Changes the networks in place; returns both losses."""
        of_generators, of_discriminators = optimizers
        torch.compiler.cudagraph_mark_step_begin()
        self.discriminators.requires_grad_(False)
        with self.autocast():
            loss, fake = self.run_generators(self.batch)
        of_generators.zero_grad(set_to_none=True)
        loss.backward()
        of_generators.step()
        self.discriminators.requires_grad_(True)
        shown = {domain: self.pools[domain].exchange(x.detach()) for domain, x in fake.items()}
        with self.autocast():
            against = self.run_discriminators(self.batch, shown)
        of_discriminators.zero_grad(set_to_none=True)
        against.backward()
        of_discriminators.step()
        return {"generators_loss": loss.detach(), "discriminators_loss": against.detach()}

    def restart(self):
        """The pools are empty."""
        super().restart()
        self.pools = {domain: Pool(self.settings["pool_size"]) for domain in DOMAINS}

    def outputs(self):
        """Translated sources, as jaxgen has them."""
        return {"images": self.generators["to_image"](self.batch["source"]).permute(0, 2, 3, 1)}
