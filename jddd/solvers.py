"""One reverse step, x_t -> x_s, as pure functions.

`transition` is the definition: the probabilities of every next state, for both processes, from the concrete score, with LSD's coefficient. It is
what the golden numbers, the exact laws and the uniform process use. For the absorbing process the same law factorises into "is this site revealed"
and "which symbol", and `absorbing_step` draws it that way, so that the network's head and the categorical draw run only at sites that may be
revealed. With denoisers that return the posterior p(x_0 | x_t), 'ancestral' (the bridge averaged over x_0) and 'tweedie' (SEDD's analytic step)
are one and the same law, which a test shows by enumeration; both names are accepted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jddd import processes, schedules
from jddd.types import BoundDenoiser, PRNGKey, Scalar

SOLVERS = ("euler", "tweedie", "ancestral", "tau_leaping")
FORMS = ("score", "log_score")
PRECISIONS = ("low", "high")


class Step(NamedTuple):
    """One step's numbers. t > s; coefficient: LSD's Phi; temperature: of the drawn symbols; confidence: 0 is a random reveal order;
    last: draw x_0 itself, so that M steps end in clean data after M network calls."""

    t: Scalar
    s: Scalar
    coefficient: Scalar
    temperature: Scalar
    confidence: Scalar
    last: Bool[Array, ""]


def canonical(solver: str, process) -> str:
    """The solver whose law is the same: 'ancestral' is 'tweedie', and for the absorbing process with a linear schedule so is 'euler' (both reveal a
    site with probability (t - s) / t), as the SEDD authors' own numbers show. One compilation and one set of samples then serve both names."""
    linear = isinstance(process, processes.Absorbing) and isinstance(process.schedule, schedules.Linear)
    return "tweedie" if solver == "ancestral" or (solver == "euler" and linear) else solver


def scale_score(log_score: Float[Array, "*b s"], x_t: Int[Array, "*b"], coefficient, form: str) -> Float[Array, "*b s"]:
    """LSD's coefficient on a log-score whose own entry is 0: form 'score' gives Phi s (the paper, eq. 5), 'log_score' gives s^Phi (the released
    code: a temperature and a change of the jump rate). The own entry stays 0."""
    if form == "log_score":
        return coefficient * log_score
    own = jax.nn.one_hot(x_t, log_score.shape[-1], dtype=bool)
    return jnp.where(own, log_score, log_score + jnp.log(coefficient))


def transition(log_score: Float[Array, "*b s"], x_t: Int[Array, "*b"], t, s, *, process, solver: str, clip: bool = True) -> Float[Array, "*b s"]:
    """Probabilities of x_s given x_t, over the process's S states, from the (already scaled) log-score at time t.

    clip=False gives the raw numbers of the references, which may leave [0, 1]; otherwise negative ones become 0 and rows sum to 1.
    Sources: Lou et al. 2024 (euler, and tweedie as their 'analytic' step); Campbell et al. 2022 (tau_leaping, rates frozen over the step, the
    first jump of a site kept)."""
    own = jax.nn.one_hot(x_t, process.states, dtype=log_score.dtype)
    if solver in ("tweedie", "ancestral"):
        noise = schedules.total_noise(process.schedule, t) - schedules.total_noise(process.schedule, s)
        probability = process.staggered(jnp.exp(log_score), noise) * process.transition_into(x_t, noise)
    else:
        rate = -schedules.slope(process.schedule, t) / process.schedule.alpha(t)
        jump = (t - s) * rate * process.rate_into(x_t) * jnp.exp(log_score)
        total = jump.sum(-1, keepdims=True)
        if solver == "tau_leaping":
            jump = jump * -jnp.expm1(-total) / jnp.maximum(total, jnp.finfo(total.dtype).tiny)
            total = -jnp.expm1(-total)
        elif clip:
            jump, total = jump / jnp.maximum(total, 1.0), jnp.minimum(total, 1.0)
        probability = jump + own * (1 - total)
    if not clip:
        return probability
    probability = jnp.maximum(probability, 0)
    return probability / probability.sum(-1, keepdims=True)


def log_hazard(process: processes.Absorbing, t, s, solver: str) -> Scalar:
    """log of the chance (tweedie) or the integrated rate (euler, tau_leaping) that a masked site is revealed in the step, at coefficient 1."""
    noised_t, noised_s = 1 - process.schedule.alpha(t), 1 - process.schedule.alpha(s)
    if solver in ("tweedie", "ancestral"):
        return jnp.log(noised_t - noised_s) - jnp.log(noised_t)
    return jnp.log(t - s) + jnp.log(-schedules.slope(process.schedule, t)) - jnp.log(noised_t)


def reveal_probability(log_mass, solver: str):
    """The chance that a masked site is revealed, from log_hazard plus the log of what the coefficient did to the score's mass."""
    mass = jnp.exp(log_mass)
    return -jnp.expm1(-mass) if solver == "tau_leaping" else jnp.minimum(mass, 1.0)


def _gumbel(key: PRNGKey, sites: Int[Array, "n"], size: int, precision: str) -> Float[Array, "n size"]:
    """Gumbel noise of given sites: a site's draw does not depend on which other sites are drawn, so the skipping path draws the same symbols."""
    return jax.vmap(lambda site: jax.random.gumbel(jax.random.fold_in(key, site), (size,), mode=precision))(sites)


def _temper(log_p, temperature):
    return jax.nn.log_softmax(log_p / temperature, -1)


def log_amplitude(process: processes.Absorbing, step: Step, solver: str, form: str) -> Scalar:
    """What the schedule and the coefficient do to log_hazard before the network is asked; with form 'log_score' a site's own mass comes on top."""
    base = log_hazard(process, step.t, step.s, solver)
    return base + (jnp.log(step.coefficient) if form == "score" else (step.coefficient - 1) * process.log_odds(step.t))


def absorbing_step(
    key: PRNGKey,
    x_t: Int[Array, "b l"],
    threshold: Float[Array, "b l"],
    step: Step,
    denoise: BoundDenoiser,
    *,
    process: processes.Absorbing,
    solver: str,
    form: str,
    chunk: int = 0,
    precision: str = "high",
    ordered: bool = False,
) -> Int[Array, "b l"]:
    """x_s of the absorbing process: a masked site is revealed when its threshold, uniform on [0, 1), is at least 1 - (its reveal probability).

    chunk > 0: the head and the draw run on that many sites at a time, and only on sites whose threshold allows a reveal; the law, and for equal keys
    the sample, is that of chunk = 0. ordered: as many sites a row are revealed, but those of highest confidence * log p(symbol) + Gumbel noise
    (confidence 0: a random order, the same law; large: MaskGIT's order); it needs the head everywhere, so chunk is not used.
    """
    key_symbol, key_order = jax.random.split(key)
    size, masked = x_t.size, process.noised(x_t)
    hidden = denoise.features(x_t, step.t)
    amplitude = log_amplitude(process, step, solver, form)
    flat = lambda array: array.reshape(size, *array.shape[2:])
    x, thresholds = flat(x_t), flat(threshold)

    def revealed(log_mass, threshold):
        return threshold >= 1 - jnp.where(step.last, 1.0, reveal_probability(amplitude + log_mass, solver))

    def draw(hidden, sites):
        """Symbol (n,), log p(symbol) (n,) and log-mass (n,) at flat sites (n,)."""
        log_p = _temper(denoise.head(hidden), step.temperature)
        log_mass = jnp.zeros(sites.shape)
        if form == "log_score":
            log_mass = jax.nn.logsumexp(step.coefficient * log_p, -1)
            log_p = step.coefficient * log_p - log_mass[..., None]
        symbol = jnp.argmax(log_p + _gumbel(key_symbol, sites, process.symbols, precision), -1).astype(x_t.dtype)
        return symbol, jnp.take_along_axis(log_p, symbol[:, None], -1)[:, 0], log_mass

    def fill(x, sites, wanted):
        """x with what is revealed among the wanted sites (n,); writes out of range are dropped."""
        symbol, _, log_mass = draw(jax.tree.map(lambda array: flat(array)[sites], hidden), sites)
        return x.at[jnp.where(wanted & revealed(log_mass, thresholds[sites]), sites, size)].set(symbol, mode="drop")

    if ordered:
        symbol, log_symbol, log_mass = draw(jax.tree.map(flat, hidden), jnp.arange(size))
        count = (masked & revealed(log_mass, thresholds).reshape(x_t.shape)).sum(-1, keepdims=True)
        rank = step.confidence * log_symbol.reshape(x_t.shape) + jax.random.gumbel(key_order, x_t.shape, mode=precision)
        place = jnp.argsort(jnp.argsort(jnp.where(masked, -rank, jnp.inf), -1), -1)
        return jnp.where(masked & (place < count), symbol.reshape(x_t.shape), x_t)
    if not chunk:
        return fill(x, jnp.arange(size), flat(masked)).reshape(x_t.shape)

    # The largest mass the coefficient can give a site, known before the head runs: sum p^c <= 1 for c >= 1, <= V^(1 - c) below.
    most = 0.0 if form == "score" else jnp.maximum(0.0, (1 - step.coefficient) * math.log(process.symbols))
    candidate = flat(masked) & revealed(most, thresholds)
    sites = jnp.nonzero(candidate, size=size + chunk, fill_value=size)[0]
    count = candidate.sum()

    def body(carry):
        start, x = carry
        here = jax.lax.dynamic_slice(sites, (start,), (chunk,))
        return start + chunk, fill(x, jnp.minimum(here, size - 1), here < size)

    return jax.lax.while_loop(lambda carry: carry[0] < count, body, (jnp.zeros((), count.dtype), x))[1].reshape(x_t.shape)


def dense_step(key: PRNGKey, x_t: Int[Array, "b l"], step: Step, denoise: BoundDenoiser, *, process, solver: str, form: str, precision: str = "high") -> Int[Array, "b l"]:
    """x_s by drawing every site from `transition`; for processes in which any site may jump."""
    log_p = _temper(denoise(x_t, step.t), step.temperature)
    score = scale_score(process.log_score(log_p, x_t, step.t), x_t, step.coefficient, form)
    log_next = jnp.log(transition(score, x_t, step.t, step.s, process=process, solver=solver))
    logits = jnp.where(step.last, log_p * (step.coefficient if form == "log_score" else 1.0), log_next)
    return jax.random.categorical(key, logits, mode=precision).astype(x_t.dtype)
