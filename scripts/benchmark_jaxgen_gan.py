"""The games of `benchmark.py` in jaxgen: what `benchmark_jaxgen` times and compares, for a `Case`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_cases import Case
from flax import traverse_util

from jaxgen import gan, network
from jaxgen.losses import adversarial, penalties
from jaxgen.models import dcgan, sngan

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


def make(case: Case):
    """The step, the state that it starts from and its batch."""
    generator, discriminator = make_players(case, None if case.dtype == "float32" else jnp.bfloat16)
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
    return train_step, state, {"image": images(case)}


def networks_of(state):
    """Both players."""
    return {"generator": state.generator, "discriminator": state.discriminator}


def numbers_of(metrics):
    """Both losses, and the penalty by itself."""
    return {
        "generator_loss": float(metrics["generator/loss"]),
        "discriminator_loss": float(metrics["discriminator/loss"]),
        "penalty": float(sum((x for name, x in metrics.items() if name.startswith("penalty/")), 0.0)),
    }


def near_singular_vectors(player):
    """The player with each vector of spectral normalisation at CHECK_ANGLE from its kernel's singular vector.

    In one power iteration jaxgen has sigma = |W' v| for v along W u, PyTorch, half a step further on, |W u| for the
    same new u. Both approach the singular value from below, and are off by the square of the angle: at this one they
    agree to about 1e-6, and still a power iteration moves u by so much that what it does can be compared.
    """
    params, vectors = (
        traverse_util.flatten_dict(x, keep_empty_nodes=True) for x in (player.params, player.model_state)
    )
    generator = np.random.default_rng(0)
    for path in vectors:
        if path[0] == "spectral_norm":
            names = ((*path[1:-1], name) for name in ("kernel", "embedding"))
            kernel = np.asarray(next(params[name] for name in names if name in params), np.float64)
            singular = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)[2][0]
            off = generator.normal(size=singular.shape)
            u = singular + CHECK_ANGLE * off / np.linalg.norm(off)
            vectors[path] = jnp.asarray(u / np.linalg.norm(u), jnp.float32)
    return player.replace(model_state=traverse_util.unflatten_dict(vectors))


def reference(case: Case, state, batch):
    """The initial weights, one batch of everything that is drawn, and what jaxgen makes of it in float32.

    The step that is compared is plain gradient descent: Adam's first step is little more than the gradient's sign.
    """
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
    with jax.default_matmul_precision("highest"):
        fake, _ = network.apply(generator, before.generator.params, before.generator.model_state, z)
        logits, model_state = network.apply(
            discriminator, before.discriminator.params, before.discriminator.model_state, batch["image"]
        )
        moved = before.replace(discriminator=before.discriminator.replace(model_state=model_state))
        after, metrics = jax.jit(step)(before, batch, jax.random.key(2))
    arrays = {
        "z": z,
        "real": batch["image"],
        "uniform": jax.random.uniform(penalty_key, (case.batch_size, 1, 1, 1)),
        "images": fake,
        "logits": logits,
        "learning_rate": CHECK_LEARNING_RATE,
    }
    states = {"initial": state, "before": before, "moved": moved, "after": after}
    return arrays, {when: networks_of(state) for when, state in states.items()}, metrics
