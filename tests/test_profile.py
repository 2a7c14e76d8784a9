"""The measured costs: the profile of an absorbing teacher, the table of segments, and that they tell one story."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import grids, processes, sampling, schedules
from jddd.distill import profile as profiles
from jddd.distill import segments
from jddd.types import Denoiser

SYMBOLS, LENGTH = 3, 4


def markov_data(key, rows):
    """Rows of a two-site law repeated: sites (0, 1) equal, sites (2, 3) equal."""
    pair = jax.random.randint(key, (rows, 2), 0, SYMBOLS)
    return jnp.repeat(pair, 2, axis=1)


def exact():
    """Exact denoiser of that data: a masked site knows its symbol when its twin is visible."""

    def features(params, x_t, t):
        twin = x_t.reshape(-1, LENGTH // 2, 2)[..., ::-1].reshape(x_t.shape)
        p = jnp.where((twin == SYMBOLS)[..., None], 1 / SYMBOLS, jax.nn.one_hot(twin, SYMBOLS))
        return jnp.log(jnp.maximum(p, 1e-30))

    return Denoiser(features, lambda params, hidden: hidden)


PROCESS = processes.Absorbing(SYMBOLS)


@pytest.fixture(scope="module")
def measured():
    x_0 = markov_data(jax.random.key(3), 2048)
    return profiles.measure(jax.random.key(0), (), x_0, profiles.default_rates(), denoiser=exact(), process=PROCESS, batch=256)


def test_cross_entropy_in_closed_form(measured):
    """CE(m) = m log S here: the twin of a masked site is masked with probability m. 5 standard errors of 8192 m tracked sites."""
    rates = np.asarray(measured.rates)
    error = 5 * np.log(SYMBOLS) * np.sqrt(rates * (1 - rates) / (8192 * rates)) + 1e-3
    assert (np.abs(np.asarray(measured.cross_entropy) - rates * np.log(SYMBOLS)) < error).all()
    np.testing.assert_allclose(profiles.nelbo(measured), np.log(SYMBOLS) / 2, rtol=0.03)  # entropy a site: log S for two sites


def test_masks_are_nested(measured):
    """A site masked at a rate is masked at every higher rate."""
    valid = np.asarray(measured.valid)
    assert (valid[:-1] <= valid[1:]).all() and valid[-1].all()


def test_excess_is_the_law_of_the_copy(measured):
    """The KL of M uniform steps for two equal sites is sum_k (m_k - m_{k+1})^2 log S / 2 a site: log S / (2 M)."""
    for steps in (1, 2, 4, 8):
        excess = float(profiles.grid_cost(measured, grids.uniform(steps)) - profiles.nelbo(measured))
        np.testing.assert_allclose(excess, np.log(SYMBOLS) / (2 * steps), rtol=0.08)  # the profile is an estimate from 8192 sites
        assert profiles.optimal_rates(measured, steps)[1] <= float(profiles.grid_cost(measured, grids.uniform(steps))) + 1e-6


@pytest.mark.parametrize("solver", ["tweedie", "euler"])
def test_table_of_segments_is_the_riemann_sum(measured, solver):
    """For the absorbing process the segment costs along a grid add up to (m_k - m_{k+1}) CE(m_k)."""
    x_0 = markov_data(jax.random.key(3), 2048)
    process = processes.Absorbing(SYMBOLS, schedules.Linear(1e-3))  # a table needs alpha > 0 at its first time
    table = segments.measure(jax.random.key(1), (), x_0, grids.uniform(16), jnp.asarray([1.0]), denoiser=exact(), process=process, solver=solver, form="score")
    for steps in (2, 4, 8):
        cost = segments.path_cost(sampling.plain(grids.uniform(steps)), table)
        np.testing.assert_allclose(cost, profiles.grid_cost(measured, grids.uniform(steps)), rtol=0.05)  # two independent estimates
    times, best = segments.optimal_times(table, 4)
    assert best <= float(segments.path_cost(sampling.plain(grids.uniform(4)), table)) + 1e-6 and times[0] == 1 and times[-1] == 0


def test_spread_table_prices_the_copy():
    """On pairs of equal neighbours the spread sampler pays log S a pair plus log S when both fall into one step; from 3 uniform steps on no excess."""
    x_0 = markov_data(jax.random.key(3), 2048)
    table = segments.measure_reveals(jax.random.key(1), (), x_0, denoiser=exact(), process=PROCESS)
    d = 1 - (np.sqrt(5) - 1) / 2
    for steps in (1, 2, 4, 8):
        both = 1.0 if steps == 1 else max(0.0, 1 - steps * d)
        cost = float(segments.path_cost(sampling.plain(grids.uniform(steps)), table))
        np.testing.assert_allclose(cost, np.log(SYMBOLS) * (1 + both) / 2, rtol=0.02)  # 2048 rows of 2 pairs


def test_segments_of_the_uniform_process():
    """One site: the posterior is known exactly, so every step costs its share of the entropy and every grid the same; a wrong denoiser costs more."""
    process, prior = processes.Uniform(3, schedules.Linear(1e-3)), jnp.asarray([0.5, 0.3, 0.2])
    network = Denoiser(lambda params, x, t: jnp.broadcast_to(jnp.log(prior), (*x.shape, 3)), lambda params, hidden: hidden)
    flat = Denoiser(lambda params, x, t: jnp.full((*x.shape, 3), -jnp.log(3.0)), lambda params, hidden: hidden)
    x_0 = jax.random.categorical(jax.random.key(0), jnp.log(prior), shape=(20_000, 1))
    options = dict(process=process, solver="tweedie", form="score")
    measure = lambda denoiser: segments.measure(jax.random.key(1), (), x_0, grids.uniform(8), jnp.asarray([1.0]), denoiser=processes.with_evidence(process, denoiser), **options)
    good, bad = measure(network), measure(flat)
    cost = lambda table, steps: float(segments.path_cost(sampling.plain(grids.uniform(steps)), table))
    entropy = float(-(prior * jnp.log(prior)).sum())
    for steps in (1, 2, 8):
        np.testing.assert_allclose(cost(good, steps), entropy, rtol=0.02)  # 20,000 draws
        assert cost(bad, steps) > cost(good, steps)


def test_profile_needs_a_mask():
    with pytest.raises(ValueError, match="absorbing"):
        profiles.measure(jax.random.key(0), (), jnp.zeros((32, 4), jnp.int32), profiles.default_rates(), denoiser=exact(), process=processes.Uniform(3))
