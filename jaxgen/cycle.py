"""Two domains without pairs: a generator each way, each to undo the other (CycleGAN; Zhu, Park, Isola, Efros 2017).

With G from sources to images, F back, and a discriminator of either domain, the generators minimise

    adv (A_G + A_F) + cycle (|F(G(s)) - s| + |G(F(x)) - x|) + cycle identity (|G(x) - x| + |F(s) - s|)

where A is the generator's part of the adversarial loss and |.| the mean absolute error; each discriminator minimises
its own part, of real images and of pictures from a pool of earlier fakes (`pools`). Both generators share an optimiser,
and so do both discriminators.

    step = cycle.make_train_step(
        to_image, to_source, of_image, of_source,
        generator_optimizer=optax.adam(2e-4, b1=0.5), discriminator_optimizer=optax.adam(2e-4, b1=0.5), pool_size=50,
    )
    state, metrics = jax.jit(step)(state, {"source": sources, "image": images}, key)

In the published order the generators move first, against discriminators as they were; these then see fakes that were
made before. So both sides move from where they stand, at once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxgen import gradients as ways
from jaxgen import network, pools, sharding, turns
from jaxgen.arguments import check_key, check_module
from jaxgen.data import check
from jaxgen.losses import adversarial, terms
from jaxgen.network import Network

GENERATORS = ("to_image", "to_source")
DISCRIMINATORS = ("of_image", "of_source")
DOMAINS = ("image", "source")
OTHER = {"image": "source", "source": "image"}
CHANNELS = {3: ("red", "green", "blue")}

# Keys, with which the step's own is folded.
DROPOUT, POOLS, WHOLE = 1, 2, 3


@flax.struct.dataclass
class State:
    """Everything that training changes. Arrays only."""

    step: jax.Array  # number of updates so far, int32
    generators: Network  # of {"to_image": ..., "to_source": ...}, and so are their collections
    discriminators: Network  # of {"of_image": ..., "of_source": ...}
    pools: dict[str, pools.Pool]  # of earlier fakes: {"image": ..., "source": ...}; {} without
    ema: Any  # moving averages of the generators' variables: {"to_image": ..., "to_source": ...}


def init(
    key: jax.Array,
    to_image: nn.Module,
    to_source: nn.Module,
    of_image: nn.Module,
    of_source: nn.Module,
    *,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    source_shape: tuple[int, int, int] | None = None,
    pool_size: int = 50,
) -> State:
    """The state before the first step.

    Args:
      key: of the parameters.
      to_image, to_source, of_image, of_source, the optimisers, pool_size: as for `make_train_step`.
      image_shape: (H, W, C).
      source_shape: that of sources; the same by default.

    Raises:
      TypeError: for a seed instead of a key, or what is no Linen module that takes an image and `train`.
      ValueError: for shapes whose channels come first, or generators whose images do not have them.
    """
    check_key(key)
    modules = _checked(to_image, to_source, of_image, of_source, generator_optimizer, discriminator_optimizer)
    shapes = {"image": tuple(image_shape), "source": tuple(source_shape or image_shape)}
    for name, shape in shapes.items():
        check.check_layout(shape, f"{name}_shape is {shape}, expected (H, W, C)")

    def build(key):
        keys, variables = jax.random.split(key, 4), {}
        for i, domain in enumerate(DOMAINS):
            generator, judge = GENERATORS[i], DISCRIMINATORS[i]
            given = jnp.zeros((2, *shapes[OTHER[domain]]))
            made, variables[generator] = network.init_with_output(modules[generator], keys[i], given, name=generator)
            if made.shape[1:] != shapes[domain]:
                raise ValueError(f"{generator} makes images of shape {made.shape[1:]}, and {shapes[domain]} are asked")
            _, variables[judge] = network.init_with_output(modules[judge], keys[2 + i], made, name=judge)
        ema = {name: jax.tree.map(jnp.copy, dict(variables[name])) for name in GENERATORS}
        return State(
            step=jnp.zeros((), jnp.int32),
            generators=_group(variables, GENERATORS, generator_optimizer),
            discriminators=_group(variables, DISCRIMINATORS, discriminator_optimizer),
            pools={domain: pools.empty(pool_size, shapes[domain]) for domain in DOMAINS} if pool_size else {},
            ema=ema,
        )

    return network.compiled_init(build, key)


def _group(variables, names, optimizer):
    """Several networks as one, whose optimiser they share."""
    params = {name: variables[name].get("params", {}) for name in names}
    model_state = {name: {k: v for k, v in variables[name].items() if k != "params"} for name in names}
    return Network(params, model_state, optimizer.init(params))


def _checked(to_image, to_source, of_image, of_source, generator_optimizer, discriminator_optimizer):
    modules = dict(zip((*GENERATORS, *DISCRIMINATORS), (to_image, to_source, of_image, of_source), strict=True))
    for name, module in modules.items():
        check_module(module, name)
    network.check_optimizer(generator_optimizer, "generator_optimizer")
    network.check_optimizer(discriminator_optimizer, "discriminator_optimizer")
    return modules


def make_train_step(
    to_image: nn.Module,
    to_source: nn.Module,
    of_image: nn.Module,
    of_source: nn.Module,
    *,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    loss: adversarial.AdversarialLoss = adversarial.least_squares,
    adversarial_weight: float = 2.0,
    cycle_weight: float = 10.0,
    identity_weight: float = 0.5,
    distance: Callable = terms.l1,
    pool_size: int = 50,
    ema_decay: network.Decay = 0.0,
    gradients: ways.Way = ways.plain,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)` for batches of "source" and "image", not paired.

    Args:
      to_image: sources [B, H, W, C] -> images, as `apply(variables, sources, train=)`.
      to_source: images -> sources.
      of_image: images -> logits: [B], patches [B, h, w], or a tree of several scales; a picture's own are averaged.
      of_source: the same of sources.
      generator_optimizer: of both generators: any optax transformation, which sees the gradients of both.
      discriminator_optimizer: of both discriminators.
      loss: a pair of functions from `losses.adversarial`.
      adversarial_weight: of both generators' adversarial losses: 2 for `least_squares`, whose half the paper's does not
        have. The discriminators' is the paper's, halved as in its section 4.
      cycle_weight: of the cycles' errors; 10 in the paper.
      identity_weight: of the errors of images that are in the domain already, times the cycle's; 0.5 in the paper
        where colours are to stay. Above 0 images and sources must have one shape.
      distance: (images, targets) -> a number for each pixel, whose means count.
      pool_size: how many earlier fakes are kept of each domain; 0: the discriminators see the newest alone.
      ema_decay: of the averages of the generators; 0 keeps the latest. A number or a schedule.
      gradients: how gradients are taken: `gradients.plain`, `gradients.accumulated(n)`.
      axis_name: as in `gan.make_train_step`. All devices share a pool.

    Returns:
      A pure function, not compiled. `key` is the run's constant key: the step folds `state.step` into it. Metrics:
      `generators/` and `discriminators/` with `loss`, `grad_norm` (before any clip), `update_norm`, and where the
      optimiser tells `clipped` and `skipped`; `to_image/` and `to_source/` with `loss` (adversarial part), `identity`
      (error), `change` (mean absolute difference of what goes in and comes out: 0 for a generator that does nothing)
      and `drift_red`, ...: the mean of a channel of what comes out, less that of the real images of the domain: colours
      that were inverted show there first; `cycle/source` and `cycle/image` (errors); `of_image/` and `of_source/` with
      `loss`, `real_logits`, `fake_logits`, `accuracy`. Errors are means over pixels, without weights.

    Raises:
      TypeError: at once, for what is no module, optimiser, way or loss; at trace time, for a seed instead of a key.
      ValueError: at trace time, for a batch without sources, or as many; for an identity weight between domains of
        different shapes; for a state without the pools that are asked for.
    """
    modules = _checked(to_image, to_source, of_image, of_source, generator_optimizer, discriminator_optimizer)
    loss_at = adversarial.schedule_of(loss)
    ways.check_way(gradients)

    def judge(params, old, name, *pictures):
        """Logits of pictures, one after the other, and the network's collections after them."""
        found, collections = [], old.model_state[name]
        for picture in pictures:
            output, collections = network.apply(modules[name], params[name], collections, picture)
            found.append(network.split_output(output)[0])
        return found, collections

    def train_step(state: State, batch: Mapping[str, jax.Array], key: jax.Array):
        check_key(key)
        real = _domains(batch, identity_weight)
        _check_pools(state, pool_size)
        key = jax.random.fold_in(key, state.step)
        judges = loss_at(state.step)

        def generators_turn(real, key):
            """(gradients, (collections, metrics), fakes) of real images."""

            def objective(params):
                calls = _Calls(modules, params, state.generators.model_state, _dropout_key(key, axis_name))
                fake = {domain: calls(f"to_{domain}", real[OTHER[domain]]) for domain in DOMAINS}
                again = {domain: calls(f"to_{domain}", fake[OTHER[domain]]) for domain in DOMAINS}
                metrics: dict[str, jax.Array] = {}
                total: Any = 0.0
                for domain in DOMAINS:
                    (real_logits, fake_logits), _ = judge(
                        state.discriminators.params, state.discriminators, f"of_{domain}", real[domain], fake[domain]
                    )
                    fooled = turns.adversarial_loss(judges.generator, real_logits, fake_logits)
                    cycled = jnp.mean(distance(again[domain], real[domain]))
                    metrics |= {f"to_{domain}/loss": fooled, f"cycle/{domain}": cycled}
                    total += adversarial_weight * fooled + cycle_weight * cycled
                    if identity_weight > 0:
                        same = calls(f"to_{domain}", real[domain])
                        error = jnp.mean(distance(same, real[domain]))
                        metrics[f"to_{domain}/identity"] = error
                        total += cycle_weight * identity_weight * error
                    metrics |= network.prefixed(f"to_{domain}", _seen(fake[domain], real, domain))
                metrics["generators/loss"] = total
                return total, (calls.model_state, metrics, lax.stop_gradient(fake))

            gradient, (model_state, metrics, fake) = jax.grad(objective, has_aux=True)(state.generators.params)
            return gradient, (model_state, metrics), fake

        def discriminators_gradient(shown, key):
            def objective(params):
                metrics, after, total = {}, {}, 0.0
                for domain in DOMAINS:
                    name = f"of_{domain}"
                    (real_logits, fake_logits), after[name] = judge(
                        params, state.discriminators, name, shown["real"][domain], shown["fake"][domain]
                    )
                    own = turns.adversarial_loss(judges.discriminator, real_logits, fake_logits)
                    metrics |= {
                        f"{name}/loss": own,
                        f"{name}/real_logits": jnp.mean(turns.per_picture(real_logits)),
                        f"{name}/fake_logits": jnp.mean(turns.per_picture(fake_logits)),
                        f"{name}/accuracy": turns.accuracy(real_logits, fake_logits),
                    }
                    total += own
                metrics["discriminators/loss"] = total
                return total, (after, metrics)

            return jax.grad(objective, has_aux=True)(state.discriminators.params)

        if gradients is ways.plain:
            found, (model_state, metrics), fake = generators_turn(real, key)
        else:
            found, (model_state, metrics) = gradients(lambda part, key: generators_turn(part, key)[:2], real, key)
            whole_key = _dropout_key(jax.random.fold_in(key, WHOLE), axis_name)
            calls = _Calls(modules, state.generators.params, state.generators.model_state, whole_key)
            fake = {domain: calls(f"to_{domain}", real[OTHER[domain]]) for domain in DOMAINS}
        after, shown = dict(state.pools), dict(fake)
        for domain in DOMAINS if pool_size else ():
            pool_key = jax.random.fold_in(key, POOLS)  # the same for both, which hold different pictures
            shown[domain], after[domain] = pools.exchange(
                state.pools[domain], fake[domain], pool_key, axis_name=axis_name
            )
        against, (judges_state, of_judges) = gradients(discriminators_gradient, {"real": real, "fake": shown}, key)

        generators, of_update = network.update(state.generators, generator_optimizer, found, model_state, axis_name)
        metrics |= of_judges | network.prefixed("generators", of_update)
        variables = {name: {"params": generators.params[name], **generators.model_state[name]} for name in GENERATORS}
        ema = network.update_ema(state.ema, variables, ema_decay, state.step, of_update)
        discriminators, of_update = network.update(
            state.discriminators, discriminator_optimizer, against, judges_state, axis_name
        )
        metrics |= network.prefixed("discriminators", of_update)
        state = State(state.step + 1, generators, discriminators, after, ema)
        return state, network.mean_over_devices(metrics, axis_name)

    return train_step


class _Calls:
    """The generators in training mode. What a call changes (batch statistics) is kept; each has a key of its own."""

    def __init__(self, modules, params, model_state, key):
        self.model_state = dict(model_state)
        self._modules, self._params, self._key, self._calls = modules, params, key, dict.fromkeys(GENERATORS, 0)

    def __call__(self, name, x):
        self._calls[name] += 1
        key = jax.random.fold_in(self._key, self._calls[name])
        output, self.model_state[name] = network.apply(
            self._modules[name], self._params[name], self.model_state[name], x, key=key
        )
        return network.split_output(output)[0]


def _dropout_key(key, axis_name):
    return sharding.per_device_key(jax.random.fold_in(key, DROPOUT), axis_name)


def _domains(batch, identity_weight):
    """{"image": ..., "source": ...} of a batch."""
    image = network.images_of(batch)
    if "source" not in batch:
        raise ValueError(
            f"two domains are needed, batch['source'] and batch['image'], but the batch has only {', '.join(batch)}"
        )
    source = batch["source"]
    if len(source) != len(image):
        raise ValueError(f"as many sources as images are needed, not {len(source)} and {len(image)}")
    if identity_weight > 0 and source.shape != image.shape:
        raise ValueError(
            f"an identity weight needs domains of one shape, not sources of {source.shape[1:]} and images of "
            f"{image.shape[1:]}: give 0"
        )
    return {"image": image, "source": source}


def _check_pools(state, pool_size):
    sizes = {domain: len(pool.images) for domain, pool in state.pools.items()}
    if sizes != (dict.fromkeys(DOMAINS, pool_size) if pool_size else {}):
        raise ValueError(
            f"the state has pools of {sizes or 'no images'}: give cycle.init the same pool_size={pool_size}"
        )


def _seen(fake, real, domain):
    """How far what comes out is from what went in, and from the domain's own colours."""
    found = {}
    given = real[OTHER[domain]]
    if given.shape == fake.shape:
        found["change"] = jnp.mean(jnp.abs(fake - given))
    shift = jnp.mean(fake, axis=(0, 1, 2)) - jnp.mean(real[domain], axis=(0, 1, 2))
    names = CHANNELS.get(len(shift), tuple(map(str, range(len(shift)))))
    return found | {f"drift_{name}" if len(shift) > 1 else "drift": x for name, x in zip(names, shift, strict=True)}
