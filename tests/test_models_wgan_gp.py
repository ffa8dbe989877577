import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import network
from jaxgen.losses import terms
from jaxgen.models import sngan, wgan_gp
from jaxgen.network import count_parameters

pytestmark = pytest.mark.usefixtures("fast_compilation")


def shapes(module, image_size, channels=3):
    x = jax.ShapeDtypeStruct((2, image_size, image_size, channels), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, train=True), x)


@pytest.mark.parametrize("image_size, parameters", [(32, 1_053_825), (48, 10_141_441), (64, 10_141_441)])
def test_the_critic_has_as_many_parameters_as_sngans_discriminator(image_size, parameters):
    logits, variables = shapes(wgan_gp.Discriminator(), image_size)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
    assert count_parameters(variables["params"]) == parameters and set(variables) == {"params"}
    assert count_parameters(shapes(wgan_gp.Discriminator(), 128)[1]["params"]) == 29_017_857


def test_acgans_has_the_parameters_of_the_common_benchmark():
    found, variables = shapes(wgan_gp.Discriminator(num_classes=10, batch_norm=True), 32)
    assert (found.value.shape, found.aux.shape) == ((2,), (2, 10))
    assert count_parameters(variables["params"]) == 1_057_169
    assert count_parameters(shapes(wgan_gp.Discriminator(batch_norm=True), 32)[1]["params"]) == 1_055_879


@pytest.mark.parametrize("image_size, parameters", [(32, 1_054_341), (48, 10_145_541), (64, 10_145_541)])
def test_ssgans_discriminator_has_a_head_for_four_turns(image_size, parameters):
    found, variables = shapes(sngan.Discriminator(num_turns=4), image_size)
    assert (found.value.shape, found.aux.shape) == ((2,), (2, 4))
    assert count_parameters(variables["params"]) == parameters


@pytest.mark.slow
def test_a_logit_of_the_critic_depends_on_its_image_alone():
    module = wgan_gp.Discriminator(features=4)
    x = jax.random.normal(jax.random.key(0), (3, 28, 28, 1))
    variables = module.init(jax.random.key(1), x, train=True)
    logits = module.apply(variables, x, train=True)
    np.testing.assert_allclose(module.apply(variables, x[:1], train=True), logits[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_blocks_of_the_critic_are_those_of_sngan_without_the_division_by_the_norm():
    """SNGAN's discriminator whose norms are taken for 1 is this one, but for the mean over pixels."""
    spectral, plain = sngan.Discriminator(features=4), wgan_gp.Discriminator(features=4)
    x = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    variables = spectral.init(jax.random.key(1), x, train=True)
    state = {"spectral_norm": jax.tree.map(jnp.zeros_like, variables["spectral_norm"])}  # sigma 0 divides by 1
    params = {}
    for i in range(4):
        block = variables["params"][f"DiscriminatorBlock_{i}"]
        params[f"DiscriminatorBlock_{i}"] = {name.removeprefix("Spectral"): value for name, value in block.items()}
    params["Dense_0"] = variables["params"]["SpectralDense_0"]
    ours = plain.apply({"params": params}, x, train=False)
    theirs = spectral.apply({"params": variables["params"], **state}, x, train=False)
    bias = params["Dense_0"]["bias"]
    np.testing.assert_allclose((ours - bias) * 7 * 7, theirs - bias, rtol=1e-4)


def test_turns_are_by_quarters_counterclockwise_and_of_square_images():
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    turned = terms.turned_by(jnp.repeat(image, 4, 0), jnp.arange(4))
    for k in range(4):
        np.testing.assert_array_equal(turned[k, ..., 0], np.rot90(np.asarray(image[0, ..., 0]), k))
    with pytest.raises(ValueError, match="only square images can be turned by a quarter, not 3x2"):
        terms.turned_by(jnp.zeros((1, 3, 2, 1)), jnp.zeros((1,), int))


class _Turn:
    """Of a discriminator that reads the turn off one corner, as surely as it can."""

    key = jax.random.key(0)

    def __init__(self, images):
        self.real = self.fake = images

    def discriminator(self, images):
        corners = jnp.stack([images[:, 0, 0], images[:, -1, 0], images[:, -1, -1], images[:, 0, -1]], 1)[..., 0]
        return network.Output(jnp.zeros(len(images)), 50.0 * corners)


@pytest.mark.parametrize("side", ["real", "fake"])
def test_a_discriminator_that_sees_every_turn_pays_nothing_and_one_that_sees_none_log_4(side):
    marked = jnp.zeros((8, 5, 5, 1)).at[:, 0, 0].set(1.0)
    value, _ = terms.turned(1.0, side).value(_Turn(marked), None)
    assert value.shape == (8,)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    value, _ = terms.turned(1.0, side).value(_Turn(jnp.zeros((8, 5, 5, 1))), None)
    np.testing.assert_allclose(value, np.log(4), rtol=1e-6)


def test_turns_need_a_head_and_a_side():
    turn = _Turn(jnp.zeros((2, 5, 5, 1)))
    turn.discriminator = lambda images: jnp.zeros(len(images))
    with pytest.raises(ValueError, match="let it return network.Output"):
        terms.turned(1.0, "real").value(turn, None)
    with pytest.raises(ValueError, match="side is 'real' or 'fake'"):
        terms.turned(1.0, "left")
