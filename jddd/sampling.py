"""THE sampler: one lax.scan over (key, t, s, coefficient), for teachers and students alike, on any process, solver and grid."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jddd import processes, solvers
from jddd.types import BoundDenoiser, Coefficients, Denoiser, PRNGKey, Times, bind


# Which sites a step of the absorbing process reveals, always as many as its numbers say:
REVEALS = (
    "independent",  # each site by its own fresh draw: the forward process reversed
    "coupled",  # the same law, but one draw of noise for the whole run: chains with equal keys stay close, whatever their grids
    "spread",  # a low-discrepancy sequence with a random start: sites revealed together lie far apart
    "confident",  # the sites with the highest confidence * log p(symbol) + Gumbel noise (0: random; large: MaskGIT's order)
)


def spread_thresholds(key: PRNGKey, shape: tuple[int, int]) -> Float[Array, "b l"]:
    """Reveal thresholds u_i = frac(shift + i / golden ratio), one uniform shift a row: each is uniform on [0, 1), and sites whose thresholds fall
    in one interval of width w lie at least about 1 / (sqrt(5) w) apart (Kronecker's sequence; the three-gap theorem)."""
    return jnp.mod(jax.random.uniform(key, (shape[0], 1)) + jnp.arange(shape[1]) * ((5**0.5 - 1) / 2), 1.0)


@flax.struct.dataclass
class Student:
    """The numbers of a sampler of M steps, a pytree: LSD learns coefficients (M,), LSD+ the times (M + 1,) too.

    temperatures (M,) divide the log-probabilities of the drawn symbols; confidences (M,) order the reveals where `reveal` is 'confident'."""

    times: Times
    coefficients: Coefficients
    temperatures: Coefficients
    confidences: Coefficients

    @property
    def nfe(self) -> int:
        return self.coefficients.shape[0]


def plain(times: Times, temperature: float = 1.0) -> Student:
    """A sampler with nothing learned on a grid of M + 1 times."""
    ones = jnp.ones(len(times) - 1)
    return Student(jnp.asarray(times, jnp.float32), ones, ones * temperature, ones * 0)


def check(student: Student, *, process, solver: str, form: str, precision: str = "high") -> None:
    """Raise ValueError, naming the field, for a student that no sampler can run (for values known before jit)."""
    for value, allowed, field in ((solver, solvers.SOLVERS, "solver"), (form, solvers.FORMS, "form"), (precision, solvers.PRECISIONS, "precision")):
        if value not in allowed:
            raise ValueError(f"sampler.{field} is {value!r}; allowed: {', '.join(allowed)}")
    times = np.asarray(student.times)
    if times.ndim != 1 or len(times) != student.nfe + 1:
        raise ValueError(f"sampler.times has shape {times.shape} for {student.nfe} coefficients; allowed: one more than the coefficients")
    if not (np.isfinite(times).all() and (np.diff(times) < 0).all() and times[0] <= 1 and times[-1] >= 0):
        raise ValueError(f"sampler.times is {times.tolist()}; allowed: finite, strictly falling, within [0, 1]")
    for field in ("coefficients", "temperatures"):
        values = np.asarray(getattr(student, field))
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"sampler.{field} is {values.tolist()}; allowed: finite positive numbers")
    if form == "log_score" and isinstance(process, processes.Absorbing) and not float(process.log_odds(student.times[0])) > -jnp.inf:
        raise ValueError("sampler.form is 'log_score', which needs alpha(t_0) > 0; allowed: a process with eps > 0, or a first time below 1")


def sample(
    key: PRNGKey,
    student: Student,
    denoise: BoundDenoiser,
    shape: tuple[int, int],
    *,
    process,
    solver: str = "tweedie",
    form: str = "score",
    given: Int[Array, "b l"] | None = None,
    fixed: Bool[Array, "b l"] | None = None,
    chunk: int = -1,
    precision: str = "high",
    reveal: str = "independent",
    trajectory: bool = False,
):
    """Samples (B, L) int32; with trajectory=True also the states after each step, (M, B, L). M network calls; nothing of size M x B x L x V.

    given, fixed: symbols, and where they hold: those sites are never touched (a prefix, an infill), or with fixed=None the state at the first time.
    chunk: sites a call of the network's head, absorbing process only; 0 runs it everywhere, -1 picks a size from the shape and M.
    (-1 and positive sizes run a while_loop, which has no reverse-mode derivative; 0 has one.)
    precision: of the categorical draw's noise; 'low' cuts the tail at about 2^-23 (jax's default), 'high' has correct tails.
    reveal (absorbing process): which sites are revealed in a step, see REVEALS; all but 'independent' are one choice for the whole run.
    """
    absorbing = isinstance(process, processes.Absorbing)
    if reveal not in REVEALS:
        raise ValueError(f"sampler.reveal is {reveal!r}; allowed: {', '.join(REVEALS)}")
    if reveal != "independent" and not absorbing:
        raise ValueError(f"sampler.reveal is {reveal!r}, which has a meaning for the absorbing process only; allowed: 'independent'")
    kept = reveal in ("coupled", "spread")
    if kept and form != "score":
        raise ValueError(f"sampler.reveal is {reveal!r}, which needs form 'score' (a site's chance must not depend on the network); form is {form!r}")
    if chunk < 0:
        chunk = min(shape[0] * shape[1], -(-shape[0] * shape[1] // (2 * student.nfe)) + 15 & ~15)
    key_prior, key_scan = jax.random.split(key)
    key_prior, key_first = jax.random.split(key_prior)
    x = process.prior(key_prior, shape)
    if given is not None:
        x = given.astype(x.dtype) if fixed is None else jnp.where(fixed, given.astype(x.dtype), x)
    count = student.nfe
    last = jnp.arange(count) == count - 1
    steps = solvers.Step(student.times[:-1], student.times[1:], student.coefficients, student.temperatures, student.confidences, last)
    keys = jax.random.split(key_scan, count)

    def body(carry, inputs):
        x, threshold = carry
        key, step = inputs
        key_step, key_threshold = jax.random.split(key_scan if reveal == "coupled" else key)
        if absorbing:
            now = threshold if kept else jax.random.uniform(key_threshold, shape)
            confident = reveal == "confident"
            new = solvers.absorbing_step(key_step, x, now, step, denoise, process=process, solver=solver, form=form, chunk=chunk, precision=precision, ordered=confident)
            if kept:  # what is left of a threshold, given that it was not reached, is uniform again
                left = 1 - solvers.reveal_probability(solvers.log_amplitude(process, step, solver, form), solver)
                threshold = threshold / jnp.maximum(left, jnp.finfo(left.dtype).tiny)
        else:
            new = solvers.dense_step(key_step, x, step, denoise, process=process, solver=solver, form=form, precision=precision)
        if fixed is not None and not absorbing:
            new = jnp.where(fixed, x, new)
        return (new, threshold), new if trajectory else None

    first = {"coupled": jax.random.uniform, "spread": spread_thresholds}[reveal](key_first, shape) if kept else jnp.zeros(())
    (x, _), states = jax.lax.scan(body, (x, first), (keys, steps))
    return (x, states) if trajectory else x


@functools.lru_cache(maxsize=256)
def sampler(denoiser: Denoiser, process, shape: tuple[int, int], *, solver: str = "tweedie", **options) -> Callable:
    """A jitted (key, params, student, given=None, fixed=None) -> samples; compiled once per shape and number of steps. options: of `sample`."""
    if solver != (same := solvers.canonical(solver, process)):
        return sampler(denoiser, process, shape, solver=same, **options)

    @jax.jit
    def run(key, params, student, given=None, fixed=None):
        return sample(key, student, bind(denoiser, params), shape, process=process, solver=solver, given=given, fixed=fixed, **options)

    return run
