"""The exact law of a sampler's output on small data: propagated through every step over all S^L states, nothing is sampled.

Costs N^2 for N = S^L states and a solver of one call, N^3 for one of two calls; fit for N up to a few thousand, and about 100.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jddd import solvers
from jddd.sampling import Student
from jddd.types import BoundDenoiser, Denoiser, Params, Scalar, bind


def configurations(states: int, length: int) -> Int[Array, "n l"]:
    """All S^L states; the last site runs fastest."""
    return jnp.asarray(np.stack(np.unravel_index(np.arange(states**length), (states,) * length), -1), jnp.int32)


def product(sites: Float[Array, "l s"]) -> Float[Array, "n"]:
    """The law on all S^L states of independent sites."""
    return functools.reduce(lambda law, site: (law[:, None] * site[None]).reshape(-1), sites)


def marginal(law_0: Float[Array, "k"], length: int, t, process) -> Float[Array, "n"]:
    """The law of x_t over S^L states, when x_0 has law_0 over the V^L configurations of data."""
    single = process.noise(jnp.eye(process.symbols, process.states), t)  # (V, S)
    law = law_0.reshape((process.symbols,) * length)
    for _ in range(length):  # each round moves the first axis to the back, noised
        law = jnp.tensordot(law, single, axes=(0, 0))
    return law.ravel()


@functools.partial(jax.jit, static_argnames=("length", "denoiser", "process", "solver", "form", "theta", "latents"))
def step(
    p: Float[Array, "n"], numbers: solvers.Step, params: Params, length: int, *, denoiser: Denoiser, process, solver: str = "tweedie", form: str = "score", theta: float = 0.5, latents: int = 64
) -> Float[Array, "n"]:
    """The law after one step of a sampler that reveals independently, from the law p before it; compiled once for all numbers.

    A mixture's is the mean over `latents` fixed ones, the midpoints of equal parts of [0, 1)."""
    options = dict(process=process, solver=solver, form=form, theta=theta)
    if not denoiser.mixture:
        return _step(p, numbers, bind(denoiser, params), length, **options)
    given = lambda latent: bind(denoiser, params).at(latent)
    return jax.lax.map(lambda latent: _step(p, numbers, given(latent), length, **options), (jnp.arange(latents) + 0.5) / latents).mean(0)


def _step(p, numbers, denoise: BoundDenoiser, length, *, process, solver, form, theta):
    states, batch = configurations(process.states, length), 256
    options = dict(process=process, solver=solver, form=form, theta=theta)

    def log_p(x, stage):
        x, t = x.reshape(-1, length), solvers.stages(solver, theta)[stage].time(numbers)
        return jnp.concatenate([solvers.temper(denoise(x[i : i + 4096], t), numbers.temperature) for i in range(0, len(x), 4096)])

    first = log_p(states, 0)

    def after_first(inputs):
        x, log_p, weight = inputs
        return weight * product(solvers.stage_law(log_p, (x,), (), numbers, 0, **options)[0])

    if solver in solvers.ONE_CALL:
        spread = lambda inputs: jax.vmap(after_first)(inputs).sum(0)
        size = min(batch, len(states))
        padded = jax.tree.map(lambda a: jnp.pad(a, [(0, -len(a) % size)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, size, *a.shape[1:]), (states, first, p))
        return jax.lax.map(spread, padded).sum(0)
    second = log_p(states, 1)

    def after_both(inputs):
        x, log_p, weight = inputs
        middle, scores = solvers.stage_law(log_p, (x,), (), numbers, 0, **options)
        then = lambda y, log_q, weight: weight * product(solvers.stage_law(log_q, (x, y), scores, numbers, 1, **options)[0])
        both = jax.vmap(then)(states, second, product(middle)).sum(0)
        return weight * jnp.where(numbers.last, product(middle), both)

    return jax.lax.map(after_both, (states, first, p)).sum(0)


def propagate(p: Float[Array, "n"], numbers: solvers.Step, params: Params, length: int, **options) -> Float[Array, "n"]:
    """The law after all steps, numbers (M,), from the law p before the first. options: of `step`."""
    numbers = jax.tree.map(np.asarray, numbers)
    return functools.reduce(lambda p, k: step(p, jax.tree.map(lambda a: a[k], numbers), params, length, **options), range(len(numbers.t)), p)


def sampler(student: Student, params: Params, length: int, *, denoiser: Denoiser, process, start: Float[Array, "n"] | None = None, **options) -> Float[Array, "n"]:
    """The law of a sampler's output over S^L states; start: the law at the first time, by default the prior's. options: of `step`.

    Raises ValueError for a start of another length, and for a first time with alpha = 0, from which only a single step has a law: the score of every
    symbol is 0 there, at an infinite rate."""
    if student.count > 1 and not float(process.schedule.alpha(student.times[0])) > 0:
        raise ValueError(f"sampler.times begins with {float(student.times[0])}, where alpha is 0; allowed: a schedule with alpha(t_0) > 0, as Linear(1e-10) in float64, or one step")
    if start is None:
        prior = process.noise(jnp.zeros((1, process.states)), 1.0)[0]  # what is left of no data at all: the noise itself
        start = product(jnp.broadcast_to(prior / prior.sum(), (length, process.states)))
    if len(start) != process.states**length:
        raise ValueError(f"start has {len(start)} states; allowed: {process.states**length}, all those of {length} sites")
    return propagate(start, student.steps(), params, length, denoiser=denoiser, process=process, **options)


def total_variation(p: Float[Array, "n"], q: Float[Array, "n"]) -> Scalar:
    """Half the L1 distance."""
    return 0.5 * jnp.abs(p - q).sum()


def kl(p: Float[Array, "n"], q: Float[Array, "n"]) -> Scalar:
    """KL(p || q) in nats; infinite where q misses a state of p."""
    return jnp.sum(jnp.where(p > 0, p * (jnp.log(jnp.where(p > 0, p, 1.0)) - jnp.log(q)), 0.0))


def data_law(law: Float[Array, "n"], length: int, process) -> Float[Array, "k"]:
    """The part of a law on S^L states that lies on data (no masks), in the order of the V^L configurations."""
    cut = (slice(0, process.symbols),) * length
    return law.reshape((process.states,) * length)[cut].ravel()
