"""One reverse step, x_t -> x_s, as pure functions.

`transition` is the definition of the one-call solvers: the probabilities of every next state, for both processes, from the concrete score, with
LSD's coefficient. It is what the golden numbers, the exact laws and the uniform process use; the absorbing process has a faster way to draw from
the same law (jddd.absorbing). Solvers of two calls are two `Stage`s, each a law of the same kind. With denoisers that return the posterior
p(x_0 | x_t), 'ancestral' (the bridge averaged over x_0) and 'tweedie' (SEDD's analytic step) are one and the same law, which a test shows by
enumeration; both names are accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jddd import processes, schedules
from jddd.types import BoundDenoiser, PRNGKey, Scalar

ONE_CALL = ("euler", "tweedie", "ancestral", "tau_leaping")
TWO_CALLS = ("predictor_corrector", "theta_rk2", "theta_trapezoidal")
SOLVERS = ONE_CALL + TWO_CALLS
FORMS = ("score", "log_score")
PRECISIONS = ("low", "high")
BLOCKED = 2048  # symbols from which on a draw is made in two stages


class Step(NamedTuple):
    """One step's numbers. t > s; coefficient: LSD's Phi; temperature: of the drawn symbols; confidence: 0 is a random reveal order; remask: share of
    the step that draws x_s by noising a draw of x_0 afresh (ReMDM); correction: the corrector's time over t - s; bound: entropy-bounded unmasking's
    gamma, nats; last: draw x_0 itself, so that M steps end in clean data after M network calls."""

    t: Scalar
    s: Scalar
    coefficient: Scalar
    temperature: Scalar
    confidence: Scalar
    remask: Scalar
    correction: Scalar
    bound: Scalar
    last: Bool[Array, ""]


def calls(solver: str, steps: int) -> int:
    """Network calls of `steps` steps: the last one draws x_0 from its first call."""
    return steps if solver in ONE_CALL else 2 * steps - 1


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


def reverse_rate(log_score: Float[Array, "*b s"], x_t: Int[Array, "*b"], t, process) -> Float[Array, "*b s"]:
    """Rates of the reverse process out of x_t, per unit of time; 0 at the own state (Campbell et al. 2022; Lou et al. 2024)."""
    return schedules.noise_rate(process.schedule, t) * process.rate_into(x_t) * jnp.exp(log_score)


def leap(rate: Float[Array, "*b s"], x: Int[Array, "*b"], duration, *, euler: bool = False, clip: bool = True) -> Float[Array, "*b s"]:
    """Probabilities after `duration` at frozen rates towards every state (the own one does not count): the last of the jumps wins, which has the law of
    the first. euler: the first-order expansion, with clip=False the raw one, which may leave [0, 1]."""
    own = jax.nn.one_hot(x, rate.shape[-1], dtype=rate.dtype)
    jump = duration * rate * (1 - own)
    total = jump.sum(-1, keepdims=True)
    moved = jnp.minimum(total, 1.0) if euler else -jnp.expm1(-total)
    if euler and not clip:
        moved = total
    jump = jump * moved / jnp.maximum(total, jnp.finfo(total.dtype).tiny)
    return jump + own * (1 - moved)


def transition(log_score: Float[Array, "*b s"], x_t: Int[Array, "*b"], t, s, *, process, solver: str, clip: bool = True) -> Float[Array, "*b s"]:
    """Probabilities of x_s given x_t, over the process's S states, from the (already scaled) log-score at time t.

    clip=False gives the raw numbers of the references, which may leave [0, 1]; otherwise negative ones become 0 and rows sum to 1.
    Sources: Lou et al. 2024 (euler, and tweedie as their 'analytic' step); Campbell et al. 2022 (tau_leaping, rates frozen over the step, the
    first jump of a site kept)."""
    if solver not in ("tweedie", "ancestral"):
        return leap(reverse_rate(log_score, x_t, t, process), x_t, t - s, euler=solver == "euler", clip=clip)
    noise = schedules.total_noise(process.schedule, t) - schedules.total_noise(process.schedule, s)
    probability = process.staggered(log_score, noise) * process.transition_into(x_t, noise)
    if not clip:
        return probability
    probability = jnp.maximum(probability, 0)
    return probability / probability.sum(-1, keepdims=True)


# --------------------------------------------------------------------------------------------------------------------------- stages of one step
class Stage(NamedTuple):
    """One network call of a step: the time it is made at, and the law of the state it leads to, from the states and scaled log-scores of all
    stages so far. law(states, log_scores, step, process) -> probabilities (..., S)."""

    time: Callable[[Step], Scalar]
    law: Callable[..., Array]


def corrector(log_score: Float[Array, "*b s"], x: Int[Array, "*b"], t, duration, *, process, clip: bool = True) -> Float[Array, "*b s"]:
    """A step of the process that keeps p_t: forward plus reverse rates for `duration` (Campbell et al. 2022, section 4.4), Euler."""
    rate = reverse_rate(log_score, x, t, process) + schedules.noise_rate(process.schedule, t) * process.rate_from(x)
    return leap(rate, x, duration, euler=True, clip=clip)


def stages(solver: str, theta: float = 0.5) -> tuple[Stage, ...]:
    """The stages of a solver. theta in (0, 1): where the second call of a theta method is made, as a share of the step.

    predictor_corrector: an Euler step to s, then `corrector` there. theta_trapezoidal and theta_rk2: Ren et al. 2025, algorithms 1 and 2, tau-leaps
    with extrapolated or averaged rates, negative ones cut to 0; second order where few are cut. theta = 1/2 cuts least in the trapezoidal method."""
    if solver in ONE_CALL:
        return (Stage(lambda step: step.t, lambda x, score, step, process: transition(score[0], x[0], step.t, step.s, process=process, solver=solver)),)
    if solver == "predictor_corrector":
        correct = lambda x, score, step, process: corrector(score[1], x[1], step.s, step.correction * (step.t - step.s), process=process)
        return (*stages("euler"), Stage(lambda step: step.s, correct))
    middle = lambda step: step.t - theta * (step.t - step.s)

    def first(x, score, step, process):
        return leap(reverse_rate(score[0], x[0], step.t, process), x[0], theta * (step.t - step.s))

    def second(x, score, step, process):
        before, after = reverse_rate(score[0], x[0], step.t, process), reverse_rate(score[1], x[1], middle(step), process)
        if solver == "theta_rk2":
            return leap(jnp.maximum((1 - 0.5 / theta) * before + 0.5 / theta * after, 0.0), x[0], step.t - step.s)
        ahead, back = 0.5 / (theta * (1 - theta)), ((1 - theta) ** 2 + theta**2) / (2 * theta * (1 - theta))
        return leap(jnp.maximum(ahead * after - back * before, 0.0), x[1], (1 - theta) * (step.t - step.s))

    return Stage(lambda step: step.t, first), Stage(middle, second)


def temper(log_p: Float[Array, "*b v"], temperature) -> Float[Array, "*b v"]:
    """log p^(1 / temperature), normalised."""
    return jax.nn.log_softmax(log_p / temperature, -1)


def stage_law(log_p: Float[Array, "*b v"], states: tuple, scores: tuple, step: Step, stage: int, *, process, solver: str, form: str, theta: float = 0.5) -> tuple[Array, tuple]:
    """(probabilities of the state after `stage`, log-scores with this stage's appended) given the states so far, the last of them this stage's x.

    In the last step the first stage draws x_0 from the (tempered, and with form 'log_score' sharpened) posterior; remask mixes in a fresh noising."""
    here = stages(solver, theta)[stage]
    scores = (*scores, scale_score(process.log_score(log_p, states[-1], here.time(step)), states[-1], step.coefficient, form))
    law = here.law(states, scores, step, process)
    if stage == 0:
        sharp = jax.nn.log_softmax(log_p * (step.coefficient if form == "log_score" else 1.0), -1)
        clean = process.clean(sharp, states[0])
        law = jnp.maximum((1 - step.remask) * law + step.remask * process.noise(clean, step.s), 0)  # a share above 1 may take more than there is
        law = jnp.where(step.last, clean, law / law.sum(-1, keepdims=True))
    return law, scores


def dense_step(
    key: PRNGKey, x_t: Int[Array, "b l"], step: Step, denoise: BoundDenoiser, *, process, solver: str, form: str, precision: str = "high", theta: float = 0.5, fixed: Array | None = None
) -> Int[Array, "b l"]:
    """x_s by drawing every site from the law of each stage; for every process and solver. The last step makes one network call.
    fixed (B, L): sites that stay as they are, between the calls too."""
    options = dict(process=process, solver=solver, form=form, theta=theta)

    def advance(stage, states, scores):
        log_p = temper(denoise(states[-1], stages(solver, theta)[stage].time(step)), step.temperature)
        law, scores = stage_law(log_p, states, scores, step, stage, **options)
        key_stage = jax.random.fold_in(key, stage)
        if law.shape[-1] < BLOCKED:  # one draw of noise for all sites: the samples of equal keys that the tables in docs were made with
            drawn = jax.random.categorical(key_stage, jnp.log(law), mode=precision).astype(x_t.dtype)
        else:
            drawn = draw(key_stage, jnp.log(law).reshape(-1, law.shape[-1]), jnp.arange(x_t.size), precision).reshape(x_t.shape).astype(x_t.dtype)
        return (drawn if fixed is None else jnp.where(fixed, x_t, drawn)), scores

    x, scores = advance(0, (x_t,), ())
    if solver in TWO_CALLS:
        x = jax.lax.cond(step.last, lambda: x, lambda: advance(1, (x_t, x), scores)[0])
    return x


def gumbel(key: PRNGKey, sites: Int[Array, "n"], size: int, precision: str) -> Float[Array, "n size"]:
    """Gumbel noise of given sites: a site's draw does not depend on which other sites are drawn, so the skipping path draws the same symbols."""
    return jax.vmap(lambda site: jax.random.gumbel(jax.random.fold_in(key, site), (size,), mode=precision))(sites)


def draw(key: PRNGKey, log_p: Float[Array, "n v"], sites: Int[Array, "n"], precision: str) -> Int[Array, "n"]:
    """A symbol of each site's law log p, up to a constant of the site; noise by site as in `gumbel`.

    Of a large vocabulary first a block of about sqrt(V) symbols is drawn by its mass, then a symbol within it: the same law, tails included, from 2 sqrt(V)
    random numbers a site instead of V, which cost more than the network's head does. 'low' is drawn flat, as the samplers whose bias it shows."""
    size = log_p.shape[-1]
    if size < BLOCKED or precision == "low":
        return jnp.argmax(log_p + gumbel(key, sites, size, precision), -1)
    width = math.isqrt(size)
    whole, count = size // width, -(-size // width)
    p = jnp.exp(log_p - log_p.max(-1, keepdims=True))
    mass = p[:, : whole * width].reshape(-1, whole, width).sum(-1)
    if whole < count:  # the last block is shorter; padding the others would copy the whole table
        mass = jnp.concatenate([mass, p[:, whole * width :].sum(-1, keepdims=True)], -1)
    noise = gumbel(key, sites, count + width, precision)
    block = jnp.argmax(jnp.log(mass) + noise[:, :count], -1)
    place = block[:, None] * width + jnp.arange(width)
    within = jnp.where(place < size, jnp.take_along_axis(log_p, jnp.minimum(place, size - 1), -1), -jnp.inf)
    return block * width + jnp.argmax(within + noise[:, count:], -1)
