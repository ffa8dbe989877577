"""The stages of `benchmark.py` in PyTorch: what `benchmark_torch.py` times and compares, for a `Stage`.

The networks are those of `benchmark_jaxgen_stages.py`, layer for layer and with their names, and the step is its step,
written as PyTorch runs them fastest: activations and sums in place where autograd does not need what they overwrite,
gradients set to None, fused Adam, no synchronisation.
"""

import dataclasses

import torch
from benchmark_cases import Stage
from benchmark_torch_networks import enlarge, enlarge_then_convolve
from torch import nn
from torch.nn.functional import conv2d, gelu, leaky_relu, max_pool2d, mse_loss, relu

INPUTS = ("x", "condition")  # names of what a stage is given


def conv3(inner, width, **settings):
    """3x3, of the same size."""
    return nn.Conv2d(inner, width, 3, padding=1, **settings)


class Denoiser(nn.Module):
    """Images [B, C, H, W] -> images: a residual network whose output is added to them."""

    def __init__(self, stage: Stage):
        super().__init__()
        f = stage.features
        self.num_blocks = stage.num_blocks
        self.Conv_0 = conv3(stage.channels, f)
        for i in range(1, 2 * stage.num_blocks + 2):
            self.add_module(f"Conv_{i}", conv3(f, f))
        self.add_module(f"Conv_{2 * stage.num_blocks + 2}", conv3(f, stage.channels))

    def forward(self, x):
        _, *convolutions, last, to_images = self.children()
        first = h = self.Conv_0(x)
        for i in range(self.num_blocks):
            residual = relu(convolutions[2 * i](h), inplace=True)
            h = convolutions[2 * i + 1](residual).add_(h)
        return x + to_images(last(h).add_(first))


class UNet(nn.Module):
    """Images [B, C, H, W] -> images, through maps of half and a quarter of the size."""

    def __init__(self, stage: Stage):
        super().__init__()
        f = stage.features
        widths = [stage.channels, f, f, 2 * f, 2 * f, 4 * f, 4 * f]  # on the way down
        for i in range(6):
            self.add_module(f"Conv_{i}", conv3(widths[i], widths[i + 1]))
        for i, width in enumerate((2 * f, f)):
            self.add_module(f"ConvTranspose_{i}", nn.ConvTranspose2d(2 * width, width, 2, 2))
            self.add_module(f"Conv_{2 * i + 6}", conv3(2 * width, width))
            self.add_module(f"Conv_{2 * i + 7}", conv3(width, width))
        self.Conv_10 = nn.Conv2d(f, stage.channels, 1)

    def forward(self, x):
        def twice(h, first, second):
            return relu(second(relu(first(h), inplace=True)), inplace=True)

        large = twice(x, self.Conv_0, self.Conv_1)
        middle = twice(max_pool2d(large, 2), self.Conv_2, self.Conv_3)
        h = twice(max_pool2d(middle, 2), self.Conv_4, self.Conv_5)
        h = twice(torch.cat([self.ConvTranspose_0(h), middle], 1), self.Conv_6, self.Conv_7)
        h = twice(torch.cat([self.ConvTranspose_1(h), large], 1), self.Conv_8, self.Conv_9)
        return self.Conv_10(h)


class ConditionalNorm(nn.Module):
    """Batch normalisation with scale 1 + W_scale c and shift W_shift c: x [B, C, H, W], c [B, K] -> [B, C, H, W]."""

    def __init__(self, channels, condition_dim):
        super().__init__()
        self.BatchNorm_0 = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Linear(condition_dim, channels, bias=False)
        self.shift = nn.Linear(condition_dim, channels, bias=False)

    def forward(self, x, c):
        scale, shift = (layer(c)[:, :, None, None] for layer in (self.scale, self.shift))
        return (self.BatchNorm_0(x) * (1 + scale)).add_(shift)  # addcmul takes longer


class BigGANBlock(nn.Module):
    """Doubles the size: norm, ReLU, enlarge, 3x3, norm, ReLU, 3x3, plus an enlarged 1x1 shortcut.

    The shortcut, like jaxgen's, is computed before it is enlarged.
    """

    def __init__(self, stage: Stage, joined: bool = False):
        super().__init__()
        self.joined = joined
        self.shortcut = nn.Conv2d(stage.channels, stage.features, 1)
        self.ConditionalNorm_0 = ConditionalNorm(stage.channels, stage.condition_dim)
        self.Conv_0 = conv3(stage.channels, stage.features)
        self.ConditionalNorm_1 = ConditionalNorm(stage.features, stage.condition_dim)
        self.Conv_1 = conv3(stage.features, stage.features)

    def forward(self, x, c):
        shortcut = self.shortcut(x)
        x = relu(self.ConditionalNorm_0(x, c), inplace=True)
        if self.joined:
            x = enlarge_then_convolve(x, self.Conv_0.weight, self.Conv_0.bias)
        else:
            x = self.Conv_0(enlarge(x))
        x = relu(self.ConditionalNorm_1(x, c), inplace=True)
        return self.Conv_1(x).add_(enlarge(shortcut))


class ModulatedConv(nn.Conv2d):
    """StyleGAN2's 3x3 convolution by scaled maps, then a bias and leaky ReLU times sqrt(2), which is one of either."""

    def __init__(self, inner, width, condition_dim):
        super().__init__(inner, width, 3, padding=1)
        self.Dense_0 = nn.Linear(condition_dim, inner)

    def forward(self, x, w):
        with torch.autocast(w.device.type, enabled=False):  # s and the demodulation in float32, as in jaxgen
            s = self.Dense_0(w)
            demodulation = torch.rsqrt(s.square() @ self.weight.square().sum((2, 3)).T + 1e-8)
        y = conv2d(x * s.to(x.dtype)[:, :, None, None], self.weight, padding=1)
        # sqrt(2) leaky_relu(y) = leaky_relu(sqrt(2) y): on the small arrays it costs nothing.
        demodulation, bias = (2**0.5 * a.to(y.dtype)[..., None, None] for a in (demodulation, self.bias))
        return leaky_relu((y * demodulation).add_(bias), 0.2, inplace=True)


class Modulated(nn.Module):
    """Modulated convolutions, one after another."""

    def __init__(self, stage: Stage):
        super().__init__()
        for i in range(stage.num_blocks):
            inner = stage.features if i else stage.channels
            self.add_module(f"ModulatedConv_{i}", ModulatedConv(inner, stage.features, stage.condition_dim))

    def forward(self, x, w):
        for layer in self.children():
            x = layer(x, w)
        return x


class R3GANBlock(nn.Module):
    """1x1 to more channels, a 3x3 convolution in groups, 1x1 back, plus the input."""

    def __init__(self, stage: Stage):
        super().__init__()
        f = stage.features
        self.Conv_0 = nn.Conv2d(stage.channels, f, 1)
        self.Conv_1 = conv3(f, f, groups=f // stage.group_width)
        self.Conv_2 = nn.Conv2d(f, stage.channels, 1, bias=False)

    def forward(self, x):
        h = leaky_relu(self.Conv_0(x), 0.2, inplace=True)
        h = leaky_relu(self.Conv_1(h), 0.2, inplace=True)
        return self.Conv_2(h).add_(x)


class VDVAEBlock(nn.Module):
    """GELU before each of 1x1 to fewer channels, 3x3, 3x3 and 1x1 back, plus the input."""

    def __init__(self, stage: Stage):
        super().__init__()
        f = stage.features
        self.Conv_0 = nn.Conv2d(stage.channels, f, 1)
        self.Conv_1 = conv3(f, f)
        self.Conv_2 = conv3(f, f)
        self.Conv_3 = nn.Conv2d(f, stage.channels, 1)

    def forward(self, x):
        h = x
        for layer in self.children():
            h = layer(gelu(h, approximate="tanh"))
        return h.add_(x)


def blocks(block):
    """A network of blocks, one after another, by the number that the stage has."""

    def make(stage: Stage):
        network = nn.Sequential()
        for i in range(stage.num_blocks):
            network.add_module(f"{block.__name__}_{i}", block(stage))
        return network

    return make


NETWORKS = {
    "denoiser": Denoiser,
    "unet": UNet,
    "biggan-stage": BigGANBlock,
    "modulated": Modulated,
    "r3gan-block": blocks(R3GANBlock),
    "vdvae-block": blocks(VDVAEBlock),
}


def make_train_step(stage: Stage, network, compile_mode):
    """Builds `train_step(optimizer, inputs, target) -> metrics`, which changes the network and the inputs' `grad`."""

    def loss_of(inputs, target):
        x, *condition = inputs
        x = x if stage.on_images else x.to(getattr(torch, stage.dtype))  # as the layer before would make it
        with torch.autocast(x.device.type, torch.bfloat16, enabled=stage.dtype == "bfloat16"):
            output = network(x, *condition)
        return mse_loss(output.float(), target)

    if compile_mode:
        loss_of = torch.compile(loss_of, mode=compile_mode)

    def train_step(optimizer, inputs, target):
        torch.compiler.cudagraph_mark_step_begin()
        loss = loss_of(inputs, target)
        optimizer.zero_grad(set_to_none=True)
        for x in inputs:
            x.grad = None
        loss.backward()
        optimizer.step()
        metrics = {"loss": loss.detach()}
        if not stage.on_images:
            for name, x in zip(INPUTS, inputs, strict=False):
                metrics[f"{name}_gradient_square"] = torch.linalg.vector_norm(x.grad).square() / x.numel()
        return metrics

    return train_step


class Training:
    """The network of a stage, what it is given, and its step."""

    def __init__(self, stage: Stage, *, joined, device, memory_format, compile_mode):
        self.stage, self.compile_mode = stage, compile_mode
        network = NETWORKS[stage.name](stage, **({"joined": True} if joined else {}))
        self.networks = {"network": network.to(device, memory_format=memory_format)}
        x = torch.randn(stage.batch_size, stage.channels, stage.image_size, stage.image_size, device=device)
        self.inputs = [x.contiguous(memory_format=memory_format)]
        if stage.condition_dim:
            self.inputs.append(torch.randn(stage.batch_size, stage.condition_dim, device=device))
        with torch.no_grad():
            self.target = torch.randn_like(network(*self.inputs))
        for x in self.inputs:
            x.requires_grad_(not stage.on_images)
        self.optimizers = [torch.optim.Adam(network.parameters(), lr=stage.learning_rate, fused=True)]
        self.train_step = make_train_step(stage, network, compile_mode)

    def reset(self):
        """Nothing else starts anew when the network has its initial weights."""

    def step(self):
        """One step; returns the loss and the mean squares of the gradients in what the stage is given."""
        return self.train_step(self.optimizers[0], self.inputs, self.target)

    def take(self, arrays):
        """Inputs and target as jaxgen has them."""
        with torch.no_grad():
            self.target.copy_(arrays["target"].permute(0, 3, 1, 2))
            self.inputs[0].copy_(arrays["x"].permute(0, 3, 1, 2))
            for condition in self.inputs[1:]:
                condition.copy_(arrays["condition"])

    def outputs(self):
        """What the network makes of them, as jaxgen has it."""
        return {"output": self.networks["network"](*self.inputs).permute(0, 2, 3, 1)}

    def descend(self, optimizers):
        """One step on them in float32; returns the losses, and the gradients in them as jaxgen has them."""
        train_step = self.train_step
        if self.stage.dtype != "float32":
            stage = dataclasses.replace(self.stage, dtype="float32")
            train_step = make_train_step(stage, self.networks["network"], self.compile_mode)
        metrics = train_step(optimizers[0], self.inputs, self.target)
        if self.stage.on_images:
            return metrics, {}
        x, *condition = (x.grad for x in self.inputs)
        found = [x.permute(0, 2, 3, 1), *condition]
        return metrics, {f"{name}_gradient": gradient for name, gradient in zip(INPUTS, found, strict=False)}
