"""One network and one loss: a step of its optimiser, as PyTorch runs it fastest."""

import torch
from torch.nn.utils import clip_grad_norm_

from rivals.base import Base, follow, optimizer_of


class Rival(Base):
    """A network, or an encoder and a decoder in one module. A system has its own network, objective and images."""

    def __init__(self, case, *, joined, device, memory_format, compile_mode):
        del joined  # there is one form
        super().__init__(case, device=device, memory_format=memory_format, compile_mode=compile_mode)
        self.network = self.placed(self.make_network())
        self.ema = self.placed(self.make_network()) if self.ema_decay else None
        self.networks, rule = {"network": self.network}, self.settings["optimizer"]
        self.optimizers = [optimizer_of(self.network, rule)]
        self.clip_norm, self.skip_norm = rule["clip_norm"], rule["skip_norm"]
        (self.run_objective,) = self.compiled(self.objective)

    def make_network(self):
        """A new one."""
        raise NotImplementedError

    def draw_noise(self):
        """What the objective draws."""
        return ()

    def objective(self, batch, *noise):
        """(the loss, its parts by name) of a batch."""
        raise NotImplementedError

    def images(self, batch):
        """What the network makes of a batch without noise [B, C, H, W]: reconstructions, or what is restored."""
        raise NotImplementedError

    def train_step(self, optimizers):
        """Changes the network in place; returns the loss and its parts."""
        (optimizer,) = optimizers
        torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            loss, parts = self.run_objective(self.batch, *self.draw_noise())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.may_move():
            optimizer.step()
            follow(self.ema, self.network, self.ema_decay)
        self.steps += 1
        return {"loss": loss.detach()} | {name: x.detach() for name, x in parts.items()}

    def may_move(self):
        """Scales the gradient down to a norm, where that is asked; whether its norm was small enough for a step.

        To know that is to wait for the device.
        """
        if self.clip_norm is None and self.skip_norm is None:
            return True
        norm = clip_grad_norm_(self.network.parameters(), self.clip_norm or float("inf"))
        return self.skip_norm is None or bool(norm < self.skip_norm)

    # What `benchmark_torch` asks

    def reset(self):
        """The average starts anew, too."""
        super().reset()
        if self.ema is not None:
            self.ema.load_state_dict(self.network.state_dict())

    def outputs(self):
        """Images, as jaxgen has them."""
        return {"images": self.images(self.batch).permute(0, 2, 3, 1)}

    def descend(self, optimizers):
        """A step of plain gradient descent, neither clipped nor skipped."""
        rule, self.clip_norm, self.skip_norm = (self.clip_norm, self.skip_norm), None, None
        try:
            return super().descend(optimizers)
        finally:
            self.clip_norm, self.skip_norm = rule
