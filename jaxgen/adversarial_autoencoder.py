"""Encoder, decoder and discriminator, each with an objective of its own: VAE-GAN, adversarial autoencoders, BiGAN.

    def objectives(networks, batch, key, step):
        z = networks.encode(batch["image"])
        error = jnp.mean((networks.decode(z) - batch["image"]) ** 2)
        prior = sharding.draw(jax.random.normal, key, z.shape)
        loss = adversarial.non_saturating
        real, fake = networks.discriminate(prior), networks.discriminate(z)
        losses = {
            "encoder": error + jnp.mean(loss.generator(real, fake)),
            "decoder": error,
            "discriminator": jnp.mean(loss.discriminator(real, fake)),
        }
        return losses, {"distortion": error}

    step = adversarial_autoencoder.make_train_step(encoder, decoder, discriminator, objectives, optimizers=optimizers)

Each network moves along the gradient of its own loss at its own parameters, and of no other: what does not stand in a
network's loss does not move it, however the images went. All three move at once, from where they stand.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen import gradients as ways
from jaxgen import network, sharding
from jaxgen.arguments import check_function, check_key, check_module
from jaxgen.data import check
from jaxgen.network import Network

NAMES = ("encoder", "decoder", "discriminator")

Objectives = Callable[["Networks", Mapping[str, jax.Array], jax.Array, jax.Array], tuple[dict[str, jax.Array], dict]]
"""(networks, batch, key, step) -> ({network: its loss}, metrics): means over the batch's examples."""


@flax.struct.dataclass
class State:
    """Everything that training changes. Arrays only."""

    step: jax.Array  # number of updates so far, int32
    encoder: Network
    decoder: Network
    discriminator: Network
    ema: Any  # moving averages of the variables of encoder and decoder: {"encoder": ..., "decoder": ...}


class Networks:
    """The three networks in training mode, as objectives call them. What a call changes (batch statistics) is kept."""

    def __init__(self, modules: Mapping[str, nn.Module], params: Any, model_state: Any, key: jax.Array) -> None:
        self.model_state = dict(model_state)
        self._modules, self._params, self._key, self._calls = modules, params, key, 0

    def encode(self, image: jax.Array) -> Any:
        """What the encoder returns."""
        return self._call("encoder", image)

    def decode(self, z: jax.Array) -> Any:
        """What the decoder returns."""
        return self._call("decoder", z)

    def discriminate(self, *inputs: jax.Array) -> Any:
        """What the discriminator returns: logits [B], or a `network.Output` of these and features."""
        return self._call("discriminator", *inputs)

    def _call(self, name, *inputs):
        self._calls += 1
        key = jax.random.fold_in(self._key, self._calls)
        output, self.model_state[name] = network.apply(
            self._modules[name], self._params[name], self.model_state[name], *inputs, key=key
        )
        return output


def code_of(output: Any) -> jax.Array:
    """The code [B, latent_dim] of what an encoder returned: the mean of a posterior (mean, logvar), or the code."""
    return output[0] if isinstance(output, (tuple, list)) else output


def image_alone(image: jax.Array, z: jax.Array) -> tuple[jax.Array, ...]:
    """What a discriminator of images is given of (images, codes)."""
    return (image,)


def init(
    key: jax.Array,
    encoder: nn.Module,
    decoder: nn.Module,
    discriminator: nn.Module,
    *,
    optimizers: Mapping[str, optax.GradientTransformation],
    image_shape: tuple[int, int, int],
    judged: Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]] = image_alone,
) -> State:
    """The state before the first step, for images [H, W, C].

    Args:
      key: of the parameters.
      encoder: images -> codes [B, latent_dim], or a posterior (mean, logvar) of such.
      decoder: codes -> images.
      discriminator: whatever `judged` returns -> logits.
      optimizers: {"encoder": any optax transformation, "decoder": ..., "discriminator": ...}.
      image_shape: (H, W, C).
      judged: (images, codes) -> the discriminator's arguments.

    Raises:
      TypeError: for a seed instead of a key, or what is no Linen module that takes its inputs and `train`.
      ValueError: for an `image_shape` whose channels come first, or other names of optimisers.
    """
    check_key(key)
    modules = _checked(encoder, decoder, discriminator, optimizers)
    check.check_layout(image_shape, f"image_shape is {tuple(image_shape)}, expected (H, W, C)")

    def build(key):
        keys, image, variables = jax.random.split(key, 3), jnp.zeros((2, *image_shape)), {}
        output, variables["encoder"] = network.init_with_output(encoder, keys[0], image, name="encoder")
        z = code_of(output)
        _, variables["decoder"] = network.init_with_output(decoder, keys[1], z, name="decoder")
        inputs = judged(image, z)
        _, variables["discriminator"] = network.init_with_output(discriminator, keys[2], *inputs, name="discriminator")
        new = {name: Network.new(variables[name], optimizers[name]) for name in modules}
        ema = {name: jax.tree.map(jnp.copy, new[name].variables) for name in NAMES[:2]}
        return State(jnp.zeros((), jnp.int32), **new, ema=ema)

    return network.compiled_init(build, key)


def _checked(encoder, decoder, discriminator, optimizers):
    modules = dict(zip(NAMES, (encoder, decoder, discriminator), strict=True))
    for name, module in modules.items():
        check_module(module, name)
    if not isinstance(optimizers, Mapping) or set(optimizers) != set(NAMES):
        raise ValueError(f"optimizers is a dict with the keys {', '.join(NAMES)}, one for each network")
    for name, optimizer in optimizers.items():
        network.check_optimizer(optimizer, f"optimizers[{name!r}]")
    return modules


def make_train_step(
    encoder: nn.Module,
    decoder: nn.Module,
    discriminator: nn.Module,
    objectives: Objectives,
    *,
    optimizers: Mapping[str, optax.GradientTransformation],
    moves: Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]] | None = None,
    ema_decay: network.Decay = 0.0,
    gradients: ways.Way = ways.plain,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)`.

    Args:
      encoder, decoder, discriminator, optimizers: as for `init`.
      objectives: `(networks, batch, key, step) -> ({"encoder": loss, "decoder": loss, "discriminator": loss},
        metrics)`, means over the examples of the batch. `networks` is a `Networks`; `key` is the step's own. In the
        per-device view the batch is the device's part.
      moves: metrics -> {network: whether it moves}: those that do not stay as they are, the optimiser and collections
        included. Metrics are means over the whole batch; networks that are not named move.
      ema_decay: of the averages of encoder and decoder; 0 keeps the latest. A number or a schedule.
      gradients: how gradients are taken: `gradients.plain`, `gradients.accumulated(n)`.
      axis_name: as in `gan.make_train_step`.

    Returns:
      A pure function, not compiled. `key` is the run's constant key: the step folds `state.step` into it. Metrics are
      the objectives', and under each network's name `loss`, `grad_norm` (before any clip), `update_norm`, where the
      optimiser tells `clipped` and `skipped`, and with `moves` `moved`.

    Raises:
      TypeError: at once, for what is no function, optimiser or module; at trace time, for a seed instead of a key.
      ValueError: at once, for other names of optimisers; at trace time, for losses of other names, or no numbers.
    """
    modules = _checked(encoder, decoder, discriminator, optimizers)
    check_function(objectives, "networks, batch, key, step", "objectives", "a function that returns (losses, metrics)")
    ways.check_way(gradients)

    def train_step(state: State, batch: Mapping[str, jax.Array], key: jax.Array):
        check_key(key)
        network.images_of(batch)
        old = {name: getattr(state, name) for name in NAMES}

        def gradient_of(batch, key):
            def of_params(params):
                dropout_key = sharding.per_device_key(jax.random.fold_in(key, 1), axis_name)
                networks = Networks(modules, params, {name: old[name].model_state for name in NAMES}, dropout_key)
                losses, metrics = objectives(networks, batch, key, state.step)
                _check_losses(losses)
                return losses, (networks.model_state, metrics)

            losses, pull_back, rest = jax.vjp(of_params, {name: old[name].params for name in NAMES}, has_aux=True)
            model_state, metrics = rest

            def own(name):
                only = {other: jnp.ones_like(x) if other == name else jnp.zeros_like(x) for other, x in losses.items()}
                return pull_back(only)[0][name]

            metrics = metrics | {f"{name}/loss": losses[name] for name in NAMES}
            metrics = {name: jnp.asarray(x, jnp.float32) for name, x in metrics.items()}
            return {name: own(name) for name in NAMES}, (model_state, metrics)

        found, (model_state, metrics) = gradients(gradient_of, batch, jax.random.fold_in(key, state.step))
        metrics = network.mean_over_devices(metrics, axis_name)
        moving = {} if moves is None else dict(moves(metrics))
        new, ema = {}, {}
        for name in NAMES:
            new[name], of_update = network.update(
                old[name], optimizers[name], found[name], model_state[name], axis_name
            )
            if name in moving:
                moved = jnp.asarray(moving[name])
                new[name] = jax.tree.map(lambda a, b, moved=moved: jnp.where(moved, a, b), new[name], old[name])
                metrics[f"{name}/moved"] = moved
            if name in state.ema:
                ema[name] = network.update_ema(state.ema[name], new[name].variables, ema_decay, state.step, of_update)
            metrics |= network.prefixed(name, of_update)
        state = State(state.step + 1, **new, ema=ema)
        return state, network.mean_over_devices(metrics, axis_name)

    return train_step


def _check_losses(losses):
    if not isinstance(losses, Mapping) or set(losses) != set(NAMES):
        found = ", ".join(map(str, losses)) if isinstance(losses, Mapping) else type(losses).__name__
        raise ValueError(f"objectives return a dict of losses with the keys {', '.join(NAMES)}, not {found}")
    for name, loss in losses.items():
        if jnp.shape(loss) != ():
            raise ValueError(f"the loss of the {name} must be a number, not of shape {jnp.shape(loss)}: take the mean")
