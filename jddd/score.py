"""SEDD: networks that learn the concrete score p_t(y) / p_t(x_t) by score entropy (Lou et al. 2024), and the way from scores to p(x_0 | x_t)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jddd import losses, processes, schedules
from jddd.types import Denoiser, Params, PRNGKey, Time


def log_score(raw: Float[Array, "*b v"], x_t: Int[Array, "*b"], t: Time, process) -> Float[Array, "*b s"]:
    """The log-score from a network's raw output over V symbols, 0 at the own state; t is a scalar or broadcasts against x_t.

    Absorbing: raw - log(exp(sigma) - 1) - log V at masked sites, SEDD's scaling by sigma, so that raw = 0 is already the score of uniform data; clean
    sites as in process.log_score. Uniform: raw itself."""
    own = jax.nn.one_hot(x_t, process.states, dtype=bool)
    if isinstance(process, processes.Uniform):
        return jnp.where(own, 0.0, raw)
    odds = jnp.asarray(process.log_odds(t))
    masked = jnp.concatenate([raw + odds[..., None] - jnp.log(float(process.symbols)), jnp.zeros((*raw.shape[:-1], 1), raw.dtype)], -1)
    return jnp.where(process.noised(x_t)[..., None], masked, jnp.where(own, 0.0, jnp.finfo(raw.dtype).min))


def loss(key: PRNGKey, params: Params, x_0: Int[Array, "b l"], *, process, network: Denoiser, low: float = 1e-3) -> Float[Array, "b"]:
    """Diffusion-weighted denoising score entropy of each row, nats a site: score entropy times d(total noise)/dt at stratified times in [low, 1]. With
    low = 0 and process.prior_kl() added it is an unbiased estimate of a bound on -log p(x_0). network: (params, x_t, t) -> raw output (B, L, V)."""
    key_time, key_noise = jax.random.split(key)
    t = losses.stratified_times(key_time, x_0.shape[0], low=low)
    x_t = process.corrupt(key_noise, x_0, t)
    entropy = processes.score_entropy(log_score(network(params, x_t, t), x_t, t[:, None], process), x_0, x_t, t[:, None], process)
    return schedules.noise_rate(process.schedule, t) * entropy.mean(-1)


def posterior(log_score: Float[Array, "*b s"], x_t: Int[Array, "*b"], t: Time, process) -> Float[Array, "*b v"]:
    """log p(x_0 | x_t) from a log-score: the inverse of process.log_score for exact scores, the nearest law for others.

    Absorbing: the score of a masked site over its own sum (what a network's total mass is off by is dropped: the process knows when a site is
    revealed). Uniform: the linear relation between p and what the scores are off 1 by, solved for p, negative parts cut."""
    if isinstance(process, processes.Absorbing):
        return jax.nn.log_softmax(log_score[..., : process.symbols], -1)
    alpha = jnp.asarray(process.schedule.alpha(t))[..., None]
    floor = (1 - alpha) / process.symbols
    own = jax.nn.one_hot(x_t, process.symbols, dtype=bool)
    off = jnp.where(own, 0.0, jnp.expm1(log_score))
    gain, loss = alpha / floor, alpha / (floor + alpha)
    stay = jnp.clip((gain - off.sum(-1, keepdims=True)) / ((process.symbols - 1) * loss + gain), 0.0, 1.0)
    p = jnp.where(own, stay, jnp.maximum(off + stay * loss, 0.0) / gain)
    p = jnp.maximum(p, jnp.finfo(p.dtype).tiny)
    return jnp.log(p) - jnp.log(p.sum(-1, keepdims=True))  # not of the quotient: by a sum of 1e9, as at the end of a geometric schedule, tiny becomes 0


def as_denoiser(process, network: Denoiser) -> Denoiser:
    """The denoiser of a score network whose raw output has V entries a site; times are a scalar or one a row."""
    if isinstance(process, processes.Absorbing):
        return Denoiser(network.features, lambda params, hidden: jax.nn.log_softmax(network.head(params, hidden), -1))

    def features(params, x_t, t):
        t = jnp.asarray(t)
        return network.features(params, x_t, t), x_t, jnp.broadcast_to(t if t.ndim == 0 else t[:, None], x_t.shape)

    def head(params, hidden):
        hidden, x_t, t = hidden
        return posterior(log_score(network.head(params, hidden), x_t, t, process), x_t, t, process)

    return Denoiser(features, head)
