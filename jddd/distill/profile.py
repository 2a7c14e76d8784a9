"""The measured cost profile of an absorbing teacher: what every schedule and coefficient will cost, from one cheap pass over data.

CE(m) is the mean cross-entropy of a masked site when a share m of the sites is masked. A sampler that reveals the sites between rates m_k and
m_{k+1} with one network call pays (m_k - m_{k+1}) CE(m_k) nats a site: a left Riemann sum of CE, whose limit is the NELBO. Its excess is the KL a
schedule can still remove (shared notes, 'the path-KL view'; the same sum is in Sahoo et al. 2024 as the T-step bound).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jddd import grids, processes
from jddd.types import Denoiser, Params, PRNGKey, Scalar, bind

EXPONENTS = tuple(np.linspace(0.5, 2.0, 13).tolist())


class Profile(NamedTuple):
    """rates (G,) rising; for K tracked sites: log_p (G, K) of the true symbol, log_mass (G, C, K) = log sum_y p_y^c over exponents (C,), and
    valid (G, K), whether the site is masked at that rate."""

    rates: Float[Array, "g"]
    exponents: Float[Array, "c"]
    log_p: Float[Array, "g k"]
    log_mass: Float[Array, "g c k"]
    valid: Bool[Array, "g k"]

    @property
    def cross_entropy(self) -> Float[Array, "g"]:
        """CE(m) in nats a masked site."""
        return -jnp.sum(self.log_p * self.valid, -1) / self.valid.sum(-1)


def default_rates(count: int = 33) -> Float[Array, "g"]:
    """Rates from 1/128 to 1, evenly spaced but for the first."""
    return jnp.linspace(0.0, 1.0, count).at[0].set(1 / 128)


@functools.partial(jax.jit, static_argnames=("denoiser", "process", "sites", "batch"))
def measure(key: PRNGKey, params: Params, x_0: Int[Array, "n l"], rates: Float[Array, "g"], *, denoiser: Denoiser, process, sites: int = 8192, batch: int = 32) -> Profile:
    """The profile from data windows x_0; G * N / batch network calls of `batch` rows.

    The masks are nested: a site has one threshold u and is masked at every rate above it, so that noise cancels along the curve. The `sites` sites of
    lowest threshold are tracked. Raises ValueError for a process without a mask or N not a multiple of batch."""
    if not isinstance(process, processes.Absorbing):
        raise ValueError("a cost profile needs the absorbing process; use distill.segments for others")
    if len(x_0) % batch:
        raise ValueError(f"profile.windows is {len(x_0)}; allowed: a multiple of {batch}")
    denoise = bind(denoiser, params)
    # Stratified thresholds: every rate masks very nearly its share of sites.
    u = (jax.random.permutation(key, x_0.size).reshape(x_0.shape) + 0.5) / x_0.size
    parts = lambda array: array.reshape(-1, batch, *array.shape[1:])
    per_part = max(1, min(sites // (len(x_0) // batch), batch * x_0.shape[1]))
    exponents = jnp.asarray(EXPONENTS)

    def one(rate, x, threshold):
        x_t = jnp.where(threshold < rate, process.mask_id, x)
        # A linear schedule with eps > 0 ends at mask rate 1 - eps: the time of a rate above it lies past 1, where a network has no noise level (log of a negative alpha).
        hidden = denoise.features(x_t, jnp.clip(process.schedule.inverse(1 - rate), 0.0, 1.0))
        at = jnp.argsort(threshold.ravel())[:per_part]
        log_p = denoise.head(jax.tree.map(lambda h: h.reshape(-1, *h.shape[2:])[at], hidden))
        log_mass = jax.lax.map(lambda c: jax.nn.logsumexp(c * log_p, -1), exponents)
        return jnp.take_along_axis(log_p, x.ravel()[at, None], -1)[:, 0], log_mass, threshold.ravel()[at] < rate

    def at_rate(rate):
        log_p, log_mass, valid = jax.lax.map(lambda inputs: one(rate, *inputs), (parts(x_0), parts(u)))
        return log_p.ravel(), jnp.moveaxis(log_mass, 1, 0).reshape(len(exponents), -1), valid.ravel()

    return Profile(rates, exponents, *jax.lax.map(at_rate, rates))


def curve(profile: Profile, m: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """CE(m) by linear interpolation, nats; flat below the smallest measured rate."""
    return jnp.interp(m, profile.rates, profile.cross_entropy)


def nelbo(profile: Profile) -> Scalar:
    """The integral of CE over [0, 1], nats a site: what infinitely many steps cost."""
    fine = jnp.linspace(0.0, 1.0, 4097)
    return jnp.trapezoid(curve(profile, fine), fine)


def grid_cost(profile: Profile, masked: Float[Array, "times"]) -> Scalar:
    """The path cost of a sampler whose mask rate goes through `masked` (from 1 down to 0), nats a site."""
    return jnp.sum((masked[:-1] - masked[1:]) * curve(profile, masked[:-1]))


def optimal_rates(profile: Profile, steps: int, start: float = 1.0, resolution: int = 512) -> tuple[np.ndarray, float]:
    """(mask rates (M + 1,), cost in nats a site) of the cheapest M-step schedule from mask rate `start` on a grid of `resolution` rates; exact, by
    dynamic programming."""
    rates = np.linspace(start, 0.0, resolution + 1)
    costs = (rates[:, None] - rates[None]) * np.asarray(curve(profile, jnp.asarray(rates)))[:, None]
    path, cost = grids.dynamic_programme(costs, steps)
    return rates[path], cost
