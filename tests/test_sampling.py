"""The sampler's law in closed form, its conditioning, and that scan, loop, skipping and sharding all draw the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import absorbing, grids, processes, sampling, schedules, sharding, solvers
from jddd.types import Denoiser, bind


def all_equal(symbols):
    """The exact denoiser of data whose sites are all equal, uniform over `symbols`."""

    def features(params, x_t, t):
        known = jnp.where(x_t == symbols, -1, x_t).max(-1)
        sure = jax.nn.one_hot(known, symbols)[:, None]
        p = jnp.where((known >= 0)[:, None, None], sure, 1 / symbols)
        return jnp.log(jnp.maximum(jnp.broadcast_to(p, (*x_t.shape, symbols)), 1e-30))

    return Denoiser(features, lambda params, hidden: hidden)


COPY, PROCESS = all_equal(2), processes.Absorbing(2)
ROWS = 60_000


@pytest.mark.parametrize("solver", ["euler", "tweedie"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_copy_law(key, solver, steps):
    """Two sites that must agree: total variation is exactly 1 / (2 N) on the uniform grid (5 standard errors)."""
    run = sampling.sampler(COPY, PROCESS, (ROWS, 2), solver=solver)
    x = np.asarray(run(key, (), sampling.plain(grids.uniform(steps))))
    wrong = (x[:, 0] != x[:, 1]).mean()
    assert x.max() < 2
    assert abs(wrong - 1 / (2 * steps)) < 5 * np.sqrt(0.25 / ROWS)


@pytest.mark.parametrize("grid", [grids.uniform(4), grids.cosine(4)])
def test_all_equal_law_on_any_grid(key, grid):
    """D equal sites of S symbols: P(correct) = E[S^(1 - K)], K the number revealed in the first revealing step; computed on the grid's rates."""
    sites, symbols = 3, 3
    t = np.asarray(grid, float)
    correct, none = 0.0, 1.0
    for a, b in zip(t[:-1], t[1:]):
        r = (a - b) / a
        for k in range(1, sites + 1):
            ways = {1: 3, 2: 3, 3: 1}[k]
            correct += none * ways * r**k * (1 - r) ** (sites - k) * symbols ** (1.0 - k)
        none *= (1 - r) ** sites
    process = processes.Absorbing(symbols)
    x = np.asarray(sampling.sampler(all_equal(symbols), process, (ROWS, sites))(key, (), sampling.plain(grid)))
    assert abs((x == x[:, :1]).all(1).mean() - correct) < 5 * np.sqrt(correct * (1 - correct) / ROWS)


def network(process, causal=False):
    from jddd.models import dit

    config = dit.DiTConfig(states=process.states, symbols=process.symbols, width=16, depth=1, heads=1, time_conditioning=True)
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(7), x.shape), dit.init(jax.random.key(1), config, 8))
    denoiser = dit.denoiser(config)
    return (processes.with_evidence(process, denoiser) if isinstance(process, processes.Uniform) else denoiser), params


@pytest.mark.parametrize("process", [processes.Absorbing(5, schedules.Linear(1e-3)), processes.Uniform(5, schedules.Linear(1e-3))])
@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_fixed_sites_are_never_touched(key, process, solver):
    """A prefix and an infill stay as given, all other sites end in data symbols, with every solver and both processes."""
    denoiser, params = network(process)
    given = jax.random.randint(key, (4, 8), 0, 5)
    fixed = jnp.asarray([[1, 1, 1, 0, 0, 1, 0, 0]] * 4, bool)
    run = sampling.sampler(denoiser, process, (4, 8), solver=solver, trajectory=True)
    x, states = run(key, params, sampling.plain(grids.uniform(3)), given, fixed)
    assert (jnp.where(fixed, x == given, True)).all() and (x < 5).all()
    assert (jnp.where(fixed, states == given, True)).all()
    assert states.shape == (3, 4, 8) and (states[-1] == x).all()


@pytest.mark.parametrize("process", [processes.Absorbing(5), processes.Uniform(5, schedules.Linear(1e-3))])
def test_scan_is_the_loop(key, process):
    """The jitted scan draws what a Python loop over the same keys and numbers draws."""
    denoiser, params = network(process)
    student = sampling.plain(grids.cosine(4)).replace(temperatures=jnp.asarray([1.0, 0.9, 0.8, 1.1]))
    x = sampling.sampler(denoiser, process, (4, 8), chunk=8)(key, params, student)
    key_prior, key_scan = jax.random.split(key)
    state = process.prior(jax.random.split(key_prior)[0], (4, 8))
    for k, step_key in enumerate(jax.random.split(key_scan, 4)):
        key_step, key_threshold = jax.random.split(step_key)
        step = jax.tree.map(lambda number: number[k], student.steps())
        if isinstance(process, processes.Absorbing):
            threshold = jax.random.uniform(key_threshold, (4, 8))
            state = absorbing.absorbing_step(key_step, state, threshold, step, bind(denoiser, params), process=process, solver="tweedie", form="score")
        else:
            state = solvers.dense_step(key_step, state, step, bind(denoiser, params), process=process, solver="tweedie", form="score")
    assert (x == state).all()


def test_network_is_called_once_a_step(key):
    """M steps cost M network calls, counted by the host."""
    calls = []

    def features(params, x_t, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return jnp.zeros((*x_t.shape, 2)) - jnp.log(2.0)

    run = sampling.sampler(Denoiser(features, lambda params, hidden: hidden), PROCESS, (2, 4))
    jax.block_until_ready(run(key, (), sampling.plain(grids.uniform(6))))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(calls), np.arange(1, 7) / 6, rtol=1e-6)


def test_one_device_is_eight_devices(key):
    """Sharding parameters and conditions over eight devices draws the same samples."""
    denoiser, params = network(PROCESS5 := processes.Absorbing(5))
    run = sampling.sampler(denoiser, PROCESS5, (8, 8))
    given, fixed = jnp.zeros((8, 8), jnp.int32), jnp.zeros((8, 8), bool).at[:, 0].set(True)
    student = sampling.plain(grids.uniform(4))
    one = run(key, params, student, given, fixed)
    on = sharding.mesh()
    rows = sharding.rows(on)
    placed = jax.device_put(params, sharding.shardings(params, on))
    many = run(key, placed, jax.device_put(student, jax.sharding.NamedSharding(on, jax.sharding.PartitionSpec())), jax.device_put(given, rows), jax.device_put(fixed, rows))
    assert (np.asarray(one) == np.asarray(many)).all()


def test_coupled_chains_agree_and_keep_the_law(key):
    """One draw of noise for all steps: the law stays 1 / (2 N), and chains of 4 and of 64 steps share most of their symbols."""
    run = sampling.sampler(COPY, PROCESS, (ROWS, 2), reveal="coupled")
    x = np.asarray(run(key, (), sampling.plain(grids.uniform(4))))
    assert abs((x[:, 0] != x[:, 1]).mean() - 1 / 8) < 5 * np.sqrt(0.11 / ROWS)
    fine = np.asarray(run(key, (), sampling.plain(grids.uniform(64))))
    plain = sampling.sampler(COPY, PROCESS, (ROWS, 2))
    apart = np.asarray(plain(key, (), sampling.plain(grids.uniform(64))))
    assert (x == fine).mean() > 0.85 > 0.6 > (x == apart).mean()


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_spread_reveals_solve_the_copy(key, steps):
    """Neighbours' thresholds lie d = 1 - 1/golden apart on the circle, so two copied sites fall into one of N equal steps with probability
    max(0, 1 - N d): total variation half of that, and none from N = 3 on, where independent reveals still have 1 / (2 N)."""
    x = np.asarray(sampling.sampler(COPY, PROCESS, (ROWS, 2), reveal="spread")(key, (), sampling.plain(grids.uniform(steps))))
    d = 1 - (np.sqrt(5) - 1) / 2
    expected = 0.5 if steps == 1 else max(0.0, 1 - steps * d) / 2
    assert abs((x[:, 0] != x[:, 1]).mean() - expected) <= 5 * np.sqrt(expected * (1 - expected) / ROWS)


def test_spread_thresholds_are_uniform_and_far_apart(key):
    """Each site's threshold is uniform; sites in one interval of width w are at least 1 / (sqrt(5) w) apart."""
    u = np.asarray(absorbing.spread_thresholds(key, (4000, 128)))
    assert u.min() >= 0 and u.max() < 1
    np.testing.assert_allclose(np.histogram(u[:, 77], bins=10, range=(0, 1))[0] / 4000, 0.1, atol=5 * 0.3 / np.sqrt(4000))
    for width in (1 / 4, 1 / 8, 1 / 16):
        for row in u[:50]:
            assert np.diff(np.flatnonzero(row < width)).min() >= 1 / (np.sqrt(5) * width)


def test_unknown_combinations_are_refused(key):
    uniform = processes.Uniform(2)
    with pytest.raises(ValueError, match="sampler.reveal"):
        sampling.sample(key, sampling.plain(grids.uniform(2)), bind(COPY, ()), (2, 2), process=uniform, reveal="coupled")
    with pytest.raises(ValueError, match="sampler.reveal"):
        sampling.sample(key, sampling.plain(grids.uniform(2)), bind(COPY, ()), (2, 2), process=uniform, reveal="sorted")
