"""What the systems in PyTorch share, whatever is trained, and what `benchmark_torch.py` asks of them.

Gradients are set to None, Adam is fused, nothing waits for the device. PyTorch is spared schedules of rates, decays and
weights: they have their first value throughout, rates that of after their warm-up.
"""

import contextlib
import dataclasses

import torch


class Draws:
    """Random numbers on a device, or those that jaxgen has drawn, in its order."""

    def __init__(self, device):
        self.device, self.recorded = device, None

    def __call__(self, sampler, *shape):
        """`sampler(*shape, device=device)`; maps are [B, C, H, W]."""
        if self.recorded is None:
            return sampler(*shape, device=self.device)
        x = next(self.recorded).to(self.device)
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        if x.shape != torch.Size(shape):
            raise ValueError(f"jaxgen draws {list(x.shape)} where PyTorch draws {list(shape)}")
        return x


def integers(least, end):
    """A sampler of whole numbers from `least` to `end` - 1."""
    return lambda *shape, device: torch.randint(least, end, shape, device=device)


def optimizer_of(network, rule):
    """Adam or AdamW for a network, by the numbers of jaxgen's `Optimizer`."""
    settings = {"lr": rule["learning_rate"], "betas": (rule["b1"], rule["b2"]), "eps": rule["eps"], "fused": True}
    if rule["name"] == "adamw":
        return torch.optim.AdamW(network.parameters(), weight_decay=rule["weight_decay"], **settings)
    return torch.optim.Adam(network.parameters(), **settings)


@torch.no_grad()
def follow(average, network, decay):
    """A moving average of the weights; with decay 0 there is none."""
    if decay:
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


@contextlib.contextmanager
def evaluating(*networks):
    """The networks outside of training: batch normalisation by running statistics, no dropout."""
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network in networks:
            network.train()


class Base:
    """Networks, their batch and their step.

    Attributes:
      case, settings: the work, and the numbers of jaxgen's preset by their names.
      batch: name -> what a step is given, images as [B, C, H, W].
      draw: makes random numbers.
      steps: made so far.
      networks, optimizers: by name, and one for each; a system makes them.
      frozen: networks that are not trained, by name.
    """

    frozen = {}

    def __init__(self, case, *, device, memory_format, compile_mode):
        self.case, self.settings, self.compile_mode = case, case.settings, compile_mode
        self.draw, self.steps, self.memory_format = Draws(device), 0, memory_format
        self.batch = {name: self._noise(shape) for name, shape in case.batch.items()}

    def _noise(self, shape):
        if len(shape) < 4:  # labels, all 0
            return torch.zeros(shape, dtype=torch.int64, device=self.draw.device)
        return self.as_maps(torch.rand(shape) * 2 - 1)

    def as_maps(self, x):
        """Images [B, H, W, C] as PyTorch takes them."""
        return x.permute(0, 3, 1, 2).to(self.draw.device).contiguous(memory_format=self.memory_format)

    def placed(self, network):
        """The network on the device."""
        return network.to(self.draw.device, memory_format=self.memory_format)

    @property
    def ema_decay(self):
        """Of the moving average of the weights; 0 without one."""
        half_life = self.settings["ema_half_life"]
        return 0.5 ** (self.case.batch_size / half_life) if half_life else 0.0

    def compiled(self, *functions):
        """The functions, compiled if that is asked."""
        if not self.compile_mode:
            return functions
        return tuple(torch.compile(f, mode=self.compile_mode) for f in functions)

    def autocast(self):
        """The computation's dtype."""
        device = torch.device(self.draw.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.case.dtype == "bfloat16")

    # What a system has of its own

    def train_step(self, optimizers):
        """Changes the networks in place; returns losses and their parts by name."""
        raise NotImplementedError

    def outputs(self):
        """What the networks make of the batch that was taken, as jaxgen has it: arrays by name."""
        raise NotImplementedError

    # What `benchmark_torch` asks

    def reset(self):
        """What else starts anew when the networks have their initial weights."""
        self.draw.recorded = None
        self.restart()

    def restart(self):
        """The next step is the first one."""
        self.steps = 0

    def step(self):
        """One step on numbers that are drawn; returns its losses."""
        return self.train_step(self.optimizers)

    def take(self, arrays):
        """A batch and drawn numbers as jaxgen has them."""
        for name, x in self.batch.items():
            given = arrays[f"batch_{name}"]
            x.copy_(given.permute(0, 3, 1, 2) if given.ndim == 4 else given)
        self.drawn = [arrays[f"draw_{i}"] for i in range(sum(name.startswith("draw_") for name in arrays))]

    def descend(self, optimizers):
        """One step on them in float32; returns its losses, and gradients to compare, of which there are none here."""
        self.draw.recorded = iter(self.drawn)
        self.restart()
        case, self.case = self.case, dataclasses.replace(self.case, dtype="float32")
        try:
            return self.train_step(optimizers), {}
        finally:
            self.case, self.draw.recorded = case, None
