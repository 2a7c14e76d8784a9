"""The absorbing process's reverse step in two factors, "is this site revealed" and "which symbol": the law of `solvers.transition`, drawn so that the
network's head and the categorical draw run only at sites that may be revealed.

Which of the masked sites go first is a choice of its own (REVEALS); with a random order it does not change the law of the single site.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jddd import processes, schedules
from jddd.solvers import Step
from jddd.solvers import draw as draw_symbols
from jddd.types import BoundDenoiser, PRNGKey, Scalar

# Which sites a step reveals, and how many:
REVEALS = (
    "independent",  # each site by its own fresh draw: the forward process reversed
    "coupled",  # the same law, but one draw of noise for the whole run: chains with equal keys stay close, whatever their grids
    "spread",  # a low-discrepancy sequence with a random start: sites revealed together lie far apart
    "confident",  # as many as independent draws say, those with the highest confidence * log p(symbol) + Gumbel noise (0: random)
    "counted",  # exactly as many as the numbers say: k-Gillespie (Park et al. 2024) at confidence 0, MaskGIT (Chang et al. 2022) above
    "entropy_bounded",  # lowest entropies first, while all but the last sum to at most `bound` nats (Ben-Hamu et al. 2025); the last step takes the rest
    "first_hitting",  # one site a step, at the exact time of the next reveal: the reverse process itself, L calls (Zheng et al. 2024)
)
ORDERED = REVEALS[3:]  # these rank the sites, so they need the head everywhere


def spread_thresholds(key: PRNGKey, shape: tuple[int, int]) -> Float[Array, "b l"]:
    """Reveal thresholds u_i = frac(shift + i / golden ratio), one uniform shift a row: each is uniform on [0, 1), and sites whose thresholds fall
    in one interval of width w lie at least about 1 / (sqrt(5) w) apart (Kronecker's sequence; the three-gap theorem)."""
    return jnp.mod(jax.random.uniform(key, (shape[0], 1)) + jnp.arange(shape[1]) * ((5**0.5 - 1) / 2), 1.0)


def foremost(rank: Float[Array, "b l"], masked: Bool[Array, "b l"], count: Int[Array, "b"]) -> Bool[Array, "b l"]:
    """The `count` masked sites of highest rank in each row."""
    place = jnp.argsort(jnp.argsort(jnp.where(masked, -rank, jnp.inf), -1), -1)
    return masked & (place < count[:, None])


def within_bound(entropy: Float[Array, "b l"], masked: Bool[Array, "b l"], bound, tie: Float[Array, "b l"] | float = 0.0) -> Bool[Array, "b l"]:
    """The largest set of masked sites, lowest entropies first, whose entropies without the largest of them sum to at most `bound` nats (EB-Sampler, eq. 7).
    tie: added to the entropies where they are put in order, not where they are summed."""
    order = jnp.argsort(jnp.where(masked, entropy + tie, jnp.inf), -1)
    ascending = jnp.take_along_axis(jnp.where(masked, entropy, 0.0), order, -1)
    count = ((jnp.cumsum(ascending, -1) - ascending <= bound) & jnp.take_along_axis(masked, order, -1)).sum(-1)
    return foremost(-(entropy + tie), masked, count)


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
    reveal: str = "independent",
    count: Int[Array, "b"] | None = None,
    at: Float[Array, "b"] | None = None,
) -> Int[Array, "b l"]:
    """x_s of the absorbing process: a masked site is revealed when its threshold, uniform on [0, 1), is at least 1 - (its reveal probability).

    chunk > 0: the head and the draw run on that many sites at a time, and only on sites
    whose threshold allows a reveal; the law, and for equal keys the sample, is that of chunk = 0. The reveals of ORDERED rank all sites, so chunk is
    not used; count (B,): how many of a row are revealed by 'counted' and 'first_hitting'; at (B,): each row's
    own time in the place of step.t. step.remask (ReMDM, Wang et al. 2025, here in the form of
    psi-samplers): that share of the step draws x_s by noising a draw of x_0 afresh, which masks clean sites again; 'independent' only.
    """
    key_symbol, key_order = jax.random.split(key)
    size, masked = x_t.size, process.noised(x_t)
    hidden = denoise.features(x_t, step.t if at is None else at)
    amplitude = log_amplitude(process, step, solver, form)
    flat = lambda array: array.reshape(size, *array.shape[2:])
    x, thresholds = flat(x_t), flat(threshold)
    clean_at_s = process.schedule.alpha(step.s)

    def revealed(log_mass, threshold):
        chance = (1 - step.remask) * reveal_probability(amplitude + log_mass, solver) + step.remask * clean_at_s
        return threshold >= 1 - jnp.where(step.last, 1.0, chance)

    def draw(hidden, sites):
        """Symbols (n,), the law they are drawn from, log p (n, V), normalised where a form or an order needs its values, and its log-mass (n,) before that, at
        flat sites (n,)."""
        log_p = denoise.head(hidden) / step.temperature
        if form == "log_score" or reveal in ORDERED:  # else it is only drawn from, and a pass over a large vocabulary to normalise it is saved
            log_p = jax.nn.log_softmax(log_p, -1)
        log_mass = jnp.zeros(sites.shape)
        if form == "log_score":
            log_mass = jax.nn.logsumexp(step.coefficient * log_p, -1)
            log_p = step.coefficient * log_p - log_mass[..., None]
        return draw_symbols(key_symbol, log_p, sites, precision).astype(x_t.dtype), log_p, log_mass

    def fill(x, sites, wanted):
        """x with what is revealed among the wanted sites (n,); writes out of range are dropped."""
        symbol, _, log_mass = draw(jax.tree.map(lambda array: flat(array)[sites], hidden), sites)
        return x.at[jnp.where(wanted & revealed(log_mass, thresholds[sites]), sites, size)].set(symbol, mode="drop")

    def masked_again(x):
        again = jax.random.uniform(jax.random.fold_in(key, 2), x_t.shape) < step.remask * (1 - clean_at_s)
        return jnp.where(again & ~masked & ~step.last, process.mask_id, x.reshape(x_t.shape))

    if reveal in ORDERED:
        symbol, log_p, log_mass = draw(jax.tree.map(flat, hidden), jnp.arange(size))
        if reveal == "entropy_bounded":
            entropy = jax.scipy.special.entr(jnp.exp(log_p)).sum(-1).reshape(x_t.shape)
            tie = 1e-4 * jax.random.uniform(key_order, x_t.shape)  # of equal entropies any may come first, not always the leftmost neighbours
            chosen = within_bound(entropy, masked, jnp.where(step.last, jnp.inf, step.bound), tie)
        else:
            log_symbol = jnp.take_along_axis(log_p, symbol[:, None], -1).reshape(x_t.shape)
            if reveal == "confident":
                count = (masked & revealed(log_mass, thresholds).reshape(x_t.shape)).sum(-1)
            rank = step.confidence * log_symbol + jax.random.gumbel(key_order, x_t.shape, mode=precision)
            chosen = foremost(rank, masked, count)
        return jnp.where(chosen, symbol.reshape(x_t.shape), x_t)
    if not chunk:
        return masked_again(fill(x, jnp.arange(size), flat(masked)))

    # The largest mass the coefficient can give a site, known before the head runs: sum p^c <= 1 for c >= 1, <= V^(1 - c) below.
    most = 0.0 if form == "score" else jnp.maximum(0.0, (1 - step.coefficient) * math.log(process.symbols))
    candidate = flat(masked) & revealed(most, thresholds)
    sites = jnp.nonzero(candidate, size=size + chunk, fill_value=size)[0]
    candidates = candidate.sum()

    def body(carry):
        start, x = carry
        here = jax.lax.dynamic_slice(sites, (start,), (chunk,))
        return start + chunk, fill(x, jnp.minimum(here, size - 1), here < size)

    return masked_again(jax.lax.while_loop(lambda carry: carry[0] < candidates, body, (jnp.zeros((), candidates.dtype), x))[1])


