"""The GAN's train step computes what it always has: five games, on one device, on two, and under `vmap`.

The numbers in `golden/games.json` were written before the step took conditions, terms and augmentations. So were the
digests of all bits, until the convolutions of such small networks came to sum in another order, and once more when the
suite's compiler and oneDNN did: these are of code that had both the old bits with the old way and the new bits with the
new one.
`python tests/test_gan_golden.py` writes it anew, which is right only where the numbers are meant to change.

Bits depend on the processor and on XLA: where these are the ones that the file names, states must agree to the last
bit; elsewhere to a tolerance.
"""

import hashlib
import json
import os
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import gan, optim, sharding
from jaxgen.losses import adversarial, penalties
from jaxgen.models import dcgan, onednn

GOLDEN = Path(__file__).parent / "golden" / "games.json"
LATENT_DIM = 8

GAMES = {
    "batch norm": dict(batch_norm=True),
    "r1": dict(penalties=[penalties.r1(1.0)]),
    "gradient penalty, three discriminator steps": dict(
        loss=adversarial.wasserstein, penalties=[penalties.gradient_penalty(10.0)], num_discriminator_steps=3
    ),
    "extragradient": dict(update_rule=gan.extragradient, loss=adversarial.hinge),
    "relativistic with r1 and r2": dict(
        loss=adversarial.relativistic, penalties=[penalties.r1(0.5), penalties.r2(0.5)], ema_decay=0.5
    ),
}


def play(game: str, how: str):
    """Three steps of a small DCGAN; the whole state, and the last metrics."""
    settings = dict(GAMES[game])
    generator = dcgan.Generator(image_size=28, channels=1, features=4)
    discriminator = dcgan.Discriminator(features=4, batch_norm=settings.pop("batch_norm", False))
    optimizers = {
        "latent_dim": LATENT_DIM,
        "generator_optimizer": optax.sgd(0.05),
        "discriminator_optimizer": optax.chain(optim.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.5)),
    }
    step = gan.make_train_step(generator, discriminator, **optimizers, **settings)
    size = 4 * settings.get("num_discriminator_steps", 1)
    images = np.tanh(np.random.default_rng(0).normal(size=(3, size, 28, 28, 1))).astype(np.float32)
    key = jax.random.key(1)

    def init(key):
        return gan.init(key, generator, discriminator, **optimizers)

    if how == "vmap":
        state = jax.vmap(init)(jax.random.split(jax.random.key(0), 2))
        run = jax.jit(jax.vmap(step, in_axes=(0, None, None)))
    else:
        state = init(jax.random.key(0))
        run = sharding.jit_step(step, sharding.make_mesh(int(how[0])), donate=False)
    for image in images:
        state, metrics = run(state, {"image": jnp.asarray(image) if how == "vmap" else image}, key)
    return jax.device_get(state), jax.device_get(metrics)


def summary(tree) -> dict:
    """A digest of all bits, and of each leaf its mean, its root mean square and one entry."""
    digest, leaves = hashlib.sha256(), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.ascontiguousarray(leaf)
        digest.update(leaf.tobytes())
        values = leaf.astype(np.float64)
        leaves[jax.tree_util.keystr(path)] = [values.mean(), np.sqrt((values**2).mean()), values.ravel()[-1]]
    return {"sha256": digest.hexdigest(), "leaves": leaves}


def environment() -> dict:
    """What bits depend on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("model", "flags"))]
    flags = hashlib.sha256("\n".join(sorted(set(model))).encode()).hexdigest()[:16]
    ours = {"compiler": os.environ.get("XLA_FLAGS", ""), "onednn": onednn.is_there()}
    return {"jax": jax.__version__, "machine": platform.machine(), "processor": flags} | ours


@pytest.mark.parametrize(
    "how", ["1 device", pytest.param("2 devices", marks=pytest.mark.slow), pytest.param("vmap", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "game", [game if game in ("batch norm", "r1") else pytest.param(game, marks=pytest.mark.slow) for game in GAMES]
)
def test_a_game_has_the_values_that_it_had_before_conditions_and_terms(game, how):
    golden = json.loads(GOLDEN.read_text())
    expected, found = golden["states"][game][how], summary(play(game, how)[0])
    assert list(found["leaves"]) == list(expected["leaves"])
    for name, values in expected["leaves"].items():
        np.testing.assert_allclose(found["leaves"][name], values, rtol=2e-3, atol=2e-5, err_msg=name)
    if Path("/proc/cpuinfo").exists() and environment() == golden["environment"]:
        assert found["sha256"] == expected["sha256"]


if __name__ == "__main__":
    states = {game: {how: summary(play(game, how)[0]) for how in ("1 device", "2 devices", "vmap")} for game in GAMES}
    GOLDEN.write_text(json.dumps({"environment": environment(), "states": states}, indent=1) + "\n")
