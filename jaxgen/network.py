"""A network in training: parameters, mutable collections and optimiser state, and what every family does with them."""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxgen import optim
from jaxgen.data.check import check_images

Decay = float | Callable[[jax.Array], jax.Array]


@flax.struct.dataclass
class Network:
    """What training changes of one network. Arrays only."""

    params: Any
    model_state: Any  # mutable collections such as batch statistics: {"batch_stats": ...} or {}
    opt_state: Any

    @classmethod
    def new(cls, variables: Mapping[str, Any], optimizer: optax.GradientTransformation) -> "Network":
        """Before the first step: `variables` is what `module.init` returns."""
        params = variables.get("params", {})  # absent where a module has none
        model_state = {name: collection for name, collection in variables.items() if name != "params"}
        return cls(params, model_state, optimizer.init(params))

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes."""
        return {"params": self.params, **self.model_state}


def compiled_init(build: Callable[[jax.Array], Any], key: jax.Array) -> Any:
    """`build(key)`, compiled: several times faster than eagerly, and on CPU faster still without optimisation."""
    if any(isinstance(x, jax.core.Tracer) for x in (key, jnp.zeros(()))):  # inside the caller's own jit or vmap
        return build(key)
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(build, compiler_options=options)(key)


def apply(
    module: nn.Module, params: Any, model_state: Mapping[str, Any], *inputs: jax.Array, key: jax.Array | None = None
) -> tuple[Any, Any]:
    """Applies a module in training mode.

    Returns:
      (output, model_state), the latter updated by what the module changed, such as running batch statistics.
    """
    rngs = None if key is None else {"dropout": key}
    output, model_state = module.apply(
        {"params": params, **model_state}, *inputs, train=True, mutable=list(model_state), rngs=rngs
    )
    return output, dict(model_state)


def update(
    network: Network,
    optimizer: optax.GradientTransformation,
    gradients: Any,
    model_state: Any,
    axis_name: str | None = None,
) -> tuple[Network, dict[str, jax.Array]]:
    """One step of the optimiser.

    Args:
      network: before the step.
      optimizer: any optax transformation.
      gradients: of the parameters; of this device's images in the per-device view.
      model_state: the mutable collections after the forward pass.
      axis_name: the mapped axis over which gradients and collections are averaged, in the per-device view.

    Returns:
      (network, metrics): `grad_norm` (global norm before any clip), `update_norm`, and `clipped` and `skipped` where
      the optimiser holds `optim.clip_by_global_norm` or `optim.skip_large_updates`.
    """
    if axis_name is not None:
        gradients, model_state = lax.pmean((gradients, model_state), axis_name)
    updates, opt_state = optimizer.update(gradients, network.opt_state, network.params)
    metrics = {"grad_norm": optax.tree.norm(gradients), "update_norm": optax.tree.norm(updates)}
    flags = optim.update_flags(opt_state)
    new = Network(
        params=optax.apply_updates(network.params, updates),
        model_state=optim.keep_if_skipped(flags, network.model_state, model_state),
        opt_state=opt_state,
    )
    return new, metrics | flags


def update_ema(
    ema: Any, variables: Any, decay: Decay, step: jax.Array, metrics: Mapping[str, jax.Array] = flax.core.FrozenDict()
) -> Any:
    """The exponential moving average decay * ema + (1 - decay) * variables, batch statistics included.

    Args:
      ema: the average so far.
      variables: the network's, after its update.
      decay: a number, or a schedule step -> number. For a half-life in images: 0.5 ** (batch_size / half_life).
      step: the number of updates before this one.
      metrics: of `update`: where it was skipped, the average stays as it is.

    Returns:
      The new average.
    """
    decay = decay(step) if callable(decay) else decay
    average = jax.tree.map(lambda e, v: decay * e + (1 - decay) * v, ema, variables)
    return optim.keep_if_skipped(metrics, ema, average)


def warmed_up(decay: float) -> Callable[[jax.Array], jax.Array]:
    """A schedule for `update_ema` that forgets the initialisation: min(decay, (1 + step) / (10 + step))."""
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def images_of(batch: Mapping[str, jax.Array]) -> jax.Array:
    """batch["image"], checked at trace time.

    Raises:
      TypeError: if the batch is no dict with floating point images (raw bytes, for example).
      ValueError: outside of jit, where the values are known: if they are not in [-1, 1].
    """
    if not isinstance(batch, Mapping) or "image" not in batch:
        found = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise TypeError(f"a batch is a dict with the key 'image', not {found}")
    image = batch["image"]
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"images must be floating point in [-1, 1], not {image.dtype}; for bytes use x.astype(float32) / 127.5 - 1"
        )
    if image.ndim == 4 and not isinstance(image, jax.core.Tracer):
        check_images(image)
    return image


def prefixed(prefix: str, metrics: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The same metrics under `prefix/`."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def mean_over_devices(metrics: dict[str, jax.Array], axis_name: str | None) -> dict[str, jax.Array]:
    """Metrics as float32 scalars, averaged over the mapped axis if there is one."""
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    return metrics if axis_name is None else lax.pmean(metrics, axis_name)


def count_parameters(params: Any) -> int:
    """The number of scalars in a tree of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))
