"""Exact denoisers against enumeration, float64 (1e-9: rounding), on and off the data's support."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import laws, processes, schedules
from jddd.models import exact

V, L = 3, 4
PROCESSES = [processes.Absorbing(V, schedules.Linear(1e-3)), processes.Uniform(V, schedules.Linear(1e-3))]


def chain(seed=0):
    generator = np.random.default_rng(seed)
    return exact.MarkovChain(jnp.asarray(generator.dirichlet(4 * np.ones(V))), jnp.asarray(generator.dirichlet(4 * np.ones(V), V)))


def mixture(seed=0):
    generator = np.random.default_rng(seed)
    return exact.Mixture(jnp.asarray(generator.dirichlet(np.ones(2))), jnp.asarray(generator.dirichlet(np.ones(V), (2, L))))


def as_joint(law):
    """The law as a tensor, from its own likelihood of every configuration."""
    return exact.Joint(law.log_likelihood(laws.configurations(V, L)).reshape((V,) * L))


def enumerated(q, x_t, t, process):
    """p(x_0^d | x_t) (L, V) by Bayes' rule, written out with loops."""
    posterior = np.zeros((L, V))
    for x_0 in np.ndindex(*q.shape):
        weight = q[x_0]
        for clean, noised in zip(x_0, x_t):
            alpha = float(process.schedule.alpha(t))
            if isinstance(process, processes.Absorbing):
                weight *= 1 - alpha if noised == V else alpha * (clean == noised)
            else:
                weight *= (1 - alpha) / V + alpha * (clean == noised)
        for site, clean in enumerate(x_0):
            posterior[site, clean] += weight
    return posterior / posterior.sum(-1, keepdims=True)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("make", [chain, mixture, lambda: as_joint(chain(1))])
def test_posterior_is_bayes(make, process, key):
    """Every law, every noised state, a time of its own for each row."""
    with jax.enable_x64(True):
        law = make()
        q = np.exp(as_joint(law).log_p) if not isinstance(law, exact.Joint) else np.exp(law.log_p)
        np.testing.assert_allclose(q.sum(), 1, rtol=1e-9)
        x_t = laws.configurations(process.states, L)[::7]
        t = jnp.linspace(0.05, 0.99, len(x_t))
        found = np.exp(exact.denoiser(process)(law, x_t, t))
        expected = np.stack([enumerated(q, x, float(time), process) for x, time in zip(np.asarray(x_t), t)])
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("law", [lambda: chain(), lambda: mixture(), lambda: as_joint(mixture())])
def test_samples_have_the_law(law, key):
    """Frequencies of 50,000 draws, each within 5 standard errors of its probability."""
    law, n = law(), 50_000
    drawn = np.asarray(law.sample(key, n, L) if isinstance(law, exact.MarkovChain) else law.sample(key, n))
    p = np.exp(law.log_likelihood(laws.configurations(V, L)))
    frequency = np.bincount(drawn @ (V ** np.arange(L)[::-1]), minlength=V**L) / n
    assert (np.abs(frequency - p) < 5 * np.sqrt(p / n) + 1e-9).all()


@pytest.mark.parametrize("process", [processes.Absorbing(V), processes.Uniform(V)])
def test_nelbo_is_tight_for_the_exact_denoiser_only(process):
    """For every x_0 the NELBO of the exact denoiser equals -log p(x_0); a sharpened one pays more on average (the bound).

    Times by Gauss-Legendre over [0, 1], 48 points; noise enumerated; all 81 sequences at once."""
    with jax.enable_x64(True):
        law = chain()
        denoise = exact.denoiser(process)
        grid, data = laws.configurations(process.states, L), laws.configurations(V, L)
        nodes, weights = np.polynomial.legendre.leggauss(48)

        @jax.jit
        def integrand(t):
            log_p = denoise(law, grid, t)

            def one(x_0, log_p):
                p_t = laws.product(process.noise(jax.nn.one_hot(x_0, process.states), t))[:, None]
                value = process.nelbo(log_p, jnp.broadcast_to(x_0, grid.shape), grid, jnp.full(len(grid), t))
                return jnp.where(p_t > 0, p_t * value, 0.0).sum()

            return [jax.vmap(one, (0, None))(data, p) for p in (log_p, jax.nn.log_softmax(1.5 * log_p, -1))]

        exactly, sharpened = sum(w / 2 * np.stack(integrand(jnp.asarray((t + 1) / 2))) for t, w in zip(nodes, weights))
        code = -np.asarray(law.log_likelihood(data))
        np.testing.assert_allclose(exactly, code, rtol=5e-4)  # quadrature: the uniform integrand has a log t end
        assert np.exp(-code) @ (sharpened - code) > 0.01


@pytest.mark.parametrize("process", [processes.Absorbing(32, schedules.Linear(1e-3)), processes.Uniform(32, schedules.Linear(1e-3))])
def test_long_chain_is_finite_everywhere(process, key):
    """256 sites of 32 symbols in float32: normalised at data and at states no data can reach; clean sites of the absorbing process are certain."""
    law = exact.countdown()
    denoiser = exact.denoiser(process)
    denoise = jax.jit(lambda law, x_t, t: denoiser(law, x_t, t))
    noise = jax.random.randint(key, (2, 256), 0, process.states)
    x_t = jnp.concatenate([process.corrupt(key, law.sample(key, 2, 256), jnp.asarray(0.5)), noise])
    for t in (1e-3, 0.5, 1.0):
        log_p = np.asarray(denoise(law, x_t, jnp.asarray(t)))
        assert np.isfinite(log_p).all()
        np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, atol=1e-4)  # float32 sums of 32
        if isinstance(process, processes.Absorbing):
            clean = np.asarray(x_t) < 32
            np.testing.assert_allclose(np.take_along_axis(log_p, np.where(clean, x_t, 0)[..., None], -1)[..., 0][clean], 0, atol=1e-5)


def test_countdown_counts_down(key):
    """Without smoothing a step of its own, the chain's only moves are v -> v - 1 and 0 -> anything."""
    x = np.asarray(exact.countdown(8, share=0.0).sample(key, 200, 40))
    before, after = x[:, :-1], x[:, 1:]
    assert (after == before - 1)[before > 0].all()
    restart = np.bincount(after[before == 0], minlength=8)
    assert (np.abs(restart - restart.sum() / 8) < 5 * np.sqrt(restart.sum() / 8)).all()
