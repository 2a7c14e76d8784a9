"""Exact simulation of the uniform process backwards in time, by thinning: no step size, a random number of network calls.

(The absorbing process has a simpler exact simulation of L calls: sampling with reveal 'first_hitting'.)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jddd import processes, schedules, solvers
from jddd.types import Denoiser, Params, PRNGKey, bind


class Simulated(NamedTuple):
    """samples (B, L); calls (B,): network calls each row needed."""

    samples: Int[Array, "b l"]
    calls: Int[Array, "b"]


def expected_candidates(t, s, process: processes.Uniform):
    """The integral over [s, t] of a bound on a site's total reverse rate, -alpha'/alpha ((V - 1)/V + alpha / (1 - alpha)), which holds for every
    denoiser: the ratio p_t(y) / p_t(x) summed over y is at most V - 1 + alpha V / (1 - alpha)."""
    alpha_t, alpha_s = process.schedule.alpha(t), process.schedule.alpha(s)
    return (1 - 1 / process.symbols) * (jnp.log(alpha_s) - jnp.log(alpha_t)) + jnp.log1p(-alpha_t) - jnp.log1p(-alpha_s)


def gillespie(key: PRNGKey, params: Params, shape: tuple[int, int], *, denoiser: Denoiser, process, start: float = 1.0, end: float = 1e-3) -> Simulated:
    """Samples of the reverse process itself, from the prior at `start` to `end`, where x_0 is drawn from the denoiser site by site.

    Candidate times come from a Poisson process of the bounding rate; at each the network is called, and a uniformly chosen site jumps with the
    probability (its rate) / (the bound) (Lewis & Shedler 1979; for discrete diffusion, uniformization: Chen & Ying 2024). About
    L * expected_candidates network calls. Raises ValueError where that is infinite in the run's precision: alpha(start) = 0 or alpha(end) = 1, as they are
    rounded."""
    if not isinstance(process, processes.Uniform):
        raise ValueError(f"gillespie's process is {type(process).__name__}; allowed: Uniform (for Absorbing sample with reveal 'first_hitting')")
    if not (0 < end < start <= 1 and jnp.isfinite(expected_candidates(*(jnp.asarray(t, jnp.result_type(float)) for t in (start, end)), process))):
        raise ValueError(f"gillespie start and end are {start}, {end} with {process.schedule}; allowed: 0 < end < start <= 1 with alpha(start) > 0 and alpha(end) < 1 in {jnp.result_type(float)}")
    return _simulate(key, params, shape, denoiser=denoiser, process=process, start=start, end=end)


@functools.partial(jax.jit, static_argnames=("shape", "denoiser", "process", "start", "end"))
def _simulate(key, params, shape, *, denoiser, process, start, end) -> Simulated:
    batch, length = shape
    denoise = bind(denoiser, params)
    key_prior, key_last, key_loop = jax.random.split(key, 3)

    def earlier(t, amount):
        """The time s < t with length * expected_candidates(t, s) = amount, or `end` if it is before that; bisection, 40 halvings."""

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            below = length * expected_candidates(t, middle, process) > amount  # s = middle is too far back
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, 40, halve, (jnp.full_like(t, end), t))
        return 0.5 * (low + high), length * expected_candidates(t, jnp.full_like(t, end), process) > amount

    def event(carry):
        turn, x, t, alive, calls = carry
        key_time, key_site, key_jump = jax.random.split(jax.random.fold_in(key_loop, turn), 3)
        s, inside = earlier(t, jax.random.exponential(key_time, (batch,)))
        alive = alive & inside
        s = jnp.where(alive, s, t)
        rows = jnp.arange(batch)
        site = jax.random.randint(key_site, (batch,), 0, length)
        log_p, here = denoise(x, s)[rows, site], x[rows, site]
        rate = solvers.reverse_rate(process.log_score(log_p, here, s), here, s[:, None], process)
        alpha = process.schedule.alpha(s)
        bound = schedules.noise_rate(process.schedule, s) * (1 - 1 / process.symbols + alpha / (1 - alpha))
        law = jnp.concatenate([rate, jnp.maximum(bound - rate.sum(-1), 0.0)[:, None]], -1)  # the last entry: no jump
        to = jax.random.categorical(key_jump, jnp.log(law), mode="high").astype(x.dtype)
        moved = alive & (to < process.symbols)
        return turn + 1, x.at[rows, site].set(jnp.where(moved, to, here)), s, alive, calls + alive

    x = process.prior(key_prior, shape)
    first = (jnp.zeros((), jnp.int32), x, jnp.full((batch,), start, jnp.result_type(float)), jnp.ones(batch, bool), jnp.zeros(batch, jnp.int32))
    _, x, _, _, calls = jax.lax.while_loop(lambda carry: carry[3].any(), event, first)
    return Simulated(jax.random.categorical(key_last, denoise(x, jnp.asarray(end)), mode="high").astype(x.dtype), calls + 1)
