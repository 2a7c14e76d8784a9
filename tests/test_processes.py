"""Forward processes against the SEDD authors' numbers and against enumeration. Golden cases are float64: 1e-9 is rounding of a few operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import losses, processes, schedules
from jddd.distill import segments

SCHEDULES = {"loglinear": schedules.Linear(1e-3), "geometric": schedules.Geometric(1e-4, 20.0)}
GRAPHS = {
    "graph_absorb": processes.Absorbing(11, SCHEDULES["loglinear"]),
    "graph_absorb_geometric": processes.Absorbing(8, SCHEDULES["geometric"]),
    "graph_uniform": processes.Uniform(12, SCHEDULES["geometric"]),
    "graph_uniform_loglinear": processes.Uniform(10, SCHEDULES["loglinear"]),
}


@pytest.mark.parametrize("schedule", [schedules.Linear(), schedules.Linear(1e-3), schedules.Geometric(), schedules.Cosine()])
def test_inverse_and_slope(schedule):
    with jax.enable_x64(True):
        t = jnp.linspace(0.01, 0.99, 33)
        np.testing.assert_allclose(schedule.inverse(schedule.alpha(t)), t, atol=1e-8)  # arccos loses half the digits near 1
        h = 1e-5
        numeric = (schedule.alpha(t + h) - schedule.alpha(t - h)) / (2 * h)
        np.testing.assert_allclose(schedules.slope(schedule, t), numeric, rtol=1e-6)  # central difference, error h^2


@pytest.mark.parametrize("name", ["loglinear", "geometric"])
def test_schedules_golden(golden, name):
    case = golden("graph_absorb")
    with jax.enable_x64(True):
        t = jnp.asarray(case["in_times"])
        schedule = SCHEDULES[name]
        np.testing.assert_allclose(schedules.total_noise(schedule, t), case[f"out_sigma_bar_{name}"], rtol=1e-9, atol=1e-15)
        rate = schedules.noise_rate(schedule, t)
        np.testing.assert_allclose(rate, case[f"out_sigma_rate_{name}"], rtol=1e-9)


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_operations_golden(golden, name):
    """Rates into a state, transitions over a stretch of noise, and the staggered score."""
    case, process = golden(name), GRAPHS[name]
    with jax.enable_x64(True):
        states = jnp.arange(process.states)
        rates = case["out_transp_rate"] * (1 - np.eye(process.states))
        np.testing.assert_allclose(process.rate_into(states), rates, atol=1e-12)
        for sigma, expected in zip(case["in_sigmas"], case["out_transp_transition"]):
            np.testing.assert_allclose(process.transition_into(states, sigma), expected, atol=1e-9)
        for (t, dt), log_score, expected in zip(case["in_pairs"], case["in_log_score"], case["out_staggered"]):
            noise = schedules.total_noise(process.schedule, t) - schedules.total_noise(process.schedule, t - dt)
            np.testing.assert_allclose(process.staggered(jnp.asarray(log_score), noise), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [processes.Absorbing(5), processes.Uniform(5)])
def test_corrupt_has_the_marginal(key, process):
    """P(x_t = x_0) = alpha, plus (1 - alpha) / V for the uniform process; 5 standard errors of 2e5 draws."""
    x_0 = jnp.full((1, 200_000), 3)
    x_t = np.asarray(process.corrupt(key, x_0, jnp.asarray(0.4)))
    kept = 0.6 + (0.4 / 5 if isinstance(process, processes.Uniform) else 0)
    assert abs((x_t == 3).mean() - kept) < 5 * np.sqrt(kept * (1 - kept) / x_t.size)
    assert x_t.max() < process.states


def joint_posterior(process, q_0, t):
    """Exact log p(x_0^d | x_t) by enumeration for two sites, (S, S, 2, V), and the marginal p_t (S, S)."""
    alpha = float(process.schedule.alpha(t))
    one = np.zeros((process.symbols, process.states))
    if isinstance(process, processes.Absorbing):
        one[np.arange(process.symbols), np.arange(process.symbols)], one[:, -1] = alpha, 1 - alpha
    else:
        one[:] = (1 - alpha) / process.symbols
        one[np.arange(process.symbols), np.arange(process.symbols)] += alpha
    full = np.einsum("ab,ax,by->abxy", q_0, one, one)
    p_t = full.sum((0, 1))
    first, second = full.sum(1) / np.maximum(p_t, 1e-300), full.sum(0) / np.maximum(p_t, 1e-300)
    return np.stack([np.moveaxis(first, 0, -1), np.moveaxis(second, 0, -1)], 2), p_t


@pytest.mark.parametrize("process", [processes.Absorbing(3, schedules.Linear(1e-3)), processes.Uniform(3)])
def test_score_is_the_ratio_of_marginals(process):
    """log_score of the exact posterior equals log p_t(y) / p_t(x) for every x and every one-site change y, by enumeration."""
    q_0 = np.random.default_rng(0).dirichlet(np.ones(9)).reshape(3, 3)
    with jax.enable_x64(True):
        for t in (0.1, 0.5, 0.9):
            posterior, p_t = joint_posterior(process, q_0, t)
            grid = jnp.stack(jnp.meshgrid(jnp.arange(process.states), jnp.arange(process.states), indexing="ij"), -1)
            score = np.exp(process.log_score(jnp.log(jnp.asarray(posterior)), grid, jnp.asarray(t)))
            for x in np.ndindex(p_t.shape):
                for y in range(process.states):
                    changed = p_t[y, x[1]] / p_t[x]
                    if isinstance(process, processes.Absorbing) and x[0] != process.mask_id:
                        changed = float(y == x[0])  # no reverse jump leaves a clean site
                    np.testing.assert_allclose(score[x][0, y], changed, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", [processes.Absorbing(3), processes.Uniform(3)])
def test_nelbo_of_the_exact_denoiser_is_the_entropy(process):
    """Integrated over time and averaged over the data, the NELBO of the exact posterior is the data's entropy: the bound is tight.

    Times: Gauss-Legendre on [0, 1], 64 points; noise: enumerated."""
    q_0 = np.random.default_rng(1).dirichlet(np.ones(9)).reshape(3, 3)
    with jax.enable_x64(True):
        nodes, weights = np.polynomial.legendre.leggauss(64)
        total = 0.0
        grid = jnp.stack(jnp.meshgrid(jnp.arange(process.states), jnp.arange(process.states), indexing="ij"), -1).reshape(-1, 2)
        for t, w in zip((nodes + 1) / 2, weights / 2):
            posterior, _ = joint_posterior(process, q_0, t)
            log_p = jnp.log(jnp.maximum(jnp.asarray(posterior).reshape(-1, 2, 3), 1e-300))
            alpha = 1 - t
            for x_0 in np.ndindex(3, 3):
                clean = jnp.broadcast_to(jnp.asarray(x_0), grid.shape)
                if isinstance(process, processes.Absorbing):
                    site = np.where(np.asarray(grid) == 3, 1 - alpha, np.where(np.asarray(grid) == np.asarray(x_0), alpha, 0.0))
                else:
                    site = (1 - alpha) / 3 + alpha * (np.asarray(grid) == np.asarray(x_0))
                value = process.nelbo(log_p, clean, grid, jnp.full(len(grid), t))
                total += w * q_0[x_0] * float((site.prod(-1)[:, None] * value).sum())
        entropy = -(q_0 * np.log(q_0)).sum()
        np.testing.assert_allclose(total, entropy, rtol=2e-4)  # quadrature of an integrand with a log t end


@pytest.mark.parametrize("process", [processes.Absorbing(4, schedules.Linear(1e-3)), processes.Uniform(4, schedules.Linear(1e-3))])
def test_prior_kl(process):
    """KL(q(x_1 | x_0) || prior), term by term."""
    alpha = float(process.schedule.alpha(1.0))
    kept, other = alpha + (1 - alpha) / 4, (1 - alpha) / 4
    expected = alpha * np.log(4) if isinstance(process, processes.Absorbing) else kept * np.log(4 * kept) + 3 * other * np.log(4 * other)
    np.testing.assert_allclose(process.prior_kl(), expected, rtol=1e-5, atol=1e-7)  # float32: each log of a number near 1 is off by 6e-8


@pytest.mark.parametrize("process", [processes.Absorbing(3), processes.Uniform(3)])
def test_bridge_composes_to_the_transition(process):
    """sum_s q(x_s | x_t, x_0) = 1, and averaging the bridge over x_t given x_0 gives the marginal at s."""
    with jax.enable_x64(True):
        t, s = jnp.asarray(0.7), jnp.asarray(0.3)
        for x_0 in range(3):
            states = jnp.arange(process.states)
            marginal = lambda time: jnp.exp(segments.log_bridge(jnp.full(process.states, x_0), states, jnp.asarray(1.0), time, process))[-1 if isinstance(process, processes.Absorbing) else 0]
            at = lambda time: np.array([float((process.schedule.alpha(time)) * (y == x_0) + (1 - process.schedule.alpha(time)) * (y == 3 if process.states == 4 else 1 / 3)) for y in range(process.states)])
            np.testing.assert_allclose(marginal(t), at(t), atol=1e-12)  # from pure noise the bridge is the marginal
            possible = at(t) > 0
            bridge = np.exp(segments.log_bridge(jnp.full(process.states, x_0), states, t, s, process))
            np.testing.assert_allclose(bridge[possible].sum(-1), 1, atol=1e-12)
            np.testing.assert_allclose(at(t)[possible] @ bridge[possible], at(s), atol=1e-12)


def test_evidence_is_bayes(key):
    """with_evidence turns p(x_0 | other sites) into p(x_0 | all sites): on independent sites, prior times likelihood."""
    process, prior = processes.Uniform(4), jnp.log(jnp.asarray([0.1, 0.2, 0.3, 0.4]))
    from jddd.types import Denoiser

    network = Denoiser(lambda params, x, t: jnp.broadcast_to(prior, (*x.shape, 4)), lambda params, hidden: hidden)
    x_t, t = jnp.asarray([[0, 3, 1]]), jnp.asarray(0.6)
    log_p = processes.with_evidence(process, network)((), x_t, t)
    likelihood = 0.6 / 4 + 0.4 * np.eye(4)[np.asarray(x_t[0])]
    expected = likelihood * np.exp(prior)
    np.testing.assert_allclose(np.exp(log_p[0]), expected / expected.sum(-1, keepdims=True), rtol=1e-5)  # float32


def test_mdlm_nelbo_golden(golden):
    """The NELBO of MDLM: weight 1 / t times the cross-entropy at masked sites."""
    case, process = golden("mdlm_steps"), processes.Absorbing(12, schedules.Linear(1e-3))
    with jax.enable_x64(True):
        log_p = jax.nn.log_softmax(jnp.asarray(case["in_logits_loss"])[..., :12], -1)
        value = process.nelbo(log_p, jnp.asarray(case["in_x0"]), jnp.asarray(case["in_xt"]), jnp.asarray(case["in_t_loss"]))
        np.testing.assert_allclose(value, case["out_nelbo"], rtol=1e-9, atol=1e-12)


def test_stratified_times_cover_every_stratum(key):
    """One time in each of n equal parts, which is what MDLM's antithetic draw has."""
    t = np.sort(np.asarray(losses.stratified_times(key, 64, low=0.0)))
    assert (np.floor(t * 64).astype(int) == np.arange(64)).all()
