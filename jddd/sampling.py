"""THE sampler: one lax.scan over (key, t, s, coefficient), for teachers and students alike, on any process, solver and grid."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jddd import absorbing, processes, remasking, solvers
from jddd.types import BoundDenoiser, Coefficients, Denoiser, PRNGKey, Times, bind


@flax.struct.dataclass
class Student:
    """The numbers of a sampler of M steps, a pytree: LSD learns coefficients (M,), LSD+ the times (M + 1,) too.

    temperatures (M,) divide the log-probabilities of the drawn symbols; confidences (M,) order the reveals of 'confident' and 'counted'; remasks (M,)
    are ReMDM's shares (see jddd.remasking), corrections (M,) the corrector's times over the step's, bounds (M,) entropy-bounded unmasking's, in nats."""

    times: Times
    coefficients: Coefficients
    temperatures: Coefficients
    confidences: Coefficients
    remasks: Coefficients
    corrections: Coefficients
    bounds: Coefficients

    @property
    def count(self) -> int:
        """M, the number of steps; solvers.calls gives the network calls."""
        return self.coefficients.shape[0]

    def steps(self) -> solvers.Step:
        """What the scan runs over: every field (M,)."""
        last = jnp.arange(self.count) == self.count - 1
        numbers = (self.coefficients, self.temperatures, self.confidences, self.remasks, self.corrections, self.bounds)
        return solvers.Step(self.times[:-1], self.times[1:], *numbers, last)


def plain(times: Times, temperature: float = 1.0) -> Student:
    """A sampler with nothing learned on a grid of M + 1 times: no order, no remasking, correctors as long as their steps."""
    ones = jnp.ones(len(times) - 1)
    return Student(jnp.asarray(times, ones.dtype), ones, ones * temperature, ones * 0, ones * 0, ones, ones * 0)


def maskgit(times: Times, choice_temperature: float = 4.5) -> Student:
    """MaskGIT's order for reveal 'counted': log p(symbol) + temperature * (1 - (k + 1) / M) * Gumbel noise in step k, annealed to 0 (Chang et al. 2022)."""
    student = plain(times)
    return student.replace(confidences=1 / jnp.maximum(choice_temperature * jnp.linspace(1.0, 0.0, student.count + 1)[1:], 1e-4))


def named(solver: str, form: str, precision: str, reveal: str) -> None:
    """Raise ValueError for a name that does not exist."""
    choices = ((solver, solvers.SOLVERS, "solver"), (form, solvers.FORMS, "form"), (precision, solvers.PRECISIONS, "precision"), (reveal, absorbing.REVEALS, "reveal"))
    for value, allowed, field in choices:
        if value not in allowed:
            raise ValueError(f"sampler.{field} is {value!r}; allowed: {', '.join(allowed)}")


def check(
    student: Student, *, process, solver: str, form: str, precision: str = "high", reveal: str = "independent", theta: float = 0.5, length: int | None = None
) -> None:
    """Raise ValueError, naming the field, for a student that no sampler can run (for values known before jit).

    Refused: unknown names; times that do not fall within [0, 1]; numbers that are not finite, not in their range or not (M,), one a step, M >= 1; a
    start at alpha = 0 where scores are divided by it; reveals, remasking and coefficients where they have no meaning. length: L, where it is known."""
    named(solver, form, precision, reveal)
    if not 0 < theta < 1:
        raise ValueError(f"sampler.theta is {theta}; allowed: above 0, below 1")
    times = np.asarray(student.times)
    if times.ndim != 1 or len(times) < 2 or not (np.isfinite(times).all() and (np.diff(times) < 0).all() and times[0] <= 1 and times[-1] >= 0):
        raise ValueError(f"sampler.times is {times.tolist()}; allowed: two or more numbers, finite, strictly falling, within [0, 1]")
    most = np.asarray(remasking.largest(jnp.asarray(times), process)) + 1e-6
    positive, natural = (np.nextafter(0, 1), np.inf, " above 0"), (-1e-6, np.inf, " of 0 or more")
    ranges = {"coefficients": positive, "temperatures": positive, "confidences": (-np.inf, np.inf, ""), "corrections": natural, "bounds": natural}
    ranges["remasks"] = (-1e-6, most, f", 0 to {np.round(most, 3).tolist()} by step")
    for field, (low, high, allowed) in ranges.items():
        values = np.asarray(getattr(student, field))
        if values.shape != (len(times) - 1,):
            raise ValueError(f"sampler.{field} has shape {values.shape} and sampler.times {times.shape}; allowed: one number a step, {(len(times) - 1,)}")
        if not (np.isfinite(values).all() and (values >= low).all() and (values <= high).all()):
            raise ValueError(f"sampler.{field} is {values.tolist()}; allowed: finite numbers{allowed}")
    absorbs = isinstance(process, processes.Absorbing)
    if reveal != "independent" and not (absorbs and solver in solvers.ONE_CALL):
        raise ValueError(f"sampler.reveal is {reveal!r} with {type(process).__name__} and solver {solver!r}; allowed: 'independent', or Absorbing and {', '.join(solvers.ONE_CALL)}")
    if reveal in ("coupled", "spread", "counted", "first_hitting") and form != "score":
        raise ValueError(f"sampler.reveal is {reveal!r} with form {form!r}; allowed: form 'score' (how many sites are revealed must not depend on the network)")
    reasons = [(form == "log_score" and absorbs, f"form is {form!r}"), (not absorbs or solver in solvers.TWO_CALLS, f"solver is {solver!r}")]
    for needed, reason in reasons:
        if needed and not float(process.schedule.alpha(student.times[0])) > 0:
            raise ValueError(f"sampler.{reason}, which needs alpha(t_0) > 0; allowed: a process with eps > 0, or a first time below 1")
    if reveal == "first_hitting":
        for field, plain_value in (("coefficients", 1), ("confidences", 0)):
            if not ((values := np.asarray(getattr(student, field))) == plain_value).all():
                raise ValueError(f"sampler.{field} is {values.tolist()}, which has no meaning for reveal 'first_hitting': it simulates the reverse process itself; allowed: {plain_value}")
        if length is not None and student.count != length:
            raise ValueError(f"sampler.reveal is 'first_hitting' with {student.count} steps; allowed: one step a site, {length}")
    if np.asarray(student.remasks).any() and (reveal != "independent" or solver in solvers.TWO_CALLS):
        raise ValueError(f"sampler.remasks are set with reveal {reveal!r} and solver {solver!r}; allowed: reveal 'independent' and {', '.join(solvers.ONE_CALL)}")


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
    theta: float = 0.5,
    trajectory: bool = False,
):
    """Samples (B, L) int32; with trajectory=True also the states after each step, (M, B, L). solvers.calls network calls; nothing of size M x B x L x V.

    given, fixed: symbols, and where they hold: those sites are never touched (a prefix, an infill), or with fixed=None the state at the first time.
    chunk: sites a call of the network's head, absorbing process only; 0 runs it everywhere, -1 picks a size from the shape and M.
    (-1 and positive sizes run a while_loop, which has no reverse-mode derivative; 0 has one.)
    precision: of the categorical draw's noise; 'low' cuts the tail at about 2^-23 (jax's default), 'high' has correct tails.
    reveal (absorbing process, solvers of one call): which sites are revealed in a step, see absorbing.REVEALS; one choice for the whole run.
    theta: of the theta methods, see solvers.stages.
    """
    fast = isinstance(process, processes.Absorbing) and solver in solvers.ONE_CALL
    named(solver, form, precision, reveal)
    if not 0 < theta < 1:
        raise ValueError(f"sampler.theta is {theta}; allowed: above 0, below 1")
    if reveal != "independent" and not fast:
        raise ValueError(f"sampler.reveal is {reveal!r}, which has a meaning for the absorbing process and solvers of one call only; allowed: 'independent'")
    kept = reveal in ("coupled", "spread")
    if (kept or reveal in ("counted", "first_hitting")) and form != "score":
        raise ValueError(f"sampler.reveal is {reveal!r}, which needs form 'score' (how many sites are revealed must not depend on the network); form is {form!r}")
    if reveal == "first_hitting" and student.count != shape[1]:
        raise ValueError(f"sampler.reveal is 'first_hitting' with {student.count} steps; allowed: one step a site, {shape[1]}")
    if chunk < 0:
        chunk = min(shape[0] * shape[1], -(-shape[0] * shape[1] // (2 * student.count)) + 15 & ~15)
    key_prior, key_scan = jax.random.split(key)
    key_prior, key_first = jax.random.split(key_prior)
    x = process.prior(key_prior, shape)
    if given is not None:
        x = given.astype(x.dtype) if fixed is None else jnp.where(fixed, given.astype(x.dtype), x)
    steps, keys = student.steps(), jax.random.split(key_scan, student.count)
    options = dict(process=process, solver=solver, form=form, precision=precision)
    masked_first = process.noised(x).sum(-1)

    def fast_step(key, key_threshold, x, carry, step, denoise):
        """carry: of 'coupled' and 'spread' the thresholds (B, L), of 'counted' the share of sites still masked, of 'first_hitting' the mask rate (B,)."""
        threshold, number, at = jnp.zeros(()), None, None
        left = 1 - jnp.where(step.last, 1.0, absorbing.reveal_probability(absorbing.log_amplitude(process, step, solver, form), solver))
        if kept:  # what is left of a threshold, given that it was not reached, is uniform again
            threshold, carry = carry, carry / jnp.maximum(left, jnp.finfo(left.dtype).tiny)
        elif reveal == "counted":
            carry = carry * left
            number = process.noised(x).sum(-1) - jnp.round(carry * masked_first).astype(jnp.int32)
        elif reveal == "first_hitting":
            n = process.noised(x).sum(-1)
            carry = carry * jax.random.uniform(key_threshold, shape[:1]) ** (1 / jnp.maximum(n, 1))
            at, number = process.schedule.inverse(1 - carry), jnp.ones_like(n)
        else:
            threshold = jax.random.uniform(key_threshold, shape)
        new = absorbing.absorbing_step(key, x, jnp.broadcast_to(threshold, shape), step, denoise, chunk=chunk, reveal=reveal, count=number, at=at, **options)
        return new, carry

    def body(carry, inputs):
        x, own = carry
        key, step = inputs
        key_step, key_threshold = jax.random.split(key_scan if reveal == "coupled" else key)
        # One latent a sample and step, for both calls of a step; fresh ones even where steps share their noise.
        here = denoise.at(jax.random.uniform(jax.random.fold_in(key, 2), shape[:1])) if denoise.mixture else denoise
        if fast:
            new, own = fast_step(key_step, key_threshold, x, own, step, here)
        else:
            new = solvers.dense_step(key_step, x, step, here, theta=theta, fixed=fixed, **options)
        if fixed is not None:
            new = jnp.where(fixed, x, new)
        return (new, own), new if trajectory else None

    first = jnp.ones(())
    if kept:
        first = {"coupled": jax.random.uniform, "spread": absorbing.spread_thresholds}[reveal](key_first, shape)
    elif reveal == "first_hitting":
        first = jnp.full(shape[:1], 1 - process.schedule.alpha(student.times[0]))
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
