import resource
import time

import jax
import numpy as np
import pytest
import scipy.spatial.distance

from jaxgen.metrics import prdc
from jaxgen.metrics.prdc import precision_recall_density_coverage


def by_definition(real, fake, k):
    """Every distance from its own differences; balls closed; a point is no neighbour of its own."""
    real, fake = real.astype(np.float64), fake.astype(np.float64)

    def radii(x):
        distances = scipy.spatial.distance.cdist(x, x)
        np.fill_diagonal(distances, np.inf)
        return np.sort(distances, axis=1)[:, k - 1]

    distances = scipy.spatial.distance.cdist(real, fake)
    in_real, in_fake = distances <= radii(real)[:, None], distances <= radii(fake)
    return {
        "precision": in_real.any(0).mean(),
        "recall": in_fake.any(1).mean(),
        "density": in_real.sum() / (k * len(fake)),
        "coverage": in_real.any(1).mean(),
    }


def sets(m, n, d, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return (
        (rng.normal(size=(m, d)) + shift).astype(np.float32),
        (rng.normal(size=(n, d)) * 0.8 + 0.3 + shift).astype(np.float32),
    )


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize(("m", "n"), [(150, 90), (60, 200)])
def test_it_equals_its_definition_in_double_precision(m, n, k):
    real, fake = sets(m, n, 5)
    expected = by_definition(real, fake, k)
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected, abs=1e-12)
    assert 0 < min(expected.values()) and expected["density"] != 1


def test_a_large_common_mean_costs_no_digits():
    # Norms of 1e8 and distances of 1: in float32, or without a shift, every comparison would be noise.
    real, fake = sets(200, 150, 4, shift=3e4)
    assert precision_recall_density_coverage(real, fake) == pytest.approx(by_definition(real, fake, 5), abs=1e-12)


def test_blocks_do_not_change_the_result(monkeypatch):
    real, fake = sets(101, 57, 3)
    whole = precision_recall_density_coverage(real, fake)
    monkeypatch.setattr(prdc, "BLOCK_ELEMENTS", 57 * 13)
    assert precision_recall_density_coverage(real, fake) == whole


def test_points_on_a_line_have_the_values_counted_by_hand():
    real, fake = np.array([[0.0], [1.0], [3.0], [10.0]]), np.array([[1.5], [4.0], [30.0]])
    # k = 1. Balls of real points: [-1, 1], [0, 2], [1, 5], [3, 17]; of fake points: [-1, 4], [1.5, 6.5], [4, 56].
    assert precision_recall_density_coverage(real, fake, 1) == pytest.approx(
        {"precision": 2 / 3, "recall": 1.0, "density": (2 + 2) / 3, "coverage": 3 / 4}
    )


def test_ties_are_inside_of_the_ball_whatever_rounding_does():
    # Lattices are full of ties; a rotation and a shift leave the distances equal only up to rounding.
    rng = np.random.default_rng(2)
    lattice = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)
    expected = by_definition(lattice, lattice, 4)
    for _ in range(5):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        moved = lattice @ rotation / 3 + rng.normal(size=3) * 10
        shuffled = rng.permutation(moved)
        assert precision_recall_density_coverage(moved, shuffled, 4) == pytest.approx(expected, abs=1e-12)


def test_a_set_compared_with_itself_is_covered_and_precise():
    real, _ = sets(80, 1, 3)
    result = precision_recall_density_coverage(real, real)
    assert result["precision"] == result["recall"] == result["coverage"] == 1
    assert result["density"] == pytest.approx((5 + 1) / 5)  # each point's own ball, and its five neighbours'


def test_copies_are_neighbours_so_their_balls_are_points():
    real = np.repeat(sets(10, 1, 3)[0], 3, axis=0)
    elsewhere = precision_recall_density_coverage(real, real + 1e-3, 2)
    assert elsewhere == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    there = precision_recall_density_coverage(real, real, 2)
    assert there == {"precision": 1, "recall": 1, "density": 3 / 2, "coverage": 1}


def test_collapse_and_noise_are_told_apart():
    rng = np.random.default_rng(3)
    real = rng.normal(size=(300, 2))
    collapsed = precision_recall_density_coverage(real, 0.01 * rng.normal(size=(300, 2)))
    assert collapsed["precision"] > 0.99 and collapsed["recall"] < 0.05 and collapsed["coverage"] < 0.2
    noise = precision_recall_density_coverage(real, 20 * rng.normal(size=(300, 2)))
    assert noise["precision"] < 0.1 and noise["recall"] > 0.9 and noise["density"] < 0.1


def test_coverage_of_a_perfect_generator_tends_to_one_minus_two_to_the_minus_k():
    rng = np.random.default_rng(4)
    result = precision_recall_density_coverage(rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2)), 3)
    assert result["coverage"] == pytest.approx(1 - 2**-3, abs=0.03)
    assert result["density"] == pytest.approx(1, abs=0.05)


def test_bad_input_is_refused():
    real, fake = sets(10, 4, 3)
    with pytest.raises(ValueError, match="num_neighbours must be from 1 to 3"):
        precision_recall_density_coverage(real, fake)
    with pytest.raises(ValueError, match="num_neighbours must be from 1 to 3"):
        precision_recall_density_coverage(real, fake, 0)
    with pytest.raises(ValueError, match="real features have 3 dimensions and fake features 2"):
        precision_recall_density_coverage(real, fake[:, :2], 1)
    with pytest.raises(ValueError, match="1 of 4 rows of fake features hold NaN or infinity, the first is row 2"):
        precision_recall_density_coverage(real, np.where(np.arange(4)[:, None] == 2, np.nan, fake), 1)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(precision_recall_density_coverage, static_argnums=2)(real, fake, 1)


@pytest.mark.slow
def test_ten_thousand_by_ten_thousand_points_take_a_minute_and_two_gibibytes_at_most():
    # Prints both with -s. Seen on two cores of an AMD EPYC (Zen 5): 7.5 s and 0.65 GiB.
    real, fake = sets(10_000, 10_000, 128)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    precision_recall_density_coverage(real, fake)
    seconds, kibibytes = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{seconds:.1f} s, {kibibytes / 2**20:.2f} GiB")
    assert seconds < 60 and kibibytes < 2 * 2**20
