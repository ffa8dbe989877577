"""The stages of `benchmark.py` in jaxgen: what `benchmark_jaxgen` times and compares, for a `Stage`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from benchmark_cases import Stage
from flax import linen as nn
from jax import lax

from jaxgen import network, objective
from jaxgen.models.convolution import Conv, ConvTranspose, Geometry, convolve, max_pool
from jaxgen.models.resampling import EnlargingConv, enlarge

CHECK_LEARNING_RATE = 1.0  # of plain gradient descent, in the step that is compared: so that rounding does not count
INPUTS = ("x", "condition")  # names of what a stage is given


class Denoiser(nn.Module):
    """Images [B, H, W, C] -> images: a residual network whose output is added to them (Lim et al., 2017)."""

    stage: Stage
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train):
        conv = functools.partial(Conv, kernel_size=3, padding=1, dtype=self.dtype)
        first = h = conv(self.stage.features)(x)
        for _ in range(self.stage.num_blocks):
            residual = nn.relu(conv(self.stage.features)(h))
            h = h + conv(self.stage.features)(residual)
        h = first + conv(self.stage.features)(h)
        return x + conv(x.shape[-1])(h)


class UNet(nn.Module):
    """Images [B, H, W, C] -> images, through maps of half and a quarter of the size (Ronneberger et al., 2015)."""

    stage: Stage
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train):
        f = self.stage.features

        def twice(h, width):
            for _ in range(2):
                h = nn.relu(Conv(width, 3, padding=1, dtype=self.dtype)(h))
            return h

        def up(h, skip):
            enlarged = ConvTranspose(skip.shape[-1], 2, strides=2, dtype=self.dtype)(h)
            return jnp.concatenate([enlarged, skip], axis=-1)

        large = twice(x, f)
        middle = twice(max_pool(large), 2 * f)
        h = twice(max_pool(middle), 4 * f)
        h = twice(up(h, middle), 2 * f)
        h = twice(up(h, large), f)
        return Conv(x.shape[-1], 1, dtype=self.dtype)(h)


class ConditionalNorm(nn.Module):
    """Batch normalisation with scale 1 + W_scale c and shift W_shift c: x [B, H, W, C], c [B, K] -> [B, H, W, C]."""

    @nn.compact
    def __call__(self, x, c, *, train):
        dense = functools.partial(nn.Dense, x.shape[-1], use_bias=False)
        scale, shift = (dense(name=name)(c)[:, None, None] for name in ("scale", "shift"))
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            use_scale=False,
            use_bias=False,
            dtype=jnp.float32,  # rounded once, after scale and shift
        )
        return (norm(x) * (1 + scale) + shift).astype(x.dtype)


class BigGANBlock(nn.Module):
    """Doubles the size: norm, ReLU, enlarge, 3x3, norm, ReLU, 3x3, plus an enlarged 1x1 shortcut (Brock et al., 2019).

    The shortcut is computed before it is enlarged: a 1x1 convolution commutes with that.
    """

    stage: Stage
    dtype: Any

    @nn.compact
    def __call__(self, x, c, *, train):
        f = self.stage.features
        shortcut = Conv(f, 1, dtype=self.dtype, name="shortcut")(x)
        x = nn.relu(ConditionalNorm()(x, c, train=train))
        x = EnlargingConv(f, dtype=self.dtype, name="Conv_0")(x)
        x = nn.relu(ConditionalNorm()(x, c, train=train))
        x = Conv(f, 3, padding=1, dtype=self.dtype, name="Conv_1")(x)
        return x + enlarge(shortcut)


class ModulatedConv(nn.Module):
    """StyleGAN2's 3x3 convolution, x [B, H, W, C] and w [B, K] -> [B, H, W, features] (Karras et al., 2020).

    With s = W_s w + b_s the kernel of an image is that of all with its input channels times s, divided by its length
    over taps and input channels. It is the maps that are multiplied: those that go in by s, those that come out by
    one over that length. Then a bias and leaky ReLU times sqrt(2).
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x, w):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        s = nn.Dense(x.shape[-1], bias_init=nn.initializers.ones)(w)
        demodulation = lax.rsqrt(jnp.square(s) @ jnp.square(kernel).sum((0, 1)) + 1e-8)
        x, kernel, bias, demodulation = nn.dtypes.promote_dtype(
            x * s[:, None, None], kernel, bias, demodulation, dtype=self.dtype
        )
        y = convolve(x, kernel, Geometry(x.shape[1:3], (3, 3), (1, 1), ((1, 1), (1, 1))))
        return 2**0.5 * nn.leaky_relu(y * demodulation[:, None, None] + bias, 0.2)


class Modulated(nn.Module):
    """Modulated convolutions, one after another."""

    stage: Stage
    dtype: Any

    @nn.compact
    def __call__(self, x, w, *, train):
        for _ in range(self.stage.num_blocks):
            x = ModulatedConv(self.stage.features, self.dtype)(x, w)
        return x


class R3GANBlock(nn.Module):
    """1x1 to more channels, a 3x3 convolution in groups, 1x1 back, plus the input (Huang et al., 2024)."""

    stage: Stage
    dtype: Any

    @nn.compact
    def __call__(self, x):
        f = self.stage.features
        h = nn.leaky_relu(Conv(f, 1, dtype=self.dtype)(x), 0.2)
        groups = f // self.stage.group_width
        h = nn.leaky_relu(Conv(f, 3, padding=1, groups=groups, dtype=self.dtype)(h), 0.2)
        return x + Conv(x.shape[-1], 1, use_bias=False, dtype=self.dtype)(h)


class VDVAEBlock(nn.Module):
    """GELU before each of 1x1 to fewer channels, 3x3, 3x3 and 1x1 back, plus the input (Child, 2021)."""

    stage: Stage
    dtype: Any

    @nn.compact
    def __call__(self, x):
        h = x
        for kernel_size, width in ((1, self.stage.features), *[(3, self.stage.features)] * 2, (1, x.shape[-1])):
            h = Conv(width, kernel_size, padding=kernel_size // 2, dtype=self.dtype)(nn.gelu(h, approximate=True))
        return x + h


class Blocks(nn.Module):
    """Blocks, one after another."""

    block: Any
    stage: Stage
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train):
        for _ in range(self.stage.num_blocks):
            x = self.block(self.stage, self.dtype)(x)
        return x


NETWORKS = {
    "denoiser": Denoiser,
    "unet": UNet,
    "biggan-stage": BigGANBlock,
    "modulated": Modulated,
    "r3gan-block": functools.partial(Blocks, R3GANBlock),
    "vdvae-block": functools.partial(Blocks, VDVAEBlock),
}


def make_network(stage: Stage):
    """The stage's module."""
    return NETWORKS[stage.name](stage, None if stage.dtype == "float32" else jnp.bfloat16)


def loss_of(stage: Stage):
    """`(params, model_state, inputs, target) -> (loss, model_state)`."""
    module = make_network(stage)

    def loss(params, model_state, inputs, target):
        x, *condition = inputs
        x = x if stage.on_images else x.astype(stage.dtype)  # as the layer before would make it
        output, model_state = network.apply(module, params, model_state, x, *condition)
        return jnp.mean(jnp.square(output.astype(jnp.float32) - target)), model_state

    return loss


def make_train_step(stage: Stage, optimizer: optax.GradientTransformation):
    """`(state, batch, key) -> (state, metrics)`, with the mean square of each gradient that is not a weight's."""
    loss = loss_of(stage)
    if stage.on_images:

        def of_images(params, model_state, batch, key, step):
            value, model_state = loss(params, model_state, batch["inputs"], batch["target"])
            return value, (model_state, {"loss": value})

        return objective.make_train_step(of_images, optimizer=optimizer, variables_of=lambda network: {})

    def train_step(state, batch, key):
        old = state.network
        (value, model_state), (of_params, of_inputs) = jax.value_and_grad(loss, (0, 2), has_aux=True)(
            old.params, old.model_state, batch["inputs"], batch["target"]
        )
        updates, opt_state = optimizer.update(of_params, old.opt_state, old.params)
        new = network.Network(optax.apply_updates(old.params, updates), model_state, opt_state)
        squares = [jnp.mean(jnp.square(gradient)) for gradient in of_inputs]
        metrics = {f"{name}_gradient_square": x for name, x in zip(INPUTS, squares, strict=False)}
        return state.replace(step=state.step + 1, network=new), {"loss": value} | metrics

    return train_step


def make_batch(stage: Stage):
    """What the stage is given and the target: noise, for the numbers do not matter to the clock."""
    shape = (stage.batch_size, stage.image_size, stage.image_size, stage.channels)
    x_key, condition_key, target_key = jax.random.split(jax.random.key(1), 3)
    inputs = (jax.random.normal(x_key, shape),)
    if stage.condition_dim:
        inputs += (jax.random.normal(condition_key, (stage.batch_size, stage.condition_dim)),)
    output = jax.eval_shape(lambda key: make_network(stage).init_with_output(key, *inputs, train=True)[0], x_key)
    return {"inputs": inputs, "target": jax.random.normal(target_key, output.shape)}


def make(stage: Stage):
    """The step, the state that it starts from and its batch."""
    batch, optimizer = make_batch(stage), optax.adam(stage.learning_rate)
    shapes = [x.shape for x in batch["inputs"]]
    variables = network.compiled_init(
        lambda key: make_network(stage).init(key, *map(jnp.zeros, shapes), train=True), jax.random.key(0)
    )
    state = objective.init(variables, optimizer=optimizer).replace(ema={})  # without an average
    return make_train_step(stage, optimizer), state, batch


def networks_of(state):
    """The one network."""
    return {"network": state.network}


def numbers_of(metrics):
    """The loss and the mean squares of gradients."""
    return {name: float(x) for name, x in metrics.items() if name == "loss" or name.endswith("_gradient_square")}


def reference(stage: Stage, state, batch):
    """Weights and batch, and what jaxgen makes of them in float32: output, gradients, a step of gradient descent."""
    stage, descent = dataclasses.replace(stage, dtype="float32"), optax.sgd(CHECK_LEARNING_RATE)
    before = state.network.replace(opt_state=descent.init(state.network.params))
    given = before.params, before.model_state, batch["inputs"], batch["target"]
    with jax.default_matmul_precision("highest"):
        output, _ = network.apply(make_network(stage), before.params, before.model_state, *batch["inputs"])
        step = jax.jit(make_train_step(stage, descent))
        after, metrics = step(state.replace(network=before), batch, jax.random.key(2))
        gradients = () if stage.on_images else jax.jit(jax.grad(loss_of(stage), 2, has_aux=True))(*given)[0]
    arrays = {"output": output, "target": batch["target"], "learning_rate": CHECK_LEARNING_RATE}
    arrays |= dict(zip(INPUTS, batch["inputs"], strict=False))
    arrays |= {f"{name}_gradient": x for name, x in zip(INPUTS, gradients, strict=False)}
    networks = {"initial": state.network, "before": before, "after": after.network}
    return arrays, {when: {"network": one} for when, one in networks.items()}, metrics
