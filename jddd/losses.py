"""Training losses of denoisers, in nats a site."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jddd.types import Denoiser, Params, PRNGKey


def stratified_times(key: PRNGKey, count: int, low: float = 1e-3, high: float = 1.0) -> Float[Array, "count"]:
    """One uniform time in each of `count` equal parts of [low, high], shuffled: MDLM's low-discrepancy draw."""
    key_shift, key_order = jax.random.split(key)
    u = (jnp.arange(count) + jax.random.uniform(key_shift, (count,))) / count
    return low + (high - low) * jax.random.permutation(key_order, u)


def nelbo(key: PRNGKey, params: Params, x_0: Int[Array, "b l"], *, process, denoiser: Denoiser, floor: float = 0.0, low: float = 1e-3) -> Float[Array, "b"]:
    """One-sample estimate of the continuous-time NELBO of each row, nats a site, at stratified times in [low, 1].

    floor: see Absorbing.nelbo. With floor = 0, low = 0 and process.prior_kl() added this is an unbiased estimate of a bound on -log p(x_0)."""
    key_time, key_noise = jax.random.split(key)
    t = stratified_times(key_time, x_0.shape[0], low=low)
    x_t = process.corrupt(key_noise, x_0, t)
    return process.nelbo(denoiser(params, x_t, t), x_0, x_t, t, floor).mean(-1)


def autoregressive(params: Params, x: Int[Array, "b l"], *, denoiser: Denoiser, start_id: int) -> Float[Array, "b l"]:
    """-log p(x_i | x_<i) in nats, (B, L), of a causal network; position 0 sees only start_id."""
    shifted = jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=start_id)
    log_p = denoiser(params, shifted, jnp.ones(()))
    return -jnp.take_along_axis(log_p, x[..., None], -1)[..., 0]
