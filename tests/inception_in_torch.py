"""The FID's Inception v3 in PyTorch, from its description, with random weights: what the JAX network is compared with.

    python tests/inception_in_torch.py FOLDER

writes to FOLDER the weights as `torch.save` does today (zip.pth) and did before version 1.6 (legacy.pth), and outputs
of all layers for the images in FOLDER/images.npz (outputs_NAME.npz). It needs torch and numpy, and is run by
`test_inception.py` where there is a Python that has them.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Unit(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def mean_of_neighbours(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def largest_neighbour(x):
    return F.max_pool2d(x, 3, stride=1, padding=1)


class Branches(nn.Module):
    """Chains of units on one input, side by side; a chain that begins with a function pools first.

    A chain is a list of (name, outputs, kernel, stride, padding); a tuple of these at its end is a fork.
    """

    def __init__(self, inputs, *chains):
        super().__init__()
        self.chains = []
        for chain in chains:
            width, steps = inputs, []
            for step in chain:
                if callable(step):
                    steps.append(step)
                    continue
                fork = step if isinstance(step[0], tuple) else (step,)
                for name, outputs, *geometry in fork:
                    self.add_module(name, Unit(width, outputs, *geometry))
                steps.append([name for name, *_ in fork])
                width = fork[0][1]
            self.chains.append(steps)

    def forward(self, x):
        outputs = []
        for steps in self.chains:
            y = x
            for step in steps:
                y = step(y) if callable(step) else torch.cat([getattr(self, name)(y) for name in step], 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


def halve(x):
    return F.max_pool2d(x, 3, stride=2)


def a(inputs, pooled):
    return Branches(
        inputs,
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5, 1, 2)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3, 1, 1), ("branch3x3dbl_3", 96, 3, 1, 1)],
        [mean_of_neighbours, ("branch_pool", pooled, 1)],
    )


def b(inputs):
    return Branches(
        inputs,
        [("branch3x3", 384, 3, 2)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3, 1, 1), ("branch3x3dbl_3", 96, 3, 2)],
        [halve],
    )


def c(inputs, width):
    row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    return Branches(
        inputs,
        [("branch1x1", 192, 1)],
        [("branch7x7_1", width, 1), ("branch7x7_2", width, *row), ("branch7x7_3", 192, *column)],
        [
            ("branch7x7dbl_1", width, 1),
            ("branch7x7dbl_2", width, *column),
            ("branch7x7dbl_3", width, *row),
            ("branch7x7dbl_4", width, *column),
            ("branch7x7dbl_5", 192, *row),
        ],
        [mean_of_neighbours, ("branch_pool", 192, 1)],
    )


def d(inputs):
    return Branches(
        inputs,
        [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
        [
            ("branch7x7x3_1", 192, 1),
            ("branch7x7x3_2", 192, (1, 7), 1, (0, 3)),
            ("branch7x7x3_3", 192, (7, 1), 1, (3, 0)),
            ("branch7x7x3_4", 192, 3, 2),
        ],
        [halve],
    )


def e(inputs, pool):
    row, column = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
    return Branches(
        inputs,
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), (("branch3x3_2a", 384, *row), ("branch3x3_2b", 384, *column))],
        [
            ("branch3x3dbl_1", 448, 1),
            ("branch3x3dbl_2", 384, 3, 1, 1),
            (("branch3x3dbl_3a", 384, *row), ("branch3x3dbl_3b", 384, *column)),
        ],
        [pool, ("branch_pool", 192, 1)],
    )


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = a(192, 32), a(256, 64), a(288, 64)
        self.Mixed_6a = b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = c(768, 128), c(768, 160), c(768, 160), c(768, 192)
        self.Mixed_7a = d(768)
        self.Mixed_7b, self.Mixed_7c = e(1280, mean_of_neighbours), e(2048, largest_neighbour)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(halve(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(halve(x)))))
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x)))))
        x = self.Mixed_7c(self.Mixed_7b(x))
        features = x.mean((2, 3))
        return features, self.fc(features)


def randomise(network):
    """Random everywhere, of a size that neither dies out nor grows through 47 layers."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.7, 1.3)


def main(folder):
    network = Inception().eval()
    randomise(network)
    torch.save(network.state_dict(), folder / "zip.pth")
    torch.save(network.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    outputs = {}

    def keep(name):
        def hook(module, inputs, output):
            outputs[name] = output.permute(0, 2, 3, 1).numpy()

        return hook

    for name, module in network.named_modules():
        if isinstance(module, Unit | Branches):
            module.register_forward_hook(keep(name))
    for name, images in np.load(folder / "images.npz").items():
        outputs.clear()
        with torch.no_grad():
            outputs["features"], outputs["logits"] = network(torch.from_numpy(images).permute(0, 3, 1, 2))
        np.savez(folder / f"outputs_{name}.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
