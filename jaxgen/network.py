"""A network in training: parameters, mutable collections and optimiser state, and what every family does with them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxgen import optim, rematerialisation, state_sharding
from jaxgen.arguments import at_step, check_inputs, check_key, described
from jaxgen.data.check import check_given
from jaxgen.models.convolution import Conv

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
        check_optimizer(optimizer)
        params = variables.get("params", {})  # absent where a module has none
        model_state = {name: collection for name, collection in variables.items() if name != "params"}
        return cls(params, model_state, optimizer.init(params))

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes."""
        return {"params": self.params, **self.model_state}


def compiled_init(build: Callable[[jax.Array], Any], key: jax.Array) -> Any:
    """`build(key)`, compiled: several times faster than eagerly, and on CPU faster still without optimisation.

    Raises:
      TypeError: for what is no key.
    """
    check_key(key)
    if any(isinstance(x, jax.core.Tracer) for x in (key, jnp.zeros(()))):  # inside the caller's own jit or vmap
        return build(key)
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(build, compiler_options=options)(key)


class Output(NamedTuple):
    """What a network returns beside what it is for: a generator its images, a discriminator its logits."""

    value: Any
    aux: Any  # for terms: codes, features, the logits of an auxiliary classifier


def split_output(output: Any) -> tuple[Any, Any]:
    """(value, aux) of what a network returned; aux is None unless that was an `Output`."""
    return tuple(output) if isinstance(output, Output) else (output, None)


def apply(
    module: nn.Module,
    params: Any,
    model_state: Mapping[str, Any],
    *inputs: Any,
    key: jax.Array | None = None,
    method: Callable | str | None = None,
) -> tuple[Any, Any]:
    """Applies a module in training mode.

    Args:
      module: its `__call__`, or `method`, takes the inputs and `train`.
      params: its parameters.
      model_state: its other collections.
      inputs: arrays or trees of them.
      key: of dropout. Any other stream that the module asks for (`make_rng("noise")`) is drawn from it, too.
      method: another method of the module than `__call__`.

    Returns:
      (output, model_state), the latter updated by what the module changed, such as running batch statistics.

    Raises:
      TypeError: for what is no Linen module, or one whose `__call__` does not take the inputs and `train`; for what is
        no key.
    """
    if key is not None:
        check_key(key)
    if method is None:
        check_inputs(module, inputs, type(module).__name__)
    # Flax draws from "params" for a stream that is not given.
    rngs = None if key is None else {"dropout": key, "params": jax.random.fold_in(key, 1)}

    def applied(params, model_state, inputs, rngs):
        # Inside of what is computed again: parameters are gathered again, too, instead of being kept whole.
        variables = {"params": state_sharding.gathered(params), **state_sharding.gathered(model_state)}
        return module.apply(variables, *inputs, train=True, mutable=list(model_state), rngs=rngs, method=method)

    output, model_state = rematerialisation.applied(applied, params, dict(model_state), inputs, rngs)
    return output, dict(model_state)


def batch_statistics(module: nn.Module, variables: Any, *inputs: Any, key: jax.Array | None = None) -> Any:
    """Means and variances with which the module's batch normalisations normalise a batch in training.

    Args:
      module: as for `apply`.
      variables: its variables.
      inputs: of one batch.
      key: of what the module draws itself.

    Returns:
      Of the form of `variables["batch_stats"]`; {} for a module without.
    """
    if key is not None:
        check_key(key)
    check_variables(variables)
    model_state = {name: value for name, value in variables.items() if name != "params"}
    if not model_state.get("batch_stats"):
        return {}

    def without_memory(layer, arguments, options, context):
        if isinstance(context.module, nn.BatchNorm):
            object.__setattr__(context.module, "momentum", 0.0)  # the running average is the batch's own
        return layer(*arguments, **options)

    with nn.intercept_methods(without_memory):
        _, model_state = apply(module, variables.get("params", {}), model_state, *inputs, key=key)
    return model_state["batch_stats"]


def check_optimizer(optimizer: Any, name: str = "the optimizer") -> None:
    """Raises a TypeError unless it is an optax transformation: a rate or a name, for example."""
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise TypeError(f"{name} must be an optax transformation such as optax.adam(1e-4), not {optimizer!r}")


def init_with_output(module: nn.Module, key: Any, *inputs: Any, name: str) -> tuple[Any, Any]:
    """(output, variables) of a module in training mode, with new parameters.

    Args:
      module: a network.
      key: of the parameters, or a dict of keys, as Flax takes them.
      inputs: arrays or trees of them.
      name: what errors call it, such as "generator".

    Raises:
      TypeError: for what is no Linen module, or one whose `__call__` does not take the inputs and `train`.
    """
    check_inputs(module, inputs, name)
    return module.init_with_output(key, *inputs, train=True)


def evaluate(
    module: nn.Module,
    variables: Any,
    *inputs: Any,
    key: jax.Array | None = None,
    what: str = "the input",
    method: str | None = None,
    **told: Any,
) -> Any:
    """What a module returns in evaluation mode; of an `Output` the value.

    Args:
      module: a network.
      variables: its variables: `state.ema`, or its member of that where there are several networks.
      inputs: arrays or trees of them.
      key: of what it draws itself.
      what: errors call the inputs.
      method: another method of the module than `__call__`.
      told: what else it takes by name, such as a truncation.

    Raises:
      TypeError: for what is no module, no key, or no variables, such as the whole state of a training.
      ValueError: for variables of another module, or inputs that do not fit them.
    """
    if key is not None:
        check_key(key)
    if method is None:
        check_inputs(module, inputs, type(module).__name__)
    check_variables(variables)
    rngs = None if key is None else {"params": key}
    try:
        output = module.apply(variables, *inputs, train=False, rngs=rngs, method=method, **told)
    except flax.errors.ScopeParamShapeError as error:
        shapes = ", ".join(str(list(jnp.shape(x))) for x in inputs[:1])
        sizes = "latent_dim" if what == "z" else "image size"
        raise ValueError(
            f"these variables do not fit {what} of shape {shapes}: they are of another {sizes}, or of another "
            f"{type(module).__name__}. {_sentence(error)}"
        ) from error
    except _OF_OTHER_VARIABLES as error:
        raise ValueError(
            f"these variables are not those of {type(module).__name__}, they hold {', '.join(sorted(variables))}; "
            f"give what belongs to this network, {{'params': ...}}, such as state.ema of a GAN. {_sentence(error)}"
        ) from error
    return split_output(output)[0]


_OF_OTHER_VARIABLES = (
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeVariableNotFoundError,
    flax.errors.ScopeCollectionNotFound,
    flax.errors.ApplyScopeInvalidVariablesStructureError,
    flax.errors.ApplyScopeInvalidVariablesTypeError,
)


def _sentence(error):
    """What Flax says, without the address of a page."""
    return str(error).partition(" (http")[0]


def check_variables(variables: Any, what: str = "state.ema") -> None:
    """Raises a TypeError for the state of a training, or anything else that is no dict, instead of variables.

    Args:
      variables: that were given.
      what: to give instead.
    """
    if hasattr(variables, "ema"):
        raise TypeError(f"variables must be those of a network, not a whole {type(variables).__name__}: give {what}")
    if isinstance(variables, Network):
        raise TypeError(f"variables must be those of a network, not a {type(variables).__name__}: give its .variables")
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict such as {what}, not {described(variables)}")


def member(variables: Any, name: str) -> Any:
    """The variables of one network of several.

    Args:
      variables: {"encoder": variables, "decoder": variables}, such as `state.ema` of a VAE.
      name: of the network.

    Raises:
      TypeError: for a whole state, or anything else that is no dict.
      ValueError: for the variables of one network alone, or of others.
    """
    check_variables(variables)
    if name not in variables:
        found = ", ".join(map(str, variables)) or "nothing"
        hint = f", which are one network's: give all of state.ema, not state.ema[{name!r}]"
        raise ValueError(
            f"variables must be those of all networks, with the key {name!r}, such as state.ema; these hold {found}"
            + (hint if "params" in variables else "")
        )
    return variables[name]


def images_from(
    module: nn.Module,
    variables: Any,
    z: jax.Array | None,
    condition: Any = None,
    key: jax.Array | None = None,
    **told: Any,
) -> Any:
    """What a generator or decoder makes of latents z [N, latent_dim], as it is evaluated; of an `Output` the value.

    Args:
      module: the network.
      variables: its variables.
      z: latents; None for a network without.
      condition: its second argument (its first without latents); None: not passed.
      key: of what it draws itself.
      told: what else it takes by name.

    Raises:
      TypeError: for the state of a training instead of its variables, what is no module, what is no key.
      ValueError: for latents of another number or rank, or variables of another module.
    """
    if key is not None:
        check_key(key)
    check_variables(variables)
    if z is not None and jnp.ndim(z) != 2:
        raise ValueError(f"z must have the shape [N, latent_dim], not {list(jnp.shape(z))}")
    return evaluate(module, variables, *(x for x in (z, condition) if x is not None), key=key, what="z", **told)


def apply_to_each(
    module: nn.Module,
    params: Any,
    model_state: Mapping[str, Any],
    x: jax.Array,
    *condition: Any,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """`apply` for a network that judges each image by itself; backwards it shares work with a gradient penalty.

    Where no image affects another's logit D_i, the parameters' gradient of a loss is sum_i s_i dD_i/dparams, with s_i
    the loss's derivative by D_i. Reverse mode sends s_i back through the layers. Here 1 is sent back, and s_i is
    multiplied in where a layer's parameters get their gradient: the same numbers. But a penalty on grad_x D sends 1
    back, too, so that XLA finds one backward pass instead of two.

    Args:
      module: its parameters belong to convolutions and dense layers, and no image affects another's logit.
      params: its parameters.
      model_state: its other collections, which it does not change.
      x: images [B, ...].
      condition: what else it is told, through which no gradient goes.
      key: for dropout.

    Returns:
      (logits [B], model_state).

    Raises:
      TypeError: at trace time, for parameters of other layers.
    """
    if key is not None:
        check_key(key)

    def logits(params, x):
        return apply(module, params, model_state, x, *condition, key=key)[0]

    def forwards(params, x):
        return logits(params, x), (params, x)

    def backwards(params_and_x, s):
        met = set()
        with nn.intercept_methods(functools.partial(_weigh_parameters, s, met)):
            _, pull_back = jax.vjp(logits, *params_and_x)
        owners = {path[:-1] for path in flax.traverse_util.flatten_dict(params_and_x[0])}
        if others := owners - met:
            raise TypeError(f"only convolutions and dense layers can be applied to each image, not {sorted(others)}")
        params_gradient, x_gradient = pull_back(jnp.ones_like(s))
        return params_gradient, x_gradient * _along(s, x_gradient)

    to_each = jax.custom_vjp(logits)
    to_each.defvjp(forwards, backwards)
    return to_each(params, x), dict(model_state)


def _weigh_parameters(s, met, call, args, kwargs, context):
    """A flax interceptor: layers whose parameters' gradient is weighted by s, and whose input's gradient is not."""
    layer = context.module
    if context.method_name != "__call__" or not layer.path or not isinstance(layer, (nn.Dense, Conv)):
        return call(*args, **kwargs)
    met.add(layer.path)
    alone = layer.clone(parent=None)

    def backwards(inputs, dy):
        *variables_and_x, s = inputs
        _, pull_back = jax.vjp(alone.apply, *variables_and_x)
        return pull_back(dy * _along(s, dy))[0], pull_back(dy)[1], jnp.zeros_like(s)

    weighted = jax.custom_vjp(lambda variables, x, s: alone.apply(variables, x))
    weighted.defvjp(lambda variables, x, s: (alone.apply(variables, x), (variables, x, s)), backwards)
    return weighted(layer.variables, *args, s)


def _along(s, x):
    """s [B] such that it multiplies x [B, ...]."""
    return s.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)


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
    new = dataclasses.replace(
        network,
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
    share = at_step(decay, step, "ema_decay")
    average = jax.tree.map(lambda e, v: share * e + (1 - share) * v, ema, variables)
    return optim.keep_if_skipped(dict(metrics), ema, average)


def warmed_up(decay: float) -> Callable[[jax.Array], jax.Array]:
    """A schedule for `update_ema` that forgets the initialisation: min(decay, (1 + step) / (10 + step))."""
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def images_of(batch: Mapping[str, jax.Array]) -> jax.Array:
    """batch["image"], checked at trace time, and where the values are known.

    Raises:
      TypeError: if the batch is no dict with an array of floating point images (raw bytes, for example).
      ValueError: for images whose channels come first; outside of jit, where the values are known: if they are not in
        [-1, 1].

    Warns where all values of a whole batch are in [0, 1].
    """
    if not isinstance(batch, Mapping) or "image" not in batch:
        found = sorted(batch) if isinstance(batch, Mapping) else described(batch)
        raise TypeError(f"a batch is a dict with the key 'image', not {found}")
    check_given(batch["image"])
    return batch["image"]


def prefixed(prefix: str, metrics: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The same metrics under `prefix/`."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def mean_over_devices(metrics: dict[str, jax.Array], axis_name: str | None) -> dict[str, jax.Array]:
    """Metrics as float32 scalars, averaged over the mapped axis if there is one."""
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    return metrics if axis_name is None else lax.pmean(metrics, axis_name)


def mean_over_axis(tree: Any, axis_name: str | None) -> Any:
    """A tree averaged over the mapped axis, if there is one; what has no mean (whole numbers) as it is."""
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


def count_parameters(params: Any) -> int:
    """The number of scalars in a tree of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))
