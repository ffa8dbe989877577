"""The jaxgen side of `benchmark.py`, which starts it and asks it over stdin."""

import dataclasses
import functools
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark import Case, serve
from flax import traverse_util
from jax import lax

from jaxgen import compilation, gan, network
from jaxgen.losses import adversarial, penalties
from jaxgen.models import dcgan, sngan

STEPS_PER_DISPATCH = 10
CHECK_LEARNING_RATE = 0.05  # of plain gradient descent, in the step that is compared
CHECK_SCALE = 3.0  # of the kernels there: with those of the start the logits are near 0 and R1 moves next to nothing
CHECK_ANGLE = 3e-3  # there between the vectors of spectral normalisation and the singular vectors, in radians


def make_players(case: Case, dtype):
    """Generator and discriminator."""
    shape = {"image_size": case.image_size, "channels": case.channels}
    if case.network == "sngan":
        return (
            sngan.Generator(**shape, features=2 * case.features, dtype=dtype),
            sngan.Discriminator(features=case.features, dtype=dtype),
        )
    return (
        dcgan.Generator(**shape, features=case.features, dtype=dtype),
        dcgan.Discriminator(features=case.features, batch_norm=case.batch_norm, dtype=dtype),
    )


def make_terms(case: Case):
    """The loss and the penalties."""
    factories = {"r1": penalties.r1, "gradient_penalty": penalties.gradient_penalty}
    return getattr(adversarial, case.loss), [factories[case.penalty](case.penalty_weight)] if case.penalty else []


def optimizers(make):
    """The same optimiser for both players."""
    return {"generator_optimizer": make(), "discriminator_optimizer": make()}


def images(case: Case):
    """A batch of real images: noise, for the numbers do not matter to the clock."""
    shape = (case.batch_size, case.image_size, case.image_size, case.channels)
    return jax.random.uniform(jax.random.key(1), shape, minval=-1.0, maxval=1.0)


def set_precision(tf32: bool) -> None:
    """Matrix products and convolutions of float32 on a GPU: in TF32, which is JAX's default there, or in full."""
    jax.config.update("jax_default_matmul_precision", None if tf32 else "highest")


def describe(tf32):
    """What jaxgen runs on."""
    import flax
    import jaxlib

    import jaxgen

    set_precision(tf32)
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "version": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "jaxgen": jaxgen.__version__,
        "default_matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
    }


def build(case, rival, tf32, threads, compile_mode):
    """Makes the state and the two compiled functions; the rest of the worker's requests are about these."""
    del rival, threads, compile_mode  # one state serves both rivals, the environment sets the threads
    set_precision(tf32)
    case = Case(**case)
    dtype = None if case.dtype == "float32" else jnp.bfloat16
    generator, discriminator = make_players(case, dtype)
    loss, terms = make_terms(case)
    players = optimizers(lambda: optax.adam(case.learning_rate, b1=case.b1, b2=case.b2))
    state = gan.init(jax.random.key(0), generator, discriminator, latent_dim=case.latent_dim, **players)
    train_step = gan.make_train_step(
        generator,
        discriminator,
        latent_dim=case.latent_dim,
        loss=loss,
        penalties=terms,
        ema_decay=case.ema_decay,
        **players,
    )
    step = compilation.jit(train_step, donate_argnums=0)

    @functools.partial(compilation.jit, donate_argnums=0)
    def several_steps(state, batches, key, number):
        """Every step takes its batch out of several, as in training. One for all would be moved out of the loop, with
        some of the work on it: less work, and yet slower, since XLA no longer sees what is computed twice."""

        def body(i, carry):
            return train_step(carry[0], jax.tree.map(lambda x: x[i % len(x)], batches), key)

        shapes = jax.eval_shape(body, 0, (state, None))[1]
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return lax.fori_loop(0, number, body, (state, metrics))

    batch = {"image": images(case)}
    batches = jax.tree.map(lambda x: jnp.stack([x, x]), batch)
    worker.update(case=case, state=state, step=step, several_steps=several_steps, batch=batch, batches=batches)
    return {"parameters": [network.count_parameters(p.params) for p in (state.generator, state.discriminator)]}


worker = {}  # what `build` has made


def run(rival, steps):
    """Times steps from the initial weights on, after one that is not timed."""
    state, key = jax.tree.map(jnp.copy, worker["state"]), jax.random.key(2)
    batch, batches = worker["batch"], worker["batches"]
    began = time.perf_counter()
    if rival == "jaxgen":
        state, metrics = worker["step"](state, batch, key)
    else:
        state, metrics = worker["several_steps"](state, batches, key, 1)
    jax.block_until_ready(metrics)
    untimed = time.perf_counter() - began
    began, began_processor = time.perf_counter(), time.process_time()
    if rival == "jaxgen":
        for _ in range(steps):
            state, metrics = worker["step"](state, batch, key)
    else:
        for first in range(0, steps, STEPS_PER_DISPATCH):
            state, metrics = worker["several_steps"](state, batches, key, min(STEPS_PER_DISPATCH, steps - first))
    jax.block_until_ready((state, metrics))
    seconds = time.perf_counter() - began
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_untimed": untimed,
        "cores_busy": (time.process_time() - began_processor) / seconds,
        "generator_loss": float(metrics["generator/loss"]),
        "discriminator_loss": float(metrics["discriminator/loss"]),
    }


def count_flops():
    """XLA's own count for the compiled step, elementwise operations included."""
    compiled = worker["step"].lower(worker["state"], worker["batch"], jax.random.key(2)).compile()
    return compiled.cost_analysis()["flops"]


def matmul_rate(size):
    """FLOP/s of a large matrix product in the case's arithmetic: the best of five."""
    a = jax.random.normal(jax.random.key(3), (size, size), worker["case"].dtype)
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(6):  # the first compiles
        began = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])


def prepare_preset(preset, features, batch_size):
    """Builds an experiment for `run_bare` and `run_loop`."""
    from jaxgen import experiment, systems

    config = dataclasses.replace(systems.PRESETS[preset].config, features=features, batch_size=batch_size)
    system, dataset, *_ = experiment.build(config)
    batch = jax.device_put(dataset.prepare(dataset.fetch(np.arange(system.images_per_step)), jax.random.key(1)))
    step = compilation.jit(system.train_step, donate_argnums=0)
    state = system.init(jax.random.key(config.seed))
    worker.update(config=config, preset=preset, preset_state=state, preset_step=step, batch=batch)


def run_bare(steps, untimed):
    """Seconds for the jitted step of the preset alone: one batch that is on the device already, nothing written."""
    state, key = jax.tree.map(jnp.copy, worker["preset_state"]), jax.random.key(2)
    for _ in range(untimed):
        state, metrics = worker["preset_step"](state, worker["batch"], key)
    jax.block_until_ready(metrics)
    began = time.perf_counter()
    for _ in range(steps):
        state, metrics = worker["preset_step"](state, worker["batch"], key)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - began


def run_loop(steps, untimed):
    """Seconds for as many steps of the preset's whole training: between two lines of its log.

    In between lie the data, five lines of the log with TensorBoard events, a picture of samples and a checkpoint.
    """
    from jaxgen import experiment, run_directory

    config = dataclasses.replace(
        worker["config"],
        num_steps=untimed + 2 * steps,
        log_every=untimed,
        sample_every=untimed + steps // 2,
        checkpoint_every=untimed + steps // 2,
    )
    with tempfile.TemporaryDirectory() as directory:
        experiment.train(config, directory, preset=worker["preset"], progress=False)
        times = {line["step"]: line["time"] for line in run_directory.read_metrics(directory)}
    return times[untimed + steps] - times[untimed]


def near_singular_vectors(player):
    """The player with each vector of spectral normalisation at CHECK_ANGLE from its kernel's singular vector.

    In one power iteration jaxgen has sigma = |W' v| for v along W u, PyTorch, half a step further on, |W u| for the
    same new u. Both approach the singular value from below, and are off by the square of the angle: at this one they
    agree to about 1e-6, and still a power iteration moves u by so much that what it does can be compared.
    """
    params, vectors = (traverse_util.flatten_dict(x) for x in (player.params, player.model_state))
    generator = np.random.default_rng(0)
    for path in vectors:
        if path[0] == "spectral_norm":
            kernel = np.asarray(params[*path[1:-1], "kernel"], np.float64)
            singular = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)[2][0]
            off = generator.normal(size=singular.shape)
            u = singular + CHECK_ANGLE * off / np.linalg.norm(off)
            vectors[path] = jnp.asarray(u / np.linalg.norm(u), jnp.float32)
    return player.replace(model_state=traverse_util.unflatten_dict(vectors))


def write_reference(path):
    """Writes the initial weights, one batch of everything that is drawn, and what jaxgen makes of it in float32.

    The step that is compared is plain gradient descent: Adam's first step is little more than the gradient's sign.
    """
    case, state = worker["case"], worker["state"]
    generator, discriminator = make_players(case, None)
    loss, terms = make_terms(case)
    z = jax.random.normal(jax.random.key(4), (case.batch_size, case.latent_dim))
    penalty_key = jax.random.key(5)

    def with_fixed_key(penalty):  # so that PyTorch can be given the numbers that the penalty draws
        return functools.wraps(penalty)(lambda logits_of, real, fake, _: penalty(logits_of, real, fake, penalty_key))

    descent = optimizers(lambda: optax.sgd(CHECK_LEARNING_RATE))
    step = gan.make_train_step(
        generator,
        discriminator,
        latent_dim=case.latent_dim,
        loss=loss,
        penalties=[with_fixed_key(penalty) for penalty in terms],
        sample_latent=lambda key, shape: z,
        **descent,
    )

    def larger_without_adam(player):
        params = jax.tree.map(lambda x: CHECK_SCALE * x if x.ndim > 1 else x, player.params)
        return near_singular_vectors(
            player.replace(params=params, opt_state=descent["generator_optimizer"].init(params))
        )

    before = state.replace(
        generator=larger_without_adam(state.generator), discriminator=larger_without_adam(state.discriminator)
    )
    batch = worker["batch"]
    with jax.default_matmul_precision("highest"):
        fake, _ = network.apply(generator, before.generator.params, before.generator.model_state, z)
        logits, model_state = network.apply(
            discriminator, before.discriminator.params, before.discriminator.model_state, batch["image"]
        )
        moved = before.replace(discriminator=before.discriminator.replace(model_state=model_state))
        after, metrics = jax.jit(step)(before, batch, jax.random.key(2))
    shape = (case.batch_size, 1, 1, 1)
    arrays = {
        "z": z,
        "real": batch["image"],
        "uniform": jax.random.uniform(penalty_key, shape),
        "images": fake,
        "logits": logits,
        "learning_rate": CHECK_LEARNING_RATE,
    }
    for when, networks in (("initial", state), ("before", before), ("moved", moved), ("after", after)):
        for name in ("generator", "discriminator"):
            leaves = traverse_util.flatten_dict(getattr(networks, name).variables, sep="/")
            arrays |= {f"{when}/{name}/{leaf}": x for leaf, x in leaves.items()}
    np.savez(path, **{name: np.asarray(x) for name, x in arrays.items()})
    return {
        "generator_loss": float(metrics["generator/loss"]),
        "discriminator_loss": float(metrics["discriminator/loss"]),
        "penalty": float(sum((x for name, x in metrics.items() if name.startswith("penalty/")), 0.0)),
    }


if __name__ == "__main__":
    serve(
        {
            "describe": describe,
            "build": build,
            "run": run,
            "count_flops": count_flops,
            "matmul_rate": matmul_rate,
            "prepare_preset": prepare_preset,
            "run_bare": run_bare,
            "run_loop": run_loop,
            "write_reference": write_reference,
        }
    )
