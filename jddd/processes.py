"""Forward noising processes over discrete states, and the reverse quantities derived from them.

A denoiser gives log p(x_0 | x_t) over V data symbols. Both processes turn it into the concrete score s_y = p_t(y) / p_t(x_t) (Lou et al. 2024),
which is what LSD's coefficients multiply, and own every conversion between the two.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jddd import schedules
from jddd.types import Denoiser, PRNGKey, Time


NEVER = -200.0  # a log-probability whose exponential is 0 in float32 and whose sums stay finite


def _column(t, x):
    """A scalar time, or one time a row, against (..., L)."""
    t = jnp.asarray(t)
    return t if t.ndim == 0 else t[..., None]


@dataclasses.dataclass(frozen=True)
class Absorbing:
    """Every site is replaced by the mask, symbol V, with probability 1 - alpha(t) (Austin et al. 2021)."""

    symbols: int
    schedule: schedules.Schedule = schedules.Linear()

    @property
    def mask_id(self) -> int:
        return self.symbols

    @property
    def states(self) -> int:
        return self.symbols + 1

    def prior(self, key: PRNGKey, shape: tuple[int, ...]) -> Int[Array, "..."]:
        """All masks; the key is not used."""
        return jnp.full(shape, self.mask_id, jnp.int32)

    def corrupt(self, key: PRNGKey, x_0: Int[Array, "*b l"], t: Time) -> Int[Array, "*b l"]:
        """A draw of q(x_t | x_0); t is a scalar or one time a row."""
        noised = jax.random.uniform(key, x_0.shape) >= self.schedule.alpha(_column(t, x_0))
        return jnp.where(noised, self.mask_id, x_0)

    def bridge(self, key: PRNGKey, x_0: Int[Array, "*b l"], x_t: Int[Array, "*b l"], t: Time, s: Time) -> Int[Array, "*b l"]:
        """A draw of q(x_s | x_t, x_0), s < t scalars or one a row: with x_0 drawn by a denoiser it is its ancestral step."""
        stays = jax.random.uniform(key, x_t.shape) < _column((1 - self.schedule.alpha(s)) / (1 - self.schedule.alpha(t)), x_t)
        return jnp.where(self.noised(x_t) & ~stays, x_0, x_t)

    def noised(self, x_t: Int[Array, "*b"]) -> Bool[Array, "*b"]:
        """Where a reverse step may change the state."""
        return x_t == self.mask_id

    def prior_kl(self) -> Float[Array, ""]:
        """KL(q(x_1 | x_0) || prior) in nats a site, where the prior gives the alpha(1) that is still clean to uniform symbols."""
        return self.schedule.alpha(1.0) * jnp.log(self.symbols)

    def log_evidence(self, x_t: Int[Array, "*b"], t: Time) -> Float[Array, "*b v"]:
        """log q(x_t | x_0 = y) for every y, up to a constant of y: nothing at a masked site, everything at a clean one; t is not used."""
        other = (x_t[..., None] != jnp.arange(self.symbols)) & ~self.noised(x_t)[..., None]
        return jnp.where(other, NEVER, 0.0)

    def clean(self, log_p: Float[Array, "*b v"], x_t: Int[Array, "*b"]) -> Float[Array, "*b s"]:
        """p(x_0 | x_t) over the S states: a clean site keeps its symbol."""
        p = jnp.concatenate([jnp.exp(log_p), jnp.zeros((*log_p.shape[:-1], 1), log_p.dtype)], -1)
        return jnp.where(self.noised(x_t)[..., None], p, jax.nn.one_hot(x_t, self.states, dtype=log_p.dtype))

    def noise(self, p: Float[Array, "*b s"], t: Time) -> Float[Array, "*b s"]:
        """The law of x_t when x_0 has law p (over S states, none on the mask); t is a scalar or broadcasts against p's sites."""
        alpha = jnp.asarray(self.schedule.alpha(t))[..., None]
        return alpha * p + (1 - alpha) * jax.nn.one_hot(self.mask_id, self.states)

    def log_odds(self, t: Time) -> Float[Array, "*b"]:
        """log(alpha / (1 - alpha)): the log-score of a masked site is this plus log p(x_0 | x_t)."""
        alpha = self.schedule.alpha(t)
        return jnp.log(alpha) - jnp.log1p(-alpha)

    def log_score(self, log_p: Float[Array, "*b v"], x_t: Int[Array, "*b"], t: Time) -> Float[Array, "*b s"]:
        """log p_t(y) / p_t(x_t) for y over V symbols and the mask, scalar t; clean sites and the own state have 0 at the own state, -inf elsewhere."""
        lowest = jnp.finfo(log_p.dtype).min
        masked = jnp.concatenate([log_p + self.log_odds(t), jnp.zeros((*log_p.shape[:-1], 1), log_p.dtype)], -1)
        own = jnp.where(jax.nn.one_hot(x_t, self.states, dtype=bool), 0.0, lowest)
        return jnp.where(self.noised(x_t)[..., None], masked, own)

    def rate_into(self, x_t: Int[Array, "*b"]) -> Float[Array, "*b s"]:
        """Forward rate from every other state into x_t, per unit of total noise; 0 at the own state."""
        into_mask = jnp.append(jnp.ones(self.symbols), 0.0)
        return jnp.where(self.noised(x_t)[..., None], into_mask, 0.0)

    def rate_from(self, x_t: Int[Array, "*b"]) -> Float[Array, "*b s"]:
        """Forward rate from x_t into every other state, per unit of total noise; 0 at the own state."""
        return jnp.where(self.noised(x_t)[..., None], 0.0, jnp.append(jnp.zeros(self.symbols), 1.0))

    def transition_into(self, x_t: Int[Array, "*b"], noise: Time) -> Float[Array, "*b s"]:
        """q(x_t | y) over a stretch of total noise `noise`, for every earlier state y."""
        kept = jnp.exp(-noise) * jax.nn.one_hot(x_t, self.states)
        into_mask = jnp.append(jnp.full(self.symbols, -jnp.expm1(-noise)), 1.0)
        return jnp.where(self.noised(x_t)[..., None], into_mask, kept)

    def staggered(self, log_score: Float[Array, "*b s"], noise: Time) -> Float[Array, "*b s"]:
        """The score `noise` earlier, relative to the same x_t: exp(-noise Q) applied to the score (Lou et al. 2024, Tweedie's formula), which
        multiplies the symbols' entries and takes from the mask's what they gain."""
        score = jnp.exp(log_score)
        symbols, mask = score[..., :-1], score[..., -1:]
        return jnp.concatenate([jnp.exp(noise) * symbols, mask - jnp.expm1(noise) * symbols.sum(-1, keepdims=True)], -1)

    def nelbo(self, log_p: Float[Array, "*b l v"], x_0: Int[Array, "*b l"], x_t: Int[Array, "*b l"], t: Time, floor: float = 0.0) -> Float[Array, "*b l"]:
        """The integrand of the continuous-time NELBO in nats a site: -alpha' / (1 - alpha) times the cross-entropy at masked sites
        (Sahoo et al. 2024, eq. 10; Shi et al. 2024). floor > 0 bounds the weight's 1 - alpha from below, for training only."""
        weight = -schedules.slope(self.schedule, t) / jnp.maximum(1 - self.schedule.alpha(t), floor)
        cross_entropy = -jnp.take_along_axis(log_p, x_0[..., None], -1)[..., 0]
        return jnp.where(self.noised(x_t), _column(weight, x_0) * cross_entropy, 0.0)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Every site is replaced by a uniform symbol with probability 1 - alpha(t) (Austin et al. 2021)."""

    symbols: int
    schedule: schedules.Schedule = schedules.Linear()

    @property
    def states(self) -> int:
        return self.symbols

    def prior(self, key: PRNGKey, shape: tuple[int, ...]) -> Int[Array, "..."]:
        """Uniform symbols."""
        return jax.random.randint(key, shape, 0, self.symbols, jnp.int32)

    def corrupt(self, key: PRNGKey, x_0: Int[Array, "*b l"], t: Time) -> Int[Array, "*b l"]:
        """A draw of q(x_t | x_0); t is a scalar or one time a row."""
        key_where, key_what = jax.random.split(key)
        noised = jax.random.uniform(key_where, x_0.shape) >= self.schedule.alpha(_column(t, x_0))
        return jnp.where(noised, self.prior(key_what, x_0.shape), x_0)

    def bridge(self, key: PRNGKey, x_0: Int[Array, "*b l"], x_t: Int[Array, "*b l"], t: Time, s: Time) -> Int[Array, "*b l"]:
        """A draw of q(x_s | x_t, x_0), s < t scalars or one a row: (kept 1[x_s = x_t] + (1 - kept) / V) (alpha_s 1[x_s = x_0] + (1 - alpha_s) / V), a
        mixture of x_s = x_t, x_s = x_0 and a uniform symbol."""
        key_which, key_what = jax.random.split(key)
        alpha = self.schedule.alpha(s)
        kept = self.schedule.alpha(t) / alpha
        both = _column(self.symbols * kept * alpha, x_t) * (x_t == x_0)
        old, clean, fresh = (_column(w, x_t) for w in (kept * (1 - alpha), (1 - kept) * alpha, (1 - kept) * (1 - alpha)))
        u = jax.random.uniform(key_which, x_t.shape) * (both + old + clean + fresh)
        return jnp.where(u < both + old, x_t, jnp.where(u < both + old + clean, x_0, self.prior(key_what, x_t.shape)))

    def noised(self, x_t: Int[Array, "*b"]) -> Bool[Array, "*b"]:
        """Where a reverse step may change the state: everywhere."""
        return jnp.ones(x_t.shape, bool)

    def prior_kl(self) -> Float[Array, ""]:
        """KL(q(x_1 | x_0) || uniform) in nats a site."""
        alpha = self.schedule.alpha(1.0)
        other = (1 - alpha) / self.symbols
        kept = alpha + other
        return kept * jnp.log(kept * self.symbols) + (self.symbols - 1) * other * jnp.log(other * self.symbols)

    def clean(self, log_p: Float[Array, "*b v"], x_t: Int[Array, "*b"]) -> Float[Array, "*b s"]:
        """p(x_0 | x_t); x_t is not used."""
        return jnp.exp(log_p)

    def noise(self, p: Float[Array, "*b s"], t: Time) -> Float[Array, "*b s"]:
        """The law of x_t when x_0 has law p; t is a scalar or broadcasts against p's sites."""
        alpha = jnp.asarray(self.schedule.alpha(t))[..., None]
        return alpha * p + (1 - alpha) / self.states

    def log_evidence(self, x_t: Int[Array, "*b"], t: Time) -> Float[Array, "*b v"]:
        """log q(x_t | x_0 = y) for every y, up to a constant of y: what a site says of its own clean symbol."""
        alpha = jnp.asarray(self.schedule.alpha(t))
        gain = jnp.log1p(alpha * self.symbols / (1 - alpha))
        return jax.nn.one_hot(x_t, self.symbols) * gain[..., None]

    def log_score(self, log_p: Float[Array, "*b v"], x_t: Int[Array, "*b"], t: Time) -> Float[Array, "*b s"]:
        """log p_t(y) / p_t(x_t), 0 at the own state, 0 < t.

        The ratio is E[q(y | x_0) / q(x_t | x_0)] under p(x_0 | x_t). With b = (1 - alpha) / V, a clean symbol other than x_t gives
        1 + alpha 1[x_0 = y] / b and the clean symbol x_t itself gives 1 - alpha / (b + alpha). Near t = 1 all ratios are close to 1 and what they are
        off by is what counts: it is never added to 1. t is a scalar or broadcasts against x_t."""
        alpha = jnp.asarray(self.schedule.alpha(t))[..., None]
        floor = (1 - alpha) / self.symbols
        p = jnp.exp(log_p)
        off = p * alpha / floor - jnp.take_along_axis(p, x_t[..., None], -1) * alpha / (floor + alpha)
        off = jnp.maximum(off, jnp.finfo(off.dtype).eps - 1)  # a ratio is above 0, whatever the rounding
        return jnp.where(jax.nn.one_hot(x_t, self.symbols, dtype=bool), 0.0, jnp.log1p(off))

    def rate_into(self, x_t: Int[Array, "*b"]) -> Float[Array, "*b s"]:
        """Forward rate from every other state into x_t, per unit of total noise; 0 at the own state."""
        return (1 - jax.nn.one_hot(x_t, self.symbols)) / self.symbols

    rate_from = rate_into  # it is symmetric

    def transition_into(self, x_t: Int[Array, "*b"], noise: Time) -> Float[Array, "*b s"]:
        """q(x_t | y) over a stretch of total noise `noise`, for every earlier state y."""
        return jnp.exp(-noise) * jax.nn.one_hot(x_t, self.symbols) - jnp.expm1(-noise) / self.symbols

    def staggered(self, log_score: Float[Array, "*b s"], noise: Time) -> Float[Array, "*b s"]:
        """The score `noise` earlier, relative to the same x_t: exp(-noise Q) applied to the score (Lou et al. 2024, Tweedie's formula), in terms of
        what ratios are off 1 by: noise may be large, and 1s would cancel."""
        off = jnp.expm1(log_score)
        return 1 + jnp.exp(noise) * off - jnp.expm1(noise) * off.mean(-1, keepdims=True)

    def nelbo(self, log_p: Float[Array, "*b l v"], x_0: Int[Array, "*b l"], x_t: Int[Array, "*b l"], t: Time, floor: float = 0.0) -> Float[Array, "*b l"]:
        """The integrand of the continuous-time NELBO in nats a site: d(total noise)/dt times the score entropy of the denoiser's scores,
        which is the rate of KL between the true and the modelled reverse jumps (Lou et al. 2024). floor is not used."""
        column = _column(t, x_0)
        return schedules.noise_rate(self.schedule, column) * score_entropy(self.log_score(log_p, x_t, column), x_0, x_t, column, self)


def score_entropy(log_score: Float[Array, "*b s"], x_0: Int[Array, "*b"], x_t: Int[Array, "*b"], t: Time, process) -> Float[Array, "*b"]:
    """Denoising score entropy of each site: sum over y of the forward rate into x_t times [s - r log s + r (log r - 1)], r the true ratio given x_0
    (Lou et al. 2024, theorem 3.4); t is a scalar or broadcasts against x_t. Written r (s/r - 1 - log(s/r)), which does not cancel where s is near r."""
    marginal = process.noise(jax.nn.one_hot(x_0, process.states, dtype=log_score.dtype), t)
    ratio = marginal / jnp.take_along_axis(marginal, x_t[..., None], -1)
    excess = log_score - jnp.log(jnp.where(ratio > 0, ratio, 1.0))
    each = jnp.where(ratio > 0, ratio * (jnp.expm1(excess) - excess), jnp.exp(log_score))
    rate = process.rate_into(x_t)
    return jnp.where(rate > 0, rate * each, 0.0).sum(-1)


def with_evidence(process: Uniform, denoiser: Denoiser) -> Denoiser:
    """The denoiser of a network that predicts each clean symbol from the OTHER sites: the site's own evidence is added by Bayes' rule.

    The network need not learn to copy its input, which is most of the posterior at small t. Times are a scalar or one a row."""

    def features(params, x_t, t, *latent):
        return denoiser.features(params, x_t, t, *latent), process.log_evidence(x_t, jnp.broadcast_to(_column(t, x_t), x_t.shape))

    def head(params, hidden):
        return jax.nn.log_softmax(denoiser.head(params, hidden[0]) + hidden[1], -1)

    return Denoiser(features, head, denoiser.mixture)
