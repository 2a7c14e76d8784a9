"""Jump Your Steps (Park et al. 2024, arXiv 2410.07761): a grid of M steps by splitting intervals where a further step changes the sampler most.

A sampler that goes t_1 -> t_next in one step keeps the reverse rates R_1 of (x_{t_1}, t_1); one that stops at t_2 uses R_2 of (x_{t_2}, t_2) from
there. The KLUB, an upper bound of the KL between the two, is what the stop is worth; t_2 maximises it by golden section, and 1 -> 2 -> 4 -> ... -> M
steps come from splitting every interval at its best t_2. Nothing is learned: no gradient, only calls of the network on noised data.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jddd import processes, schedules, solvers
from jddd.sampling import plain, sample
from jddd.types import BoundDenoiser, Denoiser, Params, PRNGKey, Scalar, Time, Times, bind

VARIANTS = ("data", "path")  # x_{t_2} is noised from the same data as x_{t_1}, or is one step of the sampler from x_{t_1}
PHI = 1.618  # as the reference rounds it
EARLIEST = 1e-5  # rates diverge at t = 0; the reference's last time, and its time of a row without masks


def _column(t):
    """A scalar, or one number a row, against (B, L)."""
    t = jnp.asarray(t)
    return t if t.ndim == 0 else t[..., None]


def reverse_rates(log_p: Float[Array, "b l v"], x_t: Int[Array, "b l"], t: Time, process) -> Float[Array, "b l v"]:
    """Rates per unit of t at which each site jumps to each data symbol, running backwards: schedule rate * forward rate into x_t * score.

    t is a scalar or one time a row, taken as EARLIEST below that. Absorbing: the mask's column is left out, and the score's alpha / (1 - alpha) is
    cancelled against the schedule's rate, so that t = 1 is finite with alpha(1) = 0. Other processes need alpha(t) > 0; the own state has rate 0."""
    t = _column(jnp.maximum(jnp.asarray(t, log_p.dtype), EARLIEST))
    alpha, slope = process.schedule.alpha(t), schedules.slope(process.schedule, t)
    if isinstance(process, processes.Absorbing):
        rate = -slope / (1 - alpha)
        return jnp.where(process.noised(x_t)[..., None], rate[..., None] * jnp.exp(log_p), 0.0)
    rate = -slope / alpha
    return rate[..., None] * process.rate_into(x_t) * jnp.exp(process.log_score(log_p, x_t, t))


def klub(rate_1: Float[Array, "b l v"], rate_2: Float[Array, "b l v"], step: Time, *, complete: bool = False) -> Scalar:
    """The mean over rows and sites of sum_y step R_2(y) (log R_2(y) - log R_1(y)), nats a site; step = t_2 - t_next, a scalar or one a row.

    The logs add 1e-8 to each rate, as the reference's do (enkeejunior1/jump-your-steps). It leaves out the bound's R_1 - R_2, which for the absorbing
    process with a linear schedule has mean 0 (all rates of a site sum to 1 a unit of t on average). Elsewhere it does not: `complete` adds it, and
    skips the targets with R_1 = 0 (the site's state at t_1, towards which R_1 has no effect)."""
    gain = rate_2 * (jnp.log(rate_2 + 1e-8) - jnp.log(rate_1 + 1e-8))
    if complete:
        gain = jnp.where(rate_1 > 0, gain + rate_1 - rate_2, 0.0)
    return (_column(step) * gain.sum(-1)).mean()


def golden_section(f: Callable[[float], float], low: float | int, high: float | int, *, tolerance: float = 1e-4, most: int = 32) -> tuple[float, np.ndarray]:
    """(a minimum of f in [low, high], the points f was called at, in order): both ends and the inner point, then one a step.

    This is the reference's variant, not the textbook's: phi is 1.618, a step probes the larger side of the inner point, and a better probe replaces
    the inner point while the bracket keeps its width (only a worse probe becomes an end). Stops when the bracket is at most `tolerance` wide or after
    `most` steps. The values at the ends decide nothing."""
    low, high = float(low), float(high)
    inner = low + (high - low) / (1 + PHI)
    points = [low, inner, high]
    _, least, _ = [f(x) for x in points]
    while high - low > tolerance and len(points) < 3 + most:
        right = high - inner > inner - low
        probe = inner + (high - inner) / (1 + PHI) if right else inner - (inner - low) / (1 + PHI)
        points.append(probe)
        if (value := f(probe)) < least:
            inner, least = probe, value
        elif right:
            high = probe
        else:
            low = probe
    return inner, np.array(points)


def best_count(f: Callable[[int], float], low: int, high: int) -> int:
    """The count in low..high where f is least, exactly if f falls and then rises; each count is asked once.

    The golden section on rounded counts, then steps from the best count seen to its better neighbour: rounding makes the section lose the minimum by a
    count or so (in 3 % of the V-shaped functions tried)."""
    f = functools.cache(f)
    _, points = golden_section(lambda k: f(round(k)), low, high, tolerance=0.5)
    best = min({round(k) for k in points}, key=f)
    while (better := min((k for k in (best, best - 1, best + 1) if low <= k <= high), key=f)) != best:
        best = better
    return best


def _parts(array, batch: int):
    return array.reshape(-1, batch, *array.shape[1:])


@functools.partial(jax.jit, static_argnames=("denoiser", "process", "variant", "solver", "batch"))
def klub_times(
    key: PRNGKey, params: Params, x_0: Int[Array, "n l"], t_1: Time, t_2: Time, t_next: Time, *, denoiser: Denoiser, process, variant: str, solver: str, batch: int
) -> Scalar:
    """What a stop at t_2 on the way t_1 -> t_next is worth, nats a site, from data windows x_0; 2 N / batch network calls, N a multiple of batch.

    Equal keys give equal noise whatever the times: it is a smooth function of them but for sites that change at one value of t. Processes other than
    Absorbing need the complete KLUB: without it the uniform text teacher's grid of 8 steps went from 0.99 straight to 0.001."""
    complete = not isinstance(process, processes.Absorbing)
    denoise = bind(denoiser, params)
    t_2 = jnp.maximum(t_2, EARLIEST)  # a search that ends at 0 asks there too, where the posterior of a uniform process is not finite

    def one(inputs):
        key, x = inputs
        key_noise, key_step = jax.random.split(key)
        x_1 = process.corrupt(key_noise, x, t_1)
        log_p = denoise(x_1, t_1)
        if variant == "data":
            x_2 = process.corrupt(key_noise, x, t_2)
        else:
            known = BoundDenoiser(lambda x_t, t: log_p, lambda hidden: hidden)  # what the step asks for is there already
            two = plain(jnp.stack([t_1, t_2, 0.5 * t_2]))  # the sampler's last step draws x_0, so that the one wanted is not the last
            x_2 = sample(key_step, two, known, x.shape, process=process, solver=solver, given=x_1, chunk=0, trajectory=True)[1][0]
        return klub(reverse_rates(log_p, x_1, t_1, process), reverse_rates(denoise(x_2, t_2), x_2, t_2, process), t_2 - t_next, complete=complete)

    return jax.lax.map(one, (jax.random.split(key, len(x_0) // batch), _parts(x_0, batch))).mean()


def counted(u: Float[Array, "b l"], x_0: Int[Array, "b l"], k: Int[Array, ""] | int, process: processes.Absorbing) -> tuple[Int[Array, "b l"], Float[Array, "b"]]:
    """(states with exactly k clean sites a row, those of the k largest draws u; each row's time, at which the mask probability is the largest draw
    among its masked sites, within [EARLIEST, 1]; EARLIEST where nothing is masked). Equal draws give nested states."""
    masked = jnp.argsort(jnp.argsort(-u, -1), -1) >= k
    largest = jnp.where(masked, u, 0.0).max(-1)
    t = jnp.clip(jnp.where(masked.any(-1), process.schedule.inverse(1 - largest), 0.0), EARLIEST, 1.0)
    return jnp.where(masked, process.mask_id, x_0), t


@functools.partial(jax.jit, static_argnames=("denoiser", "process", "variant", "batch"))
def klub_counts(
    key: PRNGKey,
    params: Params,
    x_0: Int[Array, "n l"],
    k_1: Int[Array, ""] | int,
    k_2: Int[Array, ""] | int,
    k_next: Int[Array, ""] | int,
    *,
    denoiser: Denoiser,
    process: processes.Absorbing,
    variant: str,
    batch: int,
) -> Scalar:
    """What a stop at k_2 clean sites on the way k_1 -> k_next is worth for the k-Gillespie sampler, which reveals given numbers of sites in a random
    order; nats a site, from data windows x_0; 2 N / batch network calls, N a multiple of batch. Equal keys give equal orders and symbols."""
    denoise = bind(denoiser, params)

    def one(inputs):
        key, x = inputs
        key_order, key_symbol = jax.random.split(key)
        u = jax.random.uniform(key_order, x.shape)
        (x_1, t_1), (x_2, t_2), (_, t_next) = (counted(u, x, k, process) for k in (k_1, k_2, k_next))
        log_p = denoise(x_1, t_1)
        if variant == "path":  # the same sites as from the data, with symbols of the network
            drawn = jax.random.categorical(key_symbol, log_p, mode="high").astype(x.dtype)
            x_2 = jnp.where(process.noised(x_1) & ~process.noised(x_2), drawn, x_2)
        return klub(reverse_rates(log_p, x_1, t_1, process), reverse_rates(denoise(x_2, t_2), x_2, t_2, process), t_2 - t_next)

    return jax.lax.map(one, (jax.random.split(key, len(x_0) // batch), _parts(x_0, batch))).mean()


def _check(x_0, steps: int, variant: str, batch: int) -> None:
    if steps < 1 or steps & (steps - 1):
        raise ValueError(f"steps is {steps}; allowed: a power of two, as every interval is split in two")
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; allowed: {', '.join(VARIANTS)}")
    if batch < 1 or not len(x_0) or len(x_0) % batch:
        raise ValueError(f"x_0 has {len(x_0)} rows and batch is {batch}; allowed: rows a positive multiple of batch")


def _cost(objective, first, middle, last) -> float:
    """-KLUB, to be minimised. NaN compares false with everything and would pass for a search that found nothing better."""
    value = float(objective(first, middle, last))
    if not math.isfinite(value):
        raise FloatingPointError(f"the KLUB of {first} -> {middle} -> {last} is {value}: does the denoiser return normalised log-probabilities there?")
    return -value


def _halve(first, last, steps: int, split: Callable) -> list:
    """steps + 1 points: split(a, b, steps that will lie in each half) is called on every interval until there are `steps` of them."""
    points = [first, last]
    while len(points) <= steps:
        half = steps // (2 * (len(points) - 1))
        middles = [split(a, b, half) for a, b in itertools.pairwise(points)]
        points = [*itertools.chain.from_iterable(zip(points, middles)), last]
    return points


def optimise_times(
    key: PRNGKey,
    params: Params,
    x_0: Int[Array, "n l"],
    steps: int,
    *,
    denoiser: Denoiser,
    process,
    variant: str = "data",
    solver: str = "tweedie",
    start: float = 1.0,
    end: float = 0.0,
    batch: int = 32,
) -> Times:
    """The JYS grid, (M + 1,) falling times from `start` to `end`, from data windows x_0 (N, L); at most 19 * (M - 1) * 2 N / batch network calls.

    solver: of the step that variant 'path' takes to x_{t_2}; 'data' does not use it. The noise is drawn once from `key`, so each search sees one fixed
    function. ValueError: steps not a power of two; N not a multiple of batch; a variant, solver, start or end that is not allowed."""
    _check(x_0, steps, variant, batch)
    if solver not in solvers.ONE_CALL:
        raise ValueError(f"solver is {solver!r}; allowed: {', '.join(solvers.ONE_CALL)}, which keep the rates of one state for a whole step")
    if not 0 <= end < start <= 1:
        raise ValueError(f"start is {start} and end is {end}; allowed: 0 <= end < start <= 1")
    if not isinstance(process, processes.Absorbing) and not float(process.schedule.alpha(start)) > 0:
        raise ValueError(f"start is {start}, where alpha is 0 and the reverse rates of {type(process).__name__} are not finite; allowed: alpha(start) > 0")
    solver = solvers.canonical(solver, process)
    objective = functools.partial(klub_times, key, params, x_0, denoiser=denoiser, process=process, variant=variant, solver=solver, batch=batch)
    split = lambda high, low, half: golden_section(lambda t: _cost(objective, high, t, low), low, high, tolerance=1e-3 * (high - low), most=16)[0]
    return jnp.asarray(_halve(float(start), float(end), steps, split), jnp.float32)


def optimise_counts(
    key: PRNGKey, params: Params, x_0: Int[Array, "n l"], steps: int, *, denoiser: Denoiser, process, variant: str = "data", batch: int = 32
) -> np.ndarray:
    """The JYS grid of the k-Gillespie sampler: (M + 1,) numbers of clean sites, rising from 0 to L, from data windows x_0 (N, L).

    Each search leaves every half at least one site a step. ValueError: a process without a mask; steps not a power of two or above L; N not a
    multiple of batch; an unknown variant."""
    _check(x_0, steps, variant, batch)
    if not isinstance(process, processes.Absorbing):
        raise ValueError(f"process is {type(process).__name__}, which has no numbers of clean sites; allowed: Absorbing")
    length = x_0.shape[1]
    if steps > length:
        raise ValueError(f"steps is {steps} for {length} sites; allowed: at most one step a site")
    objective = functools.partial(klub_counts, key, params, x_0, denoiser=denoiser, process=process, variant=variant, batch=batch)

    split = lambda first, last, half: best_count(lambda k: _cost(objective, first, k, last), first + half, last - half)
    return np.array(_halve(0, length, steps, split))
