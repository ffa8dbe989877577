"""Directions of latents: closed forms of linear decoders and of normal distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.editing import directions
from jaxgen.editing.latents import rows_of

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(2)


def same_direction(found, expected, atol):
    cosine = np.abs(np.sum(np.asarray(found, float) * np.asarray(expected, float), axis=-1))
    np.testing.assert_allclose(cosine, 1, atol=atol)


def test_sefa_of_a_linear_decoder_is_its_right_singular_vectors_in_falling_order():
    kernel = np.asarray(jax.random.normal(KEY, (5, 40)))
    found = directions.sefa(kernel)
    _, values, right = np.linalg.svd(kernel.T)
    same_direction(found.rows, right, 1e-5)
    np.testing.assert_allclose(found.strengths, values**2, rtol=1e-5)
    np.testing.assert_allclose(found.rows @ found.rows.T, np.eye(5), atol=1e-5)
    top = directions.sefa(kernel, 2)
    np.testing.assert_array_equal(top.rows, found.rows[:2])
    change = np.linalg.norm(np.asarray(found.rows) @ kernel, axis=1)  # how far a step of length 1 moves the output
    np.testing.assert_allclose(change**2, found.strengths, rtol=1e-4)
    assert np.all(np.max(np.asarray(found.rows), axis=1) == np.max(np.abs(found.rows), axis=1))  # one sign, always


def test_sefas_published_form_lets_all_outputs_count_alike_and_so_is_another():
    kernel = np.asarray(jax.random.normal(KEY, (16, 64)))
    scaled = kernel * np.geomspace(0.1, 10, 64)
    alike = directions.sefa(kernel, 3, normalised=True)
    np.testing.assert_allclose(directions.sefa(scaled, 3, normalised=True).rows, alike.rows, atol=1e-4)
    cosine = abs(float(directions.sefa(kernel, 1).rows[0] @ alike.rows[0]))
    assert 0.3 < cosine < 0.999
    two = directions.sefa([kernel[:, :30], kernel[:, 30:]], 3)
    np.testing.assert_allclose(two.rows, directions.sefa(kernel, 3).rows, atol=1e-5)


def test_ganspace_of_a_linear_decoder_is_sefa():
    kernel = np.linalg.qr(np.asarray(jax.random.normal(KEY, (30, 4))))[0].T * np.array([[4.0], [2.0], [1.0], [0.5]])
    turn = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(5), (4, 4))))[0]
    kernel = turn @ kernel
    z = np.array(jax.random.normal(jax.random.key(3), (200, 4)))
    z -= z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / 199)).T  # exactly uncorrelated
    found = directions.ganspace(jnp.asarray(z), jnp.asarray(z @ kernel).reshape(200, 5, 2, 3), 3)
    sefa = directions.sefa(kernel, 3)
    same_direction(found.rows, sefa.rows, 1e-4)
    np.testing.assert_allclose(found.strengths, sefa.strengths, rtol=1e-3)


def test_principal_components_are_eigenvectors_of_the_covariance():
    rows = np.asarray(jax.random.normal(KEY, (300, 6))) * np.array([1, 5, 2, 3, 0.5, 0.1]) + 7
    found = directions.principal(jnp.asarray(rows), 3)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    np.testing.assert_allclose(found.strengths, values[::-1][:3], rtol=1e-4)
    same_direction(found.rows, vectors.T[::-1][:3], 1e-4)


def test_the_normal_between_two_equal_normal_distributions_tends_to_the_mean_difference():
    mean = np.array([1.0, -0.5, 0.0, 2.0])
    has = np.arange(4000) % 2 == 0
    z = np.asarray(jax.random.normal(KEY, (4000, 4))) + np.where(has[:, None], mean, -mean)
    z = jnp.asarray(z)
    found = directions.linear_classifier(z, has, ridge=1e-2)
    difference = directions.mean_difference(z, has)
    np.testing.assert_allclose(difference, 2 * mean, atol=0.15)
    same_direction(found.normal, mean / np.linalg.norm(mean), 0.01)
    # The true posterior is a sigmoid of 2 mean . z; few of the labels are in doubt, and say how steep it is.
    np.testing.assert_allclose(found.slope, 2 * np.linalg.norm(mean), rtol=0.2)
    assert found.accuracy > 0.98 and abs(float(found.bias)) < 0.4
    np.testing.assert_array_equal(found.logits(z) > 0, (z @ found.normal * found.slope + found.bias) > 0)


def test_a_logistic_regression_is_at_its_optimum_also_where_a_plane_divides_both():
    z = jnp.array([[2.0, 0.1], [1.0, -0.3], [-1.0, 0.2], [-2.0, 0.4]])
    has = np.array([True, True, False, False])
    found = directions.linear_classifier(z, has, ridge=0.5)

    def loss(w, b):
        y = jnp.where(has, 1.0, -1.0)
        return jnp.sum(jax.nn.softplus(-y * (z @ w + b))) + 0.25 * jnp.sum(w**2)

    gradient = jax.grad(loss, argnums=(0, 1))(found.normal * found.slope, found.bias)
    assert max(float(jnp.max(jnp.abs(x))) for x in gradient) < 1e-4 and found.accuracy == 1


def test_a_direction_without_others_is_orthogonal_to_them():
    a, b, c = (x / np.linalg.norm(x) for x in np.asarray(jax.random.normal(KEY, (3, 7))))
    found = directions.project_out(a, b)
    np.testing.assert_allclose(found, (a - (a @ b) * b) / np.linalg.norm(a - (a @ b) * b), atol=1e-6)
    both = np.asarray(directions.project_out(a, np.stack([b, c])))
    np.testing.assert_allclose([both @ b, both @ c, both @ both], [0, 0, 1], atol=1e-6)
    with pytest.raises(ValueError, match="mixture of them"):
        directions.project_out(b + c, np.stack([b, c]))


def test_a_walk_begins_at_the_reconstruction_to_the_bit_and_goes_as_far_as_it_is_told():
    kernel = jax.random.normal(KEY, (6, 12))
    decode = jax.jit(lambda latents: jnp.tanh(rows_of(latents)[0] @ kernel).reshape(-1, 2, 2, 3))
    latents = {"a": jax.random.normal(KEY, (3, 2)), "b": jax.random.normal(KEY, (3, 2, 2))}
    direction = directions.unit(jnp.arange(6.0))
    frames = directions.walk(decode, latents, direction, [-2.0, 0.0, 1.5])
    assert frames.shape == (3, 3, 2, 2, 3)
    np.testing.assert_array_equal(frames[1], decode(latents))
    rows, back = rows_of(latents)
    np.testing.assert_allclose(frames[2], decode(back(rows + 1.5 * direction)), atol=1e-6)


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: directions.sefa(np.ones((3, 2, 2))), r"of the form \[D, F\]"),
        (lambda: directions.sefa(np.ones((3, 2)), 4), "there are 3 directions, not 4"),
        (lambda: directions.ganspace(np.ones((3, 2)), np.ones((3, 4)), 3), "3 latents, 3 activations and 3 dir"),
        (lambda: directions.mean_difference(np.ones((3, 2)), np.ones(3, bool)), "some True and some False, not by 3"),
        (lambda: directions.principal(np.ones((1, 2))), "at least 2 rows"),
        (lambda: rows_of(np.ones((2, 3), int)), "codes of int"),
    ],
)
def test_what_does_not_fit_is_one_sentence(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
