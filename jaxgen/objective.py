"""One network, or a group of networks, that minimises an objective: one train step for all of them.

    def objective(params, model_state, batch, key, step):
        output, model_state = network.apply(model, params, model_state, batch["image"], key=key)
        loss = jnp.mean((output - batch["target"]) ** 2)
        return loss, (model_state, {"loss": loss})

    step = objective.make_train_step(objective, optimizer=optax.adam(1e-4))
    state = objective.init(variables, optimizer=optax.adam(1e-4))
    state, metrics = jax.jit(step)(state, batch, key)

`vae`, `hierarchical_vae` and `classifier` are readable fronts of this file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from jaxgen import gradients as ways
from jaxgen import network
from jaxgen.arguments import check_key
from jaxgen.network import Network

Objective = Callable[[Any, Any, Mapping[str, jax.Array], jax.Array, jax.Array], tuple[jax.Array, tuple[Any, dict]]]
"""(params, model_state, batch, key, step) -> (loss, (model_state, metrics)): means over the batch's examples."""


@flax.struct.dataclass
class State:
    """Everything that training changes. Arrays only."""

    step: jax.Array  # number of updates so far, int32
    network: Network  # of a group of networks, params and model_state are dicts {"encoder": ..., "decoder": ...}
    ema: Any  # moving average of the variables


@flax.struct.dataclass
class StateWithFrozen(State):
    """With arrays that training reads and never changes, such as a tokenizer. Not checkpointed."""

    frozen: Any


def init(variables: Mapping[str, Any], *, optimizer: optax.GradientTransformation, frozen: Any = None) -> State:
    """The state before the first step, from what `module.init` returns.

    Args:
      variables: of the network.
      optimizer: any optax transformation.
      frozen: arrays that the objective is given as `frozen=`; they travel in the state.
    """
    new = Network.new(variables, optimizer)
    return _with_frozen(State(jnp.zeros((), jnp.int32), new, ema=jax.tree.map(jnp.copy, new.variables)), frozen)


def _with_frozen(state, frozen):
    if frozen is None:
        return state
    return StateWithFrozen(**vars(state), frozen=jax.tree.map(jnp.array, frozen))  # of its own: states are donated


def init_group(
    variables: Mapping[str, Mapping[str, Any]], *, optimizer: optax.GradientTransformation, frozen: Any = None
) -> State:
    """The same for several networks with one optimiser: {"encoder": variables, "decoder": variables}."""
    network.check_optimizer(optimizer)
    params = {name: v.get("params", {}) for name, v in variables.items()}
    model_state = {name: {k: c for k, c in v.items() if k != "params"} for name, v in variables.items()}
    new = Network(params, model_state, optimizer.init(params))
    state = State(jnp.zeros((), jnp.int32), new, ema=jax.tree.map(jnp.copy, variables_of_group(new)))
    return _with_frozen(state, frozen)


def variables_of_group(group: Network) -> dict[str, dict[str, Any]]:
    """What each module of a group takes: {"encoder": {"params": ..., "batch_stats": ...}, ...}."""
    return {name: {"params": group.params[name], **group.model_state[name]} for name in group.params}


def variables_of(one: Network) -> dict[str, Any]:
    """What a network's module takes: {"params": ..., "batch_stats": ...}."""
    return one.variables


def make_train_step(
    objective: Objective,
    *,
    optimizer: optax.GradientTransformation,
    ema_decay: network.Decay = 0.0,
    gradients: ways.Way = ways.plain,
    variables_of: Callable[[Network], Any] = variables_of,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)` that minimises an objective.

    Args:
      objective: `(params, model_state, batch, key, step) -> (loss, (model_state, metrics))`, means over the examples of
        the batch. `key` is the step's own. In the per-device view the batch is the device's part. Where the state has
        frozen arrays it is also given `frozen=`.
      optimizer: any optax transformation.
      ema_decay: of the average of all variables; 0 keeps the latest. A number or a schedule.
      gradients: how gradients are taken: `gradients.plain`, `gradients.accumulated(n)`.
      variables_of: what is averaged, as a function of the network; `variables_of_group` for a group.
      axis_name: as in `gan.make_train_step`.

    Returns:
      A pure function, not compiled. `key` is the run's constant key: the step folds `state.step` into it. Metrics are
      the objective's, with `grad_norm`, `update_norm`, and where the optimiser tells `clipped` and `skipped`.

    Raises:
      TypeError: at once, for an optimiser that is a name or a number, or an objective that is no function; at trace
        time, for a seed instead of a key.
    """
    network.check_optimizer(optimizer)
    ways.check_way(gradients)
    if not callable(objective):
        raise TypeError(f"an objective is a function of (params, model_state, batch, key, step), not {objective!r}")

    def train_step(state: State, batch: Mapping[str, jax.Array], key: jax.Array):
        check_key(key)
        frozen = {"frozen": state.frozen} if hasattr(state, "frozen") else {}

        def gradient_of(batch, key):
            def of_params(params):
                return objective(params, state.network.model_state, batch, key, state.step, **frozen)

            found, (model_state, metrics) = jax.grad(of_params, has_aux=True)(state.network.params)
            return found, (model_state, {name: jnp.asarray(x, jnp.float32) for name, x in metrics.items()})

        key = jax.random.fold_in(key, state.step)
        found, (model_state, metrics) = gradients(gradient_of, batch, key)
        new, update_metrics = network.update(state.network, optimizer, found, model_state, axis_name)
        ema = network.update_ema(state.ema, variables_of(new), ema_decay, state.step, update_metrics)
        metrics = network.mean_over_devices(metrics | update_metrics, axis_name)
        return dataclasses.replace(state, step=state.step + 1, network=new, ema=ema), metrics

    return train_step
