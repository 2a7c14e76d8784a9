"""Time grids and the dynamic programme."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jddd import grids


def test_grids_fall_from_one_to_zero():
    for make in (grids.uniform, grids.cosine):
        times = np.asarray(make(7))
        assert times[0] == 1 and times[-1] == 0 and (np.diff(times) < 0).all()
    np.testing.assert_allclose(grids.cosine(2)[1], np.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_dynamic_programme_is_exact(steps):
    """On random cost tables it finds what trying every grid finds."""
    for seed in range(5):
        cost = np.random.default_rng(seed).normal(size=(7, 7))
        best = min(((sum(cost[a, b] for a, b in itertools.pairwise((0, *inner, 6))), (0, *inner, 6)) for inner in itertools.combinations(range(1, 6), steps - 1)))
        path, value = grids.dynamic_programme(cost, steps)
        assert tuple(path) == best[1]
        np.testing.assert_allclose(value, best[0], rtol=1e-12)


def test_dynamic_programme_refuses_too_many_steps():
    with pytest.raises(ValueError, match="steps is 7"):
        grids.dynamic_programme(np.zeros((7, 7)), 7)


def test_riemann_sum_optimum_is_equal_for_a_straight_profile():
    """With CE(m) = m the cheapest grid is uniform, cost (1 + 1/M) / 2."""
    rates = np.linspace(1, 0, 61)
    path, value = grids.dynamic_programme((rates[:, None] - rates[None]) * rates[:, None], 4)
    np.testing.assert_allclose(rates[path], grids.uniform(4), atol=1e-7)
    np.testing.assert_allclose(value, (1 + 1 / 4) / 2, rtol=1e-12)
    assert jnp.allclose(grids.uniform(4), jnp.asarray(rates[path]), atol=1e-6)
