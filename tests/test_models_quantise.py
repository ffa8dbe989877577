"""Quantisers: what they compute, which gradients go where, and mistakes that code for them is known to make."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxgen import sharding
from jaxgen.metrics import codes as of_codes
from jaxgen.models import quantise
from jaxgen.models.quantise import (
    EMAVectorQuantiser,
    FiniteScalarQuantiser,
    GumbelQuantiser,
    LookupFreeQuantiser,
    VectorQuantiser,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")

KEY = jax.random.key(0)
Z = jax.random.normal(KEY, (8, 2, 3, 4))  # 48 vectors of four numbers
ALL = [
    VectorQuantiser(6, 4),
    EMAVectorQuantiser(6, 4),
    FiniteScalarQuantiser((5, 4, 3, 2)),
    LookupFreeQuantiser(4),
    GumbelQuantiser(4),
]
EVERY = pytest.mark.parametrize("module", ALL, ids=lambda module: type(module).__name__)


@functools.partial(jax.jit, static_argnums=0)
def variables_of(module, z=Z):
    return module.init({"params": jax.random.key(1)}, z, train=False)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def quantised(module, variables, z, key=KEY, train=False):
    """(what it returns, collections)."""
    mutable = [name for name in variables if name != "params"]
    return module.apply(variables, z, train=train, mutable=mutable, rngs={"params": key})


def with_codebook(module, vectors, **changes):
    """Variables of a codebook of averages."""
    vectors = jnp.asarray(vectors, jnp.float32)
    count, batches = jnp.ones(len(vectors)), jnp.zeros(())
    return {"code_averages": {"vectors": vectors, "sum": vectors, "count": count, "batches": batches} | changes}


# All ------------------------------------------------------------------------------------------------------------------


@EVERY
def test_codes_are_whole_numbers_of_the_codebook_and_stand_for_the_very_vectors_that_the_decoder_sees(module):
    variables = variables_of(module)
    found, _ = quantised(module, variables, Z)
    assert found.codes.shape == (8, 2, 3) and found.codes.dtype == jnp.int32
    assert 0 <= int(found.codes.min()) and int(found.codes.max()) < module.num_codes
    vectors = module.apply(variables, found.codes, method="embed")
    assert vectors.shape == (8, 2, 3, module.dim) and vectors.dtype == found.vectors.dtype == jnp.float32
    np.testing.assert_array_equal(found.vectors, vectors)
    assert found.loss.shape == () and all(x.shape == () for x in found.metrics.values())


@EVERY
def test_codes_outside_of_the_codebook_are_refused_and_inside_of_jit_are_no_numbers(module):
    variables = variables_of(module)
    embed = functools.partial(module.apply, variables, method="embed")
    for wrong in (-1, module.num_codes):
        with pytest.raises(ValueError, match=f"codes are from 0 to {module.num_codes - 1}, and these go from"):
            embed(jnp.array([1, wrong]))
    with pytest.raises(TypeError, match="codes must be whole numbers, not float32"):
        embed(jnp.zeros(2))
    spoilt = np.isnan(jax.jit(embed)(jnp.array([0, -1, module.num_codes, 1]))).all(1)
    np.testing.assert_array_equal(spoilt, [False, True, True, False])


@EVERY
def test_vectors_of_another_length_are_one_sentence(module):
    with pytest.raises(ValueError, match="and the encoder returns 7: let its last layer have the quantiser's dim"):
        jax.eval_shape(lambda z: module.init(KEY, z, train=False), jnp.zeros((2, 1, 1, 7)))


@pytest.mark.parametrize("module", ALL[:4], ids=lambda module: type(module).__name__)
def test_quantised_vectors_quantise_to_themselves(module):
    variables = variables_of(module)
    codes = jnp.arange(module.num_codes).reshape(-1, 1, 1)
    vectors = module.apply(variables, codes, method="embed")
    if isinstance(module, FiniteScalarQuantiser):  # z that is bounded to these
        half = (np.array(module.levels) - 1) * 0.999 / 2
        even = np.array(module.levels) % 2 == 0
        inside = (vectors * (np.array(module.levels) // 2) + 0.5 * even) / half
        vectors = np.arctanh(np.clip(inside, -0.9999, 0.9999)) - np.tan(0.5 * even / half)
    found, _ = quantised(module, variables, jnp.asarray(vectors, jnp.float32))
    np.testing.assert_array_equal(found.codes, codes)


# Learned vectors ------------------------------------------------------------------------------------------------------


def numbers(module, z, codebook, seen=lambda found: jnp.zeros(())):
    """The loss and what is made of the vectors."""
    found = module.apply({"params": {"codebook": codebook}}, z, train=True)
    return found.loss + seen(found)


def test_the_commitment_moves_no_code_the_codebook_term_no_vector_and_beta_is_the_commitments():
    """Public code is known to have beta at the other term."""
    codebook = variables_of(ALL[0])["params"]["codebook"]
    with_beta = lambda beta: jax.grad(functools.partial(numbers, VectorQuantiser(6, 4, beta)), (0, 1))(Z, codebook)  # noqa: E731
    none, quarter = with_beta(0.0), with_beta(0.25)
    np.testing.assert_array_equal(none[0], jnp.zeros_like(Z))  # the codebook term alone
    np.testing.assert_array_equal(none[1], quarter[1])  # the commitment adds nothing
    e = codebook[quantise.nearest(Z, codebook)]
    np.testing.assert_allclose(quarter[0], 0.25 * 2 * (Z - e) / Z.size, rtol=1e-5, atol=1e-8)
    moved = jax.grad(lambda codebook: jnp.mean(jnp.square(Z - codebook[quantise.nearest(Z, codebook)])))(codebook)
    np.testing.assert_allclose(quarter[1], moved, rtol=1e-5, atol=1e-8)
    distance = float(jnp.mean(jnp.square(Z - e)))
    assert float(numbers(VectorQuantiser(6, 4, 0.25), Z, codebook)) == pytest.approx(1.25 * distance, rel=1e-6)


def test_the_decoders_gradient_reaches_the_encoder_unchanged_and_no_code():
    codebook, direction = variables_of(ALL[0])["params"]["codebook"], jax.random.normal(jax.random.key(5), Z.shape)

    def seen(z, codebook):
        found = ALL[0].apply({"params": {"codebook": codebook}}, z, train=True)
        return jnp.sum(direction * found.vectors)

    of_z, of_codebook = jax.grad(seen, (0, 1))(Z, codebook)
    np.testing.assert_array_equal(of_z, direction)
    np.testing.assert_array_equal(of_codebook, jnp.zeros_like(codebook))


def test_distances_are_of_single_precision_whatever_the_vectors_are():
    """In half precision a percent of codes is another's."""
    jaxpr = jax.make_jaxpr(quantise.nearest)(Z.astype(jnp.bfloat16), jnp.ones((6, 4)))
    products = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(products) == 1 and all(v.aval.dtype == jnp.float32 for v in products[0].invars)
    assert set(products[0].params["precision"]) == {lax.Precision.HIGHEST}
    codebook = 1.0 + 1e-4 * jnp.arange(5.0)[:, None] * jnp.ones(4)
    np.testing.assert_array_equal(quantise.nearest(codebook, codebook), jnp.arange(5))


FIVE = jnp.array([(0, 0), (1, 0), (0, 1), (4, 4), (5, 4)], jnp.float32).reshape(5, 1, 1, 2)
THREE = [(0, 0.5), (4, 5), (-9, -9)]


def followed(module, variables, z, times=1, key=KEY):
    for _ in range(times):
        found, variables = quantised(module, variables, z, key, train=True)
    return found, variables["code_averages"]


def test_averages_of_five_vectors_are_those_of_the_paper():
    module = EMAVectorQuantiser(3, 2)
    found, after = followed(module, with_codebook(module, THREE), FIVE)
    np.testing.assert_array_equal(found.codes.reshape(-1), [0, 0, 0, 1, 1])
    np.testing.assert_allclose(after["count"], [1.02, 1.01, 0.99], rtol=1e-6)
    expected = [(0.01 / 1.02, 0.505 / 1.02), (4.05 / 1.01, 5.03 / 1.01), (-9, -9)]
    np.testing.assert_allclose(after["vectors"], expected, rtol=3e-6)
    assert float(found.loss) == pytest.approx(0.25 * np.mean([0, 0.25, 1, 0.25, 0, 0.25, 0, 1, 1, 1]), rel=1e-6)


def test_without_memory_a_step_is_one_of_k_means_and_a_row_of_them_never_raises_the_distortion():
    module = EMAVectorQuantiser(3, 2, decay=0.0)
    _, after = followed(module, with_codebook(module, THREE), FIVE)
    np.testing.assert_allclose(after["vectors"], [(1 / 3, 1 / 3), (4.5, 4), (-9, -9)], rtol=2e-5)
    module, variables, distortions = EMAVectorQuantiser(6, 4, decay=0.0), variables_of(ALL[1]), []
    for _ in range(8):
        found, variables = quantised(module, variables, Z, train=True)
        distortions.append(float(found.metrics["commitment"]))
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(distortions)) and distortions[-1] < 0.8 * distortions[0]


def test_a_code_that_nobody_chooses_stays_where_it_is_bit_for_bit_for_ten_thousand_batches():
    """Public code throws it to a norm of 1e5 in the first step (counts that start at 0), or to the zero vector."""
    module = EMAVectorQuantiser(3, 2)

    def step(variables, _):
        _, variables = module.apply(variables, FIVE, train=True, mutable=["code_averages"])
        return variables, None

    after, _ = jax.jit(lambda v: lax.scan(step, v, length=10_000))(with_codebook(module, THREE))
    np.testing.assert_array_equal(after["code_averages"]["vectors"][2], [-9, -9])
    np.testing.assert_allclose(after["code_averages"]["vectors"][:2], [(1 / 3, 1 / 3), (4.5, 4)], rtol=1e-4)
    assert float(after["code_averages"]["count"][2]) < 1e-30
    back, codebook = followed(module, after, FIVE - 13.0)  # vectors come near it after all
    assert np.isfinite(codebook["vectors"]).all() and np.all(back.codes == 2)


def test_after_one_step_every_codes_norm_is_between_its_vectors_and_its_own():
    module = EMAVectorQuantiser(512, 8)
    variables = variables_of(module, Z.reshape(-1, 1, 1, 8))
    before = np.linalg.norm(variables["code_averages"]["vectors"], axis=1)
    _, after = followed(module, variables, Z.reshape(-1, 1, 1, 8))
    norms = np.linalg.norm(after["vectors"], axis=1)
    assert 0.5 * before.min() < norms.min() and norms.max() < 1.5 * before.max()
    assert len(np.unique(after["vectors"], axis=0)) == 512


def test_evaluation_changes_no_average():
    module = EMAVectorQuantiser(6, 4, restart_below=1.0, k_means=True)
    _, after = quantised(module, variables_of(ALL[1]), Z)
    jax.tree.map(np.testing.assert_array_equal, after, dict(variables_of(ALL[1])))


def test_only_dead_codes_begin_anew_each_as_a_vector_of_the_batch():
    kept, module = EMAVectorQuantiser(6, 4), EMAVectorQuantiser(6, 4, restart_below=0.5)
    count = jnp.array([0.1, 3.0, 0.2, 5.0, 2.0, 9.0])
    far = jnp.full((6, 4), 50.0).at[1].set(0.0)  # all vectors choose the second code
    variables = with_codebook(module, far, count=count, sum=far * count[:, None])
    found, after = followed(module, variables, Z)
    _, expected = followed(kept, variables, Z)
    alive, dead = np.array([1, 3, 4, 5]), np.array([0, 2])
    for name in ("vectors", "sum", "count"):
        np.testing.assert_array_equal(after[name][alive], expected[name][alive])
    rows = {row.tobytes() for row in np.asarray(Z.reshape(-1, 4))}
    assert all(np.asarray(after["vectors"][i]).tobytes() in rows for i in dead)
    np.testing.assert_array_equal(after["sum"][dead], after["vectors"][dead])
    np.testing.assert_array_equal(after["count"][dead], [1, 1])
    assert float(found.metrics["dead_codes"]) == 2
    np.testing.assert_array_equal(followed(module, variables, Z)[1]["vectors"], after["vectors"])
    assert np.any(followed(module, variables, Z, key=jax.random.key(9))[1]["vectors"] != after["vectors"])


def test_vectors_of_a_batch_are_drawn_without_repetition():
    found = quantise.some_of(KEY, Z.reshape(-1, 4), 48)
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(Z.reshape(-1, 4), axis=0))
    assert quantise.some_of(KEY, Z.reshape(-1, 4), 100).shape == (100, 4)


def test_k_means_begins_in_the_first_batch_alone_and_is_the_same_for_the_same_key():
    module = EMAVectorQuantiser(4, 2, k_means=True, decay=0.5)
    centres = jnp.array([(0, 0), (10, 0), (0, 10), (10, 10)], jnp.float32)
    z = (centres[:, None] + 0.1 * jax.random.normal(KEY, (4, 12, 2))).reshape(4, 12, 1, 2)
    variables = with_codebook(module, jnp.zeros((4, 2)))
    first, after = followed(module, variables, z)
    assert float(first.metrics["commitment"]) < 0.02 or len(np.unique(first.codes)) < 4
    again, _ = followed(module, variables, z)
    np.testing.assert_array_equal(first.codes, again.codes)
    assert float(after["batches"]) == 1
    _, later = followed(module, {"code_averages": after}, 0 * z)
    moved = np.linalg.norm(later["vectors"] - after["vectors"], axis=1)
    assert np.sum(moved > 0) == 1  # all of the second batch chose one code, and no code began anew


def test_k_means_of_fewer_vectors_than_codes_is_one_sentence():
    module = EMAVectorQuantiser(64, 4, k_means=True)
    with pytest.raises(ValueError, match="k-means cannot make 64 codes of the 48 vectors of a batch: take larger"):
        jax.eval_shape(
            lambda v: module.apply(v, Z, train=True, mutable=True, rngs={"params": KEY}), variables_of(module)
        )


def test_the_centres_of_k_means_are_the_means_of_what_is_nearest_to_them():
    z = Z.reshape(-1, 4)
    centres = quantise.k_means(KEY, z, 5, iterations=50)
    codes = np.asarray(quantise.nearest(z, centres))
    for k in np.unique(codes):
        np.testing.assert_allclose(centres[k], np.mean(np.asarray(z)[codes == k], axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("view", ["global", "per device"])
def test_averages_restarts_and_k_means_on_eight_devices_are_those_of_the_joined_batch(view):
    module = EMAVectorQuantiser(24, 4, decay=0.9, restart_below=0.95, k_means=True)
    variables, dead = variables_of(module), 0.0
    step = lambda v, z, key: module.apply(v, z, train=True, mutable=["code_averages"], rngs={"params": key})  # noqa: E731
    if view == "global":
        run = sharding.jit_global(step, sharding.make_mesh(8), batch_axes=(None, 0, None))
    else:
        module_8 = module.clone(axis_name="data")
        step_8 = lambda v, z, key: module_8.apply(v, z, train=True, mutable=["code_averages"], rngs={"params": key})  # noqa: E731
        mapped = jax.pmap(step_8, "data", in_axes=(None, 0, None))
        run = lambda v, z, key: jax.tree.map(lambda x: x[0], mapped(v, z.reshape(8, 1, *z.shape[1:]), key))  # noqa: E731
    one, many = variables, variables
    for i in range(3):
        z, key = (1 + i) * jax.random.normal(jax.random.key(i), Z.shape), jax.random.key(i)
        found, one = jax.jit(step)(one, z, key)
        shared, many = run(many, z, key)
        for name in ("perplexity", "used_share", "dead_codes"):
            assert float(found.metrics[name]) == pytest.approx(float(shared.metrics[name]), rel=1e-5), name
        dead += float(found.metrics["dead_codes"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, jax.device_get(many))
    assert dead > 3


# Without a codebook ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "num_codes"),
    [
        ((8, 6, 5), 240),
        ((8, 5, 5, 5), 1000),
        ((7, 5, 5, 5, 5), 4375),
        ((8, 8, 8, 6, 5), 15_360),
        ((8, 8, 8, 5, 5, 5), 64_000),
        ((5, 5, 5, 5), 625),  # not 4^5 = 1024
    ],
)
def test_finite_scalar_codes_and_vectors_are_one_to_one(levels, num_codes):
    module = FiniteScalarQuantiser(levels)
    assert module.num_codes == num_codes and module.dim == len(levels)
    vectors = np.asarray(module.apply({}, jnp.arange(num_codes), method="embed"))
    assert len(np.unique(vectors, axis=0)) == num_codes and np.abs(vectors).max() == 1
    found, places = 0, 1
    for i, level in enumerate(levels):  # back, by the definition
        found = found + places * np.round(vectors[:, i] * (level // 2) + level // 2).astype(int)
        places *= level
    np.testing.assert_array_equal(found, np.arange(num_codes))


@pytest.mark.parametrize("level", range(2, 10))
def test_every_level_is_reached_none_beyond_it_and_zero_is_one_level(level):
    module = FiniteScalarQuantiser((level,))
    z = jnp.linspace(-8, 8, 4001).reshape(-1, 1, 1, 1)
    found = quantised(module, {}, z)[0]
    codes = np.asarray(found.codes).reshape(-1)
    np.testing.assert_array_equal(np.unique(codes), np.arange(level))
    assert np.all(np.diff(codes) >= 0)
    assert len({x.tobytes() for x in np.asarray(found.vectors).reshape(-1)}) == level  # -0 is no level of its own
    at_zero = quantised(module, {}, jnp.zeros((1, 1, 1, 1)))[0]
    if level > 2:
        assert float(at_zero.vectors.item()) == 0


def test_rounding_has_the_gradient_one():
    module, z = FiniteScalarQuantiser((5, 8)), jax.random.normal(KEY, (3, 1, 1, 2))
    found = jax.grad(lambda z: jnp.sum(module.apply({}, z, train=True).vectors))(z)
    half, shift = np.array([4, 7]) * 0.999 / 2, np.array([0, np.tan(0.5 / (7 * 0.999 / 2))])
    np.testing.assert_allclose(found, half / np.cosh(z + shift) ** 2 / np.array([2, 4]), rtol=1e-5)


def test_normal_numbers_use_the_levels_so_that_a_thousand_codes_have_the_perplexity_942():
    """Levels are independent: the product of those of 8, 5, 5 and 5, each from the normal masses between its steps."""
    quantiles = jax.scipy.special.ndtri((jnp.arange(20_000) + 0.5) / 20_000).reshape(-1, 1, 1, 1)
    found, expected = {}, {}
    for n in (8, 5):
        found[n] = float(quantised(FiniteScalarQuantiser((n,)), {}, quantiles)[0].metrics["perplexity"])
        half, offset = (n - 1) * 0.999 / 2, (n + 1) % 2 / 2
        steps = [
            math.atanh((j + 0.5 + offset) / half) - math.tan(offset / half) for j in range(-(n // 2), (n - 1) // 2)
        ]
        below = [0.0, *(0.5 + 0.5 * math.erf(step / math.sqrt(2)) for step in steps), 1.0]
        expected[n] = of_codes.perplexity(np.diff(below))
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[8] * found[5] ** 3 == pytest.approx(941.8, abs=0.2)


FOUR = jnp.array([(0.3, -0.2, 0.1), (-0.5, 0.4, 0.05), (0.1, 0.1, -0.1), (-0.02, 0.6, 0.3)]).reshape(4, 1, 1, 3)


def test_signs_are_bits_the_first_the_highest_and_both_entropies_are_exact():
    """The entropy of the batch is no sum over bits: that would be 2.011511."""
    module = LookupFreeQuantiser(3, temperature=1.0, normalise=False, beta=0.25, diversity=0.5)
    found = quantised(module, {}, FOUR, train=True)[0]
    np.testing.assert_array_equal(found.codes.reshape(-1), [5, 3, 6, 3])
    assert float(found.metrics["sample_entropy"]) == pytest.approx(1.720091, abs=2e-6)
    assert float(found.metrics["batch_entropy"]) == pytest.approx(1.993771, abs=2e-6)
    commitment = float(jnp.mean(jnp.square(FOUR - jnp.sign(FOUR))))
    assert float(found.metrics["commitment"]) == pytest.approx(commitment, rel=1e-6)
    expected = 0.1 * (1.720091 - 0.5 * 1.993771) + 0.25 * commitment
    assert float(found.loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 7, 10])
def test_lookup_free_codes_and_vectors_are_one_to_one_and_scale_changes_no_sign(bits):
    module = LookupFreeQuantiser(bits)
    codes = jnp.arange(2**bits).reshape(-1, 1, 1)
    vectors = module.apply({}, codes, method="embed")
    np.testing.assert_array_equal(np.unique(vectors), [-1, 1])
    for scale in (1e-2, 1.0, 30.0):
        found = quantised(module, {}, scale * vectors)[0]
        np.testing.assert_array_equal(found.codes, codes)
    assert float(found.metrics["perplexity"]) == pytest.approx(2**bits, rel=1e-4)
    assert float(found.metrics["batch_entropy"]) == pytest.approx(bits * math.log(2), rel=1e-4)
    assert float(found.metrics["sample_entropy"]) == pytest.approx(0, abs=1e-4)


def test_the_entropy_terms_have_a_finite_gradient_where_a_probability_is_zero():
    gradient = jax.jit(jax.grad(lambda z: LookupFreeQuantiser(3, normalise=False).apply({}, z, train=True).loss))
    for z in (FOUR, 1e4 * FOUR, 0 * FOUR):
        assert np.isfinite(gradient(z)).all()


# Drawn codes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 1 / 16])
def test_the_largest_of_a_relaxed_draw_is_a_draw_of_the_softmax_at_every_temperature(temperature):
    logits = jnp.log(jnp.array([0.5, 0.25, 0.2, 0.05]))
    module, n = GumbelQuantiser(4), 100_000
    z = jnp.broadcast_to(logits, (n, 1, 1, 4))
    found = module.apply({}, z, temperature, train=True, rngs={"params": KEY})
    np.testing.assert_array_equal(jnp.argmax(found.vectors, -1), found.codes)
    counts = np.bincount(np.asarray(found.codes).reshape(-1), minlength=4)
    chi_square = np.sum((counts - n * np.exp(logits)) ** 2 / (n * np.exp(logits)))
    assert chi_square < 16.3  # 0.1 % of three degrees of freedom
    np.testing.assert_allclose(jnp.sum(found.vectors, -1), 1, rtol=1e-5)


def test_a_cold_draw_is_one_hot():
    noise = jax.random.gumbel(KEY, (50, 4))
    cold = quantise.relaxed(jnp.zeros((50, 4)), noise, 1e-4)
    np.testing.assert_allclose(cold, jax.nn.one_hot(jnp.argmax(noise, -1), 4), atol=1e-3)


def test_the_rate_is_summed_over_positions_of_an_image_and_is_the_mean_over_images():
    """Public code sums it over the batch, too: then its weight grows with the batch."""
    z = jax.random.normal(KEY, (3, 2, 2, 5))
    p = np.asarray(jax.nn.softmax(z, -1), np.float64)
    expected = (math.log(5) + (p * np.log(p)).sum(-1)).sum((1, 2))
    np.testing.assert_allclose(quantise.rate_to_uniform(z), expected, rtol=1e-5)
    module = GumbelQuantiser(5)
    for batch in (z, jnp.concatenate([z, z])):
        found = quantised(module, {}, batch)[0]
        assert float(found.loss) == pytest.approx(expected.mean(), rel=1e-5)
    sure = 1e3 * jax.nn.one_hot(jnp.arange(4).reshape(1, 2, 2), 8192)
    assert float(quantise.rate_to_uniform(sure)[0]) == pytest.approx(4 * 9.010913347279288, rel=1e-6)
    assert float(quantise.rate_to_uniform(jnp.zeros((1, 2, 2, 8192)))[0]) == pytest.approx(0, abs=1e-5)
    three = jnp.log(jnp.array([0.7, 0.2, 0.1])).reshape(1, 1, 3)
    assert float(quantise.rate_to_uniform(three)[0]) == pytest.approx(0.2967937361247722, rel=1e-6)


# Numbers --------------------------------------------------------------------------------------------------------------


def test_perplexity_is_one_for_one_code_and_k_for_k_alike_and_a_batch_bounds_it():
    assert of_codes.perplexity([0, 7, 0]) == 1
    assert of_codes.perplexity(np.full(512, 3)) == pytest.approx(512, rel=1e-12)
    assert of_codes.perplexity([2, 1, 1]) == pytest.approx(2.8284271247461903, rel=1e-12)
    found = quantise.usage(jnp.array([[0, 0], [1, 2]]), 5)
    assert float(found["perplexity"]) == pytest.approx(2.828427, rel=1e-6)
    assert float(found["used_share"]) == pytest.approx(0.6)
    found = of_codes.summary(np.array([[0, 0], [1, 2]]), 5)
    assert found == {
        "perplexity": pytest.approx(2.8284271247461903),
        "bits_per_token": pytest.approx(1.5),
        "used_share": 0.6,
        "dead_codes": 2,
    }


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1]])
def test_a_perplexity_of_nothing_is_refused(counts):
    with pytest.raises(ValueError, match="a perplexity is of counts of codes"):
        of_codes.perplexity(np.array(counts))


def test_codes_of_another_codebook_are_refused():
    with pytest.raises(ValueError, match="codes are from 0 to 3, and these go from 0 to 4"):
        of_codes.summary(np.array([0, 4]), 4)
