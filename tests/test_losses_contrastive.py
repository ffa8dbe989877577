"""Patches that are to be known again: the loss in closed form, and as a term of the generator."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import gan, optim, turns
from jaxgen.losses import adversarial, contrastive

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)


def unit(*shape):
    x = RNG.normal(size=shape)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


def test_equal_patches_cost_the_logarithm_of_their_number():
    same = jnp.broadcast_to(unit(2, 1, 8), (2, 256, 8))
    np.testing.assert_allclose(contrastive.patch_nce(same, same), np.log(256), rtol=1e-5)


def test_patches_that_have_nothing_in_common_cost_almost_nothing():
    apart = jnp.broadcast_to(jnp.eye(256), (2, 256, 256))
    expected = np.log1p(255 * np.exp(-1 / 0.07))
    assert expected == pytest.approx(1.59e-4, abs=5e-7)
    np.testing.assert_allclose(contrastive.patch_nce(apart, apart), expected, rtol=1e-3)


def test_it_is_the_cross_entropy_of_a_softmax_over_the_patches_of_one_image():
    q, k = unit(3, 5, 4), unit(3, 5, 4)
    found = contrastive.patch_nce(q, k, 0.3)
    for i in range(3):
        products = np.asarray(q[i]) @ np.asarray(k[i]).T / 0.3
        share = np.exp(products) / np.exp(products).sum(1, keepdims=True)
        assert float(found[i]) == pytest.approx(-np.log(np.diag(share)).mean(), rel=1e-4)
    turned = jax.random.permutation(KEY, 5)  # the order of patches does not matter
    np.testing.assert_allclose(contrastive.patch_nce(q[:, turned], k[:, turned], 0.3), found, rtol=1e-4)
    with pytest.raises(ValueError, match=r"one of each for a patch, not \[3, 5, 4\] and \[3, 4, 4\]"):
        contrastive.patch_nce(q, k[:, :4])


def test_keys_are_constants():
    q, k = unit(2, 5, 4), unit(2, 5, 4)
    of_keys = jax.grad(lambda k: contrastive.patch_nce(q, k).sum())(k)
    of_queries = jax.grad(lambda q: contrastive.patch_nce(q, k).sum())(q)
    assert float(jnp.abs(of_keys).max()) == 0 < float(jnp.abs(of_queries).max())


class Mixed(nn.Module):
    """x W, and as patches its pixels, and those of x, with a dense layer for each."""

    def setup(self):
        self.mix, self.heads = nn.Dense(2), [nn.Dense(3) for _ in range(2)]

    def __call__(self, x, *, train):
        x = x["image"] if isinstance(x, dict) else x
        self.patches(x, None, 1, train=train)
        return jnp.tanh(self.mix(x))

    def patches(self, x, key, num, mirrored=None, *, train=False):
        maps = [x, jnp.tanh(self.mix(x))]
        if mirrored is not None:
            maps = [jnp.where(mirrored[:, None, None, None], m[:, :, ::-1], m) for m in maps]
        vectors = [head(m.reshape(len(m), -1, 2)) for head, m in zip(self.heads, maps, strict=True)]
        return [v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in vectors]


class Judge(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


@pytest.mark.parametrize("identity, mirrored", [(True, False), (False, True)])
@pytest.mark.slow
def test_the_term_moves_the_generator_as_the_loss_by_hand(double_precision, identity, mirrored):
    module, weight = Mixed(), 3.0
    batch = {name: jnp.asarray(RNG.uniform(-1, 1, (2, 3, 4, 2))) for name in ("image", "source")}
    flags = jnp.array([True, False])

    def told(batch, step, key):
        if not mirrored:
            return turns.Conditions(generator=batch["source"])
        turned = jnp.where(flags[:, None, None, None], batch["source"][:, :, ::-1], batch["source"])
        return turns.Conditions(generator={"image": turned, "mirrored": flags})

    settings = dict(
        generator_optimizer=optim.recording(),
        discriminator_optimizer=optax.sgd(0.0),
        latent_dim=None,
        condition=told,
        generator_terms=[contrastive.patches_known_again(weight, num_patches=1000, identity=identity)],
    )
    state = gan.init(KEY, module, Judge(), example=batch, **settings)
    state = jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
    step = gan.make_train_step(module, Judge(), loss=adversarial.hinge, adversarial_weight=0.0, **settings)
    after, metrics = jax.jit(step)(state, batch, KEY)

    def by_hand(params):
        def run(*inputs, method=None):
            return module.apply({"params": params}, *inputs, train=True, method=method)

        def compared(x, y, flags=None):
            keys, queries = (run(a, KEY, 1000, f, method="patches") for a, f in ((x, None), (y, flags)))
            return sum(contrastive.patch_nce(q, k).mean() for q, k in zip(queries, keys, strict=True)) / 2

        given = told(batch, 0, KEY).generator
        found = compared(batch["source"], run(given), flags if mirrored else None)
        return weight * (0.5 * (found + compared(batch["image"], run(batch["image"]))) if identity else found)

    value, expected = jax.jit(jax.value_and_grad(by_hand))(state.generator.params)
    assert float(metrics["generator/nce"]) == pytest.approx(float(value), rel=1e-5)
    recorded = after.generator.opt_state.gradient
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), recorded, expected)
