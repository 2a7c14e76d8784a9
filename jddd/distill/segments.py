"""The cost of one reverse step between any two times, for any process: the table every schedule and coefficient is priced with.

A step from t_i to t_j with coefficient c pays E KL( q(x_{t_j} | x_{t_i}, x_0) || student's step ), nats a site: the terms of the discrete-time NELBO.
A grid pays their sum. For the absorbing process at c = 1 the table is (m_i - m_j) CE(m_i), the Riemann sum of jddd.distill.profile.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jddd import grids, processes, schedules, solvers
from jddd.absorbing import spread_thresholds
from jddd.distill.mixtures import latents_of
from jddd.sampling import Student
from jddd.types import Denoiser, Params, PRNGKey, Scalar, bind


class Table(NamedTuple):
    """cost (F, F, C) of a step from times[i] down to times[j] at coefficients[c], in nats a site; times (F,) fall, evenly spaced.
    Below the diagonal the table continues as -cost[j, i], so that interpolation passes through 0 for a step of no length."""

    times: Float[Array, "f"]
    coefficients: Float[Array, "c"]
    cost: Float[Array, "f f c"]


def log_bridge(x_0: Int[Array, "*b"], x_t: Int[Array, "*b"], t, s, process) -> Float[Array, "*b s"]:
    """log q(x_s | x_t, x_0) over the process's states, by Bayes' rule; -inf where impossible."""
    noise = schedules.total_noise(process.schedule, t) - schedules.total_noise(process.schedule, s)
    joint = process.noise(jax.nn.one_hot(x_0, process.states), s) * process.transition_into(x_t, noise)
    return jnp.log(joint / joint.sum(-1, keepdims=True))


@functools.partial(jax.jit, static_argnames=("denoiser", "process", "solver", "form"))
def measure(
    key: PRNGKey, params: Params, x_0: Int[Array, "n l"], times: Float[Array, "f"], coefficients: Float[Array, "c"], *, denoiser: Denoiser, process, solver: str, form: str
) -> Table:
    """The table from data windows x_0, one network call of N rows at each of the F - 1 times above the last; times[0] must leave alpha > 0."""
    denoise = bind(denoiser, params)
    last = len(times) - 1

    def at(inputs):
        i, key = inputs
        t = times[i]
        x_t = process.corrupt(key, x_0, t)
        log_p = denoise(x_t, t)
        score = process.log_score(log_p, x_t, t)

        def to(j):
            s = jnp.where(j > i, times[j], 0.5 * (times[last] + t))  # the entries that are not used still get a valid step
            bridge = log_bridge(x_0, x_t, t, s, process)
            weight = jnp.exp(bridge)

            def at_coefficient(c):
                step = jnp.log(solvers.transition(solvers.scale_score(score, x_t, c, form), x_t, t, s, process=process, solver=solver))
                kl = jnp.where(weight > 0, weight * (bridge - jnp.maximum(step, -30.0)), 0.0).sum(-1).mean()
                tempered = jax.nn.log_softmax((c if form == "log_score" else 1.0) * log_p, -1)
                end = -jnp.take_along_axis(tempered, x_0[..., None], -1)[..., 0]
                return jnp.where(j == last, jnp.where(process.noised(x_t), end, 0.0).mean(), kl)

            return jax.lax.map(at_coefficient, coefficients)

        return jax.lax.map(to, jnp.arange(last + 1))

    rows = jax.lax.map(at, (jnp.arange(last), jax.random.split(key, last)))
    cost = jnp.concatenate([rows, jnp.zeros_like(rows[:1])])
    upper = jnp.triu(jnp.ones((last + 1, last + 1)), 1)[..., None] * cost
    return Table(times, coefficients, upper - upper.swapaxes(0, 1))


@functools.partial(jax.jit, static_argnames=("denoiser", "process", "reveal", "points", "latents", "batch"))
def measure_reveals(
    key: PRNGKey, params: Params, x_0: Int[Array, "n l"], *, denoiser: Denoiser, process: processes.Absorbing, reveal: str = "spread", points: int = 33, latents: int = 16, batch: int = 32
) -> Table:
    """The table of an absorbing sampler at coefficient 1, for reveals 'spread' (sampling.spread_thresholds) or 'independent'; N / batch network calls a
    point, of a mixture `latents` times as many. N is a multiple of batch.

    A step from m_i to m_j reveals the sites with thresholds in [m_j, m_i) and pays -log of their joint probability given the sites above: a function of
    both ends, as spread sites to be revealed next lie in the widest gaps, and as a mixture, E_lambda prod_d p_d, knows how sites revealed together go
    together: it pays less for long steps than its marginals would (a mean over few latents overprices them: -log is convex)."""
    rates = jnp.linspace(1.0, 0.0, points)
    thresholds = spread_thresholds(key, x_0.shape) if reveal == "spread" else jax.random.uniform(key, x_0.shape)
    parts = lambda array: array.reshape(-1, batch, *array.shape[1:])

    def at(rate):
        def one(inputs):
            x, u = inputs
            x_t, t = jnp.where(u < rate, process.mask_id, x), jnp.clip(process.schedule.inverse(1 - rate), 0.0, 1.0)
            bins = jnp.clip(jnp.ceil((1 - u) * (points - 1)).astype(jnp.int32), 1, points - 1)  # the j from which u >= m_j

            def to_each(*latent):
                log_p = jnp.take_along_axis(denoiser(params, x_t, t, *latent), x[..., None], -1)[..., 0]
                revealed = jax.vmap(lambda value, place: jax.ops.segment_sum(value, place, points))(jnp.where(u < rate, log_p, 0.0), bins)
                return jnp.cumsum(revealed, -1)  # log-probability of all that is revealed down to each point, (batch, points)

            if not denoiser.mixture:
                return -to_each().sum(0)
            together = jax.lax.map(to_each, latents_of(latents, batch))
            return (jnp.log(latents) - jax.nn.logsumexp(together, 0)).sum(0)

        return jax.lax.map(one, (parts(x_0), parts(thresholds))).sum(0) / x_0.size

    cost = jnp.concatenate([jax.lax.map(at, rates[:-1]), jnp.zeros((1, points))])
    upper = jnp.triu(cost, 1)
    return Table(jnp.clip(process.schedule.inverse(1 - rates), 0.0, 1.0), jnp.ones(1), (upper - upper.T)[..., None])


def path_cost(learned: Student, table: Table) -> Scalar:
    """The cost of a student's steps by trilinear interpolation of the table, nats a site; differentiable in times and coefficients.

    Steps shorter than a cell of the table see no curvature: use a table of at least 2 M segments to learn or compare grids of M steps."""
    place = lambda t: jnp.interp(t, table.times[::-1], jnp.arange(len(table.times), dtype=t.dtype)[::-1])
    exponent = jnp.interp(learned.coefficients, table.coefficients, jnp.arange(len(table.coefficients), dtype=jnp.float32))
    return jax.scipy.ndimage.map_coordinates(table.cost, [place(learned.times[:-1]), place(learned.times[1:]), exponent], order=1, mode="nearest").sum()


def optimal_times(table: Table, steps: int) -> tuple[np.ndarray, float]:
    """(times (M + 1,), cost in nats a site) of the cheapest M-step grid on the table's times at the coefficient nearest 1; exact."""
    one = int(np.abs(np.asarray(table.coefficients) - 1).argmin())
    path, cost = grids.dynamic_programme(np.asarray(table.cost[..., one]), steps)
    return np.asarray(table.times)[path], cost
