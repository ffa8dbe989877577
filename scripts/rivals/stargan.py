"""StarGAN, as in `jaxgen/models/stargan.py`: a generator that is told a domain, a critic that names the one it sees."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss, leaky_relu, one_hot, relu

from rivals import game


class Generator(nn.Module):
    """Images [B, C, H, W] and domains [B] -> images in [-1, 1]: halved, residual blocks, doubled again."""

    def __init__(self, domains, channels, features, halvings, blocks):
        super().__init__()
        self.domains, self.count = domains, 0
        width = features << halvings
        self.halving = [self.normalised(nn.Conv2d(channels + domains, features, 7, padding=3, bias=False), features)]
        for n in (features << i for i in range(1, halvings + 1)):
            self.halving.append(self.normalised(nn.Conv2d(n // 2, n, 4, 2, 1, bias=False), n))
        same = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2 * blocks))
        self.within = [self.normalised(conv, width) for conv in same]
        self.convs = len(self.halving) + len(self.within)
        self.doubling = []
        for i, n in enumerate(features << i for i in reversed(range(halvings))):
            layer = nn.ConvTranspose2d(2 * n, n, 4, 2, 1, bias=False)
            self.doubling.append(self.normalised(layer, n, f"ConvTranspose_{i}"))
        self.last = f"Conv_{self.convs}"
        self.add_module(self.last, nn.Conv2d(features, channels, 7, padding=3, bias=False))

    def normalised(self, layer, width, name=None):
        """Adds a layer and the norm after it; their names."""
        names = name or f"Conv_{self.count}", f"Norm_{self.count}"
        self.add_module(names[0], layer)
        self.add_module(names[1], nn.InstanceNorm2d(width, affine=True))
        self.count += 1
        return names

    def run(self, x, names):
        """A layer and its norm."""
        layer, norm = (getattr(self, name) for name in names)
        return norm(layer(x))

    def forward(self, x, domain):
        planes = one_hot(domain, self.domains)[..., None, None].expand(-1, -1, *x.shape[2:]).to(x.dtype)
        x = torch.cat([x, planes], dim=1)
        for names in self.halving:
            x = relu(self.run(x, names), inplace=True)
        for first, second in zip(self.within[::2], self.within[1::2], strict=True):
            x = x + self.run(relu(self.run(x, first), inplace=True), second)
        for names in self.doubling:
            x = relu(self.run(x, names), inplace=True)
        return torch.tanh(getattr(self, self.last)(x).float())


class Discriminator(nn.Module):
    """Images [B, C, H, H] -> (logits of patches [B, h, h], logits of domains [B, n]), without any normalisation."""

    def __init__(self, domains, channels, features, halvings, size):
        super().__init__()
        widths = [channels, *(features << i for i in range(halvings))]
        self.convs = [f"Conv_{i}" for i in range(halvings)]
        for name, pair in zip(self.convs, zip(widths, widths[1:], strict=False), strict=True):
            self.add_module(name, nn.Conv2d(*pair, 4, 2, 1))
        self.heads = [f"Conv_{halvings}", f"Conv_{halvings + 1}"]
        self.add_module(self.heads[0], nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False))
        self.add_module(self.heads[1], nn.Conv2d(widths[-1], domains, size >> halvings, bias=False))

    def forward(self, x):
        for name in self.convs:
            x = leaky_relu(getattr(self, name)(x), 0.01, inplace=True)
        patches, domains = (getattr(self, name)(x).float() for name in self.heads)
        return patches[:, 0], domains[..., 0, 0]


class Rival(game.Rival):
    """Both; images are taken to the domains of others in the batch, and back."""

    def make_generator(self):
        """A new one."""
        s, case = self.settings, self.case
        return Generator(case.num_classes, case.channels, s["features"], s["halvings"], s["blocks"])

    def make_discriminator(self):
        """A new one."""
        s, case = self.settings, self.case
        width, halvings = s["discriminator_features"], s["discriminator_halvings"]
        return Discriminator(case.num_classes, case.channels, width, halvings, case.image_size)

    def draw_inputs(self):
        """Images, and the domains that they are to be taken to."""
        image, label = (self.parts[name][self.update] for name in ("image", "label"))

        def permuted(size, device):
            return label[torch.randperm(size, device=device)]

        return image, self.draw(permuted, self.batch_size).long()

    def told_of_fake(self, inputs):
        """The domain, which only the objective sees."""
        return inputs[1:]

    def told_of_real(self, i):
        """The domain, which only the objective sees."""
        return (self.parts["label"][i],)

    def draw_points(self):
        """Places between real and fake images."""
        return (self.draw(torch.rand, self.batch_size, 1, 1, 1),)

    def judged(self, x):
        """Means of the logits of patches."""
        return self.discriminator(x)[0].mean((1, 2))

    def discriminator_objective(self, real, fake, told_of_real, told_of_fake, uniform):
        """The loss, the domains of real images, and the penalty."""
        with self.autocast():
            (real_logits, domains), (fake_logits, _) = self.discriminator(real), self.discriminator(fake)
            penalty = self.gradient_penalty(real, fake, uniform)
        classified = self.settings["auxiliary"] * cross_entropy(domains, *told_of_real)
        loss = self.loss_by_both(real_logits, fake_logits).mean()
        return loss, {"auxiliary_classifier": classified, "gradient_penalty": penalty}

    def generator_objective(self, fake, real, told):
        """The loss, and the domains of fake images."""
        with self.autocast():
            fake_logits, domains = self.discriminator(fake)
        classified = self.settings["auxiliary"] * cross_entropy(domains, *told)
        return self.loss_by_fake(fake_logits).mean(), {"auxiliary_classifier": classified}

    def generator_terms(self, inputs, output):
        """How far images are that have come back."""
        back = self.run_generate(output, self.parts["label"][-1])
        return {"cycle": self.settings["cycle"] * l1_loss(back, inputs[0])}

    def outputs(self):
        """What one forward pass of each network makes."""
        self.draw.recorded, self.update = iter(self.drawn), 0
        images, (logits, _) = self.generator(*self.draw_inputs()), self.discriminator(self.parts["image"][0])
        return {"images": images.permute(0, 2, 3, 1), "logits": logits}
