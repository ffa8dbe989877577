import jax
import numpy as np
import pytest
import scipy.special

from jaxgen.metrics.inception_score import inception_score


def by_definition(logits, num_splits):
    p = scipy.special.softmax(logits.astype(np.float64), axis=1)
    scores = []
    for part in (p[i * len(p) // num_splits : (i + 1) * len(p) // num_splits] for i in range(num_splits)):
        marginal = part.mean(0)
        scores.append(np.exp(np.mean(scipy.special.rel_entr(part, marginal).sum(1))))
    return np.mean(scores), np.std(scores)


@pytest.mark.parametrize("num_splits", [1, 3, 10, 64])
def test_it_equals_its_definition_in_double_precision(num_splits):
    logits = (np.random.default_rng(0).normal(size=(64, 30)) * 4).astype(np.float32)
    result = inception_score(logits, num_splits)
    np.testing.assert_allclose(result, by_definition(logits, num_splits), rtol=1e-12, atol=1e-12)
    assert float(result) == result.mean


def test_sure_and_varied_images_score_the_number_of_classes_and_equal_ones_score_one():
    sure = 1e4 * np.tile(np.eye(8, dtype=np.float32), (10, 1))  # probabilities of exactly 0 and 1
    np.testing.assert_allclose(inception_score(sure), (8, 0), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(inception_score(np.repeat(sure[:1], 80, 0)), (1, 0), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(inception_score(np.zeros((80, 8))), (1, 0), rtol=1e-14, atol=1e-14)


def test_splits_are_consecutive_so_sorted_images_score_less():
    logits = 1e4 * np.repeat(np.eye(10), 10, axis=0)
    assert float(inception_score(logits, 1)) == pytest.approx(10)
    assert float(inception_score(logits, 10)) == pytest.approx(1)  # one class in each split
    assert float(inception_score(logits, 5)) == pytest.approx(2)


def test_the_score_does_not_see_a_constant_added_to_the_logits_of_an_image():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(50, 5))
    shifted = logits + 1000 * rng.normal(size=(50, 1))
    np.testing.assert_allclose(inception_score(shifted), inception_score(logits), rtol=1e-10)


def test_bad_input_is_refused():
    logits = np.zeros((9, 4))
    with pytest.raises(ValueError, match="9 images cannot be divided into 10 splits"):
        inception_score(logits)
    with pytest.raises(ValueError, match="at least 2 classes"):
        inception_score(logits[:, :1], 1)
    with pytest.raises(ValueError, match=r"logits must have the shape \[N, D\].*not \[9\]"):
        inception_score(logits[:, 0], 1)
    with pytest.raises(ValueError, match="1 of 9 rows of logits hold NaN"):
        inception_score(np.where(np.arange(9)[:, None] == 4, np.nan, logits), 1)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(inception_score, static_argnums=1)(logits, 1)
